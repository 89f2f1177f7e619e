"""Modules made on the meta device without drawing have the shapes of those that are drawn."""

import torch
from torch import nn

from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.meta import on_meta


def described(model: nn.Module) -> list[tuple[object, ...]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, t.shape, t.dtype, t.device.type, t.requires_grad) for name, t in tensors]


def test_a_model_is_described_as_torch_does(deep_arch: ClipArch) -> None:
    with torch.device("meta"):
        expected = Clip(deep_arch)
    with on_meta():
        found = Clip(deep_arch)
    assert described(found) == described(expected)
    assert {t.device.type for t in found.parameters()} == {"meta"}


def test_other_tensors_are_drawn_as_ever() -> None:
    there = torch.zeros(3)
    with on_meta():
        there.fill_(2.0).mul_(2.0)
        assert torch.empty(3).uniform_(0, 1).is_meta
    assert there.tolist() == [4.0, 4.0, 4.0]

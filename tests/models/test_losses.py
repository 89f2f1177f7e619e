"""Losses by hand, and gradients that are the whole batch's however it is taken apart."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from nas_growclip.evaluation.embeddings import EmbeddedPairs
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch, dimension_steps
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import chance_loss, make_loss
from nas_growclip.training.backpropagation import Backpropagation
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.training.test_loop import same_batch

BATCH = 7


def batch_of(model: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *model.arch.image.image_shape, generator=generator)
    tokens = model.tokenize([f"picture number {i}" for i in range(BATCH)])
    return images.to(model.logit_scale.dtype), tokens


def backpropagate(
    model: Clip, images: torch.Tensor, tokens: torch.Tensor, part: int = 0
) -> torch.Tensor:
    loss_fn = make_loss(model.logit_bias is not None)
    return Backpropagation(model, loss_fn, part)(images, tokens)


@pytest.fixture(params=[False, True], ids=["clip", "siglip"])
def model(request: pytest.FixtureRequest, tiny_arch: ClipArch) -> Clip:
    return perturbed(Clip(replace(tiny_arch, logit_bias=request.param)).double())


@pytest.mark.parametrize("part", [1, 2, 3, 6])
def test_gradient_in_parts_is_the_whole_batchs(model: Clip, part: int) -> None:
    images, tokens = batch_of(model)
    whole_loss = backpropagate(model, images, tokens)
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = backpropagate(model, images, tokens, part=part)
    assert loss.item() == pytest.approx(whole_loss.item(), rel=1e-12)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == whole.keys() == dict(model.named_parameters()).keys()
    for name, gradient in whole.items():
        scale = gradient.abs().max().clamp(min=1e-12)
        assert (grads[name] - gradient).abs().max() / scale < 1e-6, name


def test_only_one_part_holds_a_graph(model: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = model.encode_image

    def noted(images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(images))
        return encode(images)

    monkeypatch.setattr(model, "encode_image", noted)
    backpropagate(model, *batch_of(model), part=3)
    assert sizes == [3, 3, 1]


def test_losses_are_their_formulas(model: Clip) -> None:
    images, tokens = batch_of(model)
    image, text, *rest = model(images, tokens)
    logits = rest[0] * image @ text.T
    if model.logit_bias is None:
        rows, columns = (functional.log_softmax(side, dim=1).diag() for side in (logits, logits.T))
        expected = -(rows + columns).mean() / 2
    else:
        signs = 2 * torch.eye(BATCH, dtype=logits.dtype) - 1
        expected = -functional.logsigmoid(signs * (logits + rest[1])).sum() / BATCH
    assert backpropagate(model, images, tokens).item() == pytest.approx(expected.item())
    values = tuple(value.item() for value in model.scale_and_bias())
    embedded = EmbeddedPairs(image.detach(), text.detach(), ("",) * BATCH, values)
    measured = contrastive_loss(embedded, BATCH)
    assert measured.value == pytest.approx(expected.item(), rel=1e-5)


def test_guesses_are_the_best_that_know_nothing() -> None:
    logits = torch.linspace(-8, 2, 10_001, dtype=torch.float64)
    each = -functional.logsigmoid(logits) - 15 * functional.logsigmoid(-logits)
    assert chance_loss(has_bias=True, num_pairs=16) == pytest.approx(each.min().item(), rel=1e-6)
    assert chance_loss(has_bias=False, num_pairs=16) == pytest.approx(math.log(16))
    assert chance_loss(has_bias=True, num_pairs=1) == 0.0


def test_a_model_with_a_bias_learns_and_its_child_inherits_it(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5, micro_batch_size=4)
    state = start_training(Clip(replace(tiny_arch, logit_bias=True)), config)
    assert state.model.logit_bias is not None
    assert [v.item() for v in state.model.scale_and_bias()] == pytest.approx([10.0, -10.0])
    train(state, same_batch(state.model), config, total_steps=80, until_step=80)
    batch = next(same_batch(state.model))
    image, text, *_ = state.model(batch.images, batch.tokens)
    assert (image @ text.T).argmax(dim=1).tolist() == list(range(6))
    assert state.model.logit_bias.item() != -10.0
    child = inherit(state.model, state.model.arch.with_size("image.depth", 3))
    assert child.logit_bias is not None
    assert child.logit_bias.item() == state.model.logit_bias.item()


def test_a_bias_is_no_growth(tiny_arch: ClipArch) -> None:
    with pytest.raises(ValueError, match="logit_bias must stay the same while growing"):
        dimension_steps(tiny_arch, replace(tiny_arch, logit_bias=True))

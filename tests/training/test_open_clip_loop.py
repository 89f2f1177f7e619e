"""Two processes train as OpenCLIP's two do with ``--gather-with-grad --local-loss``."""

import itertools
import json
import os
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.training_speed import OurLoop, TheirLoop, made_batches, stock_model
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.process_group import join_group
from tests.support.processes import in_two_processes

OPTIONS = Namespace(batch=8, device="cpu", compile=False)


def gradients(model: Clip, folder: Path) -> dict[str, Tensor]:
    """A model's gradients under OpenCLIP's names: exported as if they were its weights."""
    twin = Clip(model.arch)
    for parameter, trained in zip(twin.parameters(), model.parameters(), strict=True):
        assert trained.grad is not None
        parameter.data = trained.grad.clone()
    torch.nn.init.zeros_(twin.image.trunk.patch_embed.proj.bias)  # would go into the positions
    export_open_clip(twin, folder)
    return load_file(folder / "open_clip_model.safetensors")


def largest_differences(arch: ClipArch, folder: Path) -> dict[str, float]:
    """Of each gradient after three steps, as a share of the norm of all."""
    group = join_group("cpu")
    made = made_batches(Clip(arch), OPTIONS, group)
    theirs_made = [(batch.images, batch.tokens) for batch in made]
    ours = OurLoop(arch, itertools.cycle(made), OPTIONS, group)
    stock = stock_model(arch)
    theirs = TheirLoop(stock, itertools.cycle(theirs_made), OPTIONS, group)
    for loop in (ours, theirs):
        loop.run(3)
    expected = {name: p.grad for name, p in stock.named_parameters()}
    found = gradients(ours.state.model, folder)
    if not group.is_leader:
        group.receive()
    group.leave()
    norm = torch.nn.utils.get_total_norm(expected.values())
    return {name: float((found[name] - g).norm() / norm) for name, g in expected.items()}


def test_gradients_after_three_steps_are_open_clips(tiny_arch: ClipArch, tmp_path: Path) -> None:
    arch = tiny_arch.with_sizes({"shared.depth": 0})

    def work() -> None:
        warnings.simplefilter("ignore")
        rank = os.environ["RANK"]
        differences = largest_differences(arch, tmp_path / rank)
        (tmp_path / f"{rank}.json").write_text(json.dumps(differences))

    assert in_two_processes(work, tmp_path) == [0, 0], (tmp_path / "0.log").read_text()
    for rank in range(2):
        differences = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(differences) > 20
        assert max(differences.values()) == pytest.approx(0, abs=1e-4), differences

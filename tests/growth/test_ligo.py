"""LiGO learns its maps while the parent is frozen, and its start is Net2Net's."""

from collections.abc import Iterator

import pytest
import torch
from open_clip.loss import ClipLoss

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.inputs import GrowthInputs, ImagesAndTokens
from nas_growclip.growth.verify import perturbed, probe, similarity_change
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip

GROWN = {"image.width": 24, "image.depth": 3, "text.mlp_width": 24, "text.depth": 3}

RESIZED = {"image.image_size": 16, "text.context_length": 11, "image.mlp_width": 30}
"""The child takes other images and longer texts than its parent."""


def batches(arch: ClipArch) -> Iterator[ImagesAndTokens]:
    images, tokens = probe(arch, seed=5, count=8)
    while True:
        yield images.double(), tokens


def loss(model: Clip) -> float:
    images, tokens = next(batches(model.arch))
    with torch.no_grad():
        return ClipLoss()(*model(images, tokens)).item()


def ligo(parent: Clip, sizes: dict[str, int], **settings: object) -> Clip:
    inputs = GrowthInputs(batches=lambda child: batches(child.arch))
    target = parent.arch.with_sizes(sizes)
    return inherit(parent, target, GrowthConfig(operator="ligo", **settings), inputs=inputs)


@pytest.mark.parametrize("sizes", [{"image.width": 24}, {"image.depth": 3}, GROWN, RESIZED])
def test_learning_lowers_the_loss_and_leaves_the_parent(
    sizes: dict[str, int], deep_parent: Clip
) -> None:
    before = {name: value.clone() for name, value in deep_parent.state_dict().items()}
    start, learned = (ligo(deep_parent, sizes, learn_steps=steps) for steps in (0, 12))
    assert loss(learned) < 0.9 * loss(start)
    for name, value in deep_parent.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.grad is not None for parameter in deep_parent.parameters())


def test_it_starts_as_net2net(deep_parent: Clip) -> None:
    sizes = {"image.width": 32, "text.mlp_width": 24}
    child = ligo(deep_parent, sizes, learn_steps=0)
    net2net = inherit(
        deep_parent, deep_parent.arch.with_sizes(sizes), GrowthConfig(operator="net2net")
    )
    assert similarity_change(net2net, child) < 1e-12


def test_the_child_is_a_linear_map_of_the_parent(deep_parent: Clip) -> None:
    """A parent of twice the writers' weights gives twice the child's, as equation 5 says."""
    child = ligo(deep_parent, {"image.mlp_width": 30}, learn_steps=5)
    old = deep_parent.image.trunk.blocks[0].mlp.fc1.weight
    new = child.image.trunk.blocks[0].mlp.fc1.weight
    solved = torch.linalg.lstsq(old.T, new.T)
    assert (old.T @ solved.solution - new.T).abs().max() < 1e-9
    assert (solved.solution - solved.solution.round()).abs().max() > 1e-4


@pytest.mark.parametrize("sizes", [{"text.context_length": 11}, {"text.vocab_size": 300}])
def test_nothing_to_learn_is_no_error(sizes: dict[str, int], deep_parent: Clip) -> None:
    child = ligo(deep_parent, sizes)
    assert similarity_change(deep_parent, child) < 1e-12


def test_the_mixture_of_a_single_block_is_learned(deep_arch: ClipArch) -> None:
    parent = perturbed(Clip(deep_arch.with_size("text.depth", 1)).double())
    start, learned = (ligo(parent, {"text.depth": 2}, learn_steps=steps) for steps in (0, 20))
    assert loss(learned) < loss(start)


def test_fresh_inserted_blocks_stay_fresh(deep_parent: Clip) -> None:
    target = {"image.depth": 3, "image.mlp_width": 30}
    child = ligo(deep_parent, target, learn_steps=2, depth_operator="random")
    assert child.image.trunk.blocks[1].mlp.fc1.weight.abs().max() > 1e-2

"""Blocks are inserted where and as an operator says; gates open while a model trains."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import (
    DEPTH_OPERATORS,
    DepthStep,
    identity_insert,
    interpolate,
    placed,
    stack,
)
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import probe, similarity, similarity_change
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import gates_of, set_gates
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.training.test_loop import same_batch

DEEPER = {"image.depth": 5, "text.depth": 3, "shared.depth": 4}


@pytest.mark.parametrize("placement", ["spread", "end"])
@pytest.mark.parametrize("name", DEPTH_OPERATORS)
def test_depth_operator_is_exact_where_it_claims_and_nowhere_else(
    name: str, placement: str, deep_parent: Clip
) -> None:
    target = deep_parent.arch.with_sizes(DEEPER)
    child = inherit(deep_parent, target, GrowthConfig(depth_operator=name, placement=placement))
    change = similarity_change(deep_parent, child)
    assert change < 1e-10 if DEPTH_OPERATORS[name].is_exact else change > 1e-4


@pytest.mark.parametrize("name", [n for n, o in DEPTH_OPERATORS.items() if o.is_exact])
def test_exact_insertion_composes_with_every_width(name: str, deep_parent: Clip) -> None:
    wider = {"image.width": 40, "image.head_dim": 9, "text.mlp_width": 17, "embed_dim": 24}
    target = deep_parent.arch.with_sizes(DEEPER | wider)
    for operator in ("exact", "average"):
        child = inherit(deep_parent, target, GrowthConfig(operator=operator, depth_operator=name))
        assert similarity_change(deep_parent, child) < 1e-10


@pytest.mark.parametrize("name", DEPTH_OPERATORS)
def test_the_first_shared_blocks_can_be_inserted_by_every_operator(
    name: str, deep_arch: ClipArch
) -> None:
    parent = Clip(deep_arch.with_size("shared.depth", 0)).double()
    child = inherit(parent, deep_arch, GrowthConfig(depth_operator=name))
    change = similarity_change(parent, child)
    assert change < 1e-10 if DEPTH_OPERATORS[name].is_exact else change > 1e-6


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["spread", "end"]))
def test_placement_keeps_every_block_once_and_in_order(old: int, more: int, where: str) -> None:
    step = DepthStep(old, old + more, where)
    blocks = placed(step)
    assert [source for source, is_inserted in blocks if not is_inserted] == list(range(old))
    assert sum(is_inserted for _, is_inserted in blocks) == more
    if where == "end":
        assert all(is_inserted for _, is_inserted in blocks[old:])
    else:
        gaps = [source for source, _ in blocks]
        counts = [gaps.count(source) for source in range(old)]
        assert max(counts) - min(counts) <= 1


@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from(sorted(DEPTH_OPERATORS)))
def test_every_operator_gives_a_source_for_every_block(old: int, more: int, name: str) -> None:
    sources = DEPTH_OPERATORS[name].sources(DepthStep(old, old + more))
    assert len(sources) == old + more
    assert sum(not source.is_inserted for source in sources) >= min(old, 2)
    for source in sources:
        assert all(0 <= number < old for number, _ in source.parents)
        total = sum(weight for _, weight in source.parents)
        assert total == pytest.approx(1.0) or not source.parents


def test_orders_of_blocks_by_hand() -> None:
    def order(sources: tuple) -> list[int]:
        return [source.parents[0][0] for source in sources]

    assert order(stack(DepthStep(3, 6))) == [0, 1, 2, 0, 1, 2]
    assert order(identity_insert(DepthStep(3, 6))) == [0, 0, 1, 1, 2, 2]
    assert order(identity_insert(DepthStep(3, 5, "end"))) == [0, 1, 2, 1, 2]
    mixed = interpolate(DepthStep(2, 3))
    assert mixed[1].parents == ((0, 0.5), (1, 0.5))


def test_interpolation_mixes_neighbours_by_hand(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_size("text.depth", 3)
    child = inherit(deep_parent, target, GrowthConfig(depth_operator="interpolate"))
    for part in ("mlp.fc1.weight", "norm1.bias"):
        low, high = (deep_parent.text.blocks[i].get_parameter(part) for i in (0, 1))
        torch.testing.assert_close(child.text.blocks[1].get_parameter(part), (low + high) / 2)


def test_cancelled_blocks_learn_inside_at_once_and_part(deep_parent: Clip) -> None:
    """Unlike silent blocks, whose inner gradients are zero at the first step."""
    target = deep_parent.arch.with_size("image.depth", 3)
    for name, learns in (("cancel", True), ("identity", False)):
        child = inherit(deep_parent, target, GrowthConfig(depth_operator=name))
        images, tokens = probe(child.arch)
        image, text, scale = child(images.double(), tokens)
        torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(4)).backward()
        inner = child.image.trunk.blocks[1].mlp.fc1.weight.grad
        assert (inner.abs().max() > 0) == learns
        if learns:
            torch.testing.assert_close(inner[:10], -inner[10:20], rtol=0, atol=1e-12)


def gated(parent: Clip, steps: int) -> Clip:
    target = parent.arch.with_sizes(DEEPER)
    return inherit(parent, target, GrowthConfig(depth_operator="gated", gate_steps=steps))


def test_gates_open_linearly_and_go(deep_parent: Clip) -> None:
    child = gated(deep_parent, 4)
    assert len(gates_of(child)) == 3 + 1 + 2
    opened = []
    for step in range(4):
        set_gates(child, step)
        opened.append([gate.alpha for gate in gates_of(child).values()])
    assert [row[0] for row in opened[:3]] == [0.25, 0.5, 0.75]
    assert opened[3] == []
    ungated = inherit(deep_parent, child.arch, GrowthConfig(depth_operator="interleave"))
    assert similarity_change(ungated, child) < 1e-12


def test_training_opens_gates_and_a_saved_model_needs_none(
    tiny_arch: ClipArch, tmp_path: Path
) -> None:
    child = inherit(
        Clip(tiny_arch), tiny_arch.with_sizes(DEEPER), GrowthConfig(depth_operator="gated")
    )
    state = start_training(child, TrainConfig(batch_size=6))
    train(state, same_batch(child), TrainConfig(batch_size=6), total_steps=9, until_step=3)
    assert {gate.alpha for gate in gates_of(child).values()} == {0.03}
    expected = similarity(child, *probe(child.arch))
    save_model(child, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not gates_of(loaded)
    torch.testing.assert_close(similarity(loaded, *probe(child.arch)), expected)
    save_state(state, tmp_path / "state.safetensors")
    resumed = load_state(tmp_path / "state.safetensors", TrainConfig(), torch.device("cpu"))
    assert {gate.alpha for gate in gates_of(resumed.model).values()} == {0.03}
    torch.testing.assert_close(similarity(resumed.model, *probe(child.arch)), expected)


def test_a_gated_model_can_be_a_parent(deep_parent: Clip) -> None:
    child = gated(deep_parent, 10)
    set_gates(child, 4)
    grown = inherit(child, child.arch.with_size("image.width", 24))
    assert similarity_change(child, grown) < 1e-10

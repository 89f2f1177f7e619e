"""The axis table names every parameter, and every axis that a parameter has."""

import pytest
import torch

from nas_growclip.arch import DIMENSIONS, ClipArch
from nas_growclip.models import axes
from nas_growclip.models.axes import PARAM_AXES, STREAM_AXES, param_axes, parse_axes, split_block
from nas_growclip.models.clip import Clip


def on_meta(arch: ClipArch) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Clip(arch)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def test_every_parameter_has_the_shape_of_its_row(tiny_arch: ClipArch) -> None:
    for name, shape in on_meta(tiny_arch).items():
        assert param_axes(name).stored_shape(tiny_arch) == shape, name


def test_every_row_is_used(tiny_arch: ClipArch) -> None:
    used = set()
    for name in on_meta(tiny_arch):
        block = split_block(name)
        used.add(f"{block[0]}.#.{block[2]}" if block else name)
    assert used == set(PARAM_AXES)


@pytest.mark.parametrize("dimension", [d for d in GROWABLE if not d.endswith("depth")])
def test_exactly_the_rows_that_name_an_axis_change_shape(
    dimension: str, tiny_arch: ClipArch
) -> None:
    bigger = tiny_arch.with_size(dimension, tiny_arch.size(dimension) + 32)
    before, after = on_meta(tiny_arch), on_meta(bigger)
    heads = dimension.replace(".width", ".heads")
    for name in before:
        named = {axis.name for axis in param_axes(name).axes}
        has_axis = bool(named & {dimension, heads})
        assert (before[name] != after[name]) == has_axis, name


def test_parameter_without_a_row_is_named() -> None:
    with pytest.raises(ValueError, match=r"'image.trunk.gate.weight' has no row in PARAM_AXES"):
        param_axes("image.trunk.gate.weight")


def test_forgotten_row_is_caught_by_name(
    tiny_arch: ClipArch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {key: row for key, row in PARAM_AXES.items() if key != "text.blocks.#.mlp.fc1.bias"}
    monkeypatch.setattr(axes, "PARAM_AXES", rows)
    with pytest.raises(ValueError, match=r"'text.blocks.0.mlp.fc1.bias' has no row"):
        test_every_parameter_has_the_shape_of_its_row(tiny_arch)


def test_arrow_tells_who_reads_and_who_writes() -> None:
    linear = parse_axes("image.width <- (image.heads image.head_dim)")
    assert [(a.name, a.role) for a in linear.axes] == [
        ("image.width", "write"),
        ("image.heads", "read"),
        ("image.head_dim", "read"),
    ]
    assert linear.is_linear
    assert linear.writes_stream
    embedding = parse_axes("text.vocab_size -> text.width")
    assert [axis.role for axis in embedding.axes] == ["read", "write"]
    gain = parse_axes("gain(text.width)")
    assert gain.axes[0].role == "gain"
    assert not gain.is_linear
    assert not gain.writes_stream
    assert parse_axes("").axes == ()


def test_stream_axes_are_written_through_linear_maps_biases_and_positions_only() -> None:
    for key, row in PARAM_AXES.items():
        roles = {axis.role for axis in parse_axes(row).axes if axis.name in STREAM_AXES}
        assert len(roles) <= 2, key

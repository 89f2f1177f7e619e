"""The axis table names every parameter, every axis it has, and what it does along each.

``check_axes`` is an independent statement of what a row must say, drawn from PyTorch's modules and
timm's attention; each way of getting a row wrong is shown to be caught with the parameter's name.
"""

import dataclasses
import re
from collections.abc import Iterator

import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional

from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import perturbed
from nas_growclip.models import axes
from nas_growclip.models.arch import DIMENSIONS, ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.axes import (
    FUSED_AXES,
    PARAM_AXES,
    STREAM_AXES,
    AxisSpec,
    axis_size,
    param_axes,
    parse_axes,
    split_block,
)
from nas_growclip.models.clip import Clip
from nas_growclip.models.towers import AttentionPool

DISTINCT = ClipArch(
    image=ImageArch(
        depth=1, width=14, mlp_width=30, patch_size=5, image_size=10, head_dim=6, heads=4
    ),
    text=TextArch(depth=1, width=22, mlp_width=36, context_length=9, head_dim=8, heads=2),
    shared=SharedArch(depth=1, mlp_width=11, head_dim=10, heads=5),
    embed_dim=26,
)
"""No two axes of one size, so that a shape tells which axis it is."""

NORM_PRE = dataclasses.replace(
    DISTINCT, image=dataclasses.replace(DISTINCT.image, norm_pre=True), logit_bias=True
)


AVERAGE = dataclasses.replace(
    DISTINCT,
    image=dataclasses.replace(
        DISTINCT.image, pooling="average", norm_after_pooling=True, projection_bias=True
    ),
    text=dataclasses.replace(DISTINCT.text, projection_bias=True),
)

ATTENTION = dataclasses.replace(
    DISTINCT, image=dataclasses.replace(DISTINCT.image, class_token=False, pooling="attention")
)

ARCHS = {"plain": DISTINCT, "norm_pre": NORM_PRE, "average": AVERAGE, "attention": ATTENTION}


def on_meta(arch: ClipArch) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Clip(arch)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def roles(spec: AxisSpec) -> list[str]:
    return [axis.role for axis in spec.axes if axis.name not in ("1", "3", *FUSED_AXES)]


def check_axes(model: Clip) -> None:
    """Hold every parameter's row to the parameter's shape and to what its module does."""
    for name, parameter in model.named_parameters():
        spec = param_axes(name)
        assert spec.stored_shape(model.arch) == tuple(parameter.shape), name
        module = model.get_submodule(name.rpartition(".")[0])
        assert_roles(name, spec, module)
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            check_fused_layout(f"{name}.qkv.weight", module, model.arch)
        if isinstance(module, AttentionPool):
            check_pool_layout(f"{name}.kv.weight", module, model.arch)


def assert_roles(name: str, spec: AxisSpec, module: nn.Module) -> None:
    is_weight = name.endswith(".weight")
    if isinstance(module, nn.LayerNorm):
        writes = name.startswith("image.trunk.norm_pre")
        role = ("stream_gain" if is_weight else "write") if writes else "gain"
        assert roles(spec) == [role if is_weight or writes else "shift"], name
        assert not spec.is_linear, name
    elif isinstance(module, nn.Linear | nn.Conv2d) and is_weight:
        side = "text_side" if name == "text.projection.weight" else "write"
        written = sum(axis.name not in FUSED_AXES for axis in spec.dims[0])
        read = len(roles(spec)) - written
        assert roles(spec) == [side] * written + ["read"] * read, name
        assert spec.is_linear, name
    elif isinstance(module, nn.Embedding):
        assert roles(spec) == ["read", "write"], name
        assert spec.is_linear, name
    else:
        expected = {"image.attn_pool.query": "query", "text.projection.bias": "text_side"}
        assert set(roles(spec)) <= {expected.get(name, "write")}, name
        assert not spec.is_linear, name


def check_pool_layout(name: str, pool: AttentionPool, arch: ClipArch) -> None:
    """Key and value as the row splits them must give what pooling by attention gives."""
    rng = torch.Generator().manual_seed(0)
    stream = torch.randn(1, 3, pool.kv.in_features, generator=rng, dtype=pool.query.dtype)
    shape = param_axes(name).parts()[0].shape(arch)
    query = pool.query.reshape(param_axes("image.attn_pool.query").shape(arch))
    assert query.shape == shape[:-1], name
    rows, offsets = pool.kv.weight.reshape(2, *shape), pool.kv.bias.reshape(2, *shape[:-1], 1)
    key, value = (
        torch.einsum("hdw,btw->bhdt", row, stream) + offset
        for row, offset in zip(rows, offsets, strict=True)
    )
    weights = (torch.einsum("hd,bhdt->bht", query, key) / shape[1] ** 0.5).softmax(dim=-1)
    pooled = pool.proj(torch.einsum("bht,bhdt->bhd", weights, value).flatten(1))
    expected = pooled + pool.mlp(pool.norm(pooled))
    assert torch.allclose(expected, pool(stream), atol=1e-9), name
    assert param_axes("image.attn_pool.kv.bias").dims == param_axes(name).dims[:1], (
        "image.attn_pool.kv.bias"
    )


def check_fused_layout(name: str, attention: Attention, arch: ClipArch) -> None:
    """Query, key and value as the row splits them must give what timm's attention gives."""
    rng = torch.Generator().manual_seed(0)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    stream = torch.randn(1, 3, weight.shape[1], generator=rng, dtype=weight.dtype)
    spec = param_axes(name)
    assert spec.is_fused, name
    shape = spec.parts()[0].shape(arch)
    rows = weight.reshape(3, *shape)
    offsets = bias.reshape(3, *shape[:-1], 1, 1)
    query, key, value = (
        (torch.einsum("hdw,btw->bhtd", row, stream) + offset.reshape(1, *shape[:-1], 1).mT)
        for row, offset in zip(rows, offsets, strict=True)
    )
    heads = functional.scaled_dot_product_attention(query, key, value)
    expected = attention.proj(heads.transpose(1, 2).flatten(2))
    assert torch.allclose(expected, attention(stream), atol=1e-9), name
    bias_name = name.replace(".weight", ".bias")
    assert param_axes(bias_name).dims == spec.dims[:1], bias_name


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_every_row_says_what_its_parameter_is_and_does(arch: ClipArch) -> None:
    check_axes(perturbed(Clip(arch).double()))


def test_every_row_is_used() -> None:
    used = set()
    for name in (name for arch in ARCHS.values() for name in on_meta(arch)):
        block = split_block(name)
        used.add(f"{block[0]}.#.{block[2]}" if block else name)
    assert used == set(PARAM_AXES)


def wrong_rows() -> Iterator[tuple[str, str]]:
    """Every row, wrong in every way of the list."""
    for key, row in PARAM_AXES.items():
        wrong = {
            row.replace("gain(", "shift(") if "stream_gain" not in row else row,
            row.replace("shift(", "gain("),
            row.replace("stream_gain(", "gain("),
            row.replace("text_side(embed_dim)", "embed_dim"),
            row.replace("<-", ""),
            row.replace("->", "<-"),
            row.replace("<-", "->"),
            row.replace("qkv image.heads", "image.heads qkv"),
            row.replace("qkv ", ""),
            re.sub(r"(\w+\.heads) (\w+\.head_dim)", r"\2 \1", row) if "kv " in row else row,
            re.sub(r"query\(([\w.]+)\)", r"\1", row),
            *(
                row.replace(name, other)
                for name in {axis.name for axis in parse_axes(row).axes}
                for other in ("text.width", "embed_dim", "image.mlp_width")
                if name not in "13"
            ),
        }
        yield from ((key, bad) for bad in sorted(wrong - {row, row.replace("(", " (")}))


WRONG_ROWS = list(wrong_rows())


@pytest.fixture(scope="module")
def distinct_models() -> list[Clip]:
    return [perturbed(Clip(arch).double()) for arch in ARCHS.values()]


@pytest.mark.parametrize(("key", "row"), WRONG_ROWS)
def test_wrong_row_is_caught_by_the_parameters_name(
    key: str, row: str, distinct_models: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(axes, "PARAM_AXES", dict(PARAM_AXES) | {key: row})
    caught = (AssertionError, ValueError, RuntimeError)
    name = key.replace("#", "0")
    model = next(m for m in distinct_models if name in dict(m.named_parameters()))
    with pytest.raises(caught, match=re.escape(name)):
        check_axes(model)


def test_every_row_has_been_written_wrongly() -> None:
    assert {key for key, _ in WRONG_ROWS} == set(PARAM_AXES) - {"logit_scale", "logit_bias"}


def test_a_wrong_row_makes_growth_inexact_or_impossible(
    deep_parent: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``check_axes`` is for: the table is all that growing knows."""
    row = PARAM_AXES["image.trunk.blocks.#.mlp.fc2.weight"].replace("<-", "->")
    monkeypatch.setattr(
        axes, "PARAM_AXES", dict(PARAM_AXES) | {"image.trunk.blocks.#.mlp.fc2.weight": row}
    )
    child = inherit(deep_parent, deep_parent.arch.with_size("image.mlp_width", 40))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    change = child.encode_image(images) - deep_parent.encode_image(images)
    assert change.abs().max() > 1e-3


def test_forgotten_row_is_caught_by_name(
    tiny_arch: ClipArch, tiny_parent: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {key: row for key, row in PARAM_AXES.items() if key != "text.blocks.#.mlp.fc1.bias"}
    monkeypatch.setattr(axes, "PARAM_AXES", rows)
    with pytest.raises(ValueError, match=r"'text.blocks.0.mlp.fc1.bias' has no row in PARAM_AXES"):
        check_axes(tiny_parent)
    with pytest.raises(ValueError, match=r"'text.blocks.0.mlp.fc1.bias' has no row in PARAM_AXES"):
        inherit(tiny_parent, tiny_arch)


def test_new_parameter_of_timm_is_caught_by_name(
    tiny_arch: ClipArch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a release of timm gave its blocks one more parameter."""
    original = Block.__init__

    def with_new_parameter(block: Block, *arguments: object, **options: object) -> None:
        original(block, *arguments, **options)
        block.attn.register_parameter("sink", nn.Parameter(torch.zeros(2)))

    monkeypatch.setattr(Block, "__init__", with_new_parameter)
    model = Clip(tiny_arch)
    with pytest.raises(ValueError, match=r"'image.trunk.blocks.0.attn.sink' has no row"):
        check_axes(model)
    with pytest.raises(ValueError, match=r"'image.trunk.blocks.0.attn.sink' has no row"):
        inherit(model, tiny_arch)


def test_parameter_that_only_the_parent_has_is_caught_by_name(
    tiny_arch: ClipArch, tiny_parent: Clip
) -> None:
    """Otherwise it would silently be lost, and the function with it."""
    tiny_parent.image.trunk.blocks[1].ls1 = nn.Linear(32, 32, bias=False)
    with pytest.raises(ValueError, match=r"'image.trunk.blocks.1.ls1.weight' has no row"):
        inherit(tiny_parent, tiny_arch)


@pytest.mark.parametrize("dimension", [d for d in DIMENSIONS if not d.endswith("depth")])
def test_exactly_the_rows_that_name_an_axis_change_shape(
    dimension: str, tiny_arch: ClipArch
) -> None:
    bigger = tiny_arch.with_size(dimension, 2 * tiny_arch.size(dimension))
    before, after = on_meta(tiny_arch), on_meta(bigger)
    for name in before:
        spec = param_axes(name)
        has_grown = any(
            axis_size(tiny_arch, axis.name) != axis_size(bigger, axis.name) for axis in spec.axes
        )
        assert (before[name] != after[name]) == has_grown, name
        assert spec.stored_shape(bigger) == after[name], name


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


def test_fused_rows_split_into_query_key_and_value() -> None:
    parts = parse_axes("(qkv text.heads text.head_dim) <- text.width").parts()
    assert [[axis.role for axis in part.axes] for part in parts] == [
        ["query", "query", "read"],
        ["key", "key", "read"],
        ["write", "write", "read"],
    ]


def test_a_parameter_has_at_most_one_stream_on_either_side() -> None:
    for key, row in PARAM_AXES.items():
        streams = [axis.role for axis in parse_axes(row).axes if axis.name in STREAM_AXES]
        assert len(streams) == len(set(streams)), key

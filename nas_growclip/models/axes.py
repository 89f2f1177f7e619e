"""The axes of every parameter, one row each, in einops notation.

``a <- b`` is a linear map that writes axis a and reads axis b (``b -> a`` for the transposed
storage); a row without an arrow writes its axes (biases, positions). ``role(a)`` names another
role: ``gain`` and ``shift`` are a LayerNorm's scale and offset over axis a; ``stream_gain`` is the
scale of a LayerNorm that writes the stream (``norm_pre``); ``text_side`` is the text tower's side
of the joint embedding, which meets the image tower's side only in a product; ``query`` is written
as a query. ``#`` stands for a block's number; ``(a b)`` is one stored dimension made of several
axes; ``qkv`` is the axis of fused query, key and value, ``kv`` that of key and value. Growing a
model is nothing but enlarging these axes, so a parameter without a row is an error that names it.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from nas_growclip.models.arch import ClipArch

Role = Literal["write", "read", "gain", "shift", "stream_gain", "text_side", "query", "key"]


def _block_rows(prefix: str, encoder: str, width: str) -> dict[str, str]:
    heads, head_dim = f"{encoder}.heads", f"{encoder}.head_dim"
    mlp_width = f"{encoder}.mlp_width"
    return {
        f"{prefix}.#.norm1.weight": f"gain({width})",
        f"{prefix}.#.norm1.bias": f"shift({width})",
        f"{prefix}.#.attn.qkv.weight": f"(qkv {heads} {head_dim}) <- {width}",
        f"{prefix}.#.attn.qkv.bias": f"(qkv {heads} {head_dim})",
        f"{prefix}.#.attn.proj.weight": f"{width} <- ({heads} {head_dim})",
        f"{prefix}.#.attn.proj.bias": width,
        f"{prefix}.#.norm2.weight": f"gain({width})",
        f"{prefix}.#.norm2.bias": f"shift({width})",
        f"{prefix}.#.mlp.fc1.weight": f"{mlp_width} <- {width}",
        f"{prefix}.#.mlp.fc1.bias": mlp_width,
        f"{prefix}.#.mlp.fc2.weight": f"{width} <- {mlp_width}",
        f"{prefix}.#.mlp.fc2.bias": width,
    }


PARAM_AXES: Mapping[str, str] = {
    "image.trunk.cls_token": "1 1 image.width",
    "image.trunk.pos_embed": "1 image.tokens image.width",
    "image.trunk.patch_embed.proj.weight": "image.width <- 3 image.patch_size image.patch_size",
    "image.trunk.patch_embed.proj.bias": "image.width",
    "image.trunk.norm_pre.weight": "stream_gain(image.width)",
    "image.trunk.norm_pre.bias": "image.width",
    **_block_rows("image.trunk.blocks", "image", "image.width"),
    "image.trunk.norm.weight": "gain(image.width)",
    "image.trunk.norm.bias": "shift(image.width)",
    "image.norm.weight": "gain(image.width)",
    "image.norm.bias": "shift(image.width)",
    "image.projection.weight": "embed_dim <- image.width",
    "image.projection.bias": "embed_dim",
    "image.attn_pool.query": "(query(image.heads) query(image.head_dim))",
    "image.attn_pool.kv.weight": "(kv image.heads image.head_dim) <- image.width",
    "image.attn_pool.kv.bias": "(kv image.heads image.head_dim)",
    "image.attn_pool.proj.weight": "embed_dim <- (image.heads image.head_dim)",
    "image.attn_pool.proj.bias": "embed_dim",
    "image.attn_pool.norm.weight": "gain(embed_dim)",
    "image.attn_pool.norm.bias": "shift(embed_dim)",
    "image.attn_pool.mlp.fc1.weight": "image.mlp_width <- embed_dim",
    "image.attn_pool.mlp.fc1.bias": "image.mlp_width",
    "image.attn_pool.mlp.fc2.weight": "embed_dim <- image.mlp_width",
    "image.attn_pool.mlp.fc2.bias": "embed_dim",
    "text.token_embedding.weight": "text.vocab_size -> text.width",
    "text.pos_embed": "text.context_length text.width",
    **_block_rows("text.blocks", "text", "text.width"),
    "text.norm.weight": "gain(text.width)",
    "text.norm.bias": "shift(text.width)",
    "text.projection.weight": "text_side(embed_dim) <- text.width",
    "text.projection.bias": "text_side(embed_dim)",
    **_block_rows("shared.blocks", "shared", "embed_dim"),
    "logit_scale": "",
    "logit_bias": "",
}
"""One row a parameter."""

BLOCK_LISTS: Mapping[str, str] = {
    "image.trunk.blocks": "image.depth",
    "text.blocks": "text.depth",
    "shared.blocks": "shared.depth",
}
"""Where the blocks are whose number is a depth dimension."""

STREAM_AXES = ("image.width", "text.width", "embed_dim")
"""Axes that are a residual stream: read only through a LayerNorm (or a unit-length scaling)."""

NORM_OF_READER: Mapping[str, str] = {"attn.qkv": "norm1", "mlp.fc1": "norm2"}
"""Within a block, the LayerNorm that each reader of the residual stream reads through."""

POOL_NORM_OF_READER: Mapping[str, str] = {"image.attn_pool.mlp.fc1": "image.attn_pool.norm"}
"""The same in pooling by attention."""

FUSED_AXES: Mapping[str, tuple[Role, ...]] = {
    "qkv": ("query", "key", "write"),
    "kv": ("key", "write"),
}
"""Axes along which query, key and value are stored together, and the role of each."""

_TOKEN = re.compile(r"<-|->|(?:gain|shift|stream_gain|text_side|query)\([\w.]+\)|\(|\)|[\w.]+")
_ROLE = re.compile(r"(\w+)\(([\w.]+)\)")
_BLOCK_NAME = re.compile(rf"({'|'.join(map(re.escape, BLOCK_LISTS))})\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Axis:
    """One elementary axis of a parameter and what the parameter does along it."""

    name: str
    role: Role


@dataclass(frozen=True)
class AxisSpec:
    """A parsed row: stored dimensions, each made of one or more elementary axes."""

    dims: tuple[tuple[Axis, ...], ...]
    is_linear: bool
    """Whether the row is a linear map (has an arrow)."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All elementary axes, in storage order."""
        return tuple(axis for dim in self.dims for axis in dim)

    def shape(self, arch: ClipArch) -> tuple[int, ...]:
        """Size of every elementary axis for an architecture."""
        return tuple(axis_size(arch, axis.name) for axis in self.axes)

    def stored_shape(self, arch: ClipArch) -> tuple[int, ...]:
        """Shape of the parameter as PyTorch stores it."""
        sizes = [[axis_size(arch, axis.name) for axis in dim] for dim in self.dims]
        return tuple(functools.reduce(lambda a, b: a * b, dim) for dim in sizes)

    @property
    def writes_stream(self) -> bool:
        """Whether the parameter writes a residual stream."""
        return any(axis.role == "write" and axis.name in STREAM_AXES for axis in self.axes)

    @property
    def reads_stream(self) -> bool:
        """Whether the parameter reads a residual stream."""
        return any(axis.role == "read" and axis.name in STREAM_AXES for axis in self.axes)

    @property
    def is_fused(self) -> bool:
        """Whether query, key and value are stored together; the fused axis is the first one."""
        return bool(self.axes) and self.axes[0].name in FUSED_AXES

    def parts(self) -> tuple["AxisSpec", ...]:
        """Query, key and value on their own, each without the fused axis."""
        first, *rest = self.dims
        return tuple(
            AxisSpec((tuple(Axis(a.name, role) for a in first[1:]), *rest), self.is_linear)
            for role in FUSED_AXES[first[0].name]
        )


@functools.cache
def parse_axes(row: str) -> AxisSpec:
    """Parse one row of the table, as in ``image.width <- (image.heads image.head_dim)``."""
    arrow = next((a for a in ("<-", "->") if a in row), None)
    left, _, right = row.partition(arrow) if arrow else (row, "", "")
    left_role: Role = "read" if arrow == "->" else "write"
    right_role: Role = "write" if arrow == "->" else "read"
    return AxisSpec(_dims(left, left_role) + _dims(right, right_role), is_linear=bool(arrow))


def _dims(text: str, role: Role) -> tuple[tuple[Axis, ...], ...]:
    dims: list[tuple[Axis, ...]] = []
    open_group: list[Axis] | None = None
    for token in _TOKEN.findall(text):
        if token == "(":
            open_group = []
        elif token == ")":
            dims.append(tuple(open_group or ()))
            open_group = None
        elif open_group is not None:
            open_group.append(_axis(token, role))
        else:
            dims.append((_axis(token, role),))
    return tuple(dims)


def _axis(token: str, role: Role) -> Axis:
    named = _ROLE.fullmatch(token)
    return Axis(named[2], cast(Role, named[1])) if named else Axis(token, role)


def axis_size(arch: ClipArch, name: str) -> int:
    """Size of one axis: a dimension, a number that follows from dimensions, or a literal."""
    if name.isdigit():
        return int(name)
    if name in FUSED_AXES:
        return len(FUSED_AXES[name])
    return arch.image.num_tokens if name == "image.tokens" else arch.size(name)


def split_block(name: str) -> tuple[str, int, str] | None:
    """Split ``text.blocks.3.norm1.weight`` into list, number and rest; None outside blocks."""
    match = _BLOCK_NAME.fullmatch(name)
    return (match[1], int(match[2]), match[3]) if match else None


def norm_of_reader(name: str) -> str | None:
    """The LayerNorm through which a weight or bias reads a residual stream; None for any other.

    Towers' last norms are not among them: their streams are never turned.
    """
    block, reader = split_block(name), name.rpartition(".")[0]
    if block is None:
        return POOL_NORM_OF_READER.get(reader)
    norm = NORM_OF_READER.get(block[2].rpartition(".")[0])
    return f"{block[0]}.{block[1]}.{norm}" if norm else None


def param_axes(name: str) -> AxisSpec:
    """The parsed row of a parameter.

    Raises:
        ValueError: If the table has no row for it.
    """
    block = split_block(name)
    key = f"{block[0]}.#.{block[2]}" if block else name
    if key not in PARAM_AXES:
        raise ValueError(
            f"Parameter {name!r} has no row in PARAM_AXES. Add its axes to models/axes.py."
        )
    return parse_axes(PARAM_AXES[key])

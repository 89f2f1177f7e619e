"""The axes of every parameter, one row each, in einops notation.

``a <- b`` is a linear map that writes axis a and reads axis b (``b -> a`` for the transposed
storage); a row without an arrow writes its axes (biases, positions); ``gain(a)`` and ``shift(a)``
are a LayerNorm's scale and offset over axis a. ``#`` stands for a block's number; ``(a b)`` is one
stored dimension made of several axes. Growing a model is nothing but enlarging these axes, so a
parameter without a row is an error that names it.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nas_growclip.arch import ClipArch

Role = Literal["write", "read", "gain", "shift"]


def _block_rows(prefix: str, encoder: str, width: str) -> dict[str, str]:
    heads, head_dim = f"{encoder}.heads", f"{encoder}.head_dim"
    mlp_width = f"{encoder}.mlp_width"
    return {
        f"{prefix}.#.norm1.weight": f"gain({width})",
        f"{prefix}.#.norm1.bias": f"shift({width})",
        f"{prefix}.#.attn.qkv.weight": f"(3 {heads} {head_dim}) <- {width}",
        f"{prefix}.#.attn.qkv.bias": f"(3 {heads} {head_dim})",
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
    **_block_rows("image.trunk.blocks", "image", "image.width"),
    "image.trunk.norm.weight": "gain(image.width)",
    "image.trunk.norm.bias": "shift(image.width)",
    "image.projection.weight": "embed_dim <- image.width",
    "text.token_embedding.weight": "text.vocab_size -> text.width",
    "text.pos_embed": "text.context_length text.width",
    **_block_rows("text.blocks", "text", "text.width"),
    "text.norm.weight": "gain(text.width)",
    "text.norm.bias": "shift(text.width)",
    "text.projection.weight": "embed_dim <- text.width",
    **_block_rows("shared.blocks", "shared", "embed_dim"),
    "logit_scale": "",
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

_TOKEN = re.compile(r"<-|->|\(|\)|[\w.]+")
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


@functools.cache
def parse_axes(row: str) -> AxisSpec:
    """Parse one row of the table, as in ``image.width <- (image.heads image.head_dim)``."""
    norm = re.fullmatch(r"(gain|shift)\(([\w.]+)\)", row)
    if norm:
        role: Role = "gain" if norm[1] == "gain" else "shift"
        return AxisSpec(((Axis(norm[2], role),),), is_linear=False)
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
            open_group.append(Axis(token, role))
        else:
            dims.append((Axis(token, role),))
    return tuple(dims)


def axis_size(arch: ClipArch, name: str) -> int:
    """Size of one axis: a dimension, a number that follows from dimensions, or a literal."""
    derived = {
        "image.tokens": lambda: arch.image.num_tokens,
        "image.heads": lambda: arch.image.num_heads,
        "image.head_dim": lambda: arch.image.head_dim,
        "text.heads": lambda: arch.text.num_heads,
        "text.head_dim": lambda: arch.text.head_dim,
        "text.vocab_size": lambda: arch.text.vocab_size,
        "shared.heads": lambda: arch.embed_dim // arch.shared.head_dim,
        "shared.head_dim": lambda: arch.shared.head_dim,
    }
    if name.isdigit():
        return int(name)
    return derived[name]() if name in derived else arch.size(name)


def split_block(name: str) -> tuple[str, int, str] | None:
    """Split ``text.blocks.3.norm1.weight`` into list, number and rest; None outside blocks."""
    match = _BLOCK_NAME.fullmatch(name)
    return (match[1], int(match[2]), match[3]) if match else None


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

"""The numbers that define a model, and nothing else: no torch in here.

A *dimension* is one growable number under its dotted name, as in ``image.width``. The same word
is the axis in the axis table, the key in the growth space, the value in a trial and the column in
a report. Sizes are counts; ``image_size`` and ``patch_size`` are pixels on a side.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nas_growclip.strict import from_mapping, read_mapping, to_mapping

DIMENSIONS = (
    "image.depth",
    "image.width",
    "image.mlp_width",
    "image.patch_size",
    "image.image_size",
    "text.depth",
    "text.width",
    "text.mlp_width",
    "text.context_length",
    "shared.depth",
    "shared.mlp_width",
    "embed_dim",
)
"""Every dimension of the growth space, in the order of tables and figures."""

TOKENIZER_VOCAB_SIZE = 49408
"""Tokens of CLIP's byte-pair encoding, start and end of text included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArch:
    """Image tower: a pre-norm vision transformer with a class token."""

    depth: int
    width: int
    mlp_width: int
    patch_size: int
    image_size: int
    head_dim: int = 64

    def __post_init__(self) -> None:
        _require_positive("image", self)
        _require_multiple("image.width", self.width, "image.head_dim", self.head_dim)
        _require_multiple("image.image_size", self.image_size, "image.patch_size", self.patch_size)

    @property
    def num_heads(self) -> int:
        """Attention heads, from width and head_dim."""
        return self.width // self.head_dim

    @property
    def num_tokens(self) -> int:
        """Patches plus the class token."""
        grid = self.image_size // self.patch_size
        return grid * grid + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextArch:
    """Text tower: a causal pre-norm transformer, pooled at the end-of-text token."""

    depth: int
    width: int
    mlp_width: int
    context_length: int = 77
    vocab_size: int = TOKENIZER_VOCAB_SIZE
    head_dim: int = 64

    def __post_init__(self) -> None:
        _require_positive("text", self)
        _require_multiple("text.width", self.width, "text.head_dim", self.head_dim)
        if self.context_length < 3:
            raise ValueError(
                "text.context_length must hold start, one word and end of text, "
                f"but got context_length={self.context_length}. Use 3 or more."
            )
        if self.vocab_size < TOKENIZER_VOCAB_SIZE:
            raise ValueError(
                f"text.vocab_size must hold the tokenizer's {TOKENIZER_VOCAB_SIZE} tokens, "
                f"but got vocab_size={self.vocab_size}. Use {TOKENIZER_VOCAB_SIZE} or more."
            )

    @property
    def num_heads(self) -> int:
        """Attention heads, from width and head_dim."""
        return self.width // self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedArch:
    """Shared encoder: blocks that both modalities pass through; its width is ``embed_dim``."""

    depth: int
    mlp_width: int
    head_dim: int = 64

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError(f"shared.depth must be 0 or more, but got {self.depth}.")
        _require_positive("shared", dataclasses.replace(self, depth=1) if not self.depth else self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipArch:
    """A CLIP model's architecture: three encoders and the joint embedding.

    Raises:
        ValueError: If a size is impossible; the message names the rule, the value and the remedy.
    """

    image: ImageArch
    text: TextArch
    shared: SharedArch
    embed_dim: int

    def __post_init__(self) -> None:
        if not _is_size(self.embed_dim):
            raise ValueError(f"embed_dim must be a whole number above 0, got {self.embed_dim!r}.")
        if self.shared.depth:
            _require_multiple("embed_dim", self.embed_dim, "shared.head_dim", self.shared.head_dim)

    def size(self, dimension: str) -> int:
        """Size of one dimension, as in ``size("image.width")``."""
        value: Any = self
        for part in _known_dimension(dimension).split("."):
            value = getattr(value, part)
        return int(value)

    def with_size(self, dimension: str, size: int) -> "ClipArch":
        """The same architecture with one dimension at another size.

        Raises:
            ValueError: If the dimension is unknown or the new architecture is impossible.
        """
        return self.with_sizes({dimension: size})

    def with_sizes(self, sizes: Mapping[str, int]) -> "ClipArch":
        """The same architecture with several dimensions at other sizes, checked together."""
        changes: dict[str, dict[str, int]] = {}
        embed_dim = self.embed_dim
        for dimension, size in sizes.items():
            encoder, _, field = _known_dimension(dimension).rpartition(".")
            if encoder:
                changes.setdefault(encoder, {})[field] = size
            else:
                embed_dim = size
        encoders: dict[str, Any] = {
            name: dataclasses.replace(getattr(self, name), **change)
            for name, change in changes.items()
        }
        return dataclasses.replace(self, embed_dim=embed_dim, **encoders)

    def sizes(self) -> dict[str, int]:
        """Every dimension with its size, in the order of ``DIMENSIONS``."""
        return {dimension: self.size(dimension) for dimension in DIMENSIONS}

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as written to YAML and JSON."""
        mapping: dict[str, Any] = to_mapping(self)
        return mapping

    def to_json(self) -> str:
        """JSON text under our own dimension names."""
        return json.dumps(self.to_dict(), indent=2)

    def to_yaml(self) -> str:
        """YAML text under our own dimension names."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, data: object, where: str = "arch") -> "ClipArch":
        """Read a nested mapping strictly; ``where`` names its place in messages."""
        return from_mapping(cls, data, where)

    @classmethod
    def load(cls, path: str | Path) -> "ClipArch":
        """Read a YAML or JSON file.

        Raises:
            ValueError: If the file or a value in it is bad.
        """
        return cls.from_dict(read_mapping(Path(path)), str(path))

    @classmethod
    def preset(cls, name: str) -> "ClipArch":
        """A named architecture from ``PRESETS``.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}. Known: {', '.join(PRESETS)}.")
        return PRESETS[name]


def dimension_steps(parent: ClipArch, child: ClipArch) -> dict[str, tuple[int, int]]:
    """Dimensions in which two architectures differ, with (old, new) sizes.

    Raises:
        ValueError: If they differ in a number that is not a dimension, such as ``head_dim``.
    """
    changed = {d: (parent.size(d), child.size(d)) for d in DIMENSIONS}
    changed = {d: sizes for d, sizes in changed.items() if sizes[0] != sizes[1]}
    rest = parent.with_sizes({dimension: new for dimension, (_, new) in changed.items()})
    for encoder in ("image", "text", "shared"):
        for field in dataclasses.fields(getattr(child, encoder)):
            old, new = (getattr(getattr(a, encoder), field.name) for a in (rest, child))
            if old != new:
                raise ValueError(
                    f"{encoder}.{field.name} must stay the same while growing, but got {old} -> "
                    f"{new}. It is not a dimension of the growth space."
                )
    return changed


def _known_dimension(dimension: str) -> str:
    if dimension in DIMENSIONS:
        return dimension
    close = difflib.get_close_matches(dimension, DIMENSIONS, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(DIMENSIONS)}."
    raise ValueError(f"Unknown dimension {dimension!r}. {hint}")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _require_positive(encoder: str, arch: Any) -> None:
    for field in dataclasses.fields(arch):
        value = getattr(arch, field.name)
        if not _is_size(value):
            raise ValueError(
                f"{encoder}.{field.name} must be a whole number above 0, but got {value!r}."
            )


def _require_multiple(name: str, value: int, unit_name: str, unit: int) -> None:
    if value % unit:
        lower, upper = value // unit * unit, (value // unit + 1) * unit
        nearest = f"{lower} or {upper}" if lower else str(upper)
        raise ValueError(
            f"{name} must be divisible by {unit_name}, but got {name.split('.')[-1]}={value} and "
            f"{unit_name.split('.')[-1]}={unit}. Use {nearest}."
        )


def _tiny(width: int, depth: int, shared_depth: int, image_size: int) -> ClipArch:
    return ClipArch(
        image=ImageArch(
            depth=depth,
            width=width,
            mlp_width=4 * width,
            patch_size=8,
            image_size=image_size,
            head_dim=32,
        ),
        text=TextArch(
            depth=depth, width=width, mlp_width=4 * width, context_length=32, head_dim=32
        ),
        shared=SharedArch(depth=shared_depth, mlp_width=4 * width, head_dim=32),
        embed_dim=width,
    )


def _openai(patch_size: int, width: int, depth: int, text_width: int) -> ClipArch:
    return ClipArch(
        image=ImageArch(
            depth=depth, width=width, mlp_width=4 * width, patch_size=patch_size, image_size=224
        ),
        text=TextArch(depth=12, width=text_width, mlp_width=4 * text_width),
        shared=SharedArch(depth=0, mlp_width=4 * text_width),
        embed_dim=text_width,
    )


PRESETS: Mapping[str, ClipArch] = {
    "tiny": _tiny(width=64, depth=2, shared_depth=1, image_size=32),
    "tiny_64px": _tiny(width=64, depth=2, shared_depth=1, image_size=64),
    "mini": _tiny(width=128, depth=4, shared_depth=1, image_size=64),
    "vit_s_16": _openai(patch_size=16, width=384, depth=12, text_width=384),
    "vit_b_32": _openai(patch_size=32, width=768, depth=12, text_width=512),
    "vit_b_16": _openai(patch_size=16, width=768, depth=12, text_width=512),
    "vit_l_14": _openai(patch_size=14, width=1024, depth=24, text_width=768),
}
"""Named architectures; the ``vit_*`` sizes are those of OpenAI's and OpenCLIP's models."""

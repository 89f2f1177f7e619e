"""The numbers that define a model, and nothing else: no torch in here.

A *dimension* is one growable number under its dotted name, as in ``image.width``. The same word
is the axis in the axis table, the key in the growth space, the value in a trial and the column in
a report. Sizes are counts; ``image_size``, ``image_height`` and ``patch_size`` are pixels.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nas_growclip.io.choices import look_up, require_choice
from nas_growclip.io.mappings import (
    OMITTED_AT_DEFAULT,
    from_mapping,
    read_fields,
    read_mapping,
    to_mapping,
)
from nas_growclip.io.ranges import at_least, require_in_range, within
from nas_growclip.models.preprocessing import Preprocessing

DIMENSIONS = (
    "image.depth",
    "image.width",
    "image.mlp_width",
    "image.heads",
    "image.head_dim",
    "image.patch_size",
    "image.image_size",
    "image.image_height",
    "text.depth",
    "text.width",
    "text.mlp_width",
    "text.heads",
    "text.head_dim",
    "text.context_length",
    "text.vocab_size",
    "shared.depth",
    "shared.mlp_width",
    "shared.heads",
    "shared.head_dim",
    "embed_dim",
)
"""Every dimension of the growth space, in the order of tables and figures."""

TIED_DIMENSIONS = {
    "image.heads": "image.width",
    "text.heads": "text.width",
    "shared.heads": "embed_dim",
    "image.image_height": "image.image_size",
}
"""Dimensions that are tied to another one as long as the architecture does not state them."""

FIXED_TRAITS = (
    ("image", "norm_pre"),
    ("image", "norm_eps"),
    ("image", "activation"),
    ("image", "preprocessing"),
    ("image", "class_token"),
    ("image", "pooling"),
    ("image", "norm_after_pooling"),
    ("image", "projection_bias"),
    ("image", "cut_edge"),
    ("text", "norm_eps"),
    ("text", "activation"),
    ("text", "is_causal"),
    ("text", "pooling"),
    ("text", "end_token"),
    ("text", "projection_bias"),
    ("text", "tokenizer"),
)
"""What an architecture has beside its dimensions; a child has its parent's."""

MAX_DEPTH = 1024
"""Blocks of an encoder, at most."""

MAX_SIZE = 2**20
"""Every other size, at most: beyond it a number is a slip, and would fill any memory."""

MAX_ARCH_BYTES = 2**20
"""Largest file that is read as an architecture; one has some thousand bytes."""

TOKENIZER_VOCAB_SIZE = 49408
"""Tokens of CLIP's byte-pair encoding, start and end of text included."""

END_OF_TEXT = TOKENIZER_VOCAB_SIZE - 1
"""CLIP's token for the end of a text."""

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
"""Between the two layers of an MLP: ``quick_gelu`` is x * sigmoid(1.702 x), as OpenAI trained;
``gelu_tanh`` is GELU by its approximation with tanh, as SigLIP trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArch:
    """Image tower: a pre-norm vision transformer, by default pooled at its class token."""

    depth: int
    """Blocks."""
    width: int
    """Width of the residual stream."""
    mlp_width: int
    """Hidden units of each MLP."""
    patch_size: int
    """Pixels on a side of a patch."""
    image_size: int
    """Pixels across; also from top to bottom unless ``image_height`` says otherwise."""
    head_dim: int = 64
    """Width of an attention head."""
    heads: int | None = None
    """Attention heads; width / head_dim where it is not stated."""
    image_height: int | None = None
    """Pixels from top to bottom where images are not square."""
    norm_pre: bool = False
    """A LayerNorm between the embeddings and the blocks, as OpenAI's and OpenCLIP's towers have."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm; 1e-5 in OpenAI's and OpenCLIP's towers."""
    activation: Activation = "gelu"
    """Between the MLP's two layers."""
    preprocessing: Preprocessing = dataclasses.field(
        default=Preprocessing(), metadata=OMITTED_AT_DEFAULT
    )
    """How images become the tower's input; written only where it is not OpenAI's."""
    class_token: bool = dataclasses.field(default=True, metadata=OMITTED_AT_DEFAULT)
    """A learned token before the patches."""
    pooling: Literal["token", "average", "attention"] = dataclasses.field(
        default="token", metadata=OMITTED_AT_DEFAULT
    )
    """The class token, the average of the patches, or SigLIP's attention of one learned query,
    which projects to ``embed_dim`` itself."""
    norm_after_pooling: bool = dataclasses.field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Whether the last LayerNorm comes after the average, as in CLIPA, not before."""
    projection_bias: bool = dataclasses.field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Whether the projection to ``embed_dim`` has a bias."""
    cut_edge: bool = dataclasses.field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Whether pixels right and below that fill no whole patch are left out; else there are none."""

    def __post_init__(self) -> None:
        read_fields(self)
        _require_positive("image", self)
        _require_heads("image", "image.width", self.width, self)
        self._require_patches()
        self._require_pooling()

    def _require_patches(self) -> None:
        for side in ("image_size", "image_height"):
            pixels = getattr(self, side)
            if pixels is None:
                continue
            if not self.cut_edge:
                _require_multiple(f"image.{side}", pixels, "image.patch_size", self.patch_size)
            require_in_range(f"image.{side}", pixels, at_least(self.patch_size))

    def _require_pooling(self) -> None:
        rules = (
            (self.class_token or self.pooling != "token", "class_token: must be true for pooling",
             "Use pooling: average, or attention."),
            (not self.class_token or self.pooling != "attention",
             "class_token: must be false for pooling", "Leave the class token out."),
            (self.pooling == "average" or not self.norm_after_pooling,
             "norm_after_pooling: must be false for pooling", "Only an average can be normalised."),
            (self.pooling != "attention" or not self.projection_bias,
             "projection_bias: must be false for pooling", "Its last layer has a bias as it is."),
        )  # fmt: skip
        for holds, rule, remedy in rules:
            if not holds:
                raise ValueError(f"image.{rule} {self.pooling!r}, but is not. {remedy}")

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return self.heads or self.width // self.head_dim

    @property
    def image_shape(self) -> tuple[int, int]:
        """Pixels of an image: (height, width)."""
        return self.image_height or self.image_size, self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image: (rows, columns)."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches plus the class token, if there is one."""
        rows, columns = self.grid
        return rows * columns + self.class_token


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerArch:
    """One of Hugging Face's tokenizers, as OpenCLIP uses it."""

    name: str
    """Where it comes from: a repository on the hub, or what its folder was called."""
    clean: Literal["whitespace", "lower", "canonicalize"] = "whitespace"
    """What happens to a text first, in OpenCLIP's words."""
    strip_sep_token: bool = False
    """Whether the token that ends a text becomes a 0."""
    digest: str = ""
    """SHA-256 of its vocabulary and of what it makes of some texts; empty: not known yet."""

    def __post_init__(self) -> None:
        if not re.fullmatch("|[0-9a-f]{64}", self.digest):
            raise ValueError(
                "text.tokenizer: digest: must be a SHA-256 of 64 digits, or empty, but got "
                f"{self.digest[:80]!r}. Import the model again."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextArch:
    """Text tower: a pre-norm transformer, by default causal and pooled at the end of a text."""

    depth: int
    """Blocks."""
    width: int
    """Width of the residual stream."""
    mlp_width: int
    """Hidden units of each MLP."""
    context_length: int = 77
    """Tokens of a text, start and end of text included."""
    vocab_size: int = TOKENIZER_VOCAB_SIZE
    """Tokens that the tokenizer knows."""
    head_dim: int = 64
    """Width of an attention head."""
    heads: int | None = None
    """Attention heads; width / head_dim where it is not stated."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm; 1e-5 in OpenAI's and OpenCLIP's towers."""
    activation: Activation = "gelu"
    """Between the MLP's two layers."""
    is_causal: bool = dataclasses.field(default=True, metadata=OMITTED_AT_DEFAULT)
    """Whether a token sees only those before it; else all see all, padding included."""
    pooling: Literal["end", "last", "first"] = dataclasses.field(
        default="end", metadata=OMITTED_AT_DEFAULT
    )
    """The first ``end_token``, or the last or first position whatever is there."""
    end_token: int = dataclasses.field(default=END_OF_TEXT, metadata=OMITTED_AT_DEFAULT)
    """The tokenizer's token for the end of a text."""
    projection_bias: bool = dataclasses.field(default=False, metadata=OMITTED_AT_DEFAULT)
    """Whether the projection to ``embed_dim`` has a bias."""
    tokenizer: TokenizerArch | None = dataclasses.field(default=None, metadata=OMITTED_AT_DEFAULT)
    """Another tokenizer than CLIP's."""

    def __post_init__(self) -> None:
        _require_positive("text", self)
        _require_heads("text", "text.width", self.width, self)
        if self.context_length < 3:
            raise ValueError(
                "text.context_length must hold start, one word and end of text, "
                f"but got context_length={self.context_length}. Use 3 or more."
            )
        if self.tokenizer is None and self.vocab_size < TOKENIZER_VOCAB_SIZE:
            raise ValueError(
                f"text.vocab_size must hold the tokenizer's {TOKENIZER_VOCAB_SIZE} tokens, "
                f"but got vocab_size={self.vocab_size}. Use {TOKENIZER_VOCAB_SIZE} or more."
            )
        if self.pooling == "end":
            require_in_range("text.end_token", self.end_token, within(0, self.vocab_size, "[)"))

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return self.heads or self.width // self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedArch:
    """Shared encoder: blocks that both modalities pass through; its width is ``embed_dim``."""

    depth: int
    """Blocks."""
    mlp_width: int
    """Hidden units of each MLP."""
    head_dim: int = 64
    """Width of an attention head."""
    heads: int | None = None
    """Attention heads; embed_dim / head_dim where it is not stated."""

    def __post_init__(self) -> None:
        require_in_range("shared.depth", self.depth, at_least(0))
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
    """Width of the joint embedding and of the shared encoder."""
    logit_bias: bool = False
    """Whether the logits have a learned bias: then SigLIP's loss trains the model, else CLIP's."""

    def __post_init__(self) -> None:
        read_fields(self)
        _require_size("embed_dim", self.embed_dim)
        if self.shared.depth:
            _require_heads("shared", "embed_dim", self.embed_dim, self.shared)

    @property
    def shared_heads(self) -> int:
        """Attention heads of the shared encoder (as many as fit, if it has no block yet)."""
        return self.shared.heads or max(1, self.embed_dim // self.shared.head_dim)

    def size(self, dimension: str) -> int:
        """Size of one dimension, as in ``size("image.width")``."""
        following = {
            "image.heads": self.image.num_heads,
            "text.heads": self.text.num_heads,
            "shared.heads": self.shared_heads,
            "image.image_height": self.image.image_shape[0],
        }
        if _known_dimension(dimension) in following:
            return following[dimension]
        value: Any = self
        for part in dimension.split("."):
            value = getattr(value, part)
        return int(value)

    def is_explicit(self, dimension: str) -> bool:
        """Whether the architecture states a dimension itself, instead of leaving it tied."""
        encoder, _, field = dimension.rpartition(".")
        is_tied = dimension in TIED_DIMENSIONS
        return not is_tied or getattr(getattr(self, encoder), field) is not None

    def with_size(self, dimension: str, size: int) -> "ClipArch":
        """The same architecture with one dimension at another size.

        Raises:
            ValueError: If the dimension is unknown or the new architecture is impossible.
        """
        return self.with_sizes({dimension: size})

    def with_sizes(self, sizes: Mapping[str, int]) -> "ClipArch":
        """The same architecture with several dimensions at other sizes, checked together.

        Growing ``head_dim`` keeps the number of heads. A dimension that can be tied to another one
        (``TIED_DIMENSIONS``) is stated only where it has to be.
        """
        sizes = {_known_dimension(dimension): size for dimension, size in sizes.items()}
        changes: dict[str, dict[str, int | None]] = {}
        for dimension, size in (sizes | self._tied_sizes(sizes)).items():
            encoder, _, field = dimension.rpartition(".")
            changes.setdefault(encoder, {})[field] = size
        embed_dim = changes.pop("", {}).get("embed_dim") or self.embed_dim
        encoders: dict[str, Any] = {
            name: dataclasses.replace(getattr(self, name), **change)
            for name, change in changes.items()
        }
        return dataclasses.replace(self, embed_dim=embed_dim, **encoders)

    def _tied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int | None]:
        """Sizes to state, or None to leave tied, of each dimension that the change concerns."""
        stated: dict[str, int | None] = {}
        for tied, leader in TIED_DIMENSIONS.items():
            head_dim = tied.replace(".heads", ".head_dim")
            is_fixed = tied in sizes or self.is_explicit(tied) or head_dim in sizes
            if not is_fixed or not {tied, leader, head_dim} & set(sizes):
                continue
            new = {d: sizes.get(d, self.size(d)) for d in (tied, leader, head_dim)}
            unit = new[head_dim] if head_dim != tied else 1
            has_blocks = tied != "shared.heads" or sizes.get("shared.depth", self.shared.depth)
            follows = (
                new[leader] == unit * new[tied]
                if has_blocks
                else (max(1, new[leader] // unit) == new[tied])
            )
            stated[tied] = None if follows else new[tied]
        return stated

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
        return cls.from_dict(read_mapping(Path(path), MAX_ARCH_BYTES), str(path))

    @classmethod
    def preset(cls, name: str) -> "ClipArch":
        """A named architecture from ``PRESETS``.

        Raises:
            ValueError: If there is no such preset.
        """
        return look_up(PRESETS, name, "preset")


def dimension_steps(parent: ClipArch, child: ClipArch) -> dict[str, tuple[int, int]]:
    """Dimensions in which two architectures differ, with (old, new) sizes.

    A dimension that follows another one in both architectures is left out, being no step of its
    own.

    Raises:
        ValueError: If they differ in a number that is not a dimension, such as ``norm_pre``.
    """
    changed = {d: (parent.size(d), child.size(d)) for d in DIMENSIONS}
    steps = {
        d: sizes
        for d, sizes in changed.items()
        if sizes[0] != sizes[1] and (parent.is_explicit(d) or child.is_explicit(d))
    }
    for encoder, trait in FIXED_TRAITS:
        old, new = (getattr(getattr(arch, encoder), trait) for arch in (parent, child))
        if old != new:
            raise ValueError(
                f"{encoder}.{trait} must stay the same while growing, but got {old} -> {new}. "
                "It is not a dimension of the growth space."
            )
    if parent.logit_bias != child.logit_bias:
        raise ValueError(
            f"logit_bias must stay the same while growing, but got {parent.logit_bias} -> "
            f"{child.logit_bias}. It says which loss trains the model."
        )
    return steps


def _known_dimension(dimension: str) -> str:
    require_choice(dimension, DIMENSIONS, "dimension")
    return dimension


def _require_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, but got {value!r}.")
    require_in_range(name, value, within(1, MAX_DEPTH if name.endswith(".depth") else MAX_SIZE))


def _require_positive(encoder: str, arch: Any) -> None:
    for field in dataclasses.fields(arch):
        value = getattr(arch, field.name)
        if field.name == "norm_eps":
            require_in_range(f"{encoder}.norm_eps", value, within(0, 1, "()"))
        if value is None or (encoder, field.name) in FIXED_TRAITS:
            continue
        _require_size(f"{encoder}.{field.name}", value)


def _require_heads(encoder: str, width_name: str, width: int, arch: Any) -> None:
    if arch.heads is None:
        _require_multiple(width_name, width, f"{encoder}.head_dim", arch.head_dim)


def _require_multiple(name: str, value: int, unit_name: str, unit: int) -> None:
    if value % unit:
        lower, upper = value // unit * unit, (value // unit + 1) * unit
        nearest = f"{lower} or {upper}" if lower else str(upper)
        other_way = ", or state heads" if unit_name.endswith("head_dim") else ""
        raise ValueError(
            f"{name} must be divisible by {unit_name}, but got {name.split('.')[-1]}={value} and "
            f"{unit_name.split('.')[-1]}={unit}. Use {nearest}{other_way}."
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


def _siglip_b_16() -> ClipArch:
    """SigLIP-B/16's sizes and loss; images are pooled at a class token, as in every preset."""
    wide = _openai(patch_size=16, width=768, depth=12, text_width=768)
    text = dataclasses.replace(wide.text, context_length=64)
    return dataclasses.replace(wide, text=text, logit_bias=True)


PRESETS: Mapping[str, ClipArch] = {
    "tiny": _tiny(width=64, depth=2, shared_depth=1, image_size=32),
    "tiny_64px": _tiny(width=64, depth=2, shared_depth=1, image_size=64),
    "mini": _tiny(width=128, depth=4, shared_depth=1, image_size=64),
    "vit_s_16": _openai(patch_size=16, width=384, depth=12, text_width=384),
    "vit_b_32": _openai(patch_size=32, width=768, depth=12, text_width=512),
    "vit_b_16": _openai(patch_size=16, width=768, depth=12, text_width=512),
    "vit_l_14": _openai(patch_size=14, width=1024, depth=24, text_width=768),
    "siglip_b_16": _siglip_b_16(),
}
"""Named architectures; the ``vit_*`` sizes are those of OpenAI's and OpenCLIP's models."""

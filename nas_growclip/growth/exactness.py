"""What an operator claims: for which growth the child computes what its parent does."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nas_growclip.models.arch import DIMENSIONS, ClipArch, TextArch


class Claim(NamedTuple):
    """When growing a dimension leaves every embedding as it was."""

    holds: Callable[[ClipArch, ClipArch], bool]
    condition: str


EXACT = Claim(lambda parent, child: True, "always")

LOSSY = Claim(lambda parent, child: False, "never")


def _integer_ratio(dimension: str) -> Claim:
    return Claim(
        lambda parent, child: child.size(dimension) % parent.size(dimension) == 0, "integer ratio"
    )


def is_turned(parent: ClipArch, child: ClipArch) -> bool:
    """Whether the joint embedding grows by an isometry: some LayerNorm reads it."""
    is_pooled = parent.image.pooling == "attention"
    return bool(parent.shared.depth or child.shared.depth or is_pooled)


def keeps_texts(text: TextArch) -> bool:
    """Whether positions behind a text change nothing of it."""
    return text.is_causal and text.pooling != "last"


def _keeps_norm_pre(parent: ClipArch, child: ClipArch) -> bool:
    return not parent.image.norm_pre or child.image.width % parent.image.width == 0


def _keeps_grid(parent: ClipArch, child: ClipArch) -> bool:
    is_larger = child.image.patch_size >= parent.image.patch_size
    is_cut = parent.image.cut_edge
    return is_larger and parent.image.grid == child.image.grid and not is_cut


SAME_GRID = Claim(
    _keeps_grid, "larger patch, same grid, for images whose patches are resized bilinearly"
)

_SPECIAL_CLAIMS = {
    **dict.fromkeys(["image.head_dim", "text.head_dim", "shared.head_dim"], EXACT),
    "image.patch_size": SAME_GRID,
    "image.image_size": SAME_GRID,
    "image.image_height": SAME_GRID,
    "text.context_length": Claim(
        lambda parent, child: keeps_texts(parent.text),
        "texts that fit the parent's context; causal, and not pooled at the last position",
    ),
    "text.vocab_size": Claim(EXACT.holds, "texts of the parent's vocabulary"),
}

_WIDTHS = ("image.width", "text.width")

_UNITS = tuple(d for d in DIMENSIONS if d.endswith(("mlp_width", "heads")))


def claims(width: Callable[[str], Claim], units: Callable[[str], Claim]) -> Mapping[str, Claim]:
    """Claims of an operator from what it does to widths and to units (heads, MLP units)."""
    heads = units("shared.heads")
    embed_dim = Claim(
        lambda parent, child: is_turned(parent, child) and heads.holds(parent, child),
        f"with a shared encoder or pooling by attention (heads: {heads.condition}); "
        "otherwise lossy by 1e-6",
    )
    return (
        _SPECIAL_CLAIMS
        | {dimension: width(dimension) for dimension in _WIDTHS}
        | {dimension: units(dimension) for dimension in _UNITS}
        | {"embed_dim": embed_dim}
    )


def always(dimension: str) -> Claim:
    """Exact in that dimension."""
    return EXACT


def never(dimension: str) -> Claim:
    """Lossy in that dimension."""
    return LOSSY


def any_ratio(dimension: str) -> Claim:
    """Exact at any ratio of a width, but for an image tower's with ``norm_pre``."""
    return (
        Claim(_keeps_norm_pre, "any ratio; with norm_pre integer ratios")
        if dimension == "image.width"
        else EXACT
    )


_ALL_LOSSY = {dimension: LOSSY for dimension in DIMENSIONS if not dimension.endswith("depth")}

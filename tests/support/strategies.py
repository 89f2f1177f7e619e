"""Hypothesis strategies: architectures, growths of them, and ways to grow."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from nas_growclip.growth.depth import DEPTH_OPERATORS
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.pim import PIM_GROUPS
from nas_growclip.models.arch import (
    DIMENSIONS,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
    TokenizerArch,
)

DATA_FREE = [name for name, operator in OPERATORS.items() if not operator.is_learned]
COPYING = ["average", "net2net", "hypercloning", "aki"]

IMAGE_TRAITS: list[dict[str, Any]] = [
    {},
    {},
    {"pooling": "average", "norm_after_pooling": True},
    {"pooling": "average", "class_token": False, "projection_bias": True},
    {"pooling": "attention", "class_token": False, "activation": "gelu_tanh"},
]
"""As CLIP, CLIPA, timm's average pooling and SigLIP have them."""

TEXT_TRAITS: list[dict[str, Any]] = [
    {},
    {},
    {"pooling": "first", "activation": "quick_gelu"},
    {"pooling": "last", "is_causal": False, "projection_bias": True},
    {"vocab_size": 60, "end_token": 2, "tokenizer": TokenizerArch(name="some/tokenizer")},
]
"""As CLIP, nobody, SigLIP and MetaCLIP 2 have them."""

_LEADERS = {
    "image.width": "image.head_dim",
    "text.width": "text.head_dim",
    "embed_dim": "shared.head_dim",
    "image.image_size": "image.patch_size",
    "image.image_height": "image.patch_size",
}


class Grown(NamedTuple):
    """A parent, and a child that is larger in some dimensions."""

    parent: ClipArch
    sizes: dict[str, int]

    @property
    def child(self) -> ClipArch:
        return self.parent.with_sizes(self.sizes)


@st.composite
def archs(draw: st.DrawFn) -> ClipArch:
    """Small architectures of every shape and trait."""
    heads = st.sampled_from([None, None, 1, 3])
    image_head, text_head, shared_head = (draw(st.sampled_from([4, 6])) for _ in range(3))
    patch_size = draw(st.sampled_from([2, 4]))
    return ClipArch(
        image=ImageArch(
            depth=draw(st.integers(1, 3)),
            width=image_head * draw(st.integers(1, 4)),
            mlp_width=draw(st.integers(2, 20)),
            patch_size=patch_size,
            image_size=patch_size * draw(st.integers(1, 3)),
            image_height=draw(st.sampled_from([None, 2 * patch_size])),
            head_dim=image_head,
            heads=draw(heads),
            norm_pre=draw(st.booleans()),
            **draw(st.sampled_from(IMAGE_TRAITS)),
        ),
        text=TextArch(
            depth=draw(st.integers(1, 3)),
            width=text_head * draw(st.integers(1, 3)),
            mlp_width=draw(st.integers(2, 20)),
            context_length=draw(st.integers(3, 8)),
            head_dim=text_head,
            heads=draw(heads),
            **draw(st.sampled_from(TEXT_TRAITS)),
        ),
        shared=SharedArch(
            depth=draw(st.integers(0, 2)),
            mlp_width=draw(st.integers(2, 20)),
            head_dim=shared_head,
        ),
        embed_dim=shared_head * draw(st.integers(1, 3)),
    )


@st.composite
def growths(draw: st.DrawFn, dimensions: tuple[str, ...] = DIMENSIONS) -> Grown:
    """A parent, and larger sizes of one to five of the dimensions, at ratios of up to three."""
    parent = draw(archs())
    able = [
        dimension
        for dimension in dimensions
        if parent.shared.depth or not dimension.startswith("shared.") or "depth" in dimension
    ]
    chosen = draw(st.lists(st.sampled_from(able), min_size=1, max_size=5, unique=True))
    sizes = {d: draw(_larger(parent, d)) for d in chosen}
    if "image.patch_size" in sizes:  # at the same grid, or images would not be whole patches
        sides = [d for d in ("image.image_size", "image.image_height") if parent.is_explicit(d)]
        sizes |= {d: 2 * parent.size(d) for d in sides}
    return Grown(parent, sizes)


def _larger(arch: ClipArch, dimension: str) -> st.SearchStrategy[int]:
    old = arch.size(dimension)
    if dimension == "text.vocab_size":
        return st.integers(old + 1, old + 40)
    if dimension == "image.patch_size":
        return st.just(2 * old)
    if dimension.endswith("depth"):
        return st.integers(old + 1, old + 3)
    unit = arch.size(_LEADERS[dimension]) if dimension in _LEADERS else 1
    if dimension.startswith("image.image_"):
        unit *= 2
    return st.integers(old // unit + 1, max(3 * old // unit, old // unit + 1)).map(
        lambda count: unit * count
    )


def ways_to_grow() -> st.SearchStrategy[dict[str, object]]:
    """Settings of ``GrowthConfig`` that need no data."""
    groups = st.lists(st.sampled_from(sorted(PIM_GROUPS)), max_size=2, unique=True)
    return st.fixed_dictionaries(
        {
            "operator": st.sampled_from(DATA_FREE),
            "depth_operator": st.sampled_from(sorted(DEPTH_OPERATORS)),
            "placement": st.sampled_from(["spread", "end"]),
            "pim": st.sampled_from(["convex", "null_space", "shrink_perturb"]),
            "momentum": st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.0]),
            "pim_exclude": groups.map(tuple),
            "norm_pre": st.sampled_from(["refuse", "approximate"]),
        }
    )

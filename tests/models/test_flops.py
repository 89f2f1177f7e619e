"""FLOPs against the closed form, published figures, and fvcore without fused attention."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from timm.layers import set_fused_attn

from nas_growclip.interop.sources import read_config
from nas_growclip.models.arch import DIMENSIONS, ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import (
    ENCODERS,
    analyse,
    count_flops,
    count_params,
    flops_by_encoder,
    params_by_encoder,
)
from tests.growth.test_traits import KINDS, arch_of
from tests.support.strategies import archs
from tests.support.words import with_words

TIMM_VITS = {"ti": 192, "s": 384, "b": 768}


def vit_at_224(width: int) -> ClipArch:
    return ClipArch(
        image=ImageArch(depth=12, width=width, mlp_width=4 * width, patch_size=16, image_size=224),
        text=TextArch(depth=1, width=64, mlp_width=64, context_length=8),
        shared=SharedArch(depth=0, mlp_width=64),
        embed_dim=width,
    )


def blocks_by_hand(tokens: int, width: int, arch: Any, num_heads: int) -> int:
    """Multiply-adds of transformer blocks, with fvcore's five for each normalised element."""
    inner = num_heads * arch.head_dim
    attention = 4 * tokens * width * inner + 2 * tokens**2 * inner
    mlp = 2 * tokens * width * arch.mlp_width
    norms = 2 * 5 * tokens * width
    return int(arch.depth * (attention + mlp + norms))


def image_by_hand(arch: ClipArch) -> int:
    image = arch.image
    patches = (image.num_tokens - 1) * 3 * image.patch_size**2 * image.width
    norms = (1 + image.norm_pre) * 5 * image.num_tokens * image.width
    blocks = blocks_by_hand(image.num_tokens, image.width, image, image.num_heads)
    projected = image.num_tokens if arch.shared.depth else 1
    return patches + blocks + norms + projected * image.width * arch.embed_dim


def text_by_hand(arch: ClipArch) -> int:
    text = arch.text
    blocks = blocks_by_hand(text.context_length, text.width, text, text.num_heads)
    pooled = text.context_length if arch.shared.depth else 1
    return blocks + pooled * text.width * (5 + arch.embed_dim)


def shared_by_hand(arch: ClipArch) -> int:
    lengths = (arch.image.num_tokens, arch.text.context_length)
    return sum(blocks_by_hand(n, arch.embed_dim, arch.shared, arch.shared_heads) for n in lengths)


def flops_by_hand(arch: ClipArch) -> int:
    """The closed form of ``count_flops``: for models that are too large to be traced often."""
    return image_by_hand(arch) + text_by_hand(arch) + shared_by_hand(arch)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM_VITS)
def test_image_flops_agree_with_the_closed_form(name: str) -> None:
    arch = vit_at_224(TIMM_VITS[name])
    assert flops_by_encoder(arch)["image"] == image_by_hand(arch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("ti", 1.26e9), ("s", 4.61e9), ("b", 17.58e9)])
def test_image_flops_agree_with_timm_published_figures(name: str, published: float) -> None:
    """timm's benchmark tables; they hold a 1000-class head in place of the projection."""
    arch = vit_at_224(TIMM_VITS[name])
    width = arch.image.width
    with_head = flops_by_encoder(arch)["image"] - width * arch.embed_dim + width * 1000
    assert with_head == pytest.approx(published, abs=0.006e9)


PROFILE = {
    "vit_b_32": (8.82e9, 5.96e9, 87.85e6, 63.43e6),
    "vit_b_16": (35.13e9, 5.96e9, 86.19e6, 63.43e6),
    "vit_l_14": (162.03e9, 13.3e9, 303.97e6, 123.65e6),
}
"""From open_clip's ``docs/model_profile.csv``: image and text FLOPs, image and text parameters."""


def flops_and_params(arch: ClipArch) -> tuple[list[int], list[int]]:
    """Of both encoders, counted in one block and in two, since every block costs the same."""
    depths = {"image": arch.image.depth, "text": arch.text.depth}
    one, two = (arch.with_sizes({"image.depth": depth, "text.depth": depth}) for depth in (1, 2))
    found = []
    for count in (flops_by_encoder, params_by_encoder):
        first, second = count(one), count(two)
        found.append([first[e] + (depths[e] - 1) * (second[e] - first[e]) for e in depths])
    return found[0], found[1]


@pytest.mark.slow
def test_counting_two_blocks_gives_what_counting_all_of_them_gives() -> None:
    arch = ClipArch.preset("vit_b_32")
    assert flops_and_params(arch) == tuple(
        [count(arch)[encoder] for encoder in ("image", "text")]
        for count in (flops_by_encoder, params_by_encoder)
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", PROFILE)
def test_presets_agree_with_open_clip_model_profile(preset: str) -> None:
    """OpenCLIP counts a multiply-add as two and leaves norms out."""
    flops, params = flops_and_params(ClipArch.preset(preset))
    found = (2 * flops[0], 2 * flops[1], *params)
    assert found == pytest.approx(PROFILE[preset], rel=5e-3)


OPEN_CLIP_PROFILE = {
    "ViT-B-16-SigLIP": (35.42e9, 11.02e9, 92.88e6, 110.27e6),
    "ViT-SO400M-14-SigLIP-384": (670.35e9, 53.13e9, 428.23e6, 449.73e6),
    "ViT-L-14-CLIPA": (162.03e9, 5.47e9, 303.96e6, 110.25e6),
}
"""The same table, of models that are no presets."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OPEN_CLIP_PROFILE)
def test_other_kinds_agree_with_open_clip_model_profile(name: str) -> None:
    arch = read_config(name).arch
    flops, params = flops_and_params(arch)
    if arch.image.pooling == "attention":  # the query, there a vector times a matrix
        params[0] += arch.image.width * (arch.image.width + 1)
    expected = pytest.approx(OPEN_CLIP_PROFILE[name], rel=5e-3)
    assert (2 * flops[0], 2 * flops[1], *params) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_agree_with_the_closed_form(kind: str) -> None:
    arch = arch_of(kind)
    image, text, embed = arch.image, arch.text, arch.embed_dim
    rows, columns = image.grid
    patches = rows * columns * 3 * image.patch_size**2 * image.width
    blocks = blocks_by_hand(image.num_tokens, image.width, image, image.num_heads)
    normed = 1 if image.norm_after_pooling else image.num_tokens
    head = image.width * embed
    if image.pooling == "attention":
        attention = image.num_tokens * 2 * image.width**2 + 2 * image.num_tokens * image.width
        head = attention + image.width * embed + 5 * embed + 2 * embed * image.mlp_width
    flops = flops_by_encoder(arch)
    assert flops["image"] == patches + blocks + normed * 5 * image.width + head
    text_blocks = blocks_by_hand(text.context_length, text.width, text, text.num_heads)
    assert flops["text"] == text_blocks + 5 * text.width + text.width * embed


def plain(arch: ClipArch) -> ClipArch:
    """The same sizes without the traits of other kinds than CLIP's."""
    token = {"class_token": True, "pooling": "token", "norm_after_pooling": False}
    image = replace(arch.image, projection_bias=False, **token)
    return replace(arch, image=image, text=replace(arch.text, projection_bias=False))


@settings(max_examples=8)
@given(archs().map(plain))
def test_all_encoders_agree_with_the_closed_form(arch: ClipArch) -> None:
    flops = flops_by_encoder(arch)
    assert flops["image"] == image_by_hand(arch)
    assert flops["text"] == text_by_hand(arch)
    assert flops["shared"] == shared_by_hand(arch)
    assert count_flops(arch) == sum(flops.values()) == flops_by_hand(arch)


@pytest.mark.parametrize("depth", [0, 1])
def test_encoders_counted_before_are_counted_alike_in_every_growth(depth: int) -> None:
    """What was counted of one architecture is used again in others: no dependence is left out."""
    parent = with_words(vit_at_224(64))
    parent = parent.with_sizes({"image.depth": 1, "image.image_size": 32, "shared.depth": depth})
    count_flops(parent)
    for dimension in DIMENSIONS:
        grown = parent.with_sizes({dimension: 2 * parent.size(dimension) or 1})
        inputs = (
            torch.zeros(1, 3, *grown.image.image_shape),
            torch.zeros(1, grown.text.context_length, dtype=torch.long),
        )
        by_module = analyse(Clip(grown).eval(), inputs)
        assert flops_by_encoder(grown) == {name: by_module[name] for name in ENCODERS}, dimension


def test_fused_and_plain_attention_count_alike(tiny_arch: ClipArch) -> None:
    inputs = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 8, dtype=torch.long))
    fused = analyse(Clip(tiny_arch).eval(), inputs)[""]
    set_fused_attn(False)
    try:
        plain_model = Clip(tiny_arch).eval()
    finally:
        set_fused_attn(True)
    for block in plain_model.modules():
        if hasattr(block, "fused_attn"):
            assert not block.fused_attn
    text_only = plain_model.image  # causal masks add operators, so compare the image tower
    assert analyse(text_only, inputs[:1])[""] == analyse(Clip(tiny_arch).image, inputs[:1])[""]
    assert fused == count_flops(tiny_arch)


def test_arithmetic_without_a_rule_is_an_error() -> None:
    class Spectrum(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(signal, dim=0)

    with pytest.raises(ValueError, match=r"No FLOP rule for aten::cumsum \(1 calls\)\. Add one"):
        analyse(Spectrum(), (torch.zeros(4),))


def test_params_agree_with_the_model(tiny_arch: ClipArch) -> None:
    assert count_params(tiny_arch) == Clip(tiny_arch).num_params
    assert sum(params_by_encoder(tiny_arch).values()) == count_params(tiny_arch)

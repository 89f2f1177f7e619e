"""Models of every kind that an export must take, small, with weights that no default hides."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import install_gates, set_gates
from nas_growclip.models.preprocessing import Preprocessing

SHARED = ClipArch(
    image=ImageArch(depth=2, width=32, mlp_width=48, patch_size=8, image_size=16, head_dim=16),
    text=TextArch(depth=1, width=16, mlp_width=40, context_length=8, head_dim=16),
    shared=SharedArch(depth=2, mlp_width=24, head_dim=16),
    embed_dim=32,
)
PLAIN = ClipArch(
    image=ImageArch(
        depth=1,
        width=32,
        mlp_width=50,
        patch_size=8,
        image_size=24,
        head_dim=16,
        norm_pre=True,
        norm_eps=1e-5,
        activation="quick_gelu",
    ),
    text=TextArch(
        depth=2, width=24, mlp_width=33, head_dim=8, norm_eps=1e-3, activation="quick_gelu"
    ),
    shared=SharedArch(depth=0, mlp_width=24),
    embed_dim=20,
)
ODD = ClipArch(
    image=ImageArch(
        depth=1,
        width=20,
        mlp_width=13,
        patch_size=4,
        image_size=12,
        image_height=8,
        head_dim=6,
        heads=3,
        preprocessing=Preprocessing(
            resize_mode="squash",
            interpolation="bilinear",
            mean=(0.5, 0.4, 0.3),
            std=(0.5, 0.6, 0.7),
        ),
    ),
    text=TextArch(
        depth=1, width=10, mlp_width=7, context_length=19, vocab_size=49500, head_dim=4, heads=3
    ),
    shared=SharedArch(depth=1, mlp_width=9, head_dim=5, heads=3),
    embed_dim=11,
    logit_bias=True,
)
"""Heads that do not fill the width, images that are not square, tokens that no text has."""


def gated() -> Clip:
    """A model with a shared encoder, and with inserted blocks that are half open."""
    model = perturbed(Clip(SHARED, seed=3))
    install_gates(model, ["image.trunk.blocks.1", "shared.blocks.0"], num_steps=4)
    set_gates(model, 1)
    return model.eval()


MODELS: Mapping[str, Callable[[], Clip]] = {
    "shared": gated,
    "plain": lambda: perturbed(Clip(PLAIN)).eval(),
    "odd": lambda: perturbed(Clip(ODD).double()).eval(),
}

TEXTS = [
    "a photo of a cat",
    "",
    "Two RED circles, above a blue square!  (1999)",
    "naïve café, 東京 🙂",
    "don't & won't -- it's 100% fine",
    "word " * 100,
]


def batches(model: Clip, size: int) -> tuple[Tensor, Tensor]:
    """Images like normalised ones, and tokens of short texts and of one that fills the context."""
    rng = torch.Generator().manual_seed(size)
    images = torch.randn(size, 3, *model.arch.image.image_shape, generator=rng)
    return images, model.tokenize(TEXTS[-size:])


@torch.no_grad()
def largest_difference(
    model: Clip, images: Tensor, tokens: Tensor, given: tuple[Tensor, Tensor]
) -> float:
    """Largest difference of an entry of given embeddings from the model's own."""
    dtype = model.logit_scale.dtype
    own = model.encode_image(images.to(dtype)), model.encode_text(tokens)
    return max(float((a - b).abs().max()) for a, b in zip(own, given, strict=True))

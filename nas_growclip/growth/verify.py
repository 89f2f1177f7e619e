"""Does a child compute what its parent computes? Measured on random images and texts.

``growclip grow`` prints this measure, the tests hold every operator to its claims with it, and
``benchmarks/exactness.py`` draws its table from it.
"""

import random
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from nas_growclip.models.arch import (
    DIMENSIONS,
    END_OF_TEXT,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
)
from nas_growclip.models.clip import Clip


def similarity_change(parent: Clip, child: Clip, seed: int = 0) -> float:
    """Largest change of a cosine similarity, over random images times random texts.

    Texts fit the parent's context. Where image sizes differ the child gets the parent's images
    resized, patch by patch if both have the same grid.
    """
    images, tokens = probe(parent.arch, seed)
    images = images.to(parent.logit_scale.device, parent.logit_scale.dtype)
    tokens = tokens.to(images.device)
    length = child.arch.text.context_length
    padded = functional.pad(tokens, (0, length - tokens.shape[1]))
    before = similarity(parent, images, tokens)
    after = similarity(child, resized(images, parent.arch, child.arch), padded)
    return float((after - before).abs().max())


@torch.no_grad()
def similarity(
    model: Clip,
    images: Float[Tensor, "images 3 height width"],
    tokens: Int[Tensor, "texts context"],
) -> Float[Tensor, "images texts"]:
    """Cosine similarities, measured in eval mode."""
    was_training = model.training
    model.eval()
    similarities = model.encode_image(images) @ model.encode_text(tokens).T
    model.train(was_training)
    return similarities


def probe(
    arch: ClipArch, seed: int = 0, count: int = 4
) -> tuple[Float[Tensor, "count 3 height width"], Int[Tensor, "count context"]]:
    """Random images, and random texts of random lengths."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *arch.image.image_shape, generator=rng)
    length, end_token = arch.text.context_length, arch.text.end_token
    highest = min(arch.text.vocab_size, END_OF_TEXT) - 1
    tokens = torch.randint(1, highest, (count, length), generator=rng)
    tokens[tokens == end_token] += 1  # where another one ends texts
    for row, end in enumerate(torch.randint(1, length, (count,), generator=rng).tolist()):
        if arch.text.pooling == "end":
            tokens[row, end] = end_token
        tokens[row, end + 1 :] = 0
    return images, tokens


def resized(
    images: Float[Tensor, "images 3 height width"], parent: ClipArch, child: ClipArch
) -> Float[Tensor, "images 3 new_height new_width"]:
    """Images of a parent's size at a child's size (bilinear)."""
    if parent.image.image_shape == child.image.image_shape:
        return images
    if parent.image.grid != child.image.grid or parent.image.cut_edge:
        return functional.interpolate(images, child.image.image_shape, mode="bilinear")
    (rows, columns), old, new = parent.image.grid, parent.image.patch_size, child.image.patch_size
    patches = images.reshape(-1, 3, rows, old, columns, old).transpose(3, 4).flatten(0, 3)
    larger = functional.interpolate(patches[:, None], (new, new), mode="bilinear")
    grid = larger.reshape(-1, 3, rows, columns, new, new).transpose(3, 4)
    return grid.reshape(-1, 3, rows * new, columns * new)


@torch.no_grad()
def perturbed(model: Clip, seed: int = 0, scale: float = 0.1) -> Clip:
    """The same model, every parameter moved off its initial value.

    Fresh norms and biases are ones and zeros and would hide mistakes. The token embedding, large
    and random as it is, stays.
    """
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "token_embedding" not in name:
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter.dtype))
    return model


def random_pair(
    seed: int, dimensions: Collection[str] | None = None, *, integer_ratio: bool = False
) -> tuple[ClipArch, ClipArch]:
    """A random small parent architecture, and a child that is larger in some dimensions.

    Args:
        seed: Fixes both.
        dimensions: Dimensions to grow; default: a random choice of all but the image's sizes.
        integer_ratio: Whether sizes are multiplied by whole numbers.
    """
    draw = random.Random(seed)
    parent = random_arch(draw)
    if dimensions is None:
        able = [d for d in DIMENSIONS if not d.startswith("image.image_") and "patch" not in d]
        dimensions = draw.sample(able, draw.randint(1, 6))
    if any(d.startswith("shared.") and d != "shared.depth" for d in dimensions):
        parent = parent.with_size("shared.depth", max(1, parent.shared.depth))
    sizes = {d: _larger(parent, d, draw, integer_ratio=integer_ratio) for d in dimensions}
    return parent, parent.with_sizes(sizes)


def random_arch(draw: random.Random) -> ClipArch:
    """A random small architecture, norm_pre aside; images are not always square."""
    image_head, text_head, shared_head = (draw.choice([4, 8]) for _ in range(3))
    return ClipArch(
        image=ImageArch(
            depth=draw.randint(1, 3),
            width=image_head * draw.randint(2, 5),
            mlp_width=draw.randint(8, 40),
            patch_size=4,
            image_size=draw.choice([8, 12]),
            image_height=draw.choice([None, 16]),
            head_dim=image_head,
            heads=draw.choice([None, None, 2]),
        ),
        text=TextArch(
            depth=draw.randint(1, 3),
            width=text_head * draw.randint(1, 3),
            mlp_width=draw.randint(8, 40),
            context_length=draw.randint(4, 9),
            head_dim=text_head,
            heads=draw.choice([None, None, 3]),
        ),
        shared=SharedArch(
            depth=draw.randint(0, 2), mlp_width=draw.randint(8, 40), head_dim=shared_head
        ),
        embed_dim=shared_head * draw.randint(1, 3),
    )


def _larger(arch: ClipArch, dimension: str, draw: random.Random, *, integer_ratio: bool) -> int:
    old = arch.size(dimension)
    if dimension == "text.vocab_size":
        return old + draw.randint(1, 50)
    if dimension.endswith("depth"):
        return old + draw.randint(1, 3)
    if integer_ratio or dimension.startswith("image.image_"):
        return old * draw.randint(2, 3)
    leaders = {
        "image.width": arch.image.head_dim,
        "text.width": arch.text.head_dim,
        "embed_dim": arch.shared.head_dim,
    }
    return old + leaders.get(dimension, 1) * draw.randint(1, 4)

"""Pairs as tensors, for one architecture."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from nas_growclip.data.augment import AugmentConfig, Draws, vary
from nas_growclip.data.pairs import Pair
from nas_growclip.data.preprocess import normalise, resize
from nas_growclip.models.arch import ImageArch

Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class PairBatch:
    """Images, normalised as CLIP expects, and tokens of their captions."""

    images: Float[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]
    captions: tuple[str, ...]
    image_ids: Int[Tensor, " batch"] | None = None
    """Equal for equal pictures, always on the CPU; None: no picture repeats."""

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""
        return PairBatch(
            self.images.to(device, non_blocking=True),
            self.tokens.to(device, non_blocking=True),
            self.captions,
            self.image_ids,
        )

    def pin_memory(self) -> "PairBatch":
        """The same batch in memory that a GPU can copy from on its own."""
        images, tokens = self.images.pin_memory(), self.tokens.pin_memory()
        return PairBatch(images, tokens, self.captions, self.image_ids)


class PairEncoder(NamedTuple):
    """How pairs become tensors for one architecture."""

    image: ImageArch
    """The image tower: its size, and how images are scaled and normalised."""
    tokenize: Tokenize
    augment: AugmentConfig = AugmentConfig()
    """How training images vary; evaluation takes them as they are."""

    def batch(self, pairs: Iterable[Pair], drawn: Draws | None = None) -> PairBatch:
        """Resize, stack and tokenize pairs; with draws for each, vary the images first.

        Pairs are taken one by one, so that no two whole images need memory at a time.
        """
        scaled, captions, ids = list[NDArray[np.uint8]](), list[str](), list[bytes]()
        shape, preprocessing = self.image.image_shape, self.image.preprocessing
        for numbers, pair in zip(drawn or itertools.repeat(None), pairs, strict=False):
            image = pair.image
            if numbers is not None:
                image = vary(image, shape, self.augment, numbers)
            is_last_again = numbers is None and pair.image_id and ids[-1:] == [pair.image_id]
            scaled.append(scaled[-1] if is_last_again else resize(image, shape, preprocessing))
            captions.append(pair.caption)
            ids.append(pair.image_id)
        images = normalise(np.stack(scaled), preprocessing)
        return PairBatch(images, self.tokenize(captions), tuple(captions), image_numbers(ids))


def image_numbers(image_ids: Sequence[bytes]) -> Int[Tensor, " batch"] | None:
    """Numbers of some images, as ``PairBatch`` has them; None if one is an image of its own."""
    return torch.tensor([image_number(i) for i in image_ids]) if all(image_ids) else None


def image_number(image_id: bytes) -> int:
    """64 bits of a digest: of a million pictures two agree by chance once in 10^7 sets."""
    return int.from_bytes(image_id[:8], signed=True)

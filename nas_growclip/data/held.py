"""Pairs in memory as tensors: scaled and tokenized once, so that a batch is an indexing.

What is small enough to lie in memory is seen many times: in every epoch, by every trial, at every
measurement. Its pixels are held as bytes at the model's size and its captions as tokens.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nas_growclip.data.augment import AugmentConfig, Draws, vary
from nas_growclip.data.encoding import PairBatch, PairEncoder, image_number
from nas_growclip.data.pairs import Pair
from nas_growclip.data.preprocess import normalise, resize
from nas_growclip.models.preprocessing import Preprocessing

KEPT = 2
"""Encodings of a set that are kept: a parent's and that of a candidate of another resolution."""

Rows = Int64[np.ndarray, " pairs"]


class HeldPairs:
    """Pairs by their numbers, with their encodings for the models that asked last.

    Args:
        num_pairs: How many there are.
        pair: The pair of a number, decoded.
    """

    def __init__(self, num_pairs: int, pair: Callable[[int], Pair]) -> None:
        self.num_pairs, self.pair = num_pairs, pair
        self._encoded: dict[object, EncodedPairs] = {}

    def batch(self, encoder: PairEncoder, rows: Rows, drawn: Draws | None = None) -> PairBatch:
        """Some pairs in their order, the same to the bit as ``PairEncoder.batch`` gives them.

        Args:
            encoder: How they become tensors.
            rows: Their numbers.
            drawn: What is drawn for each, to vary the images; None: they stay as they are.
        """
        image = encoder.image
        key = (image.image_shape, image.preprocessing, encoder.tokenize)
        encoded = _kept(self._encoded, key, lambda: EncodedPairs(self, encoder))
        if drawn is None:
            return encoded.batch(rows)
        return encoded.varied(rows, encoder.augment, drawn)


class EncodedPairs:
    """Pairs as bytes and tokens; a row is made when it is first asked for.

    Args:
        held: The pairs.
        encoder: How they are scaled and tokenized.
    """

    def __init__(self, held: HeldPairs, encoder: PairEncoder) -> None:
        self.held, self.encoder = held, encoder
        height, width = encoder.image.image_shape
        self.images = np.empty((held.num_pairs, height, width, 3), np.uint8)
        self.is_scaled = np.zeros(held.num_pairs, bool)
        self.tokens: Tensor | None = None
        self.captions = np.empty(held.num_pairs, object)
        self.image_ids = torch.zeros(held.num_pairs, dtype=torch.int64)
        self.has_id = np.zeros(held.num_pairs, bool)
        self.is_tokenized = np.zeros(held.num_pairs, bool)

    def batch(self, rows: Rows) -> PairBatch:
        """Some pairs, their images as they are."""
        for row in np.unique(rows[~self.is_scaled[rows]]).tolist():
            self.images[row] = self._scaled(self._pair(row).image)
            self.is_scaled[row] = True
        return self._batch(rows, self.images[rows])

    def varied(self, rows: Rows, config: AugmentConfig, drawn: Draws) -> PairBatch:
        """Some pairs, their images varied."""
        shape = self.encoder.image.image_shape
        images = [
            self._scaled(vary(self._pair(row).image, shape, config, numbers))
            for row, numbers in zip(rows.tolist(), drawn, strict=True)
        ]
        return self._batch(rows, np.stack(images))

    def _pair(self, row: int) -> Pair:
        """A pair, whose caption is noted."""
        pair = self.held.pair(row)
        if not self.is_tokenized[row]:
            self.captions[row] = pair.caption
            self.has_id[row] = bool(pair.image_id)
            self.image_ids[row] = image_number(pair.image_id)
        return pair

    def _scaled(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        return resize(image, self.encoder.image.image_shape, self.encoder.image.preprocessing)

    def _batch(self, rows: Rows, images: UInt8[np.ndarray, "rows height width 3"]) -> PairBatch:
        """Some pairs whose captions are noted, with these images."""
        new = np.unique(rows[~self.is_tokenized[rows]])
        if self.tokens is None or len(new):
            tokens = self.encoder.tokenize(self.captions[new].tolist())
            if self.tokens is None:
                self.tokens = tokens.new_zeros(self.held.num_pairs, tokens.shape[1])
            self.tokens[new] = tokens
            self.is_tokenized[new] = True
        return PairBatch(
            normalise(images, self.encoder.image.preprocessing),
            self.tokens[rows],
            tuple(self.captions[rows].tolist()),
            self.image_ids[rows] if self.has_id[rows].all() else None,
        )


class HeldImages(tuple[Image.Image, ...]):
    """Images in memory, which are scaled once for each of the models that asked last."""

    @functools.cached_property
    def _scaled(self) -> dict[object, NDArray[np.uint8]]:
        return {}

    def scaled(
        self, shape: tuple[int, int], preprocessing: Preprocessing
    ) -> UInt8[np.ndarray, "images height width 3"]:
        """The images as ``resize`` gives them."""
        return _kept(
            self._scaled,
            (shape, preprocessing),
            lambda: np.stack([resize(image, shape, preprocessing) for image in self]),
        )


T = TypeVar("T")


def _kept(kept: dict[object, T], key: object, make: Callable[[], T]) -> T:
    """What is kept under a key, made if need be; the ``KEPT`` that were asked for last stay."""
    value = kept.pop(key) if key in kept else make()
    kept[key] = value  # the newest comes last
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
    return value


def shuffled(num_pairs: int, seed: int | None) -> NDArray[np.int64]:
    """Numbers of a set's pairs: in stored order for None, else shuffled by the seed."""
    order = np.arange(num_pairs)
    return order if seed is None else np.random.default_rng(seed).permutation(order)

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

    def encoded(self, encoder: PairEncoder) -> "EncodedPairs":
        """The pairs as a model takes them, without augmentation."""
        image = encoder.image
        key = (image.image_shape, image.preprocessing, encoder.tokenize)
        return _kept(self._encoded, key, lambda: EncodedPairs(self, encoder))


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
        self.tokens: Tensor | None = None
        self.captions = np.empty(held.num_pairs, object)
        self.image_ids = torch.zeros(held.num_pairs, dtype=torch.int64)
        self.has_id = np.zeros(held.num_pairs, bool)
        self.is_known = np.zeros(held.num_pairs, bool)

    def batch(self, rows: Rows) -> PairBatch:
        """Some pairs in their order, the same to the bit as ``PairEncoder.batch`` gives them."""
        if not self.is_known[rows].all():
            self._encode(np.unique(rows[~self.is_known[rows]]))
        assert self.tokens is not None
        return PairBatch(
            normalise(self.images[rows], self.encoder.image.preprocessing),
            self.tokens[rows],
            tuple(self.captions[rows].tolist()),
            self.image_ids[rows] if self.has_id[rows].all() else None,
        )

    def _encode(self, rows: Rows) -> None:
        image = self.encoder.image
        for row in rows.tolist():
            pair = self.held.pair(row)
            self.images[row] = resize(pair.image, image.image_shape, image.preprocessing)
            self.captions[row] = pair.caption
            self.has_id[row] = bool(pair.image_id)
            self.image_ids[row] = image_number(pair.image_id)
        tokens = self.encoder.tokenize(self.captions[rows].tolist())
        if self.tokens is None:
            self.tokens = tokens.new_zeros(self.held.num_pairs, tokens.shape[1])
        self.tokens[rows] = tokens
        self.is_known[rows] = True


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

"""Pairs cached in memory, decoded once: for data that is small beside its training."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nas_growclip.data.held import HeldPairs, shuffled
from nas_growclip.data.pairs import ImageTextPairs, IsWanted, ManifestEntry, Pair, every_pair


@dataclass
class DecodedPairs:
    """Decoded pairs of a set, filled when the first of them is asked for."""

    source: ImageTextPairs
    pairs: list[Pair] = field(default_factory=list)

    def __getitem__(self, index: int) -> Pair:
        if not self.pairs:
            self.pairs.extend(self.source.epoch(None))
        return self.pairs[index]

    @functools.cached_property
    def held(self) -> HeldPairs:
        """The pairs with their tensors."""
        return HeldPairs(self.source.num_pairs, self.__getitem__)


@dataclass(frozen=True)
class CachedPairs:
    """The first pairs of a set whose decoded images and captions stay in memory.

    An epoch's order is a permutation of all of them, not one within a shuffle buffer.
    """

    decoded: DecodedPairs
    """May be longer, and shared with other sets: a stage's pairs begin with an earlier stage's."""
    num_pairs: int
    manifest: tuple[ManifestEntry, ...]

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once; in stored order for None, else shuffled by the seed."""
        order = self.order(seed).tolist()
        return (self.decoded[index] for place, index in enumerate(order) if wanted(place))

    @property
    def held(self) -> HeldPairs:
        """The decoded pairs with their tensors."""
        return self.decoded.held

    def order(self, seed: int | None) -> NDArray[np.int64]:
        """Numbers of an epoch's pairs."""
        return shuffled(self.num_pairs, seed)


def cache_in_memory(pairs: ImageTextPairs, within: "CachedPairs | None" = None) -> CachedPairs:
    """Cache a set in memory.

    Args:
        pairs: The set.
        within: A set that begins with it and is cached already: then nothing is kept twice.
    """
    decoded = within.decoded if within is not None else DecodedPairs(pairs)
    return CachedPairs(decoded, pairs.num_pairs, pairs.manifest)


def cache_nested(sets: list[ImageTextPairs]) -> list[ImageTextPairs]:
    """Cache sets of which each begins with the one before, in rising order of size."""
    if not sets:
        return []
    largest = cache_in_memory(sets[-1])
    return [*(cache_in_memory(pairs, largest) for pairs in sets[:-1]), largest]

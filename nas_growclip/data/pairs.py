"""Image-text pairs and how they become batches.

A source yields ``Pair``s (a decoded image, a caption) one epoch at a time, in an order that
depends on the epoch's seed alone. Everything after that is the same for all sources: resize,
tokenize, stack. So training can resume at any step, and candidates of a search see
the same batches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

IsWanted = Callable[[int], bool]
"""Whether the pair at a place of an epoch's order is wanted."""


def every_pair(place: int) -> bool:
    """Want all of an epoch."""
    return True


class Pair(NamedTuple):
    """One decoded RGB image and its caption.

    Several pairs may be of one image: a picture with five captions is five pairs.
    """

    image: Image.Image
    caption: str
    image_id: bytes = b""
    """The same for equal images: a digest of the encoded file. Empty: an image of its own."""


@dataclass(frozen=True)
class ManifestEntry:
    """One file (or rendered range) that pairs came from."""

    name: str
    num_pairs: int
    """Usable pairs in it."""
    sha256: str
    skipped: Mapping[str, int]
    """Pairs left out, by reason."""


@runtime_checkable
class ImageTextPairs(Protocol):
    """A finite set of pairs that can be run through again and again."""

    @property
    def num_pairs(self) -> int:
        """Usable pairs; a whole epoch has exactly as many."""
        ...

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """Where the pairs come from."""
        ...

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every usable pair once; in stored order for None, else shuffled by the seed.

        Only wanted pairs are decoded and given, in the same order.
        """
        ...


@dataclass(frozen=True)
class FirstPairs:
    """The first pairs of a set, in stored order: a fixed sample of it to measure on."""

    pairs: ImageTextPairs
    most: int
    """Pairs to take; all of them where there are fewer."""

    @property
    def num_pairs(self) -> int:
        """Pairs in the sample."""
        return min(self.most, self.pairs.num_pairs)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """Where the whole set comes from."""
        return self.pairs.manifest

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """The sample's pairs, in stored order whatever the seed."""
        return self.pairs.epoch(None, lambda place: place < self.num_pairs and wanted(place))

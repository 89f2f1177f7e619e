"""Which pairs a run has already: what arrives later is trained on once.

A pair is known by its content alone: the image's bytes and the caption. A key says nothing, since
many writers begin theirs from 0 in every shard. What is measured on is known by the image: none of
its pictures is trained on, under whatever caption. Digests are 16 bytes of SHA-256, so that a
run's data takes about 200 bytes of memory a pair while it is opened.
"""

import hashlib
from collections.abc import Iterator

from nas_growclip.data.sources.decoding import DIGEST_SIZE

SEEN_PAIR = "seen pair"
HELD_OUT_PAIR = "held-out pair"

IDENTITY_SIZE = 2 * DIGEST_SIZE
"""Bytes of what a pair is known by: those of its image, then those of image and caption."""


def pair_identity(image_id: bytes, caption: str) -> bytes:
    """What a pair is known by: digests of its image, and of both image and caption.

    Args:
        image_id: The image's digest.
        caption: Its caption.
    """
    both = hashlib.sha256(image_id)
    both.update(caption.encode("utf-8", "surrogateescape"))
    return image_id + both.digest()[:DIGEST_SIZE]


def image_ids(identities: bytes) -> Iterator[bytes]:
    """The images' digests of pairs whose identities follow one another."""
    return (image_id for image_id, _ in _halves(identities))


class Deduplicator:
    """Pairs that a run has: those it trains on, and images that it only measures on."""

    def __init__(self) -> None:
        self._trained: set[bytes] = set()
        self._held_out: set[bytes] = set()

    def hold_out(self, identities: bytes) -> None:
        """Note the identities, one after the other, of pairs that are measured on."""
        self._held_out.update(image_ids(identities))

    def add(self, identities: bytes) -> None:
        """Note the identities of pairs that are trained on."""
        self._trained.update(both for _, both in _halves(identities))

    def take(self, identities: bytes) -> list[str]:
        """Note those pairs that are new; for each pair why it is not, empty if it is."""
        reasons = []
        for image_id, both in _halves(identities):
            reasons.append(self._reason(image_id, both))
            if not reasons[-1]:
                self._trained.add(both)
        return reasons

    def _reason(self, image_id: bytes, both: bytes) -> str:
        if image_id in self._held_out:
            return HELD_OUT_PAIR
        return SEEN_PAIR if both in self._trained else ""


def _halves(identities: bytes) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(identities), IDENTITY_SIZE):
        middle = start + DIGEST_SIZE
        yield identities[start:middle], identities[middle : start + IDENTITY_SIZE]

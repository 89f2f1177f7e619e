"""Which pairs a run has already: what arrives later is trained on once.

A pair is known by its key within the folder it came from (img2dataset numbers the pairs of one
folder through, and begins anew in another), and by its content: the image's bytes and the caption.
Both are kept as 16 bytes of SHA-256: about 200 bytes a pair while a run's data is opened.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from nas_growclip.data.sources.decoding import DIGEST_SIZE

SEEN_KEY = "seen key"
SEEN_PAIR = "seen pair"
HELD_OUT_PAIR = "held-out pair"


def pair_identity(folder: Path, key: str, image: bytes, caption: str) -> bytes:
    """What a pair is known by: digests of its folder and key, and of its content."""
    place = hashlib.sha256(f"{folder}\0{key}".encode("utf-8", "surrogateescape"))
    content = hashlib.sha256(len(image).to_bytes(8))
    content.update(image)
    content.update(caption.encode())
    return place.digest()[:DIGEST_SIZE] + content.digest()[:DIGEST_SIZE]


class Deduplicator:
    """Pairs that a run has: those it trains on, and those that it only measures on."""

    def __init__(self) -> None:
        self._trained: set[bytes] = set()
        self._held_out: set[bytes] = set()

    def hold_out(self, identities: bytes) -> None:
        """Note the identities, one after the other, of pairs that are measured on."""
        for identity in _split(identities):
            self._held_out.update(_halves(identity))

    def add(self, identities: bytes) -> None:
        """Note the identities of pairs that are trained on."""
        for identity in _split(identities):
            self._trained.update(_halves(identity))

    def take(self, identities: bytes) -> list[str]:
        """Note those pairs that are new; for each pair why it is not, empty if it is."""
        reasons = []
        for identity in _split(identities):
            reasons.append(self._reason(*_halves(identity)))
            if not reasons[-1]:
                self._trained.update(_halves(identity))
        return reasons

    def _reason(self, key: bytes, content: bytes) -> str:
        if key in self._held_out or content in self._held_out:
            return HELD_OUT_PAIR
        if key in self._trained:
            return SEEN_KEY
        return SEEN_PAIR if content in self._trained else ""


def _split(identities: bytes) -> Iterator[bytes]:
    size = 2 * DIGEST_SIZE
    return (identities[start : start + size] for start in range(0, len(identities), size))


def _halves(identity: bytes) -> tuple[bytes, bytes]:
    return identity[:DIGEST_SIZE], identity[DIGEST_SIZE:]

"""Retrieval sets: images with several captions each, in the layout of CLIP_benchmark.

A sample is an image and ``KEY.txt`` with a caption a line; it gives as many pairs of one image.
Images are checked when the set is opened and decoded again whenever it is measured.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nas_growclip.data.benchmark_folder import set_name, split_shards
from nas_growclip.data.config import MAX_BAD_SHARE
from nas_growclip.data.pairs import (
    ImageTextPairs,
    IsWanted,
    ManifestEntry,
    Pair,
    every_pair,
)
from nas_growclip.data.sources.bad_share import SkipCounts, check_bad_share
from nas_growclip.data.sources.decoding import (
    MAX_CAPTION_BYTES,
    decode_caption,
    decode_image,
    image_digest,
)
from nas_growclip.data.sources.dedup import IDENTITY_SIZE, pair_identity
from nas_growclip.data.sources.members import DUPLICATE_KEY, Sample, read_samples
from nas_growclip.data.sources.scan_cache import scan_in_order
from nas_growclip.data.sources.webdataset import changed
from nas_growclip.io.progress import track


@dataclass(frozen=True)
class RetrievalSet:
    """A set on which images find their captions and captions their images."""

    name: str
    pairs: ImageTextPairs

    @property
    def skipped(self) -> dict[str, int]:
        """Images left out, by reason."""
        counts = sum((Counter(entry.skipped) for entry in self.pairs.manifest), Counter[str]())
        return dict(counts)


class CaptionedShard(NamedTuple):
    """What one pass over a shard found."""

    path: Path
    num_pairs: int
    """Captions of its usable images."""
    unusable: frozenset[int]
    """Positions of the samples to leave out."""
    sha256: str
    skipped: Counter[str]
    identities: bytes
    """Of its pairs, one after the other."""


@dataclass(frozen=True)
class CaptionedImages:
    """Pairs of a retrieval set, decoded as they are asked for."""

    shards: tuple[CaptionedShard, ...]

    @property
    def num_pairs(self) -> int:
        """Captions of usable images; ``epoch`` yields exactly as many pairs."""
        return sum(shard.num_pairs for shard in self.shards)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """One entry a shard."""
        return tuple(
            ManifestEntry(shard.path.name, shard.num_pairs, shard.sha256, dict(shard.skipped))
            for shard in self.shards
        )

    def identities(self) -> Iterator[bytes]:
        """What the pairs of each shard are known by, one after the other."""
        return (shard.identities for shard in self.shards)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once, in stored order whatever the seed; an image is decoded once."""
        place = 0
        for shard in self.shards:
            end = place + shard.num_pairs
            for position, sample in enumerate(read_samples(shard.path)):
                if position not in shard.unusable:
                    captions = _captions(sample)
                    if isinstance(captions, str):
                        raise changed(f"Captions must stay usable, but got {captions!r}")
                    places = range(place, place + len(captions))
                    asked = [c for p, c in zip(places, captions, strict=True) if wanted(p)]
                    yield from _pairs(sample, asked)
                    place = places.stop
            if place != end:
                raise changed(
                    f"{shard.path} must hold {shard.num_pairs} captions, but got "
                    f"{place - end + shard.num_pairs}"
                )


def folder_retrieval_set(path: Path, max_bad_share: float = MAX_BAD_SHARE) -> RetrievalSet:
    """Read a retrieval set's folder, its test split.

    Args:
        path: The folder.
        max_bad_share: Share of the images, and of the shards, that may be bad.

    Raises:
        ValueError: If a file is missing or malformed, or too few images are usable.
    """
    paths = split_shards(path)
    checked = scan_in_order(paths, _check_shard)
    shards = tuple(track(checked, total=len(paths), label=f"checking {path.name}"))
    skipped = sum((shard.skipped for shard in shards), Counter[str]())
    pairs = CaptionedImages(shards)
    if not pairs.num_pairs:
        raise ValueError(
            f"{path} must hold one usable image or more, but has none (skipped: {dict(skipped)}). "
            "Check that its shards hold KEY.txt and KEY.png, KEY.webp or KEY.jpg."
        )
    check_bad_share(str(path), pairs.num_pairs, SkipCounts(skipped, len(shards)), max_bad_share)
    return RetrievalSet(set_name(path), pairs)


def _check_shard(path: Path) -> CaptionedShard:
    skipped, unusable, keys = Counter[str](), set[int](), set[str]()
    identities = bytearray()
    for position, sample in enumerate(read_samples(path, faults=skipped)):
        captions = _usable_captions(sample)
        if not isinstance(captions, str) and sample.key in keys:
            captions = DUPLICATE_KEY
        if isinstance(captions, str):
            skipped[captions] += 1
            unusable.add(position)
        else:
            keys.add(sample.key)
            image_id = image_digest(sample.image or b"")
            identities += b"".join(pair_identity(image_id, caption) for caption in captions)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    num_pairs = len(identities) // IDENTITY_SIZE
    return CaptionedShard(path, num_pairs, frozenset(unusable), sha256, skipped, bytes(identities))


def _usable_captions(sample: Sample) -> list[str] | str:
    """The captions of a usable image; else the reason, as text."""
    if sample.fault:
        return sample.fault
    captions = _captions(sample)
    if isinstance(captions, str):
        return captions
    image = "missing image" if sample.image is None else decode_image(sample.image)
    return image if isinstance(image, str) else captions


def _captions(sample: Sample) -> list[str] | str:
    """One a line, as CLIP_benchmark splits them, blank lines left out."""
    if sample.text is None:
        return "missing caption"
    if len(sample.text) > MAX_CAPTION_BYTES:
        return "oversized caption"
    text = decode_caption(sample.text)
    if text is None:
        return "unreadable caption"
    return [line.strip() for line in text.splitlines() if line.strip()] or "empty caption"


def _pairs(sample: Sample, captions: list[str]) -> Iterator[Pair]:
    if captions and sample.image is not None:
        image = decode_image(sample.image)
        if isinstance(image, str):
            raise changed(f"An image that was usable must stay so, but got {image!r}")
        image_id = image_digest(sample.image)
        yield from (Pair(image, caption, image_id) for caption in captions)

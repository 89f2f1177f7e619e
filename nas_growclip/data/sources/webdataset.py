"""Pairs from WebDataset shards, as img2dataset writes them: an image and KEY.txt for each key.

Every shard is scanned once a machine: each image is decoded, and what is unusable is remembered by
its position. So the number of pairs is known before training, and an epoch yields exactly as many.
The scan also says at which bytes of the file a pair is: an epoch is shuffled before anything is
read, and a process that makes one batch in eight reads one pair in eight. Gzipped shards have no
such places: their epoch is a stream, and memory holds the shuffle buffer, of undecoded bytes.
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import webdataset as wds

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.bad_share import SkipCounts, require_pairs
from nas_growclip.data.sources.captions import PLAIN_CAPTIONS, CaptionFormat
from nas_growclip.data.sources.dedup import IDENTITY_SIZE
from nas_growclip.data.sources.members import Sample, read_samples
from nas_growclip.data.sources.scan_cache import SPANS, ShardScan, scan_in_order
from nas_growclip.data.sources.shard_names import shard_paths
from nas_growclip.data.sources.shard_scan import pair_of, scan_shard
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files
from nas_growclip.io.progress import track

MAX_OPEN_SHARDS = 16

DEFAULT_SHUFFLE_BUFFER = 2000
"""Pairs kept to shuffle a stream of shards, where no setting says how many."""


class ShardPart(NamedTuple):
    """The first ``num_pairs`` usable pairs of a shard."""

    path: Path
    num_pairs: int
    scan: ShardScan


@dataclass(frozen=True)
class ShardPairs:
    """Pairs of several shards, streamed."""

    parts: tuple[ShardPart, ...]
    folder: Path
    shuffle_buffer: int
    captions: CaptionFormat = PLAIN_CAPTIONS

    @property
    def num_pairs(self) -> int:
        """Usable pairs; ``epoch`` yields exactly as many."""
        return sum(part.num_pairs for part in self.parts)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """One entry a shard; counts of a shard that is used in part are of the used part."""
        return tuple(
            ManifestEntry(
                file_name(part.path, self.folder),
                part.num_pairs,
                part.scan.sha256,
                part.scan.skipped,
            )
            for part in self.parts
        )

    def identities(self) -> Iterator[bytes]:
        """What the pairs of each shard are known by, one after the other."""
        return (part.scan.identities[: part.num_pairs * IDENTITY_SIZE] for part in self.parts)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once: shards shuffled by the seed, then pairs in a buffer."""
        samples = _samples_of(self.parts, self.captions)
        if seed is not None:
            rng = random.Random(seed)
            parts = rng.sample(self.parts, len(self.parts))
            size = self.shuffle_buffer
            samples = wds.shuffle(size, initial=size, rng=rng)(_samples_of(parts, self.captions))
        with closing(_OpenShards()) as files:
            for place, sample in enumerate(samples):
                if wanted(place):
                    whole = files.read(sample) if isinstance(sample, _Located) else sample
                    yield _decode(whole, self.captions)


def shard_pairs(
    config: WebdatasetConfig, folder: Path | None, split: Split, size: int | None = None
) -> ShardPairs:
    """Open a split's shards.

    Args:
        config: Names the shards by a brace pattern, a glob or a folder.
        folder: What the names are relative to.
        split: Which split.
        size: Shards to use, the first so many; None means all.

    Raises:
        ValueError: If there are fewer shards, or too few usable pairs in them.
    """
    wanted = split_files(config, folder, split, size)
    captions = CaptionFormat.of(config)
    return open_shards(wanted, config.shuffle_buffer, captions)


def open_shards(
    wanted: SplitFiles,
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER,
    captions: CaptionFormat = PLAIN_CAPTIONS,
) -> ShardPairs:
    """Open shards.

    Args:
        wanted: Which shards, and how many pairs.
        shuffle_buffer: Undecoded pairs to keep in memory while an epoch is shuffled.
        captions: Which members hold them.

    Raises:
        ValueError: If there are fewer shards, or too few usable pairs in them.
    """
    paths = first_shards(shard_paths(wanted.folder, wanted.files, wanted.where), wanted)
    return checked_pairs(shard_parts(paths, wanted, captions), wanted, shuffle_buffer, captions)


def first_shards(paths: tuple[Path, ...], wanted: SplitFiles) -> tuple[Path, ...]:
    """The first shards of those that a setting names, as many as are wanted.

    Raises:
        ValueError: If there are fewer.
    """
    if wanted.size is not None and wanted.size > len(paths):
        raise ValueError(
            f"data.stages must ask for at most the shards there are, but got {wanted.size} and "
            f"{wanted.where} {wanted.files!r} names {len(paths)}. Use smaller stages or add shards."
        )
    return paths[: wanted.size]


def checked_pairs(
    found: Iterable[ShardPart], wanted: SplitFiles, shuffle_buffer: int, captions: CaptionFormat
) -> ShardPairs:
    """Pairs of shards that were scanned.

    Raises:
        ValueError: If too few are usable.
    """
    parts = tuple(found)
    scans = [part.scan for part in parts]
    skipped = sum((Counter(scan.skipped) for scan in scans), Counter())
    examples = {k: v for scan in reversed(scans) for k, v in scan.examples.items()}
    other = next((scan.other_member for scan in scans if scan.other_member), "")
    counts = SkipCounts(skipped, len(parts), examples, other)
    require_pairs(wanted, sum(part.num_pairs for part in parts), counts)
    return ShardPairs(parts, wanted.folder, shuffle_buffer, captions)


def shard_parts(
    paths: tuple[Path, ...], wanted: SplitFiles, captions: CaptionFormat
) -> Iterator[ShardPart]:
    """Scan shards, as far as their pairs are wanted."""
    left = wanted.limit
    scans = scan_in_order(paths, partial(scan_shard, captions=captions))
    label = f"checking shards of {wanted.where}"
    for path, scan in zip(paths, track(scans, total=len(paths), label=label), strict=False):
        num_pairs = scan.num_pairs if left is None else min(left, scan.num_pairs)
        yield ShardPart(path, num_pairs, scan)
        if left is not None:
            left -= num_pairs
            if left == 0:
                return


class _Located(NamedTuple):
    """A usable pair by its shard and its number there."""

    part: ShardPart
    number: int


def _samples_of(parts: Iterable[ShardPart], captions: CaptionFormat) -> Iterator[Sample | _Located]:
    """Usable samples of shards: where they are if that is known, else the samples themselves."""
    for part in parts:
        if part.scan.spans:
            yield from (_Located(part, number) for number in range(part.num_pairs))
        else:
            yield from _streamed(part, captions)


def _streamed(part: ShardPart, captions: CaptionFormat) -> Iterator[Sample]:
    samples = enumerate(read_samples(part.path, captions.suffix))
    usable = (sample for index, sample in samples if index not in part.scan.unusable)
    count = 0
    for sample in itertools.islice(usable, part.num_pairs):
        yield sample
        count += 1
    if count != part.num_pairs:
        raise changed(f"{part.path} must hold {part.num_pairs} pairs, but got {count}")


class _OpenShards:
    """Shards that are read at given places; the last few stay open."""

    def __init__(self) -> None:
        self.files: dict[Path, BinaryIO] = {}

    def read(self, located: _Located) -> Sample:
        """The members of one pair.

        Raises:
            ValueError: If the file is no longer as long as it was, or cannot be read.
        """
        part, start = located.part, located.number * SPANS.size
        image_start, image_size, text_start, text_size = SPANS.unpack_from(part.scan.spans, start)
        try:
            file = self._opened(part)
            file.seek(image_start)
            image = file.read(image_size)
            file.seek(text_start)
            return Sample(image, file.read(text_size), key="")
        except OSError as error:
            raise changed(f"{part.path} must stay readable, but: {error}") from None

    def _opened(self, part: ShardPart) -> BinaryIO:
        """An open shard; the whole of it is asked for, so that the disk reads it in its order."""
        file = self.files.pop(part.path, None)
        if file is None:
            if len(self.files) == MAX_OPEN_SHARDS:
                self.files.pop(next(iter(self.files))).close()
            file = part.path.open("rb")
            if (size := os.fstat(file.fileno()).st_size) != part.scan.num_bytes:
                file.close()
                raise changed(f"{part.path} must have {part.scan.num_bytes} bytes, but has {size}")
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        self.files[part.path] = file
        return file

    def close(self) -> None:
        """Close them all."""
        for file in self.files.values():
            file.close()


def _decode(sample: Sample, captions: CaptionFormat) -> Pair:
    pair = pair_of(sample, captions)
    if isinstance(pair, str):
        raise changed(f"A pair that was usable must stay so, but got {pair!r}")
    return pair


def changed(what: str) -> ValueError:
    """The error of a shard that is no longer what it was when it was checked."""
    return ValueError(f"{what}: a shard changed since it was checked. Start again.")

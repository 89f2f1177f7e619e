"""Pairs from WebDataset shards, as img2dataset writes them: an image and KEY.txt for each key.

Every shard is scanned once a machine: each image is decoded, and what is unusable is remembered by
its position. So the number of pairs is known before training, and an epoch yields exactly as many.
An epoch is a stream: memory holds the shuffle buffer, of bytes that are not decoded yet.

Pairs of stages that were added to a finished run are left out where the run has them already.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import webdataset as wds

from nas_growclip.data.config import AddedShards, WebdatasetConfig
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.bad_share import SkipCounts, require_pairs
from nas_growclip.data.sources.captions import PLAIN_CAPTIONS, CaptionFormat
from nas_growclip.data.sources.dedup import IDENTITY_SIZE, Deduplicator
from nas_growclip.data.sources.members import Sample, read_samples
from nas_growclip.data.sources.scan_cache import ShardScan, scan_in_order
from nas_growclip.data.sources.shard_names import SHARD_SUFFIXES, shard_paths
from nas_growclip.data.sources.shard_scan import pair_of, scan_shard
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files
from nas_growclip.io.progress import track

DEFAULT_SHUFFLE_BUFFER = 2000
"""Pairs kept to shuffle a stream of shards, where no setting says how many."""


class _Part(NamedTuple):
    """The first ``num_pairs`` usable pairs of a shard."""

    path: Path
    num_pairs: int
    scan: ShardScan


@dataclass(frozen=True)
class ShardPairs:
    """Pairs of several shards, streamed."""

    parts: tuple[_Part, ...]
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
        samples = _usable_samples(self.parts, self.captions)
        if seed is not None:
            rng = random.Random(seed)
            parts = rng.sample(self.parts, len(self.parts))
            size = self.shuffle_buffer
            samples = wds.shuffle(size, initial=size, rng=rng)(
                _usable_samples(parts, self.captions)
            )
        return (
            _decode(sample, self.captions) for place, sample in enumerate(samples) if wanted(place)
        )


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
    captions = CaptionFormat(config.caption_suffix, config.caption_json_key)
    if split != "train" or not config.added:
        return open_shards(wanted, config.shuffle_buffer, captions)
    paths = _first_shards(train_paths(config, wanted.folder), wanted)
    parts = _new_pairs(_parts(paths, wanted, captions), config, wanted.folder)
    return _checked(parts, wanted, config.shuffle_buffer, captions)


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
    paths = _first_shards(shard_paths(wanted.folder, wanted.files, wanted.where), wanted)
    return _checked(_parts(paths, wanted, captions), wanted, shuffle_buffer, captions)


def _first_shards(paths: tuple[Path, ...], wanted: SplitFiles) -> tuple[Path, ...]:
    if wanted.size is not None and wanted.size > len(paths):
        raise ValueError(
            f"data.stages must ask for at most the shards there are, but got {wanted.size} and "
            f"{wanted.where} {wanted.files!r} names {len(paths)}. Use smaller stages or add shards."
        )
    return paths[: wanted.size]


def _checked(
    found: Iterable[_Part], wanted: SplitFiles, shuffle_buffer: int, captions: CaptionFormat
) -> ShardPairs:
    parts = tuple(found)
    scans = [part.scan for part in parts]
    skipped = sum((Counter(scan.skipped) for scan in scans), Counter())
    examples = {k: v for scan in reversed(scans) for k, v in scan.examples.items()}
    other = next((scan.other_member for scan in scans if scan.other_member), "")
    counts = SkipCounts(skipped, len(parts), examples, other)
    require_pairs(wanted, sum(part.num_pairs for part in parts), counts)
    return ShardPairs(parts, wanted.folder, shuffle_buffer, captions)


def new_shards(config: WebdatasetConfig, folder: Path, shards: Path) -> AddedShards | None:
    """The shards of a folder that a run neither trains nor measures on; None if there is none.

    Args:
        config: The run's data.
        folder: Where its relative paths start.
        shards: The folder to look at.

    Raises:
        ValueError: If it is no folder, or has no shard at all.
    """
    if not shards.is_dir():
        raise ValueError(f"--data must be a folder, but got {str(shards)!r}. Check the path.")
    found = sorted(file for file in shards.iterdir() if file.name.endswith(SHARD_SUFFIXES))
    if not found:
        raise ValueError(
            f"--data must hold shards ({', '.join(SHARD_SUFFIXES)}), but {str(shards)!r} has none. "
            "Give the folder that img2dataset wrote into."
        )
    used = (*train_paths(config, folder)[: config.stages[-1]], *held_out_paths(config, folder))
    known = {path.resolve() for path in used}
    names = tuple(path.name for path in found if path.resolve() not in known)
    place = file_name(shards.resolve(), folder.resolve())
    return AddedShards(folder=place, shards=names) if names else None


def train_paths(config: WebdatasetConfig, folder: Path) -> tuple[Path, ...]:
    """Shards to train on: those that ``train`` names, then those that were added since.

    Raises:
        ValueError: If one of them is not there.
    """
    own = shard_paths(folder, config.train, "data.train")
    if not config.added:
        return own
    added = [folder / part.folder / name for part in config.added for name in part.shards]
    missing = [path for path in added if not path.is_file()]
    if missing:
        raise ValueError(
            f"data.added must name tar files, but there is no such file: {str(missing[0])!r}. "
            "Put it back: earlier stages were trained on it."
        )
    return (*own[: config.stages[config.num_planned_stages - 1]], *added)


def held_out_paths(config: WebdatasetConfig, folder: Path) -> tuple[Path, ...]:
    """Shards that are measured on, never trained on.

    Raises:
        ValueError: If a pattern is malformed or names none.
    """
    return tuple(
        path
        for split in _held_out_splits(config)
        for path in shard_paths(folder, config.files_by_split[split], f"data.{split}")
    )


def _held_out_splits(config: WebdatasetConfig) -> Iterator[Split]:
    return (split for split in config.files_by_split if split != "train")


def _parts(paths: tuple[Path, ...], wanted: SplitFiles, captions: CaptionFormat) -> Iterator[_Part]:
    left = wanted.limit
    scans = scan_in_order(paths, partial(scan_shard, captions=captions))
    label = f"checking shards of {wanted.where}"
    for path, scan in zip(paths, track(scans, total=len(paths), label=label), strict=False):
        num_pairs = scan.num_pairs if left is None else min(left, scan.num_pairs)
        yield _Part(path, num_pairs, scan)
        if left is not None:
            left -= num_pairs
            if left == 0:
                return


def _new_pairs(parts: Iterable[_Part], config: WebdatasetConfig, folder: Path) -> Iterator[_Part]:
    """The parts, those of added stages without the pairs that came before them."""
    seen = Deduplicator()
    for split in _held_out_splits(config):
        for part in shard_pairs(config, folder, split).parts:
            seen.hold_out(part.scan.identities)
    num_planned = config.stages[config.num_planned_stages - 1]
    for number, part in enumerate(parts):
        if number < num_planned:
            seen.add(part.scan.identities)
            yield part
        else:
            scan = _without_seen(part.scan, seen)
            yield _Part(part.path, scan.num_pairs, scan)


def _without_seen(scan: ShardScan, seen: Deduplicator) -> ShardScan:
    usable = (p for p in itertools.count() if p not in scan.unusable)
    found = list(zip(seen.take(scan.identities), usable, strict=False))
    dropped = {position: reason for reason, position in found if reason}
    known = (scan.identities[i : i + IDENTITY_SIZE] for i in itertools.count(0, IDENTITY_SIZE))
    return scan._replace(
        num_pairs=scan.num_pairs - len(dropped),
        unusable=scan.unusable.union(dropped),
        skipped=dict(Counter(scan.skipped) + Counter(dropped.values())),
        identities=b"".join(k for (reason, _), k in zip(found, known, strict=False) if not reason),
    )


def _usable_samples(parts: Iterable[_Part], captions: CaptionFormat) -> Iterator[Sample]:
    for part in parts:
        samples = enumerate(read_samples(part.path, captions.suffix))
        usable = (sample for index, sample in samples if index not in part.scan.unusable)
        count = 0
        for sample in itertools.islice(usable, part.num_pairs):
            yield sample
            count += 1
        if count != part.num_pairs:
            raise changed(f"{part.path} must hold {part.num_pairs} pairs, but got {count}")


def _decode(sample: Sample, captions: CaptionFormat) -> Pair:
    pair = pair_of(sample, captions)
    if isinstance(pair, str):
        raise changed(f"A pair that was usable must stay so, but got {pair!r}")
    return pair


def changed(what: str) -> ValueError:
    """The error of a shard that is no longer what it was when it was checked."""
    return ValueError(f"{what}: a shard changed since it was checked. Start again.")

"""Pairs from WebDataset shards, as img2dataset writes them: KEY.jpg (png, webp) and KEY.txt.

Every shard is scanned once a machine: each image is decoded, and what is unusable is remembered by
its position. So the number of pairs is known before training, and an epoch yields exactly as many.
An epoch is a stream: memory holds the shuffle buffer, of bytes that are not decoded yet.

Pairs of stages that were added to a finished run are left out where the run has them already.
"""

import functools
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import webdataset as wds
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.bad_share import SkipCounts, require_pairs
from nas_growclip.data.sources.decoding import decode_pair
from nas_growclip.data.sources.dedup import Deduplicator, pair_identity
from nas_growclip.data.sources.scan_cache import ShardScan, kept_scan, scan_in_order
from nas_growclip.data.sources.split import Split, SplitFiles, file_name, split_files
from nas_growclip.data.sources.tar import Member, read_members
from nas_growclip.io.progress import track

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

DUPLICATE_KEY = "duplicate key"

DEFAULT_SHUFFLE_BUFFER = 2000
"""Pairs kept to shuffle a stream of shards, where no setting says how many."""


class Sample(NamedTuple):
    """Undecoded members of one key; None where the shard lacks one."""

    image: bytes | None
    text: bytes | None
    """Caption or class label."""
    key: str
    fault: str = ""
    """Why a member was not read; empty if all were."""


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

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once: shards shuffled by the seed, then pairs in a buffer."""
        samples = _usable_samples(self.parts)
        if seed is not None:
            rng = random.Random(seed)
            parts = rng.sample(self.parts, len(self.parts))
            size = self.shuffle_buffer
            samples = wds.shuffle(size, initial=size, rng=rng)(_usable_samples(parts))
        return (_decode(sample) for place, sample in enumerate(samples) if wanted(place))


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
    if split == "train" and config.added:
        parts = _with_added(config, wanted)
        return _checked(parts, wanted, config.shuffle_buffer)
    return open_shards(wanted, config.shuffle_buffer, identify=bool(config.added))


def open_shards(
    wanted: SplitFiles, shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER, *, identify: bool = False
) -> ShardPairs:
    """Open shards.

    Args:
        wanted: Which shards, and how many pairs.
        shuffle_buffer: Undecoded pairs to keep in memory while an epoch is shuffled.
        identify: Whether to keep what each usable pair is known by.

    Raises:
        ValueError: If there are fewer shards, or too few usable pairs in them.
    """
    paths = shard_paths(wanted.folder, wanted.files, wanted.where)
    parts = _parts(_first_shards(paths, wanted), wanted, identify=identify)
    return _checked(parts, wanted, shuffle_buffer)


def _with_added(config: WebdatasetConfig, wanted: SplitFiles) -> Iterator[_Part]:
    """Training shards, those of added stages without the pairs that came before them."""
    paths = _first_shards(train_paths(config, wanted.folder), wanted)
    return _new_pairs(_parts(paths, wanted, identify=True), config, wanted.folder)


def _first_shards(paths: tuple[Path, ...], wanted: SplitFiles) -> tuple[Path, ...]:
    if wanted.size is not None and wanted.size > len(paths):
        raise ValueError(
            f"data.stages must ask for at most the shards there are, but got {wanted.size} and "
            f"{wanted.where} {wanted.files!r} names {len(paths)}. Use smaller stages or add shards."
        )
    return paths[: wanted.size]


def _checked(found: Iterable[_Part], wanted: SplitFiles, shuffle_buffer: int) -> ShardPairs:
    parts = tuple(found)
    skipped = sum((Counter(part.scan.skipped) for part in parts), Counter())
    require_pairs(wanted, sum(part.num_pairs for part in parts), SkipCounts(skipped, len(parts)))
    return ShardPairs(parts, wanted.folder, shuffle_buffer)


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


def shard_paths(folder: Path, setting: str, where: str) -> tuple[Path, ...]:
    """Files that a brace pattern, a glob or a folder names, in order, each once.

    Raises:
        ValueError: If the pattern is malformed, names no shard, or one that is not there.
    """
    try:
        names = expand_urls(setting)
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"{where} must be a valid brace pattern, but got {setting!r}: {error}. "
            "Write it as in 'train/{00000..00015}.tar'."
        ) from None
    found = [path for name in names for path in _paths_of(folder, name)]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        what = f"no such file: {missing[0]!r}" if missing else "no shard"
        raise ValueError(
            f"{where} must name tar files, but got {setting!r} in {str(folder)!r}: {what}. "
            "Check the data folder and the pattern."
        )
    return tuple(dict.fromkeys(found))


def read_samples(
    path: Path, text: str = "txt", faults: Counter[str] | None = None
) -> Iterator[Sample]:
    """Every key of a shard, in stored order, as far as the shard can be read.

    Args:
        path: A tar file, plain or gzipped.
        text: Suffix of the member beside the image: ``txt`` for captions, ``cls`` for labels.
        faults: Counts what is wrong with the shard, and images beyond the first of a key.
    """
    faults = Counter() if faults is None else faults
    suffixes = (*IMAGE_SUFFIXES, text)
    current, files = "", dict[str, Member]()
    for member in read_members(path, faults):
        key, suffix = base_plus_ext(member.name)
        if key is None or (suffix := suffix.lower()) not in suffixes:
            continue
        if files and key != current:
            yield _sample(current, files, text)
            files = {}
        current = key
        if suffix in files:
            faults[DUPLICATE_KEY] += suffix in IMAGE_SUFFIXES
        else:
            files[suffix] = member
    if files:
        yield _sample(current, files, text)


def _sample(key: str, files: Mapping[str, Member], text: str) -> Sample:
    data = {suffix: member.data for suffix, member in files.items()}
    image = next((data[suffix] for suffix in IMAGE_SUFFIXES if suffix in data), None)
    fault = next((member.fault for member in files.values() if member.fault), "")
    return Sample(image, data.get(text), key, fault)


def scan_shard(path: Path, *, identify: bool = False) -> ShardScan:
    """Count a shard's usable pairs; remembered until the file changes.

    Args:
        path: The shard.
        identify: Whether to keep what each usable pair is known by.

    Raises:
        ValueError: If the file cannot be read from the disk.
    """
    stat = path.stat()
    return _scan(path, stat.st_size, stat.st_mtime_ns, identify)


@functools.cache
def _scan(path: Path, size: int, mtime_ns: int, identify: bool) -> ShardScan:
    """Size and time are the key of the cache, beside the path."""
    return kept_scan(path, identify, _read_through)


def _paths_of(folder: Path, name: str) -> list[Path]:
    path = folder / name
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(SHARD_SUFFIXES))
    if any(letter in name for letter in "*?[") and not path.exists():
        root = Path(path.anchor) if Path(name).is_absolute() else folder
        pattern = str(Path(name).relative_to(root)) if Path(name).is_absolute() else name
        return sorted(file for file in root.glob(pattern) if file.is_file())
    return [path]


def _parts(paths: tuple[Path, ...], wanted: SplitFiles, *, identify: bool) -> Iterator[_Part]:
    left = wanted.limit
    scans = scan_in_order(paths, partial(scan_shard, identify=identify))
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
    reasons = zip(seen.take(scan.identities), usable, strict=False)
    dropped = {position: reason for reason, position in reasons if reason}
    return ShardScan(
        num_pairs=scan.num_pairs - len(dropped),
        unusable=scan.unusable.union(dropped),
        sha256=scan.sha256,
        skipped=dict(Counter(scan.skipped) + Counter(dropped.values())),
    )


def _read_through(path: Path, identify: bool) -> ShardScan:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        skipped, unusable, keys = Counter[str](), set[int](), set[str]()
        identities, folder = bytearray(), path.parent.resolve()
        position = -1
        for position, sample in enumerate(read_samples(path, faults=skipped)):
            pair = _pair_of(sample)
            if not isinstance(pair, str) and sample.key in keys:
                pair = DUPLICATE_KEY
            if isinstance(pair, str):
                skipped[pair] += 1
                unusable.add(position)
                continue
            keys.add(sample.key)
            if identify and sample.image is not None:
                identities += pair_identity(folder, sample.key, sample.image, pair.caption)
    except OSError as error:
        raise ValueError(f"{path}: must be readable, but: {error}. Check the disk.") from None
    num_pairs = position + 1 - len(unusable)
    return ShardScan(num_pairs, frozenset(unusable), sha256, dict(+skipped), bytes(identities))


def _usable_samples(parts: Iterable[_Part]) -> Iterator[Sample]:
    for part in parts:
        samples = enumerate(read_samples(part.path))
        usable = (sample for index, sample in samples if index not in part.scan.unusable)
        count = 0
        for sample in itertools.islice(usable, part.num_pairs):
            yield sample
            count += 1
        if count != part.num_pairs:
            raise _changed(f"{part.path} must hold {part.num_pairs} pairs, but got {count}")


def _decode(sample: Sample) -> Pair:
    pair = _pair_of(sample)
    if isinstance(pair, str):
        raise _changed(f"A pair that was usable must stay so, but got {pair!r}")
    return pair


def _pair_of(sample: Sample) -> Pair | str:
    return sample.fault or decode_pair(sample.image, sample.text)


def _changed(what: str) -> ValueError:
    return ValueError(f"{what}: a shard changed since it was checked. Start again.")

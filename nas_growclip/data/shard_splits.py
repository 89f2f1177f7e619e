"""What a split of shards is: shards, a retrieval set to measure on, or also what was added since.

Pairs of stages that were added to a finished run are left out where the run has them already.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from nas_growclip.data.benchmark_folder import retrieval_folder, split_shards
from nas_growclip.data.config import AddedShards, WebdatasetConfig
from nas_growclip.data.leaks import known_by
from nas_growclip.data.pairs import FirstPairs, ImageTextPairs
from nas_growclip.data.retrieval_set import folder_retrieval_set
from nas_growclip.data.sources.captions import CaptionFormat
from nas_growclip.data.sources.dedup import IDENTITY_SIZE, Deduplicator
from nas_growclip.data.sources.scan_cache import ShardScan
from nas_growclip.data.sources.shard_names import SHARD_SUFFIXES, shard_paths
from nas_growclip.data.sources.split import Split, file_name, split_files
from nas_growclip.data.sources.webdataset import (
    ShardPart,
    checked_pairs,
    first_shards,
    shard_pairs,
    shard_parts,
)


def shard_split(
    config: WebdatasetConfig, folder: Path | None, split: Split, size: int | None = None
) -> ImageTextPairs:
    """Open a split's shards, those that were added since included.

    Args:
        config: Names the shards by a brace pattern, a glob or a folder.
        folder: What the names are relative to.
        split: Which split; one that is measured on may be a retrieval set.
        size: Shards to use, the first so many; None means all.

    Raises:
        ValueError: If there are fewer shards, or too few usable pairs in them.
    """
    if split != "train":
        return held_out_pairs(config, folder, split)
    if not config.added:
        return shard_pairs(config, folder, split, size)
    wanted = split_files(config, folder, split, size)
    captions = CaptionFormat.of(config)
    paths = first_shards(train_paths(config, wanted.folder), wanted)
    parts = _new_pairs(shard_parts(paths, wanted, captions), config, wanted.folder)
    return checked_pairs(parts, wanted, config.shuffle_buffer, captions)


def held_out_pairs(config: WebdatasetConfig, folder: Path | None, split: Split) -> ImageTextPairs:
    """Open a split that is measured on: shards, or a retrieval set.

    Raises:
        ValueError: If its files are missing, malformed or hold too few usable pairs.
    """
    wanted = split_files(config, folder, split)
    place = retrieval_folder(wanted.folder / wanted.files)
    if place is None:
        return shard_pairs(config, folder, split)
    pairs = folder_retrieval_set(place, wanted.max_bad_share).pairs
    return pairs if wanted.limit is None else FirstPairs(pairs, wanted.limit)


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
    paths: list[Path] = []
    for split in _held_out_splits(config):
        files = config.files_by_split[split]
        place = retrieval_folder(folder / files)
        paths += (
            shard_paths(folder, files, f"data.{split}") if place is None else split_shards(place)
        )
    return tuple(paths)


def _held_out_splits(config: WebdatasetConfig) -> Iterator[Split]:
    return (split for split in config.files_by_split if split != "train")


def _new_pairs(
    parts: Iterable[ShardPart], config: WebdatasetConfig, folder: Path
) -> Iterator[ShardPart]:
    """The parts, those of added stages without the pairs that came before them."""
    seen = Deduplicator()
    for split in _held_out_splits(config):
        seen.hold_out(known_by(held_out_pairs(config, folder, split)))
    num_planned = config.stages[config.num_planned_stages - 1]
    for number, part in enumerate(parts):
        if number < num_planned:
            seen.add(part.scan.identities)
            yield part
        else:
            scan = _without_seen(part.scan, seen)
            yield ShardPart(part.path, scan.num_pairs, scan)


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

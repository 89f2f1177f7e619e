"""Data that arrives in stages: each stage holds all pairs seen so far and the new ones.

``validation`` steers the search, ``test`` and the zero-shot tasks are only reported.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas_growclip.data.config import DataConfig, FileData, ScenesConfig
from nas_growclip.data.in_memory import cache_in_memory, cache_nested
from nas_growclip.data.leaks import check_leaks, count_leaks
from nas_growclip.data.named_sets import NamedSet, open_named_set
from nas_growclip.data.pairs import ImageTextPairs, ManifestEntry
from nas_growclip.data.retrieval_set import RetrievalSet
from nas_growclip.data.sources.scenes import scene_tasks
from nas_growclip.data.sources.split import data_folder
from nas_growclip.data.sources.table import open_split
from nas_growclip.data.zero_shot import digits_task

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """One stage's data."""

    index: int
    train: ImageTextPairs
    validation: ImageTextPairs
    test: ImageTextPairs
    zero_shot: tuple[NamedSet, ...]
    test_by_stage: tuple[ImageTextPairs, ...] = ()
    """Held-out pairs of each stage's new data up to this one's, where the settings name any."""
    leaks: Mapping[str, int] = field(default_factory=dict)
    """Pairs of each held-out split whose picture the last stage trains on; none of scenes."""

    @property
    def num_pairs(self) -> int:
        """Usable training pairs, old and new."""
        return self.train.num_pairs

    @property
    def splits(self) -> dict[str, ImageTextPairs]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def open_stages(config: DataConfig, folder: Path | None) -> tuple[DataStage, ...]:
    """Open the data of all stages; validation, test and zero-shot tasks are shared by them.

    Everything is checked here, so that a run does not fail in its last stage.

    Raises:
        ValueError: If data is missing, unusable, too small, or in two splits at once.
    """
    validation = open_split(config, folder, "validation")
    test = open_split(config, folder, "test")
    zero_shot = load_tasks(config, folder)
    # The largest first: it fails at once if it is too large, and checks the others' files too.
    trains = [open_split(config, folder, "train", size) for size in reversed(config.stages)][::-1]
    by_stage = [open_split(config, folder, split) for split in stage_splits(config)]
    held_out = {"validation": validation, "test": test}
    held_out |= dict(zip(stage_splits(config), by_stage, strict=True))
    _check_disjoint({"train": trains[-1], **held_out})
    leaks = _checked_leaks(config, trains[-1], held_out)
    if config.in_memory:
        trains = cache_nested(trains)
        validation, test = cache_in_memory(validation), cache_in_memory(test)
        by_stage = [cache_in_memory(pairs) for pairs in by_stage]
    return tuple(
        DataStage(
            index=index,
            train=train,
            validation=validation,
            test=test,
            zero_shot=zero_shot,
            test_by_stage=tuple(by_stage[: index + 1]),
            leaks=leaks,
        )
        for index, train in enumerate(trains)
    )


def _checked_leaks(
    config: DataConfig, train: ImageTextPairs, held_out: Mapping[str, ImageTextPairs]
) -> dict[str, int]:
    if not isinstance(config, FileData):
        return {}
    leaks = count_leaks(train, held_out)
    for line in check_leaks(leaks, held_out, config.max_leaked_share):
        _log.warning(line)
    return leaks


def stage_splits(config: DataConfig) -> tuple[str, ...]:
    """Names of the held-out splits of each stage's new data; none of rendered scenes."""
    num_sets = len(config.test_by_stage) if isinstance(config, FileData) else 0
    return tuple(f"test_by_stage[{index}]" for index in range(num_sets))


def load_tasks(config: DataConfig, folder: Path | None) -> tuple[NamedSet, ...]:
    """Load the zero-shot tasks and retrieval sets that the settings name, in their order.

    Raises:
        ValueError: If a folder is missing or malformed, or two tasks have one name.
    """
    tasks = [task for entry in config.zero_shot for task in _tasks_of(entry, config, folder)]
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            raise ValueError(
                f"data.zero_shot must name each task once, but got {name!r} {count} times. "
                "Remove or rename one."
            )
    return tuple(tasks)


def skipped_counts(stage: DataStage) -> dict[str, int]:
    """Pairs and images left out, by reason, over all splits and zero-shot tasks."""
    counts = Counter[str]()
    for pairs in stage.splits.values():
        counts.update(_skipped(pairs.manifest))
    for task in stage.zero_shot:
        counts.update(task.skipped)
    return dict(sorted(counts.items()))


def stage_manifest(stage: DataStage, config: DataConfig) -> dict[str, Any]:
    """What a stage's data is, as plain values for JSON: files, hashes, counts."""
    splits = {name: _split_manifest(pairs) for name, pairs in stage.splits.items()}
    return {
        "stage": stage.index,
        "source": config.source,
        **({"seed": config.seed} if isinstance(config, ScenesConfig) else {}),
        **splits,
        "zero_shot": [_task_manifest(task) for task in stage.zero_shot],
        "skipped": skipped_counts(stage),
        **({"leaks": dict(stage.leaks)} if stage.leaks else {}),
    }


def _tasks_of(entry: str, config: DataConfig, folder: Path | None) -> Iterator[NamedSet]:
    if entry == "scenes":
        if isinstance(config, ScenesConfig):
            yield from scene_tasks(seed=config.seed, image_size=config.image_size)
        else:
            yield from scene_tasks()
    elif entry == "digits":
        yield digits_task()
    else:
        for path in _task_folders(data_folder(folder, "data.zero_shot"), entry):
            yield open_named_set(path, config.max_bad_share)


def _task_folders(folder: Path, entry: str) -> list[Path]:
    is_glob = any(letter in entry for letter in "*?[") and not Path(entry).is_absolute()
    paths = sorted(folder.glob(entry)) if is_glob else [folder / entry]
    paths = [path for path in paths if path.is_dir()]
    if not paths:
        raise ValueError(
            f"data.zero_shot must list 'scenes', 'digits' or folders, but there is no folder "
            f"{entry!r} in {str(folder)!r}. Check the name and `--data`."
        )
    return paths


def _check_disjoint(splits: Mapping[str, ImageTextPairs]) -> None:
    """Compare contents, so that copies and links of a file are found too."""
    seen: dict[str, tuple[str, str]] = {}
    for split, pairs in splits.items():
        for entry in pairs.manifest:
            if not entry.num_pairs:
                continue
            first_split, first_name = seen.setdefault(entry.sha256, (split, entry.name))
            if first_split != split:
                raise ValueError(
                    f"Splits must not share files, but data.{first_split} ({first_name!r}) and "
                    f"data.{split} ({entry.name!r}) hold the same one. Take it out of one of them."
                )


def _skipped(manifest: tuple[ManifestEntry, ...]) -> dict[str, int]:
    counts = Counter[str]()
    for entry in manifest:
        counts.update(entry.skipped)
    return dict(sorted(counts.items()))


def _split_manifest(pairs: ImageTextPairs) -> dict[str, Any]:
    entries = [
        {
            "name": entry.name,
            "num_pairs": entry.num_pairs,
            "sha256": entry.sha256,
            "skipped": dict(entry.skipped),
        }
        for entry in pairs.manifest
    ]
    return {
        "num_pairs": pairs.num_pairs,
        "skipped": _skipped(pairs.manifest),
        "entries": entries,
    }


def _task_manifest(task: NamedSet) -> dict[str, Any]:
    if isinstance(task, RetrievalSet):
        return {"name": task.name, **_split_manifest(task.pairs)}
    return {
        "name": task.name,
        "num_images": len(task.images),
        "num_classes": len(task.class_names),
        "chance": task.chance,
        "skipped": dict(task.skipped),
    }

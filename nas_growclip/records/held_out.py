"""What a run's accuracies were measured on, and whether several runs can be compared."""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from nas_growclip.io.formatting import percent, whole
from nas_growclip.io.mappings import read_mapping
from nas_growclip.records.entries import StageResult
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.frames import Run

TEST = "test pairs"
RETRIEVAL = "i2t_recall@1"


def set_differences(runs: Sequence[Run]) -> tuple[str, ...]:
    """A line for each set that the last stages of some runs were not measured on alike.

    Files are compared by their checksums, as the stages' manifests have them; where a run has no
    manifest, sets are compared by the level of a random model.

    Raises:
        ValueError: If a manifest is damaged.
    """
    finished = [run for run in runs if run.stages]
    from_files = [_sets_of_manifest(run) for run in finished]
    by_run = [
        sets if sets is not None and None not in from_files else _sets_of_metrics(run.stages[-1])
        for run, sets in zip(finished, from_files, strict=True)
    ]
    names = dict.fromkeys(name for sets in by_run for name in sets)
    return tuple(
        f"{name}: {_in_words(finished, [sets.get(name) for sets in by_run])}"
        for name in names
        if len({sets.get(name) for sets in by_run}) > 1
    )


def _in_words(runs: Sequence[Run], found: Sequence[str | None]) -> str:
    """Which runs have which set, as in ``64 pairs in a, b; none in c``."""
    names: dict[str | None, dict[str, None]] = {}
    for run, what in zip(runs, found, strict=True):
        names.setdefault(what, {})[run.name] = None
    return "; ".join(f"{what or 'none'} in {', '.join(where)}" for what, where in names.items())


def _sets_of_manifest(run: Run) -> dict[str, str] | None:
    """Sets by the checksums and sizes in the last stage's manifest; None where there is none."""
    path = RunFolder(run.path).stage(run.stages[-1].stage).manifest
    if not path.is_file():
        return None
    manifest = read_mapping(path)
    try:
        tasks = {str(task.get("name")): _task_words(task) for task in manifest.get("zero_shot", ())}
        return {TEST: _pairs_words(manifest.get("test", {}))} | tasks
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: must be a stage's manifest, but: {error}. Restore the file."
        ) from None


def _pairs_words(split: Any) -> str:
    checksums = json.dumps([entry.get("sha256") for entry in split.get("entries", ())])
    short = sha256(checksums.encode()).hexdigest()[:8]
    return f"{whole(split.get('num_pairs'))} pairs (checksum {short})"


def _task_words(task: Any) -> str:
    if "entries" in task:
        return _pairs_words(task)
    return f"{whole(task.get('num_images'))} images of {task.get('num_classes')} classes"


def _sets_of_metrics(stage: StageResult) -> dict[str, str]:
    """Sets by the metrics that there are, told apart by their chance."""
    prefix = "zero_shot_top1/"
    sets = {
        name.removeprefix(prefix): m for name, m in stage.metrics.items() if name.startswith(prefix)
    }
    if RETRIEVAL in stage.metrics:
        sets[TEST] = stage.metrics[RETRIEVAL]
    return {name: f"chance {percent(measure.chance, 2)} %" for name, measure in sets.items()}

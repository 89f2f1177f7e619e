"""Runs that begin with the same stages share this prefix: one trains it, the others copy it.

Stages follow from the configuration alone, so a copy of them is what training would have given.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import prepare_folder
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.io.mappings import to_mapping
from nas_growclip.models.checkpoint import WEIGHTS_FILE
from nas_growclip.records.folder import RunFolder, read_stages, stage_lines


class SharedPrefix(NamedTuple):
    """A run and the stages of it that another one may reuse."""

    run: Path
    num_stages: int


def num_shared_stages(one: ExperimentConfig, other: ExperimentConfig) -> int:
    """How many scheduled stages two experiments have in common, from the first one on.

    Later stages may differ in their data, budget and schedule; how weights are inherited may
    differ where nothing has grown yet.
    """
    most = min(len(one.schedule), len(other.schedule))
    counts = (n for n in range(most, 0, -1) if _shared_prefix(one, n) == _shared_prefix(other, n))
    return next(counts, 0)


def _shared_prefix(config: ExperimentConfig, num_stages: int) -> dict[str, Any]:
    """Everything that the first stages follow from."""
    mapping: dict[str, Any] = to_mapping(config)
    for part, name in (
        (mapping, "schedule"),
        (mapping, "stage_flops"),
        (mapping["data"], "stages"),
        (mapping["data"], "test_by_stage"),
    ):
        if name in part:
            part[name] = part[name][:num_stages]
    del mapping["rule"]  # for stages beyond the schedule
    if num_stages == 1:
        del mapping["restart"]
    if not any(mapping["schedule"]):
        mapping["growth"] = {"moments": config.growth.moments}
    return mapping


def find_shared_prefix(
    config: ExperimentConfig, others: Iterable[tuple[ExperimentConfig, Path]]
) -> SharedPrefix | None:
    """The run that has most finished stages to reuse; None where no run has any.

    Of runs that are kept as records without their models there is nothing to go on from.
    """
    found: SharedPrefix | None = None
    for other, run in others:
        alike = num_shared_stages(config, other)
        shared = min(alike, len(read_stages(run))) if alike else 0
        if shared > (found.num_stages if found else 0) and _has_model(run, shared - 1):
            found = SharedPrefix(run, shared)
    return found


def _has_model(run: Path, stage: int) -> bool:
    return (RunFolder(run).stage(stage).path / WEIGHTS_FILE).exists()


def copy_shared_prefix(config: ExperimentConfig, folder: Path, prefix: SharedPrefix) -> None:
    """Make a run's folder with another one's first stages; it is there whole or not at all.

    Args:
        config: The run's experiment.
        folder: Its folder, which must not be there yet.
        prefix: What to copy; its run may be under way.
    """
    made = folder.with_name(f".{folder.name}.prefix")
    shutil.rmtree(made, ignore_errors=True)
    make_folder(made)
    prepare_folder(config, made)
    for index in range(prefix.num_stages):
        source, target = (RunFolder(run).stage(index) for run in (prefix.run, made))
        passing = shutil.ignore_patterns(source.trials.path.name, source.training.name)
        shutil.copytree(source.path, target.path, ignore=passing)
        make_folder(target.trials.path)
    for path, copy in zip(RunFolder(prefix.run).lines, RunFolder(made).lines, strict=True):
        lines = stage_lines(path, prefix.num_stages)
        write_atomically(copy, "".join(lines).encode())
    made.rename(folder)

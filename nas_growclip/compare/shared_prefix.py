"""Runs that begin alike share their beginning: what one has trained, the others take over.

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
from nas_growclip.records.folder import (
    STAGES_FILE,
    TIMINGS_FILE,
    TRAINING_FILE,
    TRIALS_FILE,
    read_stages,
    stage_folder,
    stage_lines,
)


class Beginning(NamedTuple):
    """A run and the stages of it that another one may take over."""

    run: Path
    num_stages: int


def alike_stages(one: ExperimentConfig, other: ExperimentConfig) -> int:
    """How many scheduled stages two experiments have in common, from the first one on.

    Later stages may differ in their data, budget and schedule; how weights are inherited may
    differ where nothing has grown yet.
    """
    most = min(len(one.schedule), len(other.schedule))
    counts = (n for n in range(most, 0, -1) if _beginning(one, n) == _beginning(other, n))
    return next(counts, 0)


def _beginning(config: ExperimentConfig, num_stages: int) -> dict[str, Any]:
    """Everything that the first stages follow from."""
    mapping: dict[str, Any] = to_mapping(config)
    for part, name in (
        (mapping, "schedule"),
        (mapping, "stage_flops"),
        (mapping["data"], "stages"),
        (mapping["data"], "test_by_stage"),
    ):
        part[name] = part[name][:num_stages]
    if num_stages == 1:
        del mapping["restart"]
    if not any(mapping["schedule"]):
        mapping["growth"] = {"moments": config.growth.moments}
    return mapping


def find_beginning(
    config: ExperimentConfig, others: Iterable[tuple[ExperimentConfig, Path]]
) -> Beginning | None:
    """The run that has most finished stages to take over; None where no one has any."""
    found: Beginning | None = None
    for other, run in others:
        alike = alike_stages(config, other)
        finished = len(read_stages(run)) if alike else 0
        if min(alike, finished) > (found.num_stages if found else 0):
            found = Beginning(run, min(alike, finished))
    return found


def take_beginning(config: ExperimentConfig, folder: Path, beginning: Beginning) -> None:
    """Make a run's folder with another one's first stages; it is there whole or not at all.

    Args:
        config: The run's experiment.
        folder: Its folder, which must not be there yet.
        beginning: What to copy; its run may be under way.
    """
    made = folder.with_name(f".{folder.name}.beginning")
    shutil.rmtree(made, ignore_errors=True)
    make_folder(made)
    prepare_folder(config, made)
    for index in range(beginning.num_stages):
        source, target = (stage_folder(run, index) for run in (beginning.run, made))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("trials", TRAINING_FILE))
        make_folder(target / "trials")
    for name in (TRIALS_FILE, TIMINGS_FILE, STAGES_FILE):
        lines = stage_lines(beginning.run / name, beginning.num_stages)
        write_atomically(made / name, "".join(lines).encode())
    made.rename(folder)

"""A finished run resumes when more data arrives: ``growclip continue`` adds one stage to it.

The run folder stays the state. The shards of the new stage are written into its settings before
anything is trained, so what arrives in their folder afterwards belongs to the next stage, and the
same command resumes after a kill. What the run has already is left out by ``data.shards``.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nas_growclip.data.added import growing, is_from, with_new_stage
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.experiment.stage_setup import load_run_config
from nas_growclip.io.files import owned, write_atomically
from nas_growclip.io.mappings import read_mapping
from nas_growclip.records.folder import RunFolder, noted_data_folder, read_stages
from nas_growclip.records.frames import Run
from nas_growclip.report import write_report
from nas_growclip.training.events import Observer, no_observer

_log = logging.getLogger(__name__)


class Continued(NamedTuple):
    """What came of continuing a run."""

    records: Run
    what: str
    """What was added, or why nothing was."""


class _Plan(NamedTuple):
    config: ExperimentConfig
    stages: tuple[DataStage, ...] | None
    """Opened already; None where there is nothing to train."""
    what: str


def continue_run(
    run: Path,
    shards: Path,
    *,
    old_data: Path | None = None,
    device: str | None = None,
    flops: float | None = None,
) -> Continued:
    """Add one stage to a finished run, then write the report.

    Arguments, result and errors are those of ``continue_stages``.
    """
    continued = continue_stages(run, shards, old_data=old_data, device=device, flops=flops)
    write_report([continued.records], RunFolder(run).report)
    return continued


def continue_stages(
    run: Path,
    shards: Path,
    *,
    old_data: Path | None = None,
    device: str | None = None,
    flops: float | None = None,
    observer: Observer = no_observer,
) -> Continued:
    """Add one stage to a finished run, with those pairs of a folder that the run has not seen.

    Given again it resumes where it was, and does nothing where the stage is finished.

    Args:
        run: The run folder.
        shards: A folder of shards: the one that the run knows, extended, or another. For a source
            of tables, a folder of CSV files or one of them.
        old_data: Where the run's own relative paths start; by default where the run has found it.
        device: A torch device; CUDA where there is one, else the CPU.
        flops: Training FLOPs of the stage. By default as the run has it: by passes, or those of
            the stage before for each pair.
        observer: Called at the moments that ``training.events`` lists.

    Returns:
        The run's records, and what was added.

    Raises:
        ValueError: If the run cannot be continued, its data changed, or the new data is bad.
    """
    config = load_run_config(run)
    growing(config.data)
    with owned(run):
        folder = _find_data(run, old_data)
        finished = len(read_stages(run))
        if finished < len(config.data.stages):
            plan = _go_on(config, run, shards, folder, flops)
        else:
            plan = _plan_stage(config, run, shards, folder, flops)
        if plan.stages is not None:
            check_same_data(run, plan.stages[len(plan.config.data.stages) - 2])
            write_atomically(RunFolder(run).config, plan.config.to_yaml().encode())
            _log.info(plan.what)
        records = run_stages(
            plan.config,
            run,
            data_folder=folder,
            device=device,
            stages=plan.stages,
            observer=observer,
        )
        return Continued(records, plan.what)


def check_same_data(run: Path, stage: DataStage) -> None:
    """Check that a finished stage's files are those that its manifest names.

    Raises:
        ValueError: If a file changed, is another one, or the manifest is damaged.
    """
    path = RunFolder(run).stage(stage.index).manifest
    manifest = read_mapping(path)
    for split, pairs in stage.splits.items():
        then = _manifest_files(manifest, split, path)
        now = [(entry.name, entry.sha256) for entry in pairs.manifest]
        for (name, before), (found, after) in itertools.zip_longest(
            then, now, fillvalue=("no file", "")
        ):
            if before != after:
                raise ValueError(
                    f"{run}: data.{split} must be what stage {stage.index} had, but where it had "
                    f"{name!r} there is {found!r} with other content. Put the old file back; new "
                    "pairs go into files of their own, after the old ones by name."
                )


def _find_data(run: Path, given: Path | None) -> Path:
    folder = given or noted_data_folder(run)
    if folder is None:
        raise ValueError(
            f"{run}: where the run's own data lies must be known, but was not noted. Pass "
            "`--old-data DIR`, the --data of `growclip run`."
        )
    if not folder.is_dir():
        raise ValueError(
            f"The run's own data must be in a folder, but there is none at {str(folder)!r}. "
            "Pass `--old-data DIR`, where it is now."
        )
    return folder


def _go_on(
    config: ExperimentConfig, run: Path, shards: Path, folder: Path, flops: float | None
) -> _Plan:
    """The last stage, which was added and is not finished."""
    finished, added = len(read_stages(run)), growing(config.data).added
    if finished < config.data.num_planned_stages:
        raise ValueError(
            f"{run}: all stages must be finished before data is added, but {finished} of "
            f"{len(config.data.stages)} are. Finish them with `growclip run`."
        )
    place = folder / added[-1].folder
    if not is_from(added[-1], folder, shards):
        raise ValueError(
            f"{run}: stage {finished} must be finished before more data is added, but it is under "
            f"way with {str(place)!r}. Give `--data {place}` first."
        )
    if flops is not None and config.stage_flops[-1:] != (flops,):
        raise ValueError(
            f"--flops must stay what stage {finished} began with, but got {flops:g}. Leave it out."
        )
    stages = open_stages(config.data, folder)
    return _Plan(config, stages, f"stage {finished} resumes: {_describe(stages)}")


def _plan_stage(
    config: ExperimentConfig, run: Path, shards: Path, folder: Path, flops: float | None
) -> _Plan:
    """The run with one stage more, if there are new pairs."""
    data = with_new_stage(growing(config.data), folder, shards)
    if data is None:
        what = f"Nothing new in {shards}: the run has all of its files. Nothing was trained."
        return _Plan(config, None, what)
    stages = open_stages(data, folder)
    before, now = stages[-2].num_pairs, stages[-1].num_pairs
    if now == before:
        what = f"Nothing new in {shards}: {_describe(stages)}. Nothing was trained."
        return _Plan(config, None, what)
    budgets = _stage_flops(config, flops, now / before)
    planned = replace(config, data=data, stage_flops=budgets)
    return _Plan(planned, stages, f"stage {stages[-1].index} added: {_describe(stages)}")


def _stage_flops(
    config: ExperimentConfig, flops: float | None, ratio: float
) -> tuple[float | None, ...]:
    """The run's budgets with the added stage's: as asked, else the last one's for each pair."""
    given = config.stage_flops
    if flops is None and not given:
        return ()
    given = given or (None,) * len(config.data.stages)
    last = given[-1]
    if flops is None and last is not None:
        flops = last * ratio
    return (*given, flops)


def _describe(stages: Sequence[DataStage]) -> str:
    """What the last stage adds to the one before."""
    before, now = stages[-2].train, stages[-1].train
    entries = now.manifest[len(before.manifest) :]
    dropped = sum((Counter(entry.skipped) for entry in entries), Counter[str]())
    reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(dropped.items()))
    return (
        f"{now.num_pairs - before.num_pairs} new pairs in {len(entries)} files, left out: "
        f"{reasons or 'none'}"
    )


def _manifest_files(manifest: Any, split: str, path: Path) -> list[tuple[str, str]]:
    try:
        return [(entry["name"], entry["sha256"]) for entry in manifest[split]["entries"]]
    except (KeyError, TypeError):
        raise ValueError(
            f"{path}: must list the files of {split!r}, but does not. Restore the file."
        ) from None

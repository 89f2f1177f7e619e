"""The command that starts, shows and stops an NNI experiment of a run's stage."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.cli.choices import NniAction
from nas_growclip.cli.options import DataFolder, Device, RunArgument, require_at_least_one
from nas_growclip.search.nni.space import sample_label

if TYPE_CHECKING:
    from nas_growclip.records.folder import StageFolder
    from nas_growclip.search.nni.by_hand import Status
    from nas_growclip.search.nni.experiment import NniExperiment, NniTrial


def nni(
    action: Annotated[NniAction, typer.Argument(metavar="create|status|stop")],
    run: RunArgument,
    stage: Annotated[
        int | None,
        typer.Option(metavar="K", help="default: the one to search next, or the last"),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="default: as the run's search has it")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="trials at a time; default: as the run has it")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="P", help="of NNI's page; default: a free one")
    ] = None,
    data: DataFolder = None,
    device: Device = None,
) -> None:
    """Search a run's stage by an NNI experiment that goes on by itself.

    create returns when NNI's tuner works and the first trial has started, or says what failed;
    status lists the trials; stop ends everything. The run itself is left as it is. NNI's page is
    open to everyone who reaches this machine.

    Example:
        growclip nni create runs/demo --stage 2 --workers 2
    """
    require_at_least_one("--trials", trials)
    require_at_least_one("--workers", workers)
    from nas_growclip.search.nni.experiment import check_installed

    check_installed()
    from nas_growclip.search.nni import by_hand

    if action == "create":
        experiment = asked_experiment(run, stage, data, device)
        experiment = replace(
            experiment,
            num_trials=trials or experiment.num_trials,
            workers=workers or experiment.workers,
        )
        made = by_hand.create(experiment, port)
        print(f"NNI experiment {made.id} runs at http://localhost:{made.port}")
        print(f"Its trials: growclip nni status {run}. Its end: growclip nni stop {run}.")
    elif action == "status":
        print("\n".join(described(by_hand.status(experiment_stage(run, stage).nni_by_hand))))
    else:
        files = experiment_stage(run, stage)
        stopped = by_hand.stop(files.nni_by_hand)
        print(f"NNI experiment {stopped.id} is stopped; no process of it is left.")
        print(f"Its trials' records: {files.nni_records}")


def asked_experiment(
    run: Path, stage: int | None, data: Path | None, device: str | None
) -> "NniExperiment":
    """A stage's search as an NNI experiment whose records are its own.

    Raises:
        ValueError: If it is no run folder, has no such stage, or nothing can grow there.
    """
    from nas_growclip.experiment.search_nni import nni_experiment
    from nas_growclip.experiment.stage_setup import open_stage

    opened = open_stage(run, stage=stage, data_folder=data, device=device)
    candidates = opened.plan.candidates[1:]
    if not candidates:
        raise ValueError(
            f"{opened.files.path}: its growth space must have a candidate, but has none."
        )
    made = nni_experiment(opened, candidates)
    records = ("--trials", str(opened.files.nni_records.resolve()))
    return replace(made, folder=opened.files.nni_by_hand, command=made.command + records)


def experiment_stage(run: Path, stage: int | None) -> "StageFolder":
    """The stage that is named, or the only one that has an experiment.

    Raises:
        ValueError: If there is none, or no stage is named and there are several.
    """
    from nas_growclip.records.folder import RunFolder, find_config, stage_folders
    from nas_growclip.search.nni.by_hand import is_known

    find_config(run)
    if stage is not None:
        return RunFolder(run).stage(stage)
    found = [folder for folder in stage_folders(run) if is_known(folder.nni_by_hand)]
    if len(found) != 1:
        raise ValueError(
            f"{run}: must have one NNI experiment unless --stage names its stage, but has "
            f"{len(found)}. Start one with `growclip nni create`, or give --stage."
        )
    return found[0]


def described(status: "Status") -> list[str]:
    """The experiment's state, and a line for each trial that has ended."""
    made = status.experiment
    counts = f"{len(status.ended)} ended, {status.running} running, {status.waiting} waiting"
    lines = [f"NNI experiment {made.id}: {status.state}; trials: {counts}"]
    return lines + [_line(trial) for trial in status.ended]


def _line(trial: "NniTrial") -> str:
    values = [f"{name} {value:.4g}" for name, value in trial.metrics.items()]
    said = "; ".join(filter(None, (", ".join(values), trial.message)))
    return f"  {trial.number}: {sample_label(trial.parameters)}: {trial.state}; {said}".rstrip("; ")

"""The commands that work on runs: run, continue, compare, worker, report, rescore."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_growclip.cli.choices import OBJECTIVES, listed
from nas_growclip.cli.options import (
    AsJson,
    DataFolder,
    Device,
    ExperimentFile,
    RunArgument,
    RunOption,
    parse_coefficient,
    require_at_least_one,
)
from nas_growclip.io.ranges import above, require_in_range

if TYPE_CHECKING:
    from nas_growclip.records.frames import Run


def run(
    experiment: ExperimentFile,
    out: RunOption,
    data: DataFolder = None,
    device: Device = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="replaces the experiment's seed")
    ] = None,
) -> None:
    """Run a staged experiment; the same command again resumes it.

    Prints the table of its stages and where its report is.

    Example:
        growclip run experiments/smoke.yaml --out runs/smoke
    """
    from nas_growclip.io.mappings import read_mapping
    from nas_growclip.io.shipped import file_or_shipped

    experiment = file_or_shipped(experiment, "experiments")
    read_mapping(experiment)  # a bad file is refused before the slow imports
    from nas_growclip.experiment.config import load_config
    from nas_growclip.experiment.follower import check_group, follow
    from nas_growclip.experiment.run import is_complete, run_experiment
    from nas_growclip.report import print_summary
    from nas_growclip.training.process_group import join_group
    from nas_growclip.training.sharding import state_device

    config = load_config(experiment, seed)
    group = join_group(device)
    check_group(config, group)
    if not group.is_leader:
        follow(config, data, group)
        return
    was_complete = is_complete(config, out)
    records = run_experiment(
        config, out, data_folder=data, device=state_device(config.train, group) or device
    )
    group.leave()
    print_summary(records)
    if was_complete:
        print(f"The run in {out} was complete already; nothing was trained.")
    print(f"Report: {out / 'report' / 'index.html'}")


def continue_(
    run: RunArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="SHARDS",
            help="folder with the new shards: the run's own one, extended, or another",
        ),
    ],
    old_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="where the run's own data paths start; default: where the run has found it",
        ),
    ] = None,
    device: Device = None,
    flops: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="training FLOPs of the stage; default: as the run has it, for the pairs there are "
            "now",
        ),
    ] = None,
) -> None:
    """Add a stage to a finished run when more shards arrive; the same command again resumes it.

    Prints the run's table, what was added and where its report is.

    Example:
        growclip continue runs/mine --data new_shards
    """
    if flops is not None:
        require_in_range("--flops", flops, above(0))
    from nas_growclip.records.folder import find_config

    find_config(run)  # a bad folder is refused before the slow imports
    from nas_growclip.experiment.extend import continue_run
    from nas_growclip.report import print_summary

    continued = continue_run(run, data, old_data=old_data, device=device, flops=flops)
    print_summary(continued.records)
    print(continued.what)
    print(f"Report: {run / 'report' / 'index.html'}")


def compare(
    comparison: Annotated[
        Path,
        typer.Argument(
            metavar="COMPARISON.yaml", help="a comparison, or the name of one that is shipped"
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="the comparison's folder")],
    data: DataFolder = None,
    device: Device = None,
    workers: Annotated[int, typer.Option(metavar="N", help="processes at a time")] = 1,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="run nothing; tables and figures of what is complete")
    ] = False,
) -> None:
    """Run the arms of one experiment over seeds, and compare them pair by pair.

    The same command again resumes it. Prints the table of arms and where the results are.

    Example:
        growclip compare experiments/comparisons/scenes.yaml --out runs/compare/scenes --workers 2
    """
    require_at_least_one("--workers", workers)
    from nas_growclip.io.mappings import read_mapping
    from nas_growclip.io.shipped import file_or_shipped

    comparison = file_or_shipped(comparison, "experiments/comparisons")
    read_mapping(comparison)  # a bad file is refused before the slow imports
    from nas_growclip.compare.config import load_comparison
    from nas_growclip.compare.runner import results_so_far, run_comparison

    config = load_comparison(comparison)
    if so_far:
        results = results_so_far(config, out)
    else:
        results = run_comparison(config, out, data_folder=data, device=device, workers=workers)
    print((results / "arms.md").read_text(encoding="utf-8"))
    print(f"Results: {results}")


def worker(
    run: RunArgument,
    data: DataFolder = None,
    device: Device = None,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="leave after so long without work; default: stay until the run is complete",
        ),
    ] = None,
) -> None:
    """Take part in the searches of a run that another process leads, until it is complete.

    Example:
        growclip worker /shared/runs/mine --data DATA
    """
    from nas_growclip.experiment.worker import work

    work(run, data_folder=data, device=device, patience=patience)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run folders")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="default: the first run's report folder")
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.db",
            help="also put every stage and candidate of the runs into one Optuna study, for "
            "optuna-dashboard",
        ),
    ] = None,
) -> None:
    """Write tables, figures and one HTML page from run folders; several runs side by side.

    Figures are written as PNG, SVG and PDF. Runs that differ in nothing but the seed are drawn as
    one line in a band. Prints each run's table.

    Example:
        growclip report runs/demo runs/other --out report --study report/runs.db
    """
    from nas_growclip.records.folder import RunFolder
    from nas_growclip.records.frames import load_run
    from nas_growclip.report import print_summary, write_report

    loaded = [load_run(path) for path in runs]
    page = write_report(loaded, out or RunFolder(runs[0]).report, ("svg", "pdf"))
    for records in loaded:
        print_summary(records)
    print(f"Report: {page}")
    if study is not None:
        _write_study(loaded, study)
        print(f"Study: optuna-dashboard sqlite:///{study}")


def _write_study(runs: "list[Run]", database: Path) -> None:
    from nas_growclip.io.files import make_folder
    from nas_growclip.search.optuna.run_study import RunRecords, study_of_runs
    from nas_growclip.search.optuna.storage import open_storage

    make_folder(database.parent)
    records = [RunRecords(run.name, run.stages, run.trials) for run in runs]
    storage = open_storage(f"sqlite:///{database}", database.parent)
    study_of_runs(f"growclip/{', '.join(run.name for run in runs)}", storage, records)


def calibrate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="run folders, or folders of them as of a comparison"),
    ],
    as_json: AsJson = False,
) -> None:
    """Fit the objective's coefficients to runs that grew differently from one parent.

    Each stage that grew is set beside a run that was the same until then and did not grow. Prints
    the `objective` of an experiment that is to use them.

    Example:
        growclip calibrate runs/compare/dimensions
    """
    import yaml

    from nas_growclip.io.mappings import to_mapping
    from nas_growclip.records.folder import read_stages, run_folders
    from nas_growclip.report.reasons import calibration_lines
    from nas_growclip.search.calibration import calibrated, finished_growths
    from nas_growclip.search.coefficients import ObjectiveConfig

    folders = [folder for path in runs for folder in run_folders(path)]
    finished, before = finished_growths([read_stages(f) for f in folders]), ObjectiveConfig()
    fitted = calibrated(finished, before)
    if as_json:
        print(json.dumps(to_mapping(fitted), indent=2))
    else:
        print(
            "".join(f"# {line}\n" for line in calibration_lines(finished, before, fitted)), end=""
        )
        print(yaml.safe_dump({"objective": to_mapping(fitted)}, sort_keys=False), end="")


def rescore(
    run: RunArgument,
    objective: Annotated[
        str | None,
        typer.Option(metavar=listed(OBJECTIVES), help="replaces the run's objective"),
    ] = None,
    coefficients: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="COEFFICIENT=NUMBER",
            help="as in curve_steepness=0.5; may be given again",
        ),
    ] = None,
    data_ratio: Annotated[
        float,
        typer.Option(
            metavar="R", help="as if each stage had had R times its data, for the same FLOPs"
        ),
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Score a run's finished stages again, without training; nothing in the run changes.

    Prints recorded and new scores of each stage's candidates, and what is chosen then and now.

    Example:
        growclip rescore runs/demo --objective pareto --set curve_steepness=0.5
    """
    from nas_growclip.records.frames import load_run
    from nas_growclip.report import print_rescored
    from nas_growclip.report.rescoring import objective_config, rescore_run, rescoring_row

    changes: dict[str, str | float] = dict(map(parse_coefficient, coefficients or ()))
    if objective is not None:
        changes["name"] = objective
    records = load_run(run)
    config = objective_config(records, changes)
    rescorings = rescore_run(records, config, data_ratio=data_ratio)
    if as_json:
        print(json.dumps([rescoring_row(records, stage, config) for stage in rescorings], indent=2))
    else:
        print_rescored(records, rescorings, config)

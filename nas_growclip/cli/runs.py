"""The commands that work on runs: run, continue, compare, worker, report, rescore."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from nas_growclip.cli.arguments import _add_device, _add_place, parse_coefficient


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="run a staged experiment; the same command again resumes it"
    )
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder")
    _add_place(parser)
    parser.add_argument("--seed", type=int, help="replaces the experiment's seed")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Run a staged experiment and print its table and its report's path."""
    from nas_growclip.io.mappings import read_mapping

    read_mapping(options.experiment)  # a bad file is told before the slow imports
    from nas_growclip.experiment.config import load_config
    from nas_growclip.experiment.follower import check_group, follow
    from nas_growclip.experiment.run import is_complete, run_experiment
    from nas_growclip.report import print_summary
    from nas_growclip.training.process_group import join_group
    from nas_growclip.training.sharding import state_device

    config = load_config(options.experiment, options.seed)
    group = join_group(options.device)
    check_group(config, group)
    if not group.is_leader:
        follow(config, options.data, group)
        return
    was_complete = is_complete(config, options.out)
    device = state_device(config.train, group) or options.device
    records = run_experiment(config, options.out, data_folder=options.data, device=device)
    group.leave()
    print_summary(records)
    if was_complete:
        print(f"The run in {options.out} was complete already; nothing was trained.")
    print(f"Report: {options.out / 'report' / 'index.html'}")


def _add_continue(commands: Any) -> None:
    parser = commands.add_parser(
        "continue", help="add a stage to a finished run when more shards arrive; resumes too"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="SHARDS",
        help="folder with the new shards: the run's own one, extended, or another",
    )
    parser.add_argument(
        "--old-data",
        type=Path,
        metavar="DIR",
        help="where the run's own data paths start; default: where the run has found it",
    )
    _add_device(parser)
    parser.add_argument(
        "--flops",
        type=float,
        metavar="F",
        help="training FLOPs of the stage; default: as the run has it, for the pairs there are now",
    )
    parser.set_defaults(command=continue_)


def continue_(options: argparse.Namespace) -> None:
    """Add a stage to a finished run; print its table, what was added and the report's path."""
    if options.flops is not None and not 0 < options.flops < math.inf:
        raise ValueError(f"--flops must be above 0, but got {options.flops:g}.")
    from nas_growclip.records.folder import find_config

    find_config(options.run)  # a bad folder is told before the slow imports
    from nas_growclip.experiment.extend import continue_run
    from nas_growclip.report import print_summary

    continued = continue_run(
        options.run,
        options.data,
        old_data=options.old_data,
        device=options.device,
        flops=options.flops,
    )
    print_summary(continued.records)
    print(continued.what)
    print(f"Report: {options.run / 'report' / 'index.html'}")


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare", help="arms of one experiment over seeds, compared; the same command resumes it"
    )
    parser.add_argument("comparison", metavar="COMPARISON.yaml", type=Path)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="comparison's folder"
    )
    _add_place(parser)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes at a time (default: 1)"
    )
    parser.set_defaults(command=compare)


def compare(options: argparse.Namespace) -> None:
    """Run what is left of a comparison, print its table and where its results are."""
    if options.workers < 1:
        raise ValueError(f"--workers must be 1 or more, but got {options.workers}.")
    from nas_growclip.io.mappings import read_mapping

    read_mapping(options.comparison)  # a bad file is told before the slow imports
    from nas_growclip.compare.config import load_comparison
    from nas_growclip.compare.runner import run_comparison

    results = run_comparison(
        load_comparison(options.comparison),
        options.out,
        data_folder=options.data,
        device=options.device,
        workers=options.workers,
    )
    print((results / "arms.md").read_text(encoding="utf-8"))
    print(f"Results: {results}")


def _add_worker(commands: Any) -> None:
    parser = commands.add_parser(
        "worker", help="take part in the searches of a run that goes on elsewhere"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    _add_place(parser)
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="leave after so long without work; default: stay until the run is complete",
    )
    parser.set_defaults(command=worker)


def worker(options: argparse.Namespace) -> None:
    """Try candidates for a run, until it is complete."""
    from nas_growclip.experiment.worker import work

    work(
        options.run,
        data_folder=options.data,
        device=options.device,
        patience=options.patience,
    )


def _add_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="tables and figures from run folders")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: the first run's report folder"
    )
    parser.set_defaults(command=report)


def report(options: argparse.Namespace) -> None:
    """Write tables, figures and the page; print each run's table."""
    from nas_growclip.records.frames import load_run
    from nas_growclip.report import print_summary, write_report

    runs = [load_run(path) for path in options.runs]
    page = write_report(runs, options.out or options.runs[0] / "report")
    for records in runs:
        print_summary(records)
    print(f"Report: {page}")


def _add_rescore(commands: Any) -> None:
    parser = commands.add_parser(
        "rescore", help="score a run's finished stages again, without training"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; nothing in it changes")
    parser.add_argument("--objective", metavar="NAME", help="replaces the run's objective")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="COEFFICIENT=NUMBER",
        dest="coefficients",
        help="as in capacity_exponent=0.7; may be given again",
    )
    parser.add_argument(
        "--data-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="as if each stage had had R times its data (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=rescore)


def rescore(options: argparse.Namespace) -> None:
    """Print recorded and new scores of each stage's candidates, and what is chosen then and now."""
    from nas_growclip.records.frames import load_run
    from nas_growclip.report import print_rescored
    from nas_growclip.report.rescoring import objective_config, rescore_run, rescoring_row

    changes: dict[str, str | float] = dict(map(parse_coefficient, options.coefficients))
    if options.objective is not None:
        changes["name"] = options.objective
    records = load_run(options.run)
    config = objective_config(records, changes)
    rescorings = rescore_run(records, config, data_ratio=options.data_ratio)
    if options.json:
        print(json.dumps([rescoring_row(records, stage) for stage in rescorings], indent=2))
    else:
        print_rescored(records, rescorings, config)

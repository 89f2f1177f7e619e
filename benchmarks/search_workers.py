"""What does a second worker bring, and what does a trial cost beside its training?

One stage of a small experiment (scenes, twelve candidates of equal training FLOPs, a few seconds
each) is searched by one process of one thread, then by two: ``growclip run`` and, for Optuna,
``growclip worker`` beside it, on SQLite, a journal and PostgreSQL. With ``--nni`` the same is done
by NNI experiments of one and two trials at a time. Every search tries all twelve candidates, so
all do the same work. The search is timed from the moment its space is written down to the last
record in ``trials.jsonl``.

Command: python -m benchmarks.search_workers --out DIR [--repeats 2] [--nni]

About ten minutes on two idle cores, longer with ``--nni``; the order alternates.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from nas_growclip.data.config import ScenesConfig
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import prepare_folder
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.io.logs import logger
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.folder import RunFolder, read_trials
from nas_growclip.records.lines import append_line
from nas_growclip.search.config import SearchConfig
from nas_growclip.training.state import TrainConfig
from tests.support.postgres import missing_postgres, postgres_server
from tests.support.processes import started

ROOT = Path(__file__).parents[1]
SEED = 0
PAIRS = 512
PASSES = 16.0
NUM_TRIALS = 12
WORKERS = (1, 2)
STORAGES = ["sqlite", "journal", "postgresql"]
MEASUREMENTS_FILE = "measurements.jsonl"
DATA = ScenesConfig(stages=(PAIRS,), validation_pairs=64, test_pairs=64, zero_shot=())
SPACE = GrowthSpace(
    dimensions={
        "image.mlp_width": SizeChoices(ratios=(1.5, 2.0, 3.0)),
        "text.mlp_width": SizeChoices(ratios=(1.5, 2.0, 3.0)),
        "image.depth": SizeChoices(add=(1, 2)),
        "text.depth": SizeChoices(add=(1, 2)),
        "shared.depth": SizeChoices(add=(1,)),
    }
)
"""Eleven growths; with no growth, twelve candidates."""
PARENT = ClipArch.preset("tiny").with_sizes(
    {
        "image.width": 32,
        "image.mlp_width": 64,
        "text.width": 32,
        "text.mlp_width": 64,
        "embed_dim": 32,
    }
)


# A PostgreSQL server for as long as it is needed.


# One search, timed.


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One search of the stage."""

    search: str
    """Backend and storage."""
    workers: int
    trials: int
    wall_seconds: float
    trial_seconds: float
    """Growing, training and measuring, all trials together."""
    load: float
    """The machine's load average of the minute before."""

    @property
    def per_minute(self) -> float:
        """Trials completed per minute."""
        return 60 * self.trials / self.wall_seconds

    @property
    def overhead(self) -> float:
        """Seconds that a worker spends beside training, for each trial."""
        return (self.workers * self.wall_seconds - self.trial_seconds) / self.trials


def experiment(search: SearchConfig, passes: float = PASSES) -> ExperimentConfig:
    return ExperimentConfig(
        parent=PARENT,
        seed=SEED,
        passes=passes,
        data=DATA,
        space=SPACE,
        search=search,
        train=TrainConfig(batch_size=32, warmup_steps=4, checkpoint_steps=1000),
    )


def measure_search(name: str, config: ExperimentConfig, workers: int, run: Path) -> Measurement:
    """Run the experiment, beside a worker where Optuna is to have two."""
    load = os.getloadavg()[0]
    prepare_folder(config, run)
    file = run.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    with ExitStack() as processes:
        if workers == 2 and config.search.backend == "optuna":
            processes.enter_context(
                started(run.with_suffix(".worker.log"), "worker", str(run), *ON_CPU)
            )
        log = run.with_suffix(".log")
        main = processes.enter_context(started(log, "run", str(file), "--out", str(run), *ON_CPU))
        if main.wait():
            raise ChildProcessError(f"growclip run must work, but failed: see {log}.")
    timings = [json.loads(line) for line in (RunFolder(run).timings).read_text().splitlines()]
    return Measurement(
        search=name,
        workers=workers,
        trials=len(read_trials(run)),
        wall_seconds=searched_seconds(run),
        trial_seconds=sum(t["seconds"] for t in timings if t["what"].startswith("trial ")),
        load=load,
    )


ON_CPU = ("--device", "cpu")


def searched_seconds(run: Path) -> float:
    """From the space's file to the last trial's record."""
    begin = RunFolder(run).stage(0).search_space.stat().st_mtime
    return RunFolder(run).trials.stat().st_mtime - begin


# All searches, and the table.


def searches(options: argparse.Namespace, storages: ExitStack) -> dict[str, SearchConfig]:
    """The searches by name, for one worker; PostgreSQL only where it is installed."""
    settings: dict[str, str | None] = {"sqlite": None, "journal": "journal"}
    if missing_postgres():
        logger.info(f"without PostgreSQL: {missing_postgres()}")
    else:
        settings["postgresql"] = storages.enter_context(postgres_server()).new_database("growclip")
    common: dict[str, Any] = {"shortlist": None, "num_trials": options.trials}
    common |= {"trial_share": 0.5, "curve_points": 6}
    made = {
        f"Optuna, {name}": SearchConfig(storage=settings[name], **common)
        for name in settings
        if name in options.storages
    }
    if options.nni:
        made["NNI"] = SearchConfig(backend="nni", nni_tuner="GridSearch", **common)
    return made


def measure_all(options: argparse.Namespace) -> list[Measurement]:
    measured = []
    with ExitStack() as storages:
        configs = searches(options, storages)
        for repeat in range(options.repeats):
            order = list(product(configs, WORKERS))
            for name, workers in order if repeat % 2 == 0 else reversed(order):
                search = SearchConfig(**asdict(configs[name]) | {"nni_workers": workers})
                run = options.out / f"{name.replace(', ', '-').lower()}-{workers}-{repeat}"
                config = experiment(search, options.passes)
                measured.append(measure_search(name, config, workers, run))
                append_line(options.out / MEASUREMENTS_FILE, json.dumps(asdict(measured[-1])))
                logger.info(str(measured[-1]))
    return measured


def table(measured: Sequence[Measurement]) -> str:
    """Means over the repeats, in Markdown; in brackets, the lowest and the highest."""
    lines = [
        "| search | trials a minute, 1 worker | 2 workers | ratio "
        "| overhead a trial, 1 worker (s) | 2 workers (s) | training a trial, 1 worker (s) "
        "| 2 workers (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(m.search for m in measured):
        one, two = ([m for m in measured if (m.search, m.workers) == (name, w)] for w in WORKERS)
        rates = [[m.per_minute for m in ms] for ms in (one, two)]
        ratio = fmean(rates[1]) / fmean(rates[0])
        overheads = [spread([m.overhead for m in ms]) for ms in (one, two)]
        training = [spread([m.trial_seconds / m.trials for m in ms]) for ms in (one, two)]
        cells = [name, *map(spread, rates), f"{ratio:.2f}", *overheads, *training]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def notes(options: argparse.Namespace, measured: Sequence[Measurement]) -> str:
    """What the table was made with."""
    arguments = ["--nni"] if options.nni else []
    if options.storages != STORAGES:
        arguments += ["--storages", *options.storages]
    head = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=False)
    numbers = f"--repeats {options.repeats} --trials {options.trials} --passes {options.passes:g}"
    return (
        f"Command: python -m benchmarks.search_workers "
        f"{' '.join(['--out DIR', numbers, *arguments])}\n\n"
        f"Commit {commit.stdout.strip() or 'unknown'}, seed {SEED}, {os.cpu_count()} cores, one "
        f"thread a process, repeats in alternating order: {options.repeats}, mean (lowest to "
        f"highest); load of the machine before a search at most {max(m.load for m in measured):.1f}"
        ". All trials spend the same training FLOPs (fvcore FLOPs: one multiply-add is one). "
        "Overhead: seconds of all workers from the search's start to its last record that were "
        "not spent in a trial (growing, training, measuring), for each trial; with two workers it "
        "holds the second one's joining and the wait for the last trial."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--storages", nargs="*", choices=STORAGES, default=STORAGES)
    parser.add_argument("--nni", action="store_true", help="also NNI, which must be installed")
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    parser.add_argument("--passes", type=float, default=PASSES, help="makes trials longer")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    measured = measure_all(options)
    print(f"{table(measured)}\n\n{notes(options, measured)}")


if __name__ == "__main__":
    main()

"""Do start-up, report and resume stay linear in what a long run piles up?

*Search*: a stage with 2,000 candidates whose trials take no time, so that only the search's own
time is left; then the same search is taken up again with all its trials in the storage. *Stages*:
run folders with many stages are read, reported on, and started again. *Shards*: many small shards
are opened for the first and the second time. Times are the process's CPU seconds.

Command: python -m benchmarks.load [--trials 125 250 500] [--stages 10 20 50] [--shards 100 1000]
"""

import argparse
import io
import itertools
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.sources.webdataset import shard_pairs
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.run import run_stages
from nas_growclip.growth.space import Combination, GrowthSpace, SizeChoices
from nas_growclip.io.logs import log_errors_only
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.frames import load_run
from nas_growclip.report import write_report
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.loop import Report, search
from nas_growclip.search.optuna.backend import OptunaSearch
from nas_growclip.search.protocol import Proposal, SearchTask

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "experiments" / "smoke.yaml"
NUM_CANDIDATES = 2000
PAIRS_A_SHARD = 10
PARENT = ClipArch.preset("tiny")
SPACE = GrowthSpace(
    dimensions={
        "image.mlp_width": SizeChoices(sizes=tuple(range(260, 460, 4))),
        "text.mlp_width": SizeChoices(sizes=tuple(range(260, 420, 4))),
    },
    combine=(Combination(from_pairs=0, num_dimensions=2),),
)
"""50 and 40 sizes, alone and together: 2,090 growths, of which so many as wanted are kept."""

Row = tuple[int, dict[str, float]]


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    """Note the CPU seconds of what is done in here: other work on the machine does not count."""
    started = time.process_time()
    yield
    into[name] = time.process_time() - started


# A search.


def made_up_trial(question: Proposal, report: Report) -> Trial:
    """A trial that takes no time; its loss and score follow from its candidate."""
    width = sum(step.new for step in question.candidate.steps)
    report(1, 1.0 / (1 + width))
    return Trial(
        stage=0,
        number=question.number,
        candidate=question.candidate,
        arch=PARENT,
        flops=10**6 + width,
        params=10**6 + width,
        state="complete",
        score=float(np.sin(width)),
        metrics={"loss": 1.0 / (1 + width)},
        curve=((0, 2.0), (128, 1.0 / (1 + width))),
    )


def search_times(num_trials: int, folder: Path) -> dict[str, float]:
    """CPU seconds of a search of so many trials, and of taking it up when it is done."""
    seconds: dict[str, float] = {}
    with timed(seconds, "listing the candidates"):
        candidates = SPACE.candidates(PARENT, 10_000)[:NUM_CANDIDATES]
    config = SearchConfig(num_trials=num_trials)
    made = SearchTask(candidates=candidates, seed=0, stage=0, run=folder, config=config)
    backend = OptunaSearch(made)
    with timed(seconds, "search"):
        search(backend, made_up_trial, lambda trial: trial)
    backend.close()
    seconds["search, a trial"] = seconds["search"] / num_trials
    with timed(seconds, "taking up the finished search"):
        again = OptunaSearch(made)
        tried = [question.candidate.label for question in again.finished()]
        assert again.ask() is None
    again.close()
    assert len(set(tried)) == len(tried) == num_trials
    return seconds


# Stages.


def many_stages(run: Path, num_stages: int, out: Path) -> None:
    """A run folder with so many stages, made of a short run's records and models."""
    shutil.copytree(run, out)
    config = yaml.safe_load(RunFolder(run).config.read_text())
    config["data"]["stages"] = [256 * (stage + 1) for stage in range(num_stages)]
    RunFolder(out).config.write_text(yaml.safe_dump(config))
    for name in ("trials.jsonl", "stages.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        last = [line for line in lines if line["stage"] == 1]
        copies = [line | {"stage": stage} for stage in range(1, num_stages) for line in last]
        first = [line for line in lines if line["stage"] == 0]
        (out / name).write_text("".join(json.dumps(line) + "\n" for line in first + copies))
    for stage in range(2, num_stages):
        shutil.copytree(run / "stage_01", out / f"stage_{stage:02d}")


def stage_times(run: Path, num_stages: int, out: Path) -> dict[str, float]:
    """Seconds to read, report on and start again a run of so many stages."""
    many_stages(run, num_stages, out)
    seconds: dict[str, float] = {}
    with timed(seconds, "reading the records"):
        records = load_run(out)
    assert len(records.stages) == num_stages
    with timed(seconds, "report"):
        write_report([records], out / "report")
    config = load_config(RunFolder(out).config)
    with timed(seconds, "starting the finished run again"):
        run_stages(config, out)
    return seconds


# Shards.


def write_shards(folder: Path, count: int) -> None:
    """Shards of a few pictures; each shard has its own."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for pair in range(PAIRS_A_SHARD):
                picture = io.BytesIO()
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(picture, "PNG")
                key = f"{shard:05d}{pair:04d}"
                for suffix, data in (("png", picture.getvalue()), ("txt", b"noise")):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def shard_times(folder: Path, count: int) -> dict[str, float]:
    """Seconds to open so many shards, to open them again, and to read all their pairs."""
    config = WebdatasetConfig(stages=(count,), train=folder.name)
    seconds: dict[str, float] = {}
    with timed(seconds, "opening"):
        pairs = shard_pairs(config, folder.parent, "train", count)
    with timed(seconds, "opening again"):
        shard_pairs(config, folder.parent, "train", count)
    with timed(seconds, "an epoch"):
        read = sum(1 for _ in pairs.epoch(0))
    assert read == count * PAIRS_A_SHARD
    return seconds


# The tables.


def table(what: str, sizes: Sequence[int], measure: Callable[[int], dict[str, float]]) -> str:
    """Seconds by size; the last column is how often the first size's time the last one took."""
    rows = {size: measure(size) for size in sizes}
    first, last = sizes[0], sizes[-1]
    heads = [*(f"{size:,} {what}" for size in sizes), f"growth ({last / first:.1f} is linear)"]
    lines = [f"| CPU seconds | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name in rows[first]:
        values = [rows[size][name] for size in sizes]
        cells = [f"{value:.3f}" for value in values] + [f"{values[-1] / values[0]:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[125, 250, 500])
    parser.add_argument("--stages", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 300, 1000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    log_errors_only()
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def place() -> Path:
            return root / f"{next(numbers):02d}"

        def searched(count: int) -> dict[str, float]:
            folder = place()
            folder.mkdir()
            return search_times(count, folder)

        print(table("trials", options.trials, searched), "\n")
        run = root / "run"
        run_stages(load_config(SMOKE), run)
        print(table("stages", options.stages, lambda n: stage_times(run, n, place())), "\n")

        def opened(count: int) -> dict[str, float]:
            folder = place()
            write_shards(folder, count)
            return shard_times(folder, count)

        print(table("shards", options.shards, opened))


if __name__ == "__main__":
    main()

"""How fast does a child recover from growth, and does any operator or PIM setting beat another?

One parent is trained on the first half of a data set, grown twofold in width, depth and both by
every arm of ``recovery_arms.ARMS``, and each child is trained on the whole data set. Arms share the
parent, the schedule and, for each seed, the batches; each has its own best learning rate out of
three, chosen on seed 0 by the last validation loss.

Command: python -m benchmarks.recovery --data-set scenes --out DIR [--processes 2]
         python -m benchmarks.recovery --data-set fashion_pairs --data DATA --out DIR
         python -m benchmarks.recovery --out DIR --table

The first two take about an hour each on two cores; stopped, they go on when started again.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy import stats

from benchmarks.recovery_arms import (
    ARMS,
    DATA_SETS,
    GROWTHS,
    Arm,
    Encoded,
    child_arch,
    draw_batches,
    drop_unused_tokens,
    encode_data,
    parent_arch,
    start_arm,
    validation_loss,
)
from nas_growclip.data.encoding import PairBatch
from nas_growclip.io.logs import logger
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.records.lines import append_line, drop_torn_line
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.events import Event
from nas_growclip.training.events import at as at_moment
from nas_growclip.training.grow_state import ParentState
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.state import TrainConfig, TrainState, optimizer_tensors, start_training

RATES = (1e-3, 2e-3, 4e-3)
PARENT_RATE = 1e-3
PARENT_STEPS = 640
PARENT_EMA_DECAY = 0.98
BATCH_SIZE = 32
WARMUP_STEPS = 20
EARLY_STEPS = (0, 16, 32, 64, 96, 128)
SHOWN_STEPS = (0, 16, 64, 256)
"""Steps in the tables, before the last one."""

Curve = list[tuple[int, float]]
"""Validation losses by step."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run: what identifies it in ``runs.jsonl``."""

    data_set: str
    growth: str
    arm: str
    learning_rate: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs are kept, where data lie, and how long each run is: the same for all tasks."""

    out: Path
    data: Path | None
    steps: int


# Training.


def train_config(rate: float, ema_decay: float = 0.0) -> TrainConfig:
    return TrainConfig(
        batch_size=BATCH_SIZE, learning_rate=rate, warmup_steps=WARMUP_STEPS, ema_decay=ema_decay
    )


def training_flops(flops_per_pair: int, steps: int) -> int:
    """Forward and backward, three times the forward pass, for each pair seen."""
    return 3 * flops_per_pair * BATCH_SIZE * steps


def measured_steps(total: int) -> tuple[int, ...]:
    """Close together at first, then every 64 steps, so that curves can be interpolated."""
    late = range(192, total, 64)
    return (*(step for step in EARLY_STEPS if step < total), *late, total)


def train_measured(
    state: TrainState, data: Encoded, config: TrainConfig, steps: int, seed: int
) -> Curve:
    """Train to the end and measure on the way; a diverged run ends early, with what it has."""
    at = measured_steps(steps)
    curve = [(0, validation_loss(state.model, data.validation, BATCH_SIZE))]

    def measure(event: Event) -> None:
        assert event.state is not None
        state = event.state
        if state.step in at:
            curve.append((state.step, validation_loss(state.model, data.validation, BATCH_SIZE)))

    batches = draw_batches(data.train, BATCH_SIZE, seed)
    try:
        train(
            state,
            batches,
            config,
            total_steps=steps,
            until_step=steps,
            observer=at_moment("step", measure),
        )
    except DivergedError as error:
        logger.info(str(error))
    return [point for point in curve if math.isfinite(point[1])]


def run_task(task: Task, place: Place) -> str:
    """Grow and train one child; the line for ``runs.jsonl``."""
    started = time.perf_counter()
    data = load_data(task.data_set, place.data)
    config = train_config(task.learning_rate)
    arch = child_arch(task.data_set, task.growth)
    parent = load_parent(task.data_set, place.out)
    state = start_arm(ARMS[task.arm], parent, arch, config, task.seed, data)
    drop_unused_tokens(state, data.used_tokens)
    grown = time.perf_counter()
    curve = train_measured(state, data, config, place.steps, task.seed)
    seconds = {"grow": grown - started, "train": time.perf_counter() - grown}
    facts = {"steps": place.steps, "flops_per_pair": count_flops(arch), "curve": curve}
    return json.dumps(asdict(task) | facts | {"seconds": seconds, "commit": commit()})


@functools.cache
def load_data(data_set: str, folder: Path | None) -> Encoded:
    return encode_data(data_set, folder)


@functools.cache
def load_parent(data_set: str, out: Path) -> ParentState:
    config = train_config(PARENT_RATE, PARENT_EMA_DECAY)
    state = load_state(parent_file(out, data_set), config, torch.device("cpu"))
    return ParentState(state.model, optimizer_tensors(state), state.ema)


def parent_file(out: Path, data_set: str) -> Path:
    return out / "parent" / f"{data_set}.safetensors"


def train_parent(data_set: str, place: Place) -> None:
    """Train the parent on the first half of the pairs, unless it is there already."""
    path = parent_file(place.out, data_set)
    if path.with_suffix(".json").exists():
        return
    data = load_data(data_set, place.data)
    half = len(data.train.images) // 2
    first = PairBatch(data.train.images[:half], data.train.tokens[:half], ())
    config, arch = train_config(PARENT_RATE, PARENT_EMA_DECAY), parent_arch(data_set)
    state = start_training(Clip(arch, seed=0), config)
    logger.info(f"{data_set}: training the parent on {half} pairs")
    curve = train_measured(state, Encoded(first, data.validation), config, PARENT_STEPS, seed=0)
    save_state(state, path)
    facts = {
        "curve": curve,
        "flops_per_pair": count_flops(arch),
        "steps": PARENT_STEPS,
        "pairs": half,
        "validation_pairs": len(data.validation.images),
        "used_tokens": len(data.used_tokens),
        "commit": commit(),
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


# Many runs in a few processes.


def run_all(data_set: str, place: Place, options: argparse.Namespace) -> None:
    """Run what is missing: the three rates on seed 0, then the other seeds at the best rate."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    arms = [
        (growth, name)
        for growth in options.growths
        for name in options.arms
        if growth in ARMS[name].growths
    ]
    with ProcessPoolExecutor(
        options.processes, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        pool.submit(train_parent, data_set, place).result()
        _Schedule(pool, place, data_set, options.seeds).run(arms)


class _Schedule:
    """Hands out tasks so that no process waits while there is work."""

    def __init__(self, pool: Executor, place: Place, data_set: str, seeds: int) -> None:
        self.pool, self.place, self.data_set, self.seeds = pool, place, data_set, seeds
        self.runs = read_runs(place.out)
        check_steps(self.runs, place.steps)
        self.pending: set[Future[str]] = set()

    def run(self, arms: Sequence[tuple[str, str]]) -> None:
        started, before = time.perf_counter(), len(self.runs)
        waiting = set(arms)
        for growth, arm in arms:
            self.submit([self.task(growth, arm, rate, 0) for rate in RATES])
        while self.pending or waiting:
            for growth, arm in sorted(waiting):
                if self.is_searched(growth, arm):
                    rate = best_rate(self.runs, self.data_set, growth, arm)
                    seeds = range(1, self.seeds)
                    self.submit([self.task(growth, arm, rate, seed) for seed in seeds])
                    waiting.remove((growth, arm))
            self.collect()
            done, spent = len(self.runs) - before, time.perf_counter() - started
            logger.info(f"{self.data_set}: {done} runs done, {spent / max(1, done):.1f} s each")

    def task(self, growth: str, arm: str, rate: float, seed: int) -> Task:
        return Task(data_set=self.data_set, growth=growth, arm=arm, learning_rate=rate, seed=seed)

    def is_searched(self, growth: str, arm: str) -> bool:
        return all(self.task(growth, arm, rate, 0) in self.runs for rate in RATES)

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task not in self.runs:
                self.pending.add(self.pool.submit(run_task, task, self.place))

    def collect(self) -> None:
        done, self.pending = wait(self.pending, return_when=FIRST_COMPLETED)
        for future in done:
            line = future.result()
            append_line(self.place.out / "runs.jsonl", line)
            self.runs |= dict([parse_run(line)])


# Reading runs.


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found."""

    curve: Curve
    steps: int
    flops_per_pair: int
    commit: str

    @property
    def final(self) -> float:
        """Last loss; infinite if the run diverged."""
        step, loss = self.curve[-1] if self.curve else (0, math.inf)
        return loss if step == self.steps else math.inf

    def at(self, step: int) -> float:
        """Loss at a measured step; infinite if the run did not get there."""
        return dict(self.curve).get(step, math.inf)


Runs = dict[Task, Result]


def parse_run(line: str) -> tuple[Task, Result]:
    row = json.loads(line)
    task = Task(**{name: row[name] for name in Task.__dataclass_fields__})
    result = Result(**{name: row[name] for name in Result.__dataclass_fields__})
    return task, result


def read_runs(out: Path) -> Runs:
    path = out / "runs.jsonl"
    drop_torn_line(path)
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(parse_run(line) for line in lines)


def check_steps(runs: Runs, steps: int) -> None:
    held = {result.steps for result in runs.values()}
    if held - {steps}:
        sys.exit(f"--out holds runs of {held} steps, but --steps is {steps}. Choose another --out.")


def best_rate(runs: Runs, data_set: str, growth: str, arm: str) -> float:
    """The rate with the lowest last validation loss on seed 0."""
    losses = {
        task.learning_rate: result.final
        for task, result in runs.items()
        if (task.data_set, task.growth, task.arm, task.seed) == (data_set, growth, arm, 0)
    }
    return min(losses, key=lambda rate: losses[rate])


def arm_results(runs: Runs, data_set: str, growth: str, arm: str) -> dict[int, Result]:
    """The runs at the chosen rate, by seed; none if the arm has not been run."""
    mine = {
        task: result
        for task, result in runs.items()
        if (task.data_set, task.growth, task.arm) == (data_set, growth, arm)
    }
    if not any(task.seed == 0 for task in mine):
        return {}
    rate = best_rate(runs, data_set, growth, arm)
    found = {task.seed: result for task, result in mine.items() if task.learning_rate == rate}
    return dict(sorted(found.items()))


# Tables.


def shown_steps(total: int) -> tuple[int, ...]:
    return (*(step for step in SHOWN_STEPS if step < total), total)


def mean_curve(results: Sequence[Result]) -> Curve:
    steps = [step for step, _ in results[0].curve]
    return [(step, fmean(result.at(step) for result in results)) for step in steps]


def step_below(curve: Curve, target: float) -> float | None:
    """The step from which a curve stays at or below a target, interpolated; None if never.

    An exact child starts at its parent's loss, loses ground while its rate warms up, and comes
    back: what counts is when it is back for good.
    """
    target += 1e-4
    above = [index for index, (_, loss) in enumerate(curve) if loss > target]
    if not above:
        return 0.0
    if above[-1] == len(curve) - 1:
        return None
    (left, high), (right, low) = curve[above[-1]], curve[above[-1] + 1]
    if not math.isfinite(high):
        return float(right)
    return left + (right - left) * (high - target) / (high - low)


def paired_difference(arm: dict[int, Result], exact: dict[int, Result]) -> tuple[float, float]:
    """Mean difference of the last losses over seeds, and half its 95 % t interval."""
    gaps = [arm[seed].final - exact[seed].final for seed in arm if seed in exact]
    if len(gaps) < 2 or not all(map(math.isfinite, gaps)):
        return (fmean(gaps) if gaps else math.nan), math.nan
    half = stats.t.ppf(0.975, len(gaps) - 1) * stdev(gaps) / math.sqrt(len(gaps))
    return fmean(gaps), float(half)


def spread(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return "diverged"
    return f"{fmean(values):.3f} ± {stdev(values) if len(values) > 1 else math.nan:.3f}"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What FLOPs columns are measured against."""

    parent_loss: float
    scratch_loss: float
    parent_share: float
    """The parent's training FLOPs as a share of scratch's."""
    total_steps: int
    validation_pairs: int

    def cell(self, curve: Curve, target: float, arm: Arm) -> str:
        """Share of scratch's FLOPs at which a curve gets to a target, and with the parent's."""
        step = step_below(curve, target)
        if step is None or not math.isfinite(target):
            return "not reached"
        steps = step + arm.extra_steps(BATCH_SIZE, self.validation_pairs)
        share = steps / self.total_steps
        return f"{share:.2f} / {share + self.parent_share:.2f}" if arm.growth else f"{share:.2f}"


def read_parent(out: Path, data_set: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(parent_file(out, data_set).with_suffix(".json").read_text())
    return facts


def find_targets(runs: Runs, out: Path, data_set: str, growth: str) -> Targets:
    """Parent's and scratch's last losses; without scratch runs, its columns stay empty."""
    parent = read_parent(out, data_set)
    total_steps = next(iter(runs.values())).steps
    scratch = arm_results(runs, data_set, growth, "scratch").values()
    child_flops = training_flops(count_flops(child_arch(data_set, growth)), total_steps)
    return Targets(
        parent_loss=parent["curve"][-1][1],
        scratch_loss=fmean(result.final for result in scratch) if scratch else math.inf,
        parent_share=training_flops(parent["flops_per_pair"], parent["steps"]) / child_flops,
        total_steps=total_steps,
        validation_pairs=parent["validation_pairs"],
    )


def row_cells(
    name: str, rate: float, arm: dict[int, Result], exact: dict[int, Result], targets: Targets
) -> list[str]:
    """One arm's row."""
    results = list(arm.values())
    losses = [spread([r.at(step) for r in results]) for step in shown_steps(targets.total_steps)]
    curve = mean_curve(results)
    flops = [
        targets.cell(curve, target, ARMS[name])
        for target in (targets.parent_loss, targets.scratch_loss)
    ]
    gap, half = paired_difference(arm, exact)
    difference = "" if name == "exact" or not exact else f"{gap:+.3f} ± {half:.3f}"
    return [name, f"{rate:g}", *losses, difference, *flops]


def print_table(runs: Runs, out: Path, data_set: str, growth: str) -> None:
    """One growth: a row for each arm that has runs, then what follows from it."""
    targets = find_targets(runs, out, data_set, growth)
    found = {
        name: results for name in ARMS if (results := arm_results(runs, data_set, growth, name))
    }
    exact = found.get("exact", {})
    columns = ["arm", "rate", *(f"step {step}" for step in shown_steps(targets.total_steps))]
    columns += ["minus exact, last step", "regains parent", "reaches scratch"]
    print(f"\n### {data_set}, {growth}\n")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, results in found.items():
        rate = best_rate(runs, data_set, growth, name)
        print(f"| {' | '.join(row_cells(name, rate, results, exact, targets))} |")
    print(f"\n{size_note(data_set, growth, targets)}\n\n{verdict(found)}")


def size_note(data_set: str, growth: str, targets: Targets) -> str:
    """The child's size and what the FLOPs columns mean."""
    arch = child_arch(data_set, growth)
    return (
        f"Child: {size_text(arch)}. Parent's loss {targets.parent_loss:.3f}, scratch's last "
        f"{targets.scratch_loss:.3f}, chance {math.log(BATCH_SIZE):.3f}. The last two columns: "
        "training FLOPs after which the mean curve stays at or below the target, as a share of "
        f"scratch's whole training, without / with the parent's ({targets.parent_share:.2f}); "
        "what ligo and budgeted compute to make the child counts. "
        "FLOPs are fvcore's (a multiply-add is one), three times the forward pass for each pair "
        "seen. Losses are mean ± sd over seeds; differences are paired by seed, ± half the 95 % t "
        "interval. Seed 0 also chose the rate."
    )


def size_text(arch: ClipArch) -> str:
    image, text = arch.image, arch.text
    return (
        f"image {image.depth} x {image.width} (MLP {image.mlp_width}, {image.image_size} px, "
        f"patch {image.patch_size}), text {text.depth} x {text.width} (MLP {text.mlp_width}, "
        f"{text.context_length} tokens), {count_flops(arch) / 1e6:.2f} M FLOPs a pair"
    )


def verdict(found: dict[str, dict[int, Result]]) -> str:
    """Which arms differ from exact inheriting by more than their interval."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for name, results in found.items():
        gap, half = paired_difference(results, found.get("exact", {}))
        if name == "exact":
            continue
        beyond = abs(gap) > half or math.isinf(gap)
        side = "no difference shown" if not beyond else "better" if gap < 0 else "worse"
        groups[side].append(name)
    listed = "; ".join(f"{side}: {', '.join(names) or 'none'}" for side, names in groups.items())
    return f"Against `exact` at the last step: {listed}. (Intervals stand alone, uncorrected.)"


def print_tables(out: Path) -> None:
    """Every data set and growth that has runs."""
    runs = read_runs(out)
    for data_set in (name for name in DATA_SETS if any(t.data_set == name for t in runs)):
        print(f"\n## {data_set}\n\n{heading(runs, out, data_set)}")
        for growth in GROWTHS:
            if any((t.data_set, t.growth) == (data_set, growth) for t in runs):
                print_table(runs, out, data_set, growth)


def heading(runs: Runs, out: Path, data_set: str) -> str:
    """What was run on what, by which code, from which parent."""
    parent = read_parent(out, data_set)
    mine = {task: result for task, result in runs.items() if task.data_set == data_set}
    commits = ", ".join(sorted({result.commit for result in mine.values()}))
    seeds = sorted({task.seed for task in mine})
    curve = ", ".join(f"{loss:.3f} at {step}" for step, loss in parent["curve"])
    return (
        f"`python -m benchmarks.recovery --data-set {data_set}` at commit {commits}, seeds "
        f"{seeds}; {next(iter(mine.values())).steps} steps of {BATCH_SIZE} pairs out of "
        f"{2 * parent['pairs']}, {parent['validation_pairs']} validation pairs; rates "
        f"{', '.join(f'{rate:g}' for rate in RATES)}, {WARMUP_STEPS} steps of warm-up; "
        f"{rate_counts(mine)}.\n\nParent: {size_text(parent_arch(data_set))}; trained for "
        f"{parent['steps']} steps at {PARENT_RATE:g} on the first {parent['pairs']} pairs. Its "
        f"validation loss: {curve}; chance is ln {BATCH_SIZE} = {math.log(BATCH_SIZE):.3f}."
    )


def rate_counts(runs: Runs) -> str:
    """How often each rate was the best, which shows whether the three were well chosen."""
    arms = {(task.data_set, task.growth, task.arm) for task in runs if task.seed == 0}
    best = Counter(best_rate(runs, *arm) for arm in arms)
    return "chosen " + ", ".join(f"{rate:g} by {best[rate]}" for rate in RATES) + " arms"


# The command line.


@functools.cache
def commit() -> str:
    """The commit's short name, marked when the tree holds changes."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of names behind commas."""
    known = list(known)

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {unknown}; known: {', '.join(known)}")
        return names

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-set", choices=DATA_SETS)
    parser.add_argument("--data", type=Path, help="folder of the packs; scenes need none")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=384)
    parser.add_argument("--arms", type=names_of(ARMS), default=list(ARMS))
    parser.add_argument("--growths", type=names_of(GROWTHS), default=list(GROWTHS))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    if not options.table:
        if options.data_set is None:
            parser.error("--data-set is needed to train")
        place = Place(out=options.out, data=options.data, steps=options.steps)
        run_all(options.data_set, place, options)
    print_tables(options.out)


if __name__ == "__main__":
    main()

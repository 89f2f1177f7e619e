"""Which fixed size is best at which budget: where do the curves of fixed sizes cross?

Each size trains once at a constant rate, and at 1/128, 1/64, ... and all of the training FLOPs a
copy is cooled down over a fifth of its steps: so one training gives a delivered model at every
budget. Every size has its own rate: of a grid of factors of two, that with the lowest validation
loss at 1/16 of the budget, in the mean of two seeds that are not reported. All on the same rendered
scenes. One JSON line a model; what is recorded is not trained again.

Command: python -m benchmarks.size_map --out FILE [--seeds 0 1] [--flops 4e12] [--pairs 64000]
or, several processes at once: ... --processes 2   on a GPU: ... --device cuda --processes 16

Some six hours of one core; the same command goes on.
"""

import argparse
import copy
import functools
import itertools
import json
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.rate_transfer import RATES, arch_of, best_rate
from benchmarks.search_oracle import BATCH, TRAIN, Training, loss_on, steps_for, train_to
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.io.logs import logger
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.records.lines import append_line
from nas_growclip.training.loop import DivergedError
from nas_growclip.training.schedule import trunk_steps
from nas_growclip.training.state import start_training

SHARES = tuple(2.0**-k for k in range(7, -1, -1))
TUNING_SHARE = 1 / 16
TUNING_SEEDS = (1000, 1001)


@dataclass(frozen=True)
class Size:
    """Both towers' width, blocks and heads, and the patch in pixels; one shared block."""

    width: int
    depth: int = 1
    patch: int = 8
    head_dim: int = 0
    """0: 16, or one head of the whole width where that does not fit."""

    @property
    def arch(self) -> ClipArch:
        """The architecture of these sizes."""
        return arch_of(self.width, self.depth, self.patch, self.head_dim)

    def __str__(self) -> str:
        heads = f", heads of {self.head_dim}" if self.head_dim else ""
        return f"{self.width} wide, {self.depth} deep, patch {self.patch}{heads}"


SIZES = (
    *(Size(width) for width in (12, 16, 24, 32, 48, 64)),
    *(Size(width, depth=depth) for width, depth in itertools.product((16, 32), (2, 4))),
    *(Size(width, patch=patch) for width, patch in itertools.product((16, 32), (16, 4))),
    *(Size(width, head_dim=4) for width in (12, 16, 24, 36, 48)),
)
"""Widths, then depths and patches at two of them, and widths with many small heads."""


@dataclass(frozen=True)
class Delivered:
    """A size's model at the end of a budget."""

    size: Size
    seed: int
    rate: float
    flops: float
    """Training FLOPs, its cool-down included."""
    loss: float
    """On ``validation``."""
    i2t_recall: float = 0.0
    zero_shot: float = 0.0
    device: str = "cpu"

    @property
    def key(self) -> tuple[Size, int, float, float]:
        """What is trained once."""
        return self.size, self.seed, self.rate, self.flops


class Task(NamedTuple):
    """One training."""

    size: Size
    seed: int
    rate: float
    budgets: Sequence[float]
    pairs: int
    device: str
    out: Path

    @property
    def left(self) -> list[float]:
        """Budgets that are not recorded."""
        done = {d.key for d in read(self.out)}
        return [b for b in self.budgets if (self.size, self.seed, self.rate, b) not in done]


def run(task: Task) -> None:
    """Train a size, and cool a copy down for each budget that is not recorded.

    A loss that diverges is infinite.
    """
    left = task.left
    if not left:
        return
    torch.set_num_threads(1)
    data = _data(task.pairs)
    training = Training(data, task.seed, replace(TRAIN, learning_rate=task.rate, precision="fp32"))
    model = Clip(task.size.arch, seed=task.seed).to(task.device)
    state = start_training(model, training.config)
    last = steps_for(task.budgets[-1], task.size.arch)
    found = Delivered(task.size, task.seed, task.rate, 0.0, float("inf"), device=task.device)
    for flops in left:
        found = replace(found, flops=flops)
        end = steps_for(flops, task.size.arch)
        try:
            train_to(state, training, 2 * last, trunk_steps(end, training.config))
            branch = copy.deepcopy(state)
            train_to(branch, training, end, end)
        except DivergedError:
            append_line(task.out, json.dumps(asdict(found)))
            return
        found = replace(found, loss=loss_on(branch.model, data.validation))
        if task.seed not in TUNING_SEEDS:
            names = ("retrieval", "zero_shot")
            values = evaluate(branch.model, data.test, data.zero_shot, names, BATCH)
            found = replace(
                found,
                i2t_recall=values["i2t_recall@1"].value,
                zero_shot=values["zero_shot_top1"].value,
            )
        append_line(task.out, json.dumps(asdict(found)))
        logger.info(f"{task.size}, seed {task.seed}, {flops / 1e12:g} T: {found.loss:.3f}")


@functools.cache
def _data(pairs: int) -> DataStage:
    config = ScenesConfig(
        stages=(pairs,),
        zero_shot=("scenes", "digits"),
        validation_pairs=2048,
        test_pairs=2048,
        in_memory=True,
    )
    (data,) = open_stages(config, None)
    return data


def tune(first: Task) -> None:
    """Try rates until one is no worse than both beside it, in the mean of the seeds for tuning."""

    def loss(place: int) -> float:
        tasks = [first._replace(seed=seed, rate=RATES[place]) for seed in TUNING_SEEDS]
        for task in tasks:
            run(task)
        found = {d.key: d.loss for d in read(first.out)}
        return statistics.mean(found[t.size, t.seed, t.rate, t.budgets[0]] for t in tasks)

    best_rate(RATES.index(4e-3), loss)


def read(path: Path) -> list[Delivered]:
    """Every model that was recorded."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines)
    return [Delivered(**{**fields, "size": Size(**fields["size"])}) for fields in found]


def tuned_rates(found: Sequence[Delivered]) -> Mapping[Size, float]:
    """Each size's own rate, of what was recorded for tuning."""
    losses: dict[Size, dict[float, list[float]]] = {}
    for d in found:
        if d.seed in TUNING_SEEDS:
            losses.setdefault(d.size, {}).setdefault(d.rate, []).append(d.loss)
    return {
        size: min(tried, key=lambda rate: statistics.mean(tried[rate]))
        for size, tried in losses.items()
    }


def reported(found: Sequence[Delivered], metric: str) -> Mapping[tuple[Size, float], list[float]]:
    """A metric of every seed by size and budget, each size at its own rate."""
    rates, values = tuned_rates(found), dict[tuple[Size, float], list[float]]()
    for d in found:
        if d.seed not in TUNING_SEEDS and d.rate == rates[d.size]:
            values.setdefault((d.size, d.flops), []).append(getattr(d, metric))
    return values


def tables(found: Sequence[Delivered]) -> str:
    """A table for each metric."""
    parts = (f"{m}\n\n{table(found, m)}" for m in ("zero_shot", "i2t_recall", "loss"))
    return "\n\n".join([*parts, "FLOPs are fvcore FLOPs: one multiply-add is one."])


def table(found: Sequence[Delivered], metric: str) -> str:
    """Means over seeds, a row a size and a column a budget; the best of a column in bold."""
    values = reported(found, metric)
    budgets = sorted({flops for _, flops in values})
    best_of = min if metric == "loss" else max
    means = {key: statistics.mean(seeds) for key, seeds in values.items()}
    best = {b: best_of(mean for (_, flops), mean in means.items() if flops == b) for b in budgets}
    lines = [
        f"| size | FLOPs a pair | rate | {' | '.join(f'{b / 1e12:g} T' for b in budgets)} |",
        "|---" * (3 + len(budgets)) + "|",
    ]
    rates, measured = tuned_rates(found), {size for size, _ in values}
    for size in (size for size in SIZES if size in measured):
        cells = [_cell(means.get((size, b)), metric, best[b]) for b in budgets]
        flops = f"{count_flops(size.arch) / 1e6:.2f} M"
        lines.append(f"| {size} | {flops} | {rates[size]:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, metric: str, best: float) -> str:
    if value is None:
        return ""
    shown = f"{value:.3f}" if metric == "loss" else f"{100 * value:.1f}"
    return f"**{shown}**" if value == best else shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--flops", type=float, default=4e12)
    parser.add_argument("--pairs", type=int, default=64_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    budgets = [share * options.flops for share in SHARES]
    shared = (options.pairs, options.device, options.out)
    tuning = [Task(size, 0, 0.0, [TUNING_SHARE * options.flops], *shared) for size in SIZES]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        list(pool.map(tune, tuning))
        rates = tuned_rates(read(options.out))
        tasks = [
            Task(size, seed, rates[size], budgets, *shared)
            for seed, size in itertools.product(options.seeds, SIZES)
        ]
        list(pool.map(run, tasks))
    print(tables(read(options.out)))


if __name__ == "__main__":
    main()

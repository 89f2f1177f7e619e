"""Which fixed size is best at which budget: where do the curves of fixed sizes cross?

Each size trains once at a constant rate, and at 1/16, 1/8, 1/4, 1/2 and all of the training FLOPs a
copy is cooled down over a fifth of its steps: so one training gives a delivered model at every
budget. Every size has its own rate: of a grid of factors of two, that with the lowest validation
loss at 1/16 of the budget on a seed that is not reported. All on the same rendered scenes. One JSON
line a model; what is recorded is not trained again.

Command: python -m benchmarks.size_map --out FILE [--seeds 0 1] [--flops 4e12] [--pairs 64000]
or, in two processes at once: ... --part 0 2   and   ... --part 1 2

Some six hours of one core; the same command goes on.
"""

import argparse
import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
TUNING_SEED = 1000


@dataclass(frozen=True)
class Size:
    """Both towers' width and blocks, and the patch in pixels; one shared block."""

    width: int
    depth: int = 1
    patch: int = 8

    @property
    def arch(self) -> ClipArch:
        """The architecture of these sizes."""
        return arch_of(self.width, self.depth, self.patch)

    def __str__(self) -> str:
        return f"{self.width} wide, {self.depth} deep, patch {self.patch}"


SIZES = (
    *(Size(width) for width in (12, 16, 24, 32, 48, 64)),
    *(Size(width, depth=depth) for width, depth in itertools.product((16, 32), (2, 4))),
    *(Size(width, patch=patch) for width, patch in itertools.product((16, 32), (16, 4))),
)
"""Widths, then depths and patches at two of them."""


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


def deliveries(
    size: Size, data: DataStage, seed: int, rate: float, budgets: Sequence[float], *, whole: bool
) -> Iterator[Delivered]:
    """Train a size, and cool a copy down for each budget; a loss that diverges is infinite."""
    training = Training(data, seed, replace(TRAIN, learning_rate=rate))
    state = start_training(Clip(size.arch, seed=seed), training.config)
    last = steps_for(budgets[-1], size.arch)
    for flops in budgets:
        end = steps_for(flops, size.arch)
        try:
            train_to(state, training, 2 * last, trunk_steps(end, training.config))
            branch = copy.deepcopy(state)
            train_to(branch, training, end, end)
        except DivergedError:
            yield Delivered(size, seed, rate, flops, float("inf"))
            return
        found = Delivered(size, seed, rate, flops, loss_on(branch.model, data.validation))
        if whole:
            names = ("retrieval", "zero_shot")
            values = evaluate(branch.model, data.test, data.zero_shot, names, BATCH)
            found = replace(
                found,
                i2t_recall=values["i2t_recall@1"].value,
                zero_shot=values["zero_shot_top1"].value,
            )
        yield found


def own_rate(size: Size, data: DataStage, budget: float, out: Path) -> float:
    """The rate of a size: no worse than both beside it at the smallest budget."""
    known = {d.rate: d.loss for d in read(out) if d.size == size and d.seed == TUNING_SEED}

    def loss(place: int) -> float:
        rate = RATES[place]
        if rate not in known:
            (found,) = deliveries(size, data, TUNING_SEED, rate, [budget], whole=False)
            append_line(out, json.dumps(asdict(found)))
            known[rate] = found.loss
        return known[rate]

    return RATES[best_rate(RATES.index(4e-3), loss)]


def read(path: Path) -> list[Delivered]:
    """Every model that was recorded."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines)
    return [Delivered(**{**fields, "size": Size(**fields["size"])}) for fields in found]


def table(found: Sequence[Delivered], metric: str) -> str:
    """Means over seeds, a row a size and a column a budget; the best of a column in bold."""
    reported = [d for d in found if d.seed != TUNING_SEED]
    budgets = sorted({d.flops for d in reported})
    sign = -1 if metric == "loss" else 1
    means = {
        (d.size, d.flops): _mean(
            [getattr(e, metric) for e in reported if (e.size, e.flops) == (d.size, d.flops)]
        )
        for d in reported
    }
    best = {b: max(sign * v for (_, flops), v in means.items() if flops == b) for b in budgets}
    lines = [
        f"| size | FLOPs a pair | rate | {' | '.join(f'{b / 1e12:g} T' for b in budgets)} |",
        "|---" * (3 + len(budgets)) + "|",
    ]
    for size in dict.fromkeys(d.size for d in reported):
        rate = next(d.rate for d in reported if d.size == size)
        cells = [
            _cell(value, metric, is_best=sign * value == best[b])
            for b in budgets
            if (value := means.get((size, b))) is not None
        ]
        flops = f"{count_flops(size.arch) / 1e6:.2f} M"
        lines.append(f"| {size} | {flops} | {rate:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(value: float, metric: str, *, is_best: bool) -> str:
    shown = f"{value:.3f}" if metric == "loss" else f"{100 * value:.1f}"
    return f"**{shown}**" if is_best else shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--flops", type=float, default=4e12)
    parser.add_argument("--pairs", type=int, default=64_000)
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="sizes I, I + N, ..."
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    (data,) = open_stages(
        ScenesConfig(
            stages=(options.pairs,),
            zero_shot=("scenes", "digits"),
            validation_pairs=2048,
            test_pairs=2048,
        ),
        None,
    )
    budgets = [share * options.flops for share in SHARES]
    first, processes = options.part
    for seed, size in itertools.product(options.seeds, SIZES[first::processes]):
        if any((d.size, d.seed, d.flops) == (size, seed, budgets[-1]) for d in read(options.out)):
            continue
        rate = own_rate(size, data, budgets[0], options.out)
        for found in list(deliveries(size, data, seed, rate, budgets, whole=True)):
            append_line(options.out, json.dumps(asdict(found)))
            logger.info(f"{size}, seed {seed}, {found.flops / 1e12:g} T: {found.loss:.3f}")
    for metric in ("zero_shot", "i2t_recall", "loss"):
        print(f"\n{metric}\n\n{table(read(options.out), metric)}")
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one.")


if __name__ == "__main__":
    main()

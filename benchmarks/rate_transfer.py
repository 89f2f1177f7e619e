"""Which learning rate is best at which width, with all parameters alike and by the width rule?

Models of several widths and depths train on rendered scenes for the same number of steps, at rates
of a grid of factors of two and with several seeds: at the best rate of the model before it, at the
two beside that, and on in the direction of the lowest mean loss on validation pairs until both
neighbours of the best were tried. With ``train.rate_rule: width`` the base is the narrowest model,
for which both rules are the same. Every finished run is a line in a file: the command resumes.

Command: python -m benchmarks.rate_transfer --out FILE [--widths 16 32 64 128] [--depths 1 4]
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nas_growclip.data.batches import training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.rates import base_sizes
from nas_growclip.training.state import TrainConfig, start_training

RATES: tuple[float, ...] = tuple(2e-3 * 2**k for k in range(-4, 6))
FIRST = RATES.index(8e-3)
BATCH, WARMUP = 64, 50
NUM_PAIRS, NUM_VALIDATION = 16_000, 1024


@dataclass(frozen=True)
class Task:
    """One training."""

    rule: str
    depth: int
    width: int
    rate: float
    seed: int
    steps: int


def arch_of(width: int, depth: int, patch_size: int = 8, head_dim: int = 0) -> ClipArch:
    """All widths alike, MLPs four times as wide; if not given, heads of 16 where they fit."""
    head_dim = head_dim or (16 if width % 16 == 0 else width)
    sizes: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "mlp_width": 4 * width,
        "head_dim": head_dim,
    }
    return ClipArch(
        image=ImageArch(patch_size=patch_size, image_size=32, **sizes),
        text=TextArch(context_length=32, **sizes),
        shared=SharedArch(depth=1, mlp_width=4 * width, head_dim=head_dim),
        embed_dim=width,
    )


def run(task: Task, data: DataStage, base_width: int) -> float:
    """The loss on validation pairs, in nats, after the last step; infinite if it diverged."""
    arch = arch_of(task.width, task.depth)
    base = base_sizes(arch_of(base_width, task.depth), {}) if task.rule == "width" else {}
    config = TrainConfig(
        batch_size=BATCH,
        warmup_steps=WARMUP,
        learning_rate=task.rate,
        rate_rule="width" if base else "none",
        rate_base=base,
    )
    state = start_training(Clip(arch, seed=task.seed), config)
    encoder = PairEncoder(arch.image, state.model.tokenize)
    batches = training_batches(data.train, encoder, BATCH, seed=task.seed)
    try:
        train(state, batches, config, total_steps=task.steps, until_step=task.steps)
    except DivergedError:
        return float("inf")
    return evaluate(state.model, data.validation, (), ("loss",), BATCH)["loss"].value


Cell = tuple[str, int, int]
"""A rule, a depth and a width: what has one best rate."""


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Narrow ones first; the narrowest is the same by both rules."""
    for depth, width in itertools.product(options.depths, options.widths):
        for rule in ("none", "width") if width > min(options.widths) else ("both",):
            yield rule, depth, width


def best_rate(first: int, mean_loss: Callable[[int], float]) -> int:
    """The number of a rate in the grid that is no worse than both beside it."""
    best, tried = first, dict[int, float]()
    while True:
        near = [k for k in (best - 1, best, best + 1) if 0 <= k < len(RATES)]
        tried |= {k: mean_loss(k) for k in near if k not in tried}
        lowest = min(near, key=tried.__getitem__)
        if tried[lowest] == tried[best]:
            return best
        best = lowest


def table(found: dict[Task, float], options: argparse.Namespace) -> str:
    """Mean losses over the seeds that are there; the best of a row in bold."""
    tried = sorted({task.rate for task in found})
    lines = [
        f"| depth | width | FLOPs a pair | rule | {' | '.join(f'{rate:g}' for rate in tried)} |",
        "|---" * (4 + len(tried)) + "|",
    ]
    for rule, depth, width in cells(options):
        means = [_mean(found, (rule, depth, width, rate)) for rate in tried]
        known = [mean for mean in means if mean is not None]
        if known:
            shown = [_cell(mean, mean == min(known)) for mean in means]
            flops = f"{count_flops(arch_of(width, depth)) / 1e6:.2f} M"
            lines.append(f"| {depth} | {width} | {flops} | {rule} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _mean(found: dict[Task, float], key: tuple[str, int, int, float]) -> float | None:
    losses = [loss for t, loss in found.items() if (t.rule, t.depth, t.width, t.rate) == key]
    return statistics.mean(losses) if losses else None


def _cell(mean: float | None, is_best: bool) -> str:
    shown = "" if mean is None else f"{mean:.3f}"
    return f"**{shown}**" if is_best else shown


def read(path: Path) -> dict[Task, float]:
    """Finished runs."""
    lines: Sequence[str] = path.read_text().splitlines() if path.exists() else ()
    records = [json.loads(line) for line in lines]
    return {Task(**record["task"]): float(record["loss"]) for record in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ScenesConfig(
        stages=(NUM_PAIRS,), validation_pairs=NUM_VALIDATION, test_pairs=8, zero_shot=()
    )
    (data,) = open_stages(config, None)
    found = read(options.out)

    def mean_loss(cell: Cell, k: int) -> float:
        for seed in range(options.seeds):
            task = Task(*cell, RATES[k], seed, options.steps)
            if task not in found:
                found[task] = run(task, data, min(options.widths))
                with options.out.open("a") as file:
                    file.write(json.dumps({"task": asdict(task), "loss": found[task]}) + "\n")
        mean = _mean(found, (*cell, RATES[k]))
        assert mean is not None
        return mean

    best: dict[tuple[str, int], int] = {}
    for cell in cells(options):
        rule, depth, _ = cell
        first = best.get((rule, depth), best.get(("both", depth), FIRST))
        best[rule, depth] = best_rate(first, partial(mean_loss, cell))
    print(f"{options.steps} steps of {BATCH} pairs, loss on validation pairs in nats\n")
    print(table(found, options))
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one; one pair, forward.")


if __name__ == "__main__":
    main()

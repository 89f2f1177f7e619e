"""Does the policy choose the size that the data supports?

Four sizes, three data sizes. *Fixed*: every size trained from the start on each amount of data,
for the FLOPs of the stage and its parent together. *Policy*: from the smallest size, trained on
the first 1,000 pairs, the search may grow into any of the other three, or not; every candidate is
trained to the end as well, so that the choice can be judged.

Command: python -m benchmarks.search_sizes --out runs/sizes [--seeds 0] [--threads 1]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.search_oracle import (
    BATCH,
    DATA,
    PAIRS,
    PARENT,
    PARENT_PASSES,
    PASSES,
    TRAIN,
    Outcome,
    batches_for,
    candidates,
    loss_on,
    read_outcomes,
    run_outcome,
    trained_parent,
)
from benchmarks.search_policy import final_loss, scored, shortened, whole_stages
from nas_growclip.data.pairs import FirstPairs
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.io.logs import logger
from nas_growclip.io.mappings import to_mapping
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD, Trial
from nas_growclip.records.lines import append_line
from nas_growclip.search.objective import OBJECTIVES
from nas_growclip.training.loop import train
from nas_growclip.training.state import start_training

SIZES = (
    {},
    {"image.depth": 4, "image.mlp_width": 128},
    {"image.width": 64, "image.mlp_width": 128, "image.depth": 4, "shared.depth": 2},
    {
        "image.width": 64,
        "image.mlp_width": 256,
        "image.depth": 4,
        "text.width": 64,
        "text.mlp_width": 128,
        "shared.mlp_width": 128,
        "shared.depth": 2,
        "embed_dim": 64,
    },
)
"""From the oracle's parent to about five times its FLOPs."""


def fixed_outcome(arch: ClipArch, number: int, data: DataStage, seed: int) -> Outcome:
    """One size trained from the start, for the FLOPs of the stage and of its parent."""
    budget = count_flops(PARENT) * (PASSES * data.num_pairs + PARENT_PASSES * PAIRS[0])
    total = int(budget / count_flops(arch) / BATCH)
    state = start_training(Clip(arch, seed=seed), TRAIN)
    batches = batches_for(state.model, data, seed)
    train(state, batches, TRAIN, total_steps=total, until_step=total)
    validation = loss_on(state.model, data.validation)
    return Outcome(
        seed=seed,
        num_pairs=data.num_pairs,
        total_steps=total,
        test=evaluate(state.model, data.test, (), ("loss",), BATCH),
        train_loss=loss_on(state.model, FirstPairs(data.train, 512)),
        trial=Trial(
            stage=0,
            number=number,
            candidate=candidates(PARENT, SIZES)[number],
            arch=arch,
            flops=count_flops(arch),
            params=count_params(arch),
            state="complete",
            metrics={"loss": validation},
            train_flops=TRAIN_FLOPS_PER_FORWARD * count_flops(arch) * total * BATCH,
            stage_pairs=total * BATCH,
        ),
    )


def collect(out: Path, seed: int) -> None:
    """Train whatever the records of one seed lack."""
    stages = open_stages(DATA, None)
    parent: Clip | None = None
    for data in stages:
        for number, candidate in enumerate(candidates(PARENT, SIZES)):
            for kind in ("grown", "fixed"):
                path = out / f"{kind}.jsonl"
                done = {(o.seed, o.num_pairs, o.trial.number) for o in read_outcomes(path)}
                if (seed, data.num_pairs, number) in done:
                    continue
                if kind == "grown":
                    parent = parent or trained_parent(PARENT, stages[0], seed)
                    outcome = run_outcome(parent, data, number, candidate, seed)
                else:
                    outcome = fixed_outcome(candidate.apply(PARENT), number, data, seed)
                append_line(path, json.dumps(to_mapping(outcome)))
                label = candidate.label[:40]
                logger.info(f"{kind}, {data.num_pairs} pairs, {label}: {final_loss(outcome):.4f}")


def report(out: Path, share: float = 0.05) -> None:
    """One row for each data size: the final losses, and what the policy chooses."""
    fixed = read_outcomes(out / "fixed.jsonl")
    stages = whole_stages(read_outcomes(out / "grown.jsonl"))
    flops = [count_flops(c.apply(PARENT)) for c in candidates(PARENT, SIZES)]
    names = [f"{value / 1e6:.2f} M" for value in flops]
    print("| pairs | kind | " + " | ".join(names) + " | best | policy chooses (by seed) |")
    print("|---|---|" + "---|" * (len(names) + 2))
    for pairs in PAIRS:
        of_pairs = [stage for stage in stages if stage.data.num_pairs == pairs]
        if not of_pairs:
            continue
        chosen = []
        for stage in of_pairs:
            trials = [shortened(o, share * o.total_steps * BATCH) for o in stage.outcomes]
            name = "data_size_aware"
            chosen.append(names[OBJECTIVES[name].choose(scored(name, trials, stage)).number])
        rows = {
            "from the start": [
                float(
                    np.mean(
                        [
                            final_loss(o)
                            for o in fixed
                            if o.num_pairs == pairs and o.trial.number == n
                        ]
                    )
                )
                for n in range(len(names))
            ],
            "grown": list(of_pairs[0].final),
        }
        for kind, losses in rows.items():
            cells = " | ".join(f"{loss:.3f}" for loss in losses)
            choice = ", ".join(chosen) if kind == "grown" else ""
            best = names[int(np.argmin(losses))]
            print(f"| {pairs} | {kind} | {cells} | {best} | {choice} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        collect(options.out, seed)
    report(options.out)
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one; of one pair, forward.")


if __name__ == "__main__":
    main()

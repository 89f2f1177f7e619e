"""How steeply the loss falls along a candidate's new entries, before any training.

For every candidate of ``benchmarks.search_oracle`` the parent is grown and the squared norm of the
loss's gradient at the new entries is measured, a mean over batches (as GradMax scores new neurons:
Evci et al., 2022, arXiv 2201.05125). New entries are those that have no moments after growing. The
score knows nothing of how long a stage is, so one measurement serves every data size.

Command: python -m benchmarks.search_gradients --out FILE [--seeds 0 1 2]
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.search_oracle import (
    BATCH,
    GROWTH,
    GROWTHS,
    PARENT,
    TRAIN,
    candidate_of,
    oracle_stages,
    trained_parent,
)
from nas_growclip.data.batches import training_batches
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.stages import DataStage
from nas_growclip.models.losses import ContrastiveLoss
from nas_growclip.training.grow_state import ParentState, grow_training

NUM_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class GradientScore:
    """The score of one candidate."""

    seed: int
    number: int
    """The candidate's, in ``GROWTHS``."""
    squared_norm: float
    """Of the mean gradient at the new entries; 0 for no growth."""
    seconds: float


def gradient_score(parent: ParentState, data: DataStage, number: int, seed: int) -> GradientScore:
    """Grow one candidate and differentiate the loss of a few batches."""
    started = time.monotonic()
    arch = candidate_of(GROWTHS[number]).apply(PARENT)
    state = grow_training(parent, arch, GROWTH, TRAIN, seed)
    encoder = PairEncoder(arch.image, state.model.tokenize)
    batches = training_batches(data.train, encoder, BATCH, seed=seed)
    loss_of = ContrastiveLoss(has_bias=False)
    for _, batch in zip(range(NUM_BATCHES), batches, strict=False):
        loss = loss_of(*state.model(batch.images, batch.tokens))
        (loss / NUM_BATCHES).backward()
    total = 0.0
    for parameter in state.model.parameters():
        moments = state.optimizer.state[parameter]
        if parameter.grad is not None and number:
            is_new = moments["exp_avg_sq"] == 0 if moments else torch.ones_like(parameter) > 0
            total += float(parameter.grad[is_new].square().sum())
    return GradientScore(
        seed=seed,
        number=number,
        squared_norm=total,
        seconds=round(time.monotonic() - started, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, second, *_ = oracle_stages()
    with options.out.open("w", encoding="utf-8") as lines:
        for seed in options.seeds:
            parent = trained_parent(first, seed)
            for number in range(len(GROWTHS)):
                score = gradient_score(parent, second, number, seed)
                lines.write(json.dumps(asdict(score)) + "\n")


if __name__ == "__main__":
    main()

"""Every candidate of a stage trained to the stage's full budget: what a search can be judged by.

From one parent a seed, trained on the first 1,000 scenes, the data grows to 1,000 (nothing new),
4,000 and 12,000 pairs. At each size every candidate is grown and trained for the whole of the
stage's FLOPs, with its validation loss measured densely on the way, so that any proxy, objective
and search can be replayed from the records without training. One JSON line a training run; a line
that is there already is not trained again.

Command: python -m benchmarks.search_oracle --out runs/oracle [--seeds 0 1 2] [--threads 1]
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas_growclip.data.batches import training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.pairs import FirstPairs, ImageTextPairs
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.metrics import contrastive_loss, evaluate
from nas_growclip.growth.candidates import Candidate, GrowthStep
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.io.logs import logger
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD, Measure, Trial
from nas_growclip.records.lines import append_line
from nas_growclip.training.events import Event
from nas_growclip.training.events import at as at_moment
from nas_growclip.training.grow_state import ParentState, grow_training
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training

PAIRS = (1000, 4000, 12000)
PASSES = 10.0
PARENT_PASSES = 20
BATCH = 32
EARLY_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DATA = ScenesConfig(stages=PAIRS, zero_shot=("scenes",), validation_pairs=512)
TRAIN = TrainConfig(batch_size=BATCH, warmup_steps=15)
PARENT = ClipArch.preset("tiny").with_sizes(
    {
        "image.width": 32,
        "image.mlp_width": 64,
        "text.width": 32,
        "text.mlp_width": 64,
        "shared.mlp_width": 64,
        "embed_dim": 32,
    }
)
GROWTHS: tuple[Mapping[str, int], ...] = (
    {},
    {"image.depth": 4},
    {"image.width": 64},
    {"image.mlp_width": 256},
    {"text.depth": 4},
    {"text.width": 64},
    {"text.mlp_width": 256},
    {"shared.depth": 2},
    {"shared.mlp_width": 256},
    {"embed_dim": 64},
    {"image.depth": 4, "text.depth": 4, "shared.depth": 2},
    {
        "image.width": 64,
        "image.mlp_width": 128,
        "text.width": 64,
        "text.mlp_width": 128,
        "shared.mlp_width": 128,
        "embed_dim": 64,
    },
)
"""The candidates: no growth, each dimension, and the two policies of habit: depth, and all x 2."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One candidate, trained to the end of the stage."""

    seed: int
    num_pairs: int
    trial: Trial
    """With the whole learning curve, growing included, not only a trial's part of it."""
    total_steps: int
    test: Mapping[str, Measure]
    train_loss: float
    """Contrastive loss on 512 of the stage's training pairs, at the end."""


def candidates(parent: ClipArch, growths: tuple[Mapping[str, int], ...]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            steps=tuple(
                GrowthStep(dimension=dimension, old=parent.size(dimension), new=new)
                for dimension, new in growth.items()
            )
        )
        for growth in growths
    )


def loss_on(model: Clip, pairs: ImageTextPairs) -> float:
    return contrastive_loss(embed_pairs(model, pairs, BATCH), BATCH).value


def batches_for(model: Clip, data: DataStage, seed: int) -> Any:
    encoder = PairEncoder(model.arch.image, model.tokenize)
    return training_batches(data.train, encoder, BATCH, seed=seed)


def trained_parent(arch: ClipArch, data: DataStage, seed: int) -> Clip:
    """The model that a first stage of 20 passes leaves behind."""
    state = start_training(Clip(arch, seed=seed), TRAIN)
    steps = PARENT_PASSES * data.num_pairs // BATCH
    batches = batches_for(state.model, data, seed)
    return train(state, batches, TRAIN, total_steps=steps, until_step=steps).model


def stage_steps(parent: ClipArch, arch: ClipArch, num_pairs: int) -> int:
    """Steps that the stage's FLOPs buy an architecture."""
    return int(PASSES * num_pairs * count_flops(parent) / count_flops(arch) / BATCH)


def measured_steps(total: int) -> set[int]:
    """Early steps, every 1.25 % up to a fifth of the stage, every 5 % after it."""
    fine = {round(0.0125 * total * k) for k in range(1, 17)}
    coarse = {round(0.05 * total * k) for k in range(5, 21)}
    return {step for step in {*EARLY_STEPS, *fine, *coarse} if 0 < step <= total}


def run_outcome(
    parent: Clip, data: DataStage, number: int, candidate: Candidate, seed: int
) -> Outcome:
    """Grow one candidate and train it for the stage's whole budget."""
    arch = candidate.apply(parent.arch)
    total = stage_steps(parent.arch, arch, data.num_pairs)
    state = grow_training(ParentState(parent), arch, GrowthConfig(), TRAIN, seed)
    state.curve.append((0, loss_on(state.model, data.validation)))
    points = measured_steps(total)

    def measure(event: Event) -> None:
        assert event.state is not None
        state = event.state
        if state.step in points:
            state.curve.append((state.step * BATCH, loss_on(state.model, data.validation)))

    batches = batches_for(state.model, data, seed)
    train(
        state,
        batches,
        TRAIN,
        total_steps=total,
        until_step=total,
        observer=at_moment("step", measure),
    )
    forward = count_flops(arch)
    return Outcome(
        seed=seed,
        num_pairs=data.num_pairs,
        total_steps=total,
        test=evaluate(
            state.model, data.test, data.zero_shot, ("loss", "retrieval", "zero_shot"), BATCH
        ),
        train_loss=loss_on(state.model, FirstPairs(data.train, 512)),
        trial=Trial(
            stage=PAIRS.index(data.num_pairs) if data.num_pairs in PAIRS else 0,
            number=number,
            candidate=candidate,
            arch=arch,
            flops=forward,
            params=count_params(arch),
            state="complete",
            metrics={"loss": state.curve[-1][1]},
            curve=tuple(state.curve),
            train_flops=TRAIN_FLOPS_PER_FORWARD * forward * total * BATCH,
            stage_pairs=total * BATCH,
        ),
    )


def read_outcomes(path: Path) -> list[Outcome]:
    """Every outcome that was recorded."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [from_mapping(Outcome, json.loads(line), str(path)) for line in lines]


def collect(out: Path, arch: ClipArch, growths: tuple[Mapping[str, int], ...], seed: int) -> None:
    """Train whatever the records of one seed lack."""
    path = out / "outcomes.jsonl"
    done = {(o.seed, o.num_pairs, o.trial.label) for o in read_outcomes(path)}
    stages = open_stages(DATA, None)
    parent: Clip | None = None
    for data in stages:
        for number, candidate in enumerate(candidates(arch, growths)):
            label = candidate.label
            if (seed, data.num_pairs, label) in done:
                continue
            parent = parent or trained_parent(arch, stages[0], seed)
            outcome = run_outcome(parent, data, number, candidate, seed)
            append_line(path, json.dumps(to_mapping(outcome)))
            loss = outcome.test["loss"].value
            logger.info(f"seed {seed}, {data.num_pairs} pairs, {label}: test loss {loss:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        collect(options.out, PARENT, GROWTHS, seed)


if __name__ == "__main__":
    main()

"""Every candidate of a stage trained to the stage's end: what a search can be judged by.

A parent 32 wide is trained on 4,000 rendered scenes. The data then grows to 8,000, 24,000 or
72,000 pairs, and a stage has 0.5, 1 or 2 T of training FLOPs. At each size thirteen candidates are
grown from the parent and trained for the whole stage, cool-down included. On the way the validation
loss is measured as a trial would measure it, and at three points a branch is cooled down: so any
proxy and objective can be scored from the records, without training. One JSON line a run; a run
that is recorded is not done again.

Command: python -m benchmarks.search_oracle --out FILE [--seeds 0 1 2] [--pairs 8000 24000 72000]
"""

import argparse
import copy
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.rate_transfer import arch_of
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
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD, Trial
from nas_growclip.records.lines import append_line
from nas_growclip.training.events import Event
from nas_growclip.training.events import at as at_moment
from nas_growclip.training.grow_state import ParentState, grow_training
from nas_growclip.training.loop import train
from nas_growclip.training.schedule import trunk_steps
from nas_growclip.training.state import (
    TrainConfig,
    TrainState,
    optimizer_tensors,
    start_training,
)

PARENT_PAIRS, PARENT_FLOPS = 4_000, 3.0e11
STAGE_FLOPS: Mapping[int, float] = {8_000: 5.0e11, 24_000: 1.0e12, 72_000: 2.0e12}
"""Training FLOPs of a stage by its pairs."""
VALIDATION_PAIRS = TEST_PAIRS = 2048
BATCH = 128
TRAIN = TrainConfig(batch_size=BATCH, warmup_steps=50, schedule="trunk", learning_rate=4e-3)
GROWTH = GrowthConfig(moments="grow")
CURVE_SHARES = (
    *(0.0125 * k for k in range(1, 9)),
    *(0.15, 0.2),
    *(0.1 * k for k in range(3, 11)),
)
"""Where the validation loss is measured, as shares of the stage's steps."""
BRANCH_SHARES = (0.025, 0.05, 0.1)
"""Where a copy is cooled down, as shares of the stage's steps, the cool-down included."""
PARENT = arch_of(32, depth=1)


def all_widths(width: int) -> Mapping[str, int]:
    """Both towers, the joint embedding, and MLPs four times as wide."""
    mlp_widths = {f"{part}.mlp_width": 4 * width for part in ("image", "text", "shared")}
    return {"image.width": width, "text.width": width, "embed_dim": width, **mlp_widths}


GROWTHS: tuple[Mapping[str, int], ...] = (
    {},
    {"image.depth": 3},
    {"image.width": 64, "image.mlp_width": 256},
    {"image.patch_size": 4},
    {"text.depth": 3},
    {"text.width": 64, "text.mlp_width": 256},
    {"shared.depth": 3},
    {"embed_dim": 64, "shared.mlp_width": 256},
    {"image.mlp_width": 256, "text.mlp_width": 256, "shared.mlp_width": 256},
    {"image.depth": 2, "text.depth": 2, "shared.depth": 2},
    all_widths(48),
    all_widths(64),
    {**all_widths(64), "shared.depth": 2},
)
"""The candidates: no growth, each dimension, and the habits: all deeper, all wider."""
NAMES = (
    "no growth",
    "image.depth 1 -> 3",
    "image.width x 2",
    "image.patch_size 8 -> 4",
    "text.depth 1 -> 3",
    "text.width x 2",
    "shared.depth 1 -> 3",
    "embed_dim x 2",
    "all MLPs x 2",
    "every depth 1 -> 2",
    "all widths x 1.5",
    "all widths x 2",
    "all widths x 2, shared.depth 1 -> 2",
)
"""What tables call them; a width's MLPs stay four times as wide."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One candidate, trained to the end of a stage."""

    seed: int
    num_pairs: int
    number: int
    """The candidate's, in ``GROWTHS``."""
    growth: Mapping[str, int]
    flops: int
    """One pair, forward."""
    total_steps: int
    curve: tuple[tuple[int, float], ...]
    """(steps done, loss on ``validation``), from growth on."""
    branches: tuple[tuple[int, float], ...]
    """(steps done, loss on ``validation``) at the ends of cooled-down branches."""
    validation_loss: float
    test_loss: float
    train_loss: float
    """On 2,048 of the stage's training pairs."""
    i2t_r1: float
    zero_shot: float
    """Mean top-1 over its tasks."""
    seconds: float

    @property
    def final_loss(self) -> float:
        """On held-out pairs, ``validation`` and ``test`` together, in nats."""
        return (self.validation_loss + self.test_loss) / 2


def candidate_of(growth: Mapping[str, int]) -> Candidate:
    """The growth of the parent to these sizes."""
    return Candidate(
        steps=tuple(
            GrowthStep(dimension=dimension, old=PARENT.size(dimension), new=new)
            for dimension, new in growth.items()
        )
    )


def as_trial(outcome: Outcome, share: float) -> Trial:
    """The trial record of a run that is cut off after a share of its stage."""
    arch = candidate_of(outcome.growth).apply(PARENT)
    curve = [point for point in outcome.curve if point[0] <= share * outcome.total_steps + 1]
    per_step = TRAIN_FLOPS_PER_FORWARD * outcome.flops * BATCH
    return Trial(
        stage=1,
        number=outcome.number,
        candidate=candidate_of(outcome.growth),
        arch=arch,
        flops=outcome.flops,
        params=count_params(arch),
        state="complete",
        metrics={"loss": curve[-1][1]},
        curve=tuple((steps * BATCH, loss) for steps, loss in curve),
        train_flops=per_step * curve[-1][0],
        stage_pairs=outcome.total_steps * BATCH,
    )


def steps_for(flops: float, arch: ClipArch) -> int:
    """Steps that so many training FLOPs buy an architecture."""
    return int(flops / (TRAIN_FLOPS_PER_FORWARD * count_flops(arch) * BATCH))


def loss_on(model: Clip, pairs: ImageTextPairs) -> float:
    return contrastive_loss(embed_pairs(model, pairs, BATCH), BATCH).value


class Training(NamedTuple):
    """What a training is fed with."""

    data: DataStage
    seed: int
    config: TrainConfig = TRAIN


def train_to(
    state: TrainState, training: Training, total: int, until: int, points: Collection[int] = ()
) -> None:
    """Train on; the loss on ``validation`` at each point goes on the state's curve, in steps."""
    data, seed, config = training
    encoder = PairEncoder(state.model.arch.image, state.model.tokenize)
    batches = training_batches(data.train, encoder, BATCH, seed=seed, start=state.step)

    def measure(event: Event) -> None:
        if event.state is not None and event.state.step in points:
            loss = loss_on(event.state.model, data.validation)
            event.state.curve.append((event.state.step, loss))

    observer = at_moment("step", measure)
    train(state, batches, config, total_steps=total, until_step=until, observer=observer)


def trained_parent(data: DataStage, seed: int) -> ParentState:
    """The trunk that a first stage leaves behind, with its moments, before its cool-down."""
    state = start_training(Clip(PARENT, seed=seed), TRAIN)
    steps = steps_for(PARENT_FLOPS, PARENT)
    train_to(state, Training(data, seed), 2 * steps, steps)  # of a schedule that does not end here
    return ParentState(state.model, optimizer_tensors(state))


def run_outcome(parent: ParentState, data: DataStage, number: int, seed: int) -> Outcome:
    """Grow one candidate and train it for the whole stage."""
    started = time.monotonic()
    growth, training = GROWTHS[number], Training(data, seed)
    arch = candidate_of(growth).apply(PARENT)
    total = steps_for(STAGE_FLOPS[data.num_pairs], arch)
    state = grow_training(parent, arch, GROWTH, TRAIN, seed)
    state.curve.append((0, loss_on(state.model, data.validation)))
    points = {max(1, round(share * total)) for share in CURVE_SHARES}
    branches = []
    for share in BRANCH_SHARES:
        end = max(2, round(share * total))
        train_to(state, training, total, trunk_steps(end, TRAIN), points)
        branch = copy.deepcopy(state)
        train_to(branch, training, end, end, {end})
        branches.append(branch.curve[-1])
    train_to(state, training, total, total, points)
    measured = evaluate(
        state.model, data.test, data.zero_shot, ("loss", "retrieval", "zero_shot"), BATCH
    )
    return Outcome(
        seed=seed,
        num_pairs=data.num_pairs,
        number=number,
        growth=growth,
        flops=count_flops(arch),
        total_steps=total,
        curve=tuple((steps, round(loss, 5)) for steps, loss in state.curve),
        branches=tuple((steps, round(loss, 5)) for steps, loss in branches),
        validation_loss=state.curve[-1][1],
        test_loss=measured["loss"].value,
        train_loss=loss_on(state.model, FirstPairs(data.train, VALIDATION_PAIRS)),
        i2t_r1=measured["i2t_recall@1"].value,
        zero_shot=measured["zero_shot_top1"].value,
        seconds=round(time.monotonic() - started, 1),
    )


def oracle_stages() -> Sequence[DataStage]:
    """The parent's data, and the data of each stage after it."""
    return open_stages(
        ScenesConfig(
            stages=(PARENT_PAIRS, *STAGE_FLOPS),
            zero_shot=("scenes", "digits"),
            validation_pairs=VALIDATION_PAIRS,
            test_pairs=TEST_PAIRS,
        ),
        None,
    )


def read_outcomes(path: Path) -> list[Outcome]:
    """Every outcome that was recorded."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [from_mapping(Outcome, json.loads(line), str(path)) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, nargs="+", default=list(STAGE_FLOPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    stages = oracle_stages()
    done = {(o.seed, o.num_pairs, o.number) for o in read_outcomes(options.out)}
    for seed in options.seeds:
        parent = trained_parent(stages[0], seed)
        for data in stages[1:]:
            for number in range(len(GROWTHS) if data.num_pairs in options.pairs else 0):
                if (seed, data.num_pairs, number) not in done:
                    outcome = run_outcome(parent, data, number, seed)
                    append_line(options.out, json.dumps(to_mapping(outcome)))
                    logger.info(
                        f"seed {seed}, {data.num_pairs} pairs, {candidate_of(outcome.growth)}: "
                        f"{outcome.final_loss:.4f} in {outcome.seconds:.0f} s"
                    )


if __name__ == "__main__":
    main()

"""Training and measuring within a stage, by one process or by several."""

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from nas_growclip.data.batches import BatchOrder, load_batches
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.pairs import FirstPairs, ImageTextPairs
from nas_growclip.data.stages import DataStage
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_plan import stage_seed
from nas_growclip.io.progress import track
from nas_growclip.models.clip import Clip, placed
from nas_growclip.search.loop import Report
from nas_growclip.training.checkpoint import pack_state, save_state
from nas_growclip.training.events import Event
from nas_growclip.training.loop import check_loss, train
from nas_growclip.training.sharding import gather, shard_state
from nas_growclip.training.state import TrainState

NO_ROOM = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
"""In the messages of a RuntimeError for want of memory: of the CPU's allocator, CUDA, cuBLAS."""


def never_stop(point: int, loss: float) -> bool:
    """A trial that runs to its end."""
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no room: PyTorch's CPU allocator has no type for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and any(part in words for part in NO_ROOM)


def training_encoder(config: ExperimentConfig, model: Clip) -> PairEncoder:
    """How training pairs become a model's batches."""
    return PairEncoder(model.arch.image, model.tokenize, config.data.augment)


class TrainingFile(NamedTuple):
    """Where a training's state is saved, and what it is called, as in ``training``."""

    path: Path
    label: str


def train_through(
    stage: StageContext,
    state: TrainState,
    points: Sequence[int],
    file: TrainingFile,
    report: Report = never_stop,
) -> TrainState:
    """Train through steps in rising order, measuring at each; save now and then and at the end.

    Ends early where ``report`` says so; such a state is not gone on with, so it is not saved.

    Raises:
        DivergedError: If a loss or the state is not finite; what is saved always is.
    """
    points = [point for point in points if point > state.step]
    if not points:
        return state
    state.group, state.rewarm = stage.group, stage.config.growth.rewarm
    start_followers(stage, state)
    config = stage.config.train
    shares = shard_state(state, config)
    batches = sharded_batches(stage.config, stage.data, shares)
    total_steps = stage.plan.stage_steps(state.model.arch)
    label = f"stage {stage.index}, {file.label}"
    with closing(track(batches, total=points[-1] - state.step, label=label)) as tracked:
        for step in _stops(state.step, points, config.checkpoint_steps):
            stage.group.broadcast({"total_steps": total_steps, "until_step": step})
            train(
                shares,
                tracked,
                config,
                total_steps=total_steps,
                until_step=step,
                observer=partial(stage.observe, where=file.label),
            )
            gather(shares, state)
            is_last = step == points[-1]
            if step in points:
                loss = finite_loss(stage, state)
                state.curve.append((step * config.batch_size, loss))
                if report(len(state.curve) - 1, loss) and not is_last:
                    break
            if is_last or step % config.checkpoint_steps == 0:
                save_state(state, file.path)
                stage.observe(Event(moment="state_saved", state=state), file.label)
    shares.replica = None  # frees the buffers of gradients
    return state


def _stops(start: int, points: Sequence[int], checkpoint_steps: int) -> list[int]:
    """The steps after ``start`` at which training stops to be measured or saved."""
    checkpoints = range(0, points[-1], checkpoint_steps)
    return sorted(step for step in {*points, *checkpoints} if step > start)


def sharded_batches(
    config: ExperimentConfig, data: DataStage, state: TrainState
) -> Generator[PairBatch]:
    """This process's share of a stage's batches, from a training state's step on."""
    batch_size, seed = config.train.batch_size, stage_seed(config, data.index)
    return load_batches(
        data.train,
        training_encoder(config, state.model),
        BatchOrder(batch_size, seed, start=state.step, shard=state.group.batch_shard),
        config.data.workers,
        pin_memory=state.model.logit_scale.device.type == "cuda",
    )


def start_followers(stage: StageContext, state: TrainState) -> None:
    """Give the other processes of the group a copy of a training state to train on."""
    if stage.group.size > 1:
        tensors, metadata = pack_state(state)
        stage.group.broadcast({"stage": stage.index, "metadata": metadata})
        stage.group.broadcast_tensors(tensors)


def validation_loss(stage: StageContext, model: Clip) -> float:
    """Contrastive loss on ``validation``, in batches of the training size."""
    return loss_on(model, stage.data.validation, stage.plan.batch_size, stage.group.device)


def finite_loss(stage: StageContext, state: TrainState) -> float:
    """A training state's loss on ``validation``.

    Raises:
        DivergedError: If it is not finite. Only the leader measures; others are not in a step then.
    """
    loss = validation_loss(stage, state.model)
    check_loss(loss, state.step)
    return loss


def parent_losses(
    parent_model: Clip, data: DataStage, batch_size: int, device: str | None
) -> tuple[float, float]:
    """The parent's loss on ``validation`` and on as many of its oldest training pairs."""
    splits = data.validation, FirstPairs(data.train, data.validation.num_pairs)
    validation, seen = (loss_on(parent_model, pairs, batch_size, device) for pairs in splits)
    return validation, seen


def loss_on(model: Clip, pairs: ImageTextPairs, batch_size: int, device: str | None) -> float:
    """Contrastive loss on some pairs, in batches of the training size.

    Args:
        model: The model.
        pairs: What to measure on.
        batch_size: Pairs in a batch, each the others' negatives.
        device: Where to put the model meanwhile; None leaves it where it is.
    """
    with placed(model, device):
        return contrastive_loss(embed_pairs(model, pairs, batch_size), batch_size).value

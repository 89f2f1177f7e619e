"""Contrastive training of a ``Clip`` for a number of steps, which can stop and go on anywhere.

A trial is the beginning of its stage's training: same batches, same schedule, same optimizer. So
the winner of a search resumes from where its trial ended.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.clip import MAX_LOGIT_SCALE
from nas_growclip.models.gates import gates_of, set_gates
from nas_growclip.records.entries import Rollback
from nas_growclip.training.events import Event, Observer, no_observer
from nas_growclip.training.schedule import learning_rate
from nas_growclip.training.state import TrainConfig, TrainState

CHECK_STEPS = 20
"""The loss and the state are looked at every so many steps: each look waits for the device."""
REMEDY = "Lower train.learning_rate or raise train.warmup_steps."
LR_DECAY = 0.5
"""What a rollback leaves of the learning rate."""


class DivergedError(ArithmeticError):
    """The loss or the training state is no longer finite.

    Args:
        message: What is not.
        step: The step at which that was seen.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def count_rollbacks(rollbacks: Sequence[Rollback], config: TrainConfig) -> int:
    """How often training rolled back under the configured rate; another rate starts from none."""
    return sum(rollback.learning_rate == config.learning_rate for rollback in rollbacks)


def train(
    state: TrainState,
    batches: Iterator[PairBatch],
    config: TrainConfig,
    *,
    total_steps: int,
    until_step: int,
    observer: Observer = no_observer,
) -> TrainState:
    """Train up to a step of the stage's schedule.

    Args:
        state: Changed in place, and returned.
        batches: Must start at the batch of ``state.step``.
        config: Optimizer and schedule.
        total_steps: Length of the schedule.
        until_step: Where to stop; at most ``total_steps``.
        observer: Called with each batch, its gradients and each step done.

    Raises:
        DivergedError: If the loss or the state is not finite: in all processes at the same step,
            and before the observer sees the step.
    """
    device = state.model.logit_scale.device
    if state.replica is None:
        state.replica = state.group.replicate(state.model)
    backpropagate = state.group.backpropagation(
        state.model,
        state.replica,
        config.micro_batch_size,
        lambda: autocast(device, config.precision),
    )
    state.model.train()
    if config.compile and state.model._compiled_call_impl is None:
        state.model.compile(dynamic=False)
    lowered = LR_DECAY ** count_rollbacks(state.rollbacks, config)
    is_continued = state.optimizer.begin(state.rewarm) > state.step
    parameters, is_gated = list(state.model.parameters()), bool(gates_of(state.model))
    while state.step < until_step:
        batch = next(batches).to(device)
        observer(Event(moment="batch", state=state, batch=batch))
        rate = lowered * learning_rate(state.step, total_steps, config, is_continued=is_continued)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["rate_multiplier"]
        if is_gated:
            set_gates(state.model, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        image_ids = batch.image_ids if config.repeated_images == "mask" else None
        loss = backpropagate(batch.images, batch.tokens, image_ids)
        observer(Event(moment="gradients", state=state))
        _optimizer_step(state, parameters, config.max_grad_norm)
        _average_weights(state, parameters, config.ema_decay)
        state.step += 1
        if _is_looked_at(state.step, config) or state.step == until_step:
            _check_finite(state, loss)
        observer(Event(moment="step", state=state))
    return state


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """What ``train.precision`` means on a device."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _optimizer_step(
    state: TrainState, parameters: Sequence[Parameter], max_grad_norm: float
) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    state.optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


@torch.no_grad()
def _average_weights(state: TrainState, parameters: Sequence[Parameter], decay: float) -> None:
    if state.ema:
        weights = [p.detach() for p in parameters]
        torch._foreach_lerp_(list(state.ema.values()), weights, 1 - decay)


def _is_looked_at(step: int, config: TrainConfig) -> bool:
    return step % CHECK_STEPS == 0 or step % config.checkpoint_steps == 0


def _check_finite(state: TrainState, loss: Tensor) -> None:
    """Check the mean loss of all processes, and their states, which no finite loss vouches for."""
    values = torch.stack([loss.float(), _largest_norm(state)])
    value, largest = state.group.mean(values).tolist()
    check_loss(value, state.step)
    if not math.isfinite(largest):
        raise DivergedError(
            f"Weights and moments must stay finite, but do not at step {state.step}. {REMEDY}",
            state.step,
        )


def check_loss(loss: float, step: int) -> None:
    """Refuse a loss that is not finite.

    Raises:
        DivergedError: If it is not.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"The loss must stay finite, but is {loss} at step {step}. {REMEDY}", step
        )


def _largest_norm(state: TrainState) -> Tensor:
    """The largest norm of this process's tensors; not finite where an entry is not."""
    tensors = [p.detach() for p in state.model.parameters()]
    for moments in state.optimizer.state.values():
        tensors += [moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments]
    own = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return torch.stack(torch._foreach_norm(own)).max().float()

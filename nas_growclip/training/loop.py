"""Contrastive training of a ``Clip`` for a number of steps, which can stop and go on anywhere.

A trial is the beginning of its stage's training: same batches, same schedule, same optimizer. So
the winner of a search just goes on from where its trial ended.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nas_growclip.data.pairs import PairBatch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import MAX_LOGIT_SCALE, Clip
from nas_growclip.models.gates import set_gates
from nas_growclip.records.entries import Setback
from nas_growclip.training.optimizer import AgedAdamW
from nas_growclip.training.team import ALONE, Team

CHECK_STEPS = 20
"""The loss and the state are looked at every so many steps: each look waits for the device."""
REMEDY = "Lower train.learning_rate or raise train.warmup_steps."
RATE_CUT = 0.5
"""What a setback leaves of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimizer and schedule.

    Raises:
        ValueError: If a number is out of range.
    """

    batch_size: int = 128
    """Pairs in a batch; each pair's negatives are the rest of its batch."""
    micro_batch_size: int = 0
    """Pairs whose activations are held at a time, where a batch does not fit memory; 0: all.

    The gradient stays the whole batch's (GradCache); the towers run forward twice.
    """
    learning_rate: float = 1.0e-3
    """Peak rate of AdamW."""
    weight_decay: float = 0.1
    """On matrices only; norms, biases, positions and the temperature have none."""
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1.0e-6
    warmup_steps: int = 50
    """Steps of linear warm-up at the start of each stage, since growth resets the optimizer."""
    schedule: Literal["cosine", "constant_with_cooldown"] = "constant_with_cooldown"
    cooldown_share: float = 0.2
    """Share of a stage's steps over which a constant rate falls linearly to zero."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    compile: bool = False
    """Compile the model by torch.compile; every architecture that is tried compiles anew."""
    shard: bool = False
    """Share weights, gradients and AdamW's moments out over the processes of torchrun (FSDP2)."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights for each step; 0 keeps none."""
    checkpoint_steps: int = 200
    """Steps between two saved training states."""
    divergence_retries: int = 3
    """How often a stage's training that diverges goes back to its last saved state, each time with
    half the learning rate; a trial that diverges has failed."""

    def __post_init__(self) -> None:
        rules = {
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "micro_batch_size": (self.micro_batch_size >= 0, "0 or more"),
            "checkpoint_steps": (self.checkpoint_steps >= 1, "1 or more"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "epsilon": (self.epsilon > 0, "above 0"),
            "max_grad_norm": (self.max_grad_norm > 0, "above 0"),
            "beta1": (0 <= self.beta1 < 1, "in [0, 1)"),
            "beta2": (0 <= self.beta2 < 1, "in [0, 1)"),
            "ema_decay": (0 <= self.ema_decay < 1, "in [0, 1)"),
            "cooldown_share": (0 <= self.cooldown_share < 1, "in [0, 1)"),
            "shard": (not (self.shard and self.compile), "false where train.compile is true"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
            "divergence_retries": (self.divergence_retries >= 0, "0 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name}: must be {rule}, but got {getattr(self, name)}.")


@dataclass
class TrainState:
    """A model under training: what a checkpoint holds."""

    model: Clip
    optimizer: AgedAdamW
    step: int = 0
    """Optimizer steps done in this stage."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Learning curve: (pairs seen, validation loss)."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """Moving average of the weights by parameter name; empty if none is kept."""
    setbacks: tuple[Setback, ...] = ()
    """Where this stage's training diverged so far."""
    team: Team = ALONE
    """The processes that train it together, each with its own copy of this state or its share."""


class DivergedError(ArithmeticError):
    """The loss or the training state is no longer finite.

    Args:
        message: What is not.
        step: The step at which that was seen.
    """

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


def start_training(model: Clip, config: TrainConfig) -> TrainState:
    """A fresh optimizer for a model, and its moving average if the config wants one."""
    state = TrainState(model, make_optimizer(model, config))
    if config.ema_decay:
        state.ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    return state


def make_optimizer(model: Clip, config: TrainConfig) -> AgedAdamW:
    """AdamW with weight decay on matrices only."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if param_axes(name).is_linear else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AgedAdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Rate of one step (counted from 0) in a stage of ``total_steps``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        share = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    cooldown = max(1, round(config.cooldown_share * total_steps))
    return config.learning_rate * max(0.0, min(1.0, (total_steps - step) / cooldown))


def count_setbacks(setbacks: Sequence[Setback], config: TrainConfig) -> int:
    """How often the training went back under the configured rate; another rate begins anew."""
    return sum(setback.learning_rate == config.learning_rate for setback in setbacks)


def train(
    state: TrainState,
    batches: Iterator[PairBatch],
    config: TrainConfig,
    *,
    total_steps: int,
    until_step: int,
    after_step: Callable[[TrainState], None] = lambda state: None,
) -> TrainState:
    """Train up to a step of the stage's schedule.

    Args:
        state: Changed in place, and returned.
        batches: Must start at the batch of ``state.step``.
        config: Optimizer and schedule.
        total_steps: Length of the schedule.
        until_step: Where to stop; at most ``total_steps``.
        after_step: Called after each step, to measure or to save.

    Raises:
        DivergedError: If the loss or the state is not finite: in all processes at the same step,
            and before ``after_step`` sees a state that it may save.
    """
    device = state.model.logit_scale.device
    backpropagate = state.team.backpropagation(
        state.model, config.micro_batch_size, lambda: autocast(device)
    )
    state.model.train()
    if config.compile and state.model._compiled_call_impl is None:
        state.model.compile(dynamic=False)
    lowered = RATE_CUT ** count_setbacks(state.setbacks, config)
    while state.step < until_step:
        batch = next(batches).to(device)
        for group in state.optimizer.param_groups:
            group["lr"] = lowered * learning_rate(state.step, total_steps, config)
        set_gates(state.model, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        loss = backpropagate(batch.images, batch.tokens)
        _optimizer_step(state, config.max_grad_norm)
        _average_weights(state, config.ema_decay)
        state.step += 1
        if _is_looked_at(state.step, config) or state.step == until_step:
            _check_finite(state, loss)
        after_step(state)
    return state


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bf16 on CUDA; fp32 elsewhere, since bf16 is slow on most CPUs."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _optimizer_step(state: TrainState, max_grad_norm: float) -> None:
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), max_grad_norm)
    state.optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


@torch.no_grad()
def _average_weights(state: TrainState, decay: float) -> None:
    if state.ema:
        weights = [p.detach() for p in state.model.parameters()]
        torch._foreach_lerp_(list(state.ema.values()), weights, 1 - decay)


def _is_looked_at(step: int, config: TrainConfig) -> bool:
    return step % CHECK_STEPS == 0 or step % config.checkpoint_steps == 0


def _check_finite(state: TrainState, loss: Tensor) -> None:
    """Check the mean loss of all processes, and their states, which no finite loss vouches for."""
    values = torch.stack([loss.float(), _largest_norm(state)])
    value, largest = state.team.mean(values).tolist()
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


def optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments under their parameters' names, with their ages in optimizer steps."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state.get(parameter)
        if moments:
            tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
            tensors[f"age.{name}"] = moments.get("age", moments["step"])
    return tensors


def restore_optimizer(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Put moments back by parameter name; the inverse of ``optimizer_tensors``.

    Parameters without moments start afresh.

    Raises:
        ValueError: If a moment is missing, belongs to no parameter, or is of another shape or kind.
    """
    parameters = dict(state.model.named_parameters())
    for key in tensors:
        kind, _, name = key.partition(".")
        if kind in ("exp_avg", "exp_avg_sq", "age") and name not in parameters:
            raise ValueError(f"{key!r} must belong to a parameter of the model, which has none.")
    for name, parameter in parameters.items():
        if f"exp_avg.{name}" in tensors:
            missing = [k for k in ("exp_avg_sq", "age") if f"{k}.{name}" not in tensors]
            if missing:
                raise ValueError(f"{f'{missing[0]}.{name}'!r} must stand beside 'exp_avg.{name}'.")
            moments = {k: tensors[f"{k}.{name}"] for k in ("exp_avg", "exp_avg_sq", "age")}
            _check_shapes(name, parameter, moments)
            age = moments.pop("age")
            placed = {key: value.to(parameter.device) for key, value in moments.items()}
            state.optimizer.set_age(parameter, age)
            state.optimizer.state[parameter] |= placed


def _check_shapes(name: str, parameter: Tensor, moments: Mapping[str, Tensor]) -> None:
    for key, value in moments.items():
        if value.shape != parameter.shape and not (key == "age" and value.ndim == 0):
            raise ValueError(
                f"{key + '.' + name!r} must have the shape of its parameter, "
                f"{tuple(parameter.shape)}, but got {tuple(value.shape)}. "
                "Grow moments with the model (growth.moments)."
            )
        if key != "age" and not value.is_floating_point():
            raise ValueError(f"{key + '.' + name!r} must hold fractions, but is {value.dtype}.")

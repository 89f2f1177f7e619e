"""What training changes: a model, its optimizer, and what a checkpoint holds of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from nas_growclip.growth.config import NO_REWARM, RewarmConfig
from nas_growclip.io.mappings import read_fields
from nas_growclip.io.ranges import above, at_least, check_ranges, require_in_range, within
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Rollback
from nas_growclip.training.optimizer import EntrywiseAdamW
from nas_growclip.training.process_group import ALONE, ProcessGroup
from nas_growclip.training.rates import rate_multiplier


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
    repeated_images: Literal["mask", "negatives"] = "mask"
    """What pairs of one image are to each other in a batch: left out of each other's candidates, or
    negatives like all others, as OpenCLIP has them."""
    learning_rate: float = 1.0e-3
    """Peak rate of AdamW."""
    rate_rule: Literal["none", "width"] = "none"
    """How each parameter's rate follows from its size: all alike, or by 1 / fan-in (``rates.py``),
    so that a rate found at one width fits the others."""
    rate_base: Mapping[str, int] = field(default_factory=dict)
    """Sizes by dimension at which ``rate_rule`` changes nothing; those that are not given are the
    experiment's first parent's."""
    weight_decay: float = 0.1
    """On matrices only; norms, biases, positions and the temperature have none."""
    beta1: float = 0.9
    """Decay of AdamW's first moment."""
    beta2: float = 0.98
    """Decay of AdamW's second moment."""
    epsilon: float = 1.0e-6
    """AdamW's epsilon."""
    warmup_steps: int = 50
    """Steps of linear warm-up at the start of each stage, since growth resets the optimizer."""
    schedule: Literal["cosine", "const-cooldown", "trunk"] = "const-cooldown"
    """How the learning rate falls within a stage, after its warm-up: by a cosine; or constant with
    a cool-down, as OpenCLIP's ``const-cooldown``. Of a ``trunk`` the cool-down is a branch: the
    stage's model is its end, and the next stage goes on from before it, at the constant rate."""
    cooldown_share: float = 0.2
    """Share of a stage's steps over which a constant rate falls linearly to zero."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the towers compute in: fp32, or bf16 by autocast over fp32 weights; ``auto`` is bf16 on
    CUDA and fp32 elsewhere, since bf16 is slow on most CPUs."""
    compile: bool = False
    """Compile the model by torch.compile; every architecture that is tried is compiled again."""
    shard: bool = False
    """Shard weights, gradients and AdamW's moments over the processes of torchrun (FSDP2)."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights for each step; 0 keeps none."""
    checkpoint_steps: int = 200
    """Steps between two saved training states."""
    divergence_retries: int = 3
    """How often a stage's training that diverges goes back to its last saved state, each time with
    half the learning rate; a trial that diverges has failed."""

    def __post_init__(self) -> None:
        read_fields(self)
        check_ranges(
            self,
            batch_size=at_least(1),
            micro_batch_size=at_least(0),
            checkpoint_steps=at_least(1),
            learning_rate=above(0),
            epsilon=above(0),
            max_grad_norm=above(0),
            beta1=within(0, 1, "[)"),
            beta2=within(0, 1, "[)"),
            ema_decay=within(0, 1, "[)"),
            cooldown_share=within(0, 1, "[)"),
            weight_decay=at_least(0),
            warmup_steps=at_least(0),
            divergence_retries=at_least(0),
        )
        if self.rate_base and self.rate_rule == "none":
            raise ValueError("rate_base: must be given with rate_rule: width, but it is none.")
        for dimension, size in self.rate_base.items():
            require_in_range(f"rate_base.{dimension}", size, at_least(1))
        if self.shard and self.compile:
            raise ValueError("shard: must be false where train.compile is true, but got True.")


@dataclass
class TrainState:
    """A model under training: what a checkpoint holds."""

    model: Clip
    optimizer: EntrywiseAdamW
    step: int = 0
    """Optimizer steps done in this stage."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Learning curve: (pairs seen, validation loss)."""
    ema: dict[str, Tensor] = field(default_factory=dict)
    """Moving average of the weights by parameter name; empty if none is kept."""
    rollbacks: tuple[Rollback, ...] = ()
    """Where this stage's training diverged so far."""
    rewarm: RewarmConfig = NO_REWARM
    """The rate of entries that growth added."""
    group: ProcessGroup = ALONE
    """The processes that train it together, each with its own copy of this state or its share."""
    replica: DistributedDataParallel | None = None
    """The model as the group's processes train copies of it: made where training begins, and kept
    until it ends, however often it is measured in between."""


def start_training(model: Clip, config: TrainConfig) -> TrainState:
    """A fresh optimizer for a model, and its moving average if the config wants one."""
    state = TrainState(model, make_optimizer(model, config))
    if config.ema_decay:
        state.ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    return state


def make_optimizer(model: Clip, config: TrainConfig) -> EntrywiseAdamW:
    """AdamW with weight decay on matrices only.

    A group of parameters has its ``rate_multiplier``. Where that lowers the rate it raises the
    decay, as in mup: what a step takes off a weight is the rate times the decay at every width.
    """
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        multiplier = 1.0
        if config.rate_rule == "width":
            multiplier = rate_multiplier(name, model.arch, config.rate_base)
        groups.setdefault((param_axes(name).is_linear, multiplier), []).append(parameter)
    return EntrywiseAdamW(
        [
            {
                "params": parameters,
                "rate_multiplier": multiplier,
                "weight_decay": config.weight_decay / multiplier if is_decayed else 0.0,
            }
            for (is_decayed, multiplier), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """AdamW's moments under their parameters' names, with their step counts."""
    return moments_of(state.model, state.optimizer)


def moments_of(model: Clip, optimizer: AdamW) -> dict[str, Tensor]:
    """The same of any AdamW that trains a model."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter)
        if moments:
            tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
            tensors[f"step_count.{name}"] = moments.get("step_count", moments["step"])
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
        if kind in ("exp_avg", "exp_avg_sq", "step_count") and name not in parameters:
            raise ValueError(f"{key!r} must belong to a parameter of the model, which has none.")
    for name, parameter in parameters.items():
        if f"exp_avg.{name}" in tensors:
            missing = [k for k in ("exp_avg_sq", "step_count") if f"{k}.{name}" not in tensors]
            if missing:
                raise ValueError(f"{f'{missing[0]}.{name}'!r} must stand beside 'exp_avg.{name}'.")
            moments = {k: tensors[f"{k}.{name}"] for k in ("exp_avg", "exp_avg_sq", "step_count")}
            _check_shapes(name, parameter, moments)
            step_count = moments.pop("step_count")
            placed = {key: value.to(parameter.device) for key, value in moments.items()}
            state.optimizer.set_step_count(parameter, step_count)
            state.optimizer.state[parameter] |= placed


def _check_shapes(name: str, parameter: Tensor, moments: Mapping[str, Tensor]) -> None:
    for key, value in moments.items():
        if value.shape != parameter.shape and not (key == "step_count" and value.ndim == 0):
            raise ValueError(
                f"{key + '.' + name!r} must have the shape of its parameter, "
                f"{tuple(parameter.shape)}, but got {tuple(value.shape)}. "
                "Grow moments with the model (growth.moments)."
            )
        if key != "step_count" and not value.is_floating_point():
            raise ValueError(f"{key + '.' + name!r} must hold fractions, but is {value.dtype}.")

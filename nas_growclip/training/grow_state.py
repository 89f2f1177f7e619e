"""Grow a training state as a whole: weights, AdamW's moments and the moving average."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nas_growclip.growth.adam_moments import grow_moments
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import Evidence, inherit, plan_growth
from nas_growclip.growth.operators import find_operator
from nas_growclip.growth.pim import find_reading
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state
from nas_growclip.training.state import TrainConfig, TrainState, restore_optimizer, start_training


@dataclass(frozen=True)
class Parent:
    """A trained model and what its training left behind."""

    model: Clip
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """AdamW's moments and ages, as ``optimizer_tensors`` gives them; empty if there are none."""
    ema: Mapping[str, Tensor] = field(default_factory=dict)
    """Moving average of the weights; empty if there is none."""


def grow_training(
    parent: Parent,
    child_arch: ClipArch,
    growth: GrowthConfig,
    train: TrainConfig,
    seed: int,
    evidence: Evidence | None = None,
) -> TrainState:
    """Grow a parent into a training state at step 0.

    Args:
        parent: Left as it is.
        child_arch: The architecture to reach; the parent's own grows nothing (the control).
        growth: How; ``moments`` says what becomes of AdamW's.
        train: The optimizer.
        seed: Fixes fresh entries and what operators draw.
        evidence: Data for the operators and readings that look at some.

    Raises:
        ValueError: As ``inherit``.
    """
    evidence = replace(evidence or Evidence(), ema=parent.ema or None)
    child = inherit(parent.model, child_arch, seed=seed, config=growth, evidence=evidence)
    state = start_training(child, train)
    if state.ema:
        state.ema = _grown_ema(parent, child, growth, seed, evidence)
    if growth.moments != "reset" and parent.moments and not find_operator(growth.operator).forgets:
        operator = replace(find_operator(growth.operator), is_learned=False)
        plan = plan_growth(parent.model, child_arch, operator, growth, seed, evidence)
        restore_optimizer(state, grow_moments(plan, parent.moments))
    return state


def _grown_ema(
    parent: Parent, child: Clip, growth: GrowthConfig, seed: int, evidence: Evidence
) -> dict[str, Tensor]:
    """The parent's moving average, grown by the same maps; the child's weights where that fails.

    Maps that were learned, and a momentum that was searched for, belong to the weights.
    """
    is_fitted = find_operator(growth.operator).is_learned or find_reading(growth.pim).is_budgeted
    if is_fitted or not parent.ema:
        return {name: value.detach().clone() for name, value in child.named_parameters()}
    averages = folded_state(parent.model, parent.ema)
    averaged = Clip(parent.model.arch).to(child.logit_scale.device, child.logit_scale.dtype)
    with torch.no_grad():
        for name, parameter in averaged.named_parameters():
            parameter.copy_(averages[name])
    grown = inherit(averaged, child.arch, seed=seed, config=growth, evidence=evidence)
    return {name: value.detach() for name, value in grown.named_parameters()}

"""Grow a training state as a whole: weights, AdamW's moments and the moving average.

The growth is planned once, and all three are filled from that plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from nas_growclip.growth.adam_moments import grow_moments
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import fit_plan, grown_model
from nas_growclip.growth.inputs import NO_INPUTS, GrowthInputs
from nas_growclip.growth.plan import GrowthPlan, plan_growth
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state
from nas_growclip.training.state import TrainConfig, TrainState, restore_optimizer, start_training


@dataclass(frozen=True)
class ParentState:
    """A trained model and what its training left behind."""

    model: Clip
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """AdamW's moments and step counts, as ``optimizer_tensors`` gives them; empty if none."""
    ema: Mapping[str, Tensor] = field(default_factory=dict)
    """Moving average of the weights; empty if there is none."""


def grow_training(
    parent_state: ParentState,
    child_arch: ClipArch,
    growth: GrowthConfig,
    train: TrainConfig,
    seed: int,
    inputs: GrowthInputs = NO_INPUTS,
) -> TrainState:
    """Grow a parent into a training state at step 0.

    The moving average grows by the plan of the weights, but starts from the child's weights where
    they were fitted to data (``ligo``'s matrices, the ``budgeted`` momentum): those belong to the
    weights. Moments grow by the plan as it was before.

    Args:
        parent_state: Left as it is.
        child_arch: The architecture to reach; the parent's own grows nothing (the control).
        growth: How; ``moments`` says what becomes of AdamW's.
        train: The optimizer.
        seed: Fixes fresh entries and what operators draw.
        inputs: Data for the operators and PIM variants that look at some; the moving average is
            the parent's.

    Raises:
        ValueError: As ``inherit``.
    """
    inputs = replace(inputs, ema=parent_state.ema or None)
    plan = plan_growth(parent_state.model, child_arch, growth, seed=seed, inputs=inputs)
    fitted = fit_plan(plan, inputs)
    state = start_training(grown_model(fitted), train)
    if state.ema and parent_state.ema and fitted is plan:
        state.ema = _grown_averages(plan, parent_state.ema)
    if growth.moments != "reset" and parent_state.moments and not plan.operator.forgets:
        restore_optimizer(state, grow_moments(plan, parent_state.moments))
    return state


def _grown_averages(plan: GrowthPlan, ema: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A moving average of the parent's weights, grown as they are."""
    scale = plan.parent_model.logit_scale
    averages = folded_state(plan.parent_model, ema)
    placed = {name: value.to(scale.device, scale.dtype) for name, value in averages.items()}
    grown = grown_model(replace(plan, params=placed))
    return {name: value.detach() for name, value in grown.named_parameters()}

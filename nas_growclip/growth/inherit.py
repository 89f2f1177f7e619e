"""Build a child from a parent: values in, values out; the parent is never changed.

A growth is planned once (``growth/plan.py``). A child starts as a fresh initialisation of its
architecture and is filled from the plan, parameter by parameter (``growth/tensors.py``), each
blended with its fresh value as PIM says (``growth/pim.py``). So nothing but parent, child and one
parameter is in memory.
"""

from dataclasses import replace

import torch

from nas_growclip.growth.config import DEFAULT_GROWTH, GrowthConfig
from nas_growclip.growth.inputs import NO_INPUTS, GrowthInputs
from nas_growclip.growth.ligo import learn_plan
from nas_growclip.growth.plan import GrowthPlan, plan_growth
from nas_growclip.growth.tensors import grown_params
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip, empty_model
from nas_growclip.models.gates import install_gates

BISECTIONS = 6
"""Measurements by which the ``budgeted`` variant finds its momentum, to within 1 / 64."""


def inherit(
    parent_model: Clip,
    child_arch: ClipArch,
    config: GrowthConfig = DEFAULT_GROWTH,
    *,
    seed: int = 0,
    inputs: GrowthInputs = NO_INPUTS,
) -> Clip:
    """Grow a parent into a child architecture, keeping what the parent knows.

    Where no dimension grows the child is a copy of the parent, whatever the operator and momentum.
    With the default config the child computes the parent's embeddings wherever the operator claims
    so (``growth/claims.py``), to 1e-10 in fp64.

    Args:
        parent_model: The model to grow; left as it is.
        child_arch: The architecture to reach; no dimension but the patch size may be smaller.
        config: How to grow; by default exactly.
        seed: Fixes the fresh entries and what operators draw.
        inputs: Data for the operators and PIM variants that look at some.

    Returns:
        A new model on the parent's device and in its dtype; with the depth operator ``gated`` its
        inserted blocks are behind closed gates.

    Raises:
        ValueError: As ``plan_growth`` and ``fit_plan``.
    """
    plan = plan_growth(parent_model, child_arch, config, seed=seed, inputs=inputs)
    return grown_model(fit_plan(plan, inputs))


def fit_plan(plan: GrowthPlan, inputs: GrowthInputs) -> GrowthPlan:
    """Settle what a plan leaves to data: matrices that are learned, a momentum within a budget.

    Returns:
        The same plan where nothing is left to data.

    Raises:
        ValueError: If the operator or the PIM variant lacks its inputs.
    """
    if not plan.grows or plan.operator.forgets:
        return plan
    if plan.operator.is_learned:
        plan = learn_plan(plan, inputs.batches)
    return _within_budget(plan, inputs) if plan.pim_variant.is_budgeted else plan


@torch.no_grad()
def grown_model(plan: GrowthPlan) -> Clip:
    """The child that a plan describes; a copy of the parent where nothing grows."""
    scale = plan.parent_model.logit_scale
    if plan.grows:
        child = Clip(plan.child_arch, seed=plan.seed).to(scale.device, scale.dtype)
    else:
        child = empty_model(plan.child_arch).to(scale.dtype).to_empty(device=scale.device)
        child.load_state_dict(dict(plan.params))
    child.train(plan.parent_model.training)
    if plan.grows and not plan.operator.forgets:
        _fill(child, plan)
    return child


def _fill(child: Clip, plan: GrowthPlan) -> None:
    fresh = dict(child.named_parameters())
    for inherited in grown_params(plan, fresh):
        fresh[inherited.name].copy_(plan.pim_variant.blend(inherited, plan.config))
    gated = [
        f"{blocks}.{number}"
        for blocks, sources in plan.blocks.items()
        for number, source in enumerate(sources)
        if source.mode == "gated"
    ]
    install_gates(child, gated, plan.config.gate_steps)


def _within_budget(plan: GrowthPlan, inputs: GrowthInputs) -> GrowthPlan:
    """The plan with the smallest momentum whose validation loss rises by at most the budget."""
    if inputs.validation_loss is None:
        raise ValueError("pim 'budgeted' must have a validation loss to measure, but got none.")
    limit = inputs.validation_loss(plan.parent_model) + plan.config.budget
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_within = inputs.validation_loss(grown_model(_at_momentum(plan, middle))) <= limit
        low, high = (low, middle) if is_within else (middle, high)
    return _at_momentum(plan, high)


def _at_momentum(plan: GrowthPlan, momentum: float) -> GrowthPlan:
    return replace(plan, config=replace(plan.config, momentum=momentum))

"""Build a child from a parent: values in, values out; the parent is never changed.

A child starts as a fresh initialisation of its architecture and is filled parameter by parameter
(``growth/plan.py``), each blended with its fresh value as PIM says (``growth/pim.py``). So
nothing but parent, child and one parameter is in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nas_growclip.data.batches import PairBatch
from nas_growclip.growth.candidates import check_growth
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.ligo import learn_growth
from nas_growclip.growth.operators import GrowthOperator, find_operator
from nas_growclip.growth.pim import check_groups, find_reading
from nas_growclip.growth.plan import Growth, axis_maps, block_sources
from nas_growclip.growth.tensors import grown_params
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state, install_gates

BISECTIONS = 6
"""Measurements by which the ``budgeted`` reading finds its momentum, to within 1 / 64."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What some operators and readings of PIM look at besides the parent's weights."""

    validation_loss: Callable[[Clip], float] | None = None
    """For the ``budgeted`` reading."""
    batches: Callable[[Clip], Iterator[PairBatch]] | None = None
    """For the ``ligo`` operator: batches to train its maps on, as the given child takes them."""
    ema: Mapping[str, Tensor] | None = None
    """For the ``ema`` reading: the parent's moving average by parameter name."""


def inherit(
    parent: Clip,
    child_arch: ClipArch,
    operator: str | GrowthOperator | None = None,
    seed: int = 0,
    *,
    config: GrowthConfig | None = None,
    evidence: Evidence | None = None,
    **settings: Any,
) -> Clip:
    """Grow a parent into a child architecture, keeping what the parent knows.

    Where no dimension grows the child is a copy of the parent, whatever the operator and momentum.
    With the default operators and momentum 1 the child computes the parent's embeddings wherever
    the operator claims so (``growth/claims.py``), to 1e-10 in fp64.

    Args:
        parent: The model to grow; left as it is.
        child_arch: The architecture to reach; no dimension but the patch size may be smaller.
        operator: A name in ``OPERATORS``, or an operator; default: the config's.
        seed: Fixes the fresh entries and what operators draw.
        config: How to grow.
        evidence: Data for the operators and readings that look at some.
        settings: Single fields of ``GrowthConfig``, as in ``momentum=0.95``; they win over
            ``config``.

    Returns:
        A new model on the parent's device and in its dtype; with the depth operator ``gated`` its
        inserted blocks are behind closed gates.

    Raises:
        ValueError: If a dimension shrinks, an argument is out of range or unknown, an operator or
            a reading lacks its evidence, or the axis table has no row for a parameter.
    """
    if isinstance(operator, str):
        settings["operator"] = operator
    config, evidence = replace(config or GrowthConfig(), **settings), evidence or Evidence()
    rule = operator if isinstance(operator, GrowthOperator) else find_operator(config.operator)
    check_growth(parent.arch, child_arch)
    for name, _ in parent.named_parameters():
        param_axes(name)  # without a row the child would silently lack it
    check_groups(config.pim_exclude)
    reading = find_reading(config.pim)
    if parent.arch == child_arch:
        return _same(parent)
    if rule.forgets:
        return _fresh_child(parent, child_arch, seed)
    growth = plan_growth(parent, child_arch, rule, config, seed, evidence)
    return (
        _within_budget(growth, parent, evidence) if reading.is_budgeted else _fill(growth, parent)
    )


def plan_growth(
    parent: Clip,
    child_arch: ClipArch,
    operator: GrowthOperator,
    config: GrowthConfig,
    seed: int,
    evidence: Evidence,
) -> Growth:
    """Everything about a growth that does not depend on the fresh initialisation."""
    weights: Mapping[str, Tensor] | None = None
    if find_reading(config.pim).takes_ema:
        if evidence.ema is None:
            raise ValueError(
                "pim 'ema' must have the parent's moving average, but there is none. "
                "Train the parent with train.ema_decay above 0."
            )
        weights = evidence.ema
    growth = Growth(
        parent.arch,
        child_arch,
        folded_state(parent, weights),
        axis_maps(parent.arch, child_arch, operator, config, seed),
        block_sources(parent.arch, child_arch, config),
        config,
        operator.is_noisy,
        seed,
    )
    if not operator.is_learned or not config.learn_steps:
        return growth
    return learn_growth(growth, evidence.batches)


def _same(parent: Clip) -> Clip:
    """A copy: where nothing grows nothing is blended, so *no growth* is a clean control."""
    child = _fresh_child(parent, parent.arch, seed=0)
    child.load_state_dict(folded_state(parent))
    return child


def _fresh_child(parent: Clip, child_arch: ClipArch, seed: int) -> Clip:
    scale = parent.logit_scale
    child = Clip(child_arch, seed=seed).to(scale.device, scale.dtype)
    return child.train(parent.training)


@torch.no_grad()
def _fill(growth: Growth, parent: Clip) -> Clip:
    blend = find_reading(growth.config.pim).blend
    child = _fresh_child(parent, growth.child_arch, growth.seed)
    fresh = dict(child.named_parameters())
    for inherited in grown_params(growth, fresh):
        fresh[inherited.name].copy_(blend(inherited, growth.config))
    gated = [
        f"{blocks}.{number}"
        for blocks, sources in growth.blocks.items()
        for number, source in enumerate(sources)
        if source.mode == "gated"
    ]
    install_gates(child, gated, growth.config.gate_steps)
    return child


def _within_budget(growth: Growth, parent: Clip, evidence: Evidence) -> Clip:
    """The child with the smallest momentum whose validation loss rises by at most the budget."""
    if evidence.validation_loss is None:
        raise ValueError("pim 'budgeted' must have a validation loss to measure, but got none.")
    limit = evidence.validation_loss(parent) + growth.config.budget
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        child = _fill(_at_momentum(growth, middle), parent)
        is_within = evidence.validation_loss(child) <= limit
        low, high = (low, middle) if is_within else (middle, high)
    return _fill(_at_momentum(growth, high), parent)


def _at_momentum(growth: Growth, momentum: float) -> Growth:
    return replace(growth, config=replace(growth.config, momentum=momentum))

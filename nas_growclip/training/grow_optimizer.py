"""AdamW grown along with its model, for a training loop of one's own.

PyTorch's AdamW keeps one step count a tensor, so the new entries of a grown tensor share the old
ones' count. With moments of zero under a count that has settled, their first steps would be up to
(1 - beta1) / sqrt(1 - beta2) rates long, 3.2 by default. So their second moment begins as the mean
of the old entries' of their tensor: a first step is then about (1 - beta1) rates long, and further
ones as long as those of old entries within some 1 / (1 - beta1) steps. ``EntrywiseAdamW`` needs
none of this: there each entry counts its own steps.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from nas_growclip.growth.adam_moments import MOMENTS, grow_moments
from nas_growclip.growth.config import DEFAULT_GROWTH, GrowthConfig
from nas_growclip.growth.plan import GrowthPlan, plan_growth
from nas_growclip.models.axes import BLOCK_LISTS, split_block
from nas_growclip.models.clip import Clip
from nas_growclip.training.optimizer import EntrywiseAdamW
from nas_growclip.training.state import moments_of

GROWABLE = (AdamW, EntrywiseAdamW)


def grow_optimizer(
    parent_optimizer: Optimizer,
    parent: Clip,
    child: Clip,
    config: GrowthConfig = DEFAULT_GROWTH,
    *,
    seed: int = 0,
) -> AdamW:
    """AdamW for a child of ``inherit`` that goes on where its parent's was.

    - Old entries keep their moments, grown by the maps of the weights as gradients are, and their
      step count.
    - New entries in a tensor that has old ones share its step count. Their first moment is zero,
      their second the mean of the old entries'. In an ``EntrywiseAdamW`` both are zero, and so is
      their step count.
    - Tensors without old entries begin afresh, with a step count of their own: those of inserted
      blocks, and those whose entries mix several of the parent's.

    Groups keep their settings, as they are now, and each parameter its group; a new block's are in
    those of the block it stands behind, or, in a list that had none, of another encoder's block.
    Parameters that are not the parent's go along as they are. A learning-rate scheduler holds the
    parent's optimizer: make a new one.

    Args:
        parent_optimizer: ``torch.optim.AdamW``, or ``EntrywiseAdamW``; left as it is.
        parent: The model that it trained.
        child: What ``inherit`` made of the parent, not trained yet.
        config: How ``inherit`` made it; whatever its ``moments``, they grow.
        seed: The seed with which ``inherit`` made it.

    Returns:
        An optimizer of the same class.

    Raises:
        ValueError: If the optimizer is another one, has ``amsgrad``, or trains none of the parent's
            parameters; or as ``plan_growth``.
    """
    optimizer = _checked(parent_optimizer, parent)
    config = replace(config, moments="grow", pim="convex")  # PIM says nothing about moments
    plan = plan_growth(parent, child.arch, config, seed=seed)
    grown = type(optimizer)(_groups(optimizer, child, plan))
    for parameter in _others(optimizer, parent):
        grown.state[parameter] = copy.deepcopy(optimizer.state[parameter])
    if not plan.operator.forgets:
        _fill(grown, child, grow_moments(plan, moments_of(parent, optimizer)))
    return grown


def _checked(optimizer: Optimizer, parent: Clip) -> AdamW:
    """An optimizer that can grow with a parent."""
    kind = type(optimizer)
    if kind not in GROWABLE or not isinstance(optimizer, AdamW):
        raise ValueError(
            "The parent's optimizer must be torch.optim.AdamW or EntrywiseAdamW, but got "
            f"{kind.__module__}.{kind.__name__}. Make a new one for the child."
        )
    if any(group["amsgrad"] for group in optimizer.param_groups):
        raise ValueError(
            "The parent's optimizer must have amsgrad=False, but has True: largest second moments "
            "do not grow. Make a new one for the child."
        )
    if set(_places(optimizer)).isdisjoint(parent.parameters()):
        raise ValueError(
            "The parent's optimizer must train the parent's parameters, but has none of them. "
            "Give the optimizer and the model that were trained together."
        )
    return optimizer


def _places(optimizer: AdamW) -> dict[Tensor, int]:
    """Every parameter of an optimizer, with the number of its group."""
    return {p: place for place, group in enumerate(optimizer.param_groups) for p in group["params"]}


def _others(optimizer: AdamW, parent: Clip) -> list[Tensor]:
    """Parameters that are not the parent's."""
    own = set(parent.parameters())
    return [parameter for parameter in _places(optimizer) if parameter not in own]


def _groups(optimizer: AdamW, child: Clip, plan: GrowthPlan) -> list[dict[str, Any]]:
    """The optimizer's groups with the child's parameters in place of the parent's."""
    places, members = _places(optimizer), [list[Tensor]() for _ in optimizer.param_groups]
    for parameter in _others(optimizer, plan.parent_model):
        members[places[parameter]].append(parameter)
    named = {n: places[p] for n, p in plan.parent_model.named_parameters() if p in places}
    for name, parameter in child.named_parameters():
        place = next((named[alike] for alike in _alike(name, plan) if alike in named), None)
        if place is not None:
            members[place].append(parameter)
    groups = zip(optimizer.param_groups, members, strict=True)
    return [{**copy.deepcopy(_settings(group)), "params": own} for group, own in groups]


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _alike(name: str, plan: GrowthPlan) -> Iterator[str]:
    """The parent's parameters whose group one of the child's may take, the nearest first."""
    block, source = split_block(name), plan.source(name)
    if block is None:
        yield name
        return
    blocks, number, rest = block
    nearest = plan.blocks[blocks][number::-1] if source.is_inserted else (source,)
    for below in nearest:
        yield from (f"{blocks}.{index}.{rest}" for index, _ in below.parents)
    if source.is_inserted:
        yield from (f"{other}.0.{rest}" for other in BLOCK_LISTS)


def _fill(optimizer: AdamW, child: Clip, tensors: Mapping[str, Tensor]) -> None:
    """Put grown moments into an optimizer; parameters without any begin afresh."""
    trained = _places(optimizer)
    for name, parameter in child.named_parameters():
        if parameter not in trained or f"exp_avg.{name}" not in tensors:
            continue
        mean, square, count = (tensors[f"{key}.{name}"] for key in (*MOMENTS, "step_count"))
        state = optimizer.state[parameter]
        if isinstance(optimizer, EntrywiseAdamW):
            optimizer.set_step_count(parameter, count)
        else:
            state["step"], square = count.max().float(), _with_mean_of_old(square, count == 0)
        state |= {"exp_avg": mean, "exp_avg_sq": square}


def _with_mean_of_old(square: Tensor, is_new: Tensor) -> Tensor:
    """A second moment in which new entries have the mean of the old ones."""
    is_new = is_new.to(square.device).expand(square.shape)
    return torch.where(is_new, square[~is_new].mean(), square) if bool(is_new.any()) else square

"""LiGO: growth whose matrices are learned for some steps, the parent frozen.

Every grown axis has one matrix for what writes it and one for what reads it, tied over all
parameters of the model; every list of blocks that grows has a matrix that mixes the parent's
blocks. They start as Net2Net's copies and are trained on the contrastive loss of the child.

Reference: LiGO (Wang et al., 2023, arXiv 2303.00980), equations 5 to 8; there each layer has
matrices of its own, here one for each axis serves all layers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from nas_growclip.growth.depth import BlockSource
from nas_growclip.growth.inputs import ImagesAndTokens
from nas_growclip.growth.maps import AxisMap
from nas_growclip.growth.operators import SPECIAL_AXES
from nas_growclip.growth.plan import GrowthPlan
from nas_growclip.growth.tensors import grown_params
from nas_growclip.models.axes import BLOCK_LISTS
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import ContrastiveLoss


def learn_plan(
    plan: GrowthPlan, batches: Callable[[Clip], Iterator[ImagesAndTokens]] | None
) -> GrowthPlan:
    """Train a plan's matrices for ``config.learn_steps`` steps of AdamW.

    Args:
        plan: The plan to start from; left as it is.
        batches: Gives an iterator over training batches for the child.

    Raises:
        ValueError: If there are steps to train for, but no batches.
    """
    if not plan.config.learn_steps:
        return plan
    if batches is None:
        raise ValueError("The ligo operator must have batches to train on, but got none.")
    plan = _with_active_blocks(plan)
    matrices, mixtures = _leaves(plan)
    if not matrices and not mixtures:
        return plan
    optimizer = torch.optim.AdamW(
        [*matrices.values(), *mixtures.values()], lr=plan.config.learn_rate, weight_decay=0.0
    )
    device = plan.params["logit_scale"].device
    child = Clip(plan.child_arch, seed=plan.seed).to(device, plan.params["logit_scale"].dtype)
    loss_fn, stream = ContrastiveLoss(child.logit_bias is not None), batches(child)
    for _ in range(plan.config.learn_steps):
        images, tokens = next(stream)
        params = _child_params(_with_leaves(plan, matrices, mixtures), child)
        loss = loss_fn(*functional_call(child, params, (images.to(device), tokens.to(device))))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    learned = {key: matrix.detach() for key, matrix in matrices.items()}
    return _with_leaves(plan, learned, {key: mix.detach() for key, mix in mixtures.items()})


def _child_params(plan: GrowthPlan, child: Clip) -> dict[str, Tensor]:
    fresh = {name: value.detach() for name, value in child.named_parameters()}
    return {inherited.name: inherited.value for inherited in grown_params(plan, fresh)}


def _with_active_blocks(plan: GrowthPlan) -> GrowthPlan:
    blocks = {
        name: tuple(source._replace(mode="active") for source in sources)
        for name, sources in plan.blocks.items()
    }
    return replace(plan, blocks=blocks)


def _leaves(plan: GrowthPlan) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """What is learned: matrices by (axis, role), and mixtures of blocks by list."""
    matrices = {
        (axis, role): axis_map.expansion(role).matrix.clone().requires_grad_()
        for axis, axis_map in plan.maps.items()
        if axis not in SPECIAL_AXES
        for role in ("write", "read")
    }
    mixtures = {}
    for name, sources in plan.blocks.items():
        old = plan.parent_arch.size(BLOCK_LISTS[name])
        if old and len(sources) != old:
            mixture = torch.zeros(len(sources), old, dtype=torch.float64)
            for row, source in enumerate(sources):
                for number, weight in source.parents:
                    mixture[row, number] = weight
            mixtures[name] = mixture.requires_grad_()
    return matrices, mixtures


def _with_leaves(
    plan: GrowthPlan, matrices: Mapping[tuple[str, str], Tensor], mixtures: Mapping[str, Tensor]
) -> GrowthPlan:
    maps = {
        axis: _with_matrices(axis_map, matrices[axis, "write"], matrices[axis, "read"])
        if (axis, "write") in matrices
        else axis_map
        for axis, axis_map in plan.maps.items()
    }
    mixed = {
        name: tuple(
            BlockSource(tuple(enumerate(row)), "active", source.is_inserted)
            if source.parents
            else source
            for row, source in zip(mixtures[name], sources, strict=True)
        )
        if name in mixtures
        else sources
        for name, sources in plan.blocks.items()
    }
    return replace(plan, maps=maps, blocks=mixed)


def _with_matrices(axis_map: AxisMap, write: Tensor, read: Tensor) -> AxisMap:
    return replace(
        axis_map,
        write=replace(axis_map.write, matrix=write),
        read=replace(axis_map.read, matrix=read, copies=None),
    )

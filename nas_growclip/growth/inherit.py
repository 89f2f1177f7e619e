"""Build a child from a parent: values in, values out; the parent is never changed.

Each of the child's parameters is unfolded into its elementary axes (``models/axes.py``), every
axis that grew is multiplied by its map (``growth/operators.py``), free entries and the PIM blend
(``growth/momentum.py``) take from a fresh initialisation of the child's architecture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nas_growclip.arch import ClipArch, dimension_steps
from nas_growclip.growth.momentum import PIM, Blend, Inherited
from nas_growclip.growth.operators import OPERATORS, AxisMap, BlockSource, GrowthOperator
from nas_growclip.growth.space import GROWABLE
from nas_growclip.models.axes import (
    BLOCK_LISTS,
    PARAM_AXES,
    AxisSpec,
    axis_size,
    param_axes,
    parse_axes,
    split_block,
)
from nas_growclip.models.clip import Clip


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """How children inherit: the ``growth:`` part of an experiment.

    Raises:
        ValueError: If a name is unknown or the momentum is out of range.
    """

    operator: str = "exact"
    """A name in ``OPERATORS``."""
    momentum: float = 1.0
    """Share of the inherited weight in PIM's blend; 1 only inherits."""
    pim: str = "convex"
    """Reading of PIM, a name in ``PIM``."""

    def __post_init__(self) -> None:
        _check_momentum(self.momentum)
        find_operator(self.operator)
        find_blend(self.pim)


def inherit(
    parent: Clip,
    child_arch: ClipArch,
    operator: str | GrowthOperator = "exact",
    momentum: float = 1.0,
    seed: int = 0,
    *,
    pim: str = "convex",
) -> Clip:
    """Grow a parent into a child architecture, keeping what the parent knows.

    With operator ``exact`` and momentum 1 (or PIM reading ``null_space`` at any momentum) the
    child computes the parent's embeddings.

    Args:
        parent: The model to grow; left as it is.
        child_arch: The architecture to reach; no dimension may be smaller than the parent's.
        operator: A name in ``OPERATORS``, or an operator.
        momentum: Share m in [0, 1] of the inherited weight in PIM's blend; 1 only inherits.
        seed: Fixes the fresh entries.
        pim: Reading of PIM: ``convex`` or ``null_space``.

    Returns:
        A new model on the parent's device and in its dtype.

    Raises:
        ValueError: If a dimension shrinks or cannot grow, or an argument is out of range.
    """
    _check_momentum(momentum)
    _check_growth(parent.arch, child_arch)
    operator = operator if isinstance(operator, GrowthOperator) else find_operator(operator)
    blend = find_blend(pim)
    growth = _Growth(
        parent,
        dict(parent.named_parameters()),
        axis_maps(parent.arch, child_arch, operator, seed),
        block_sources(parent.arch, child_arch, operator),
    )
    child = Clip(child_arch, seed=seed).to(parent.logit_scale.device, parent.logit_scale.dtype)
    with torch.no_grad():
        for name, fresh in child.named_parameters():
            fresh.copy_(blend(_inherit_param(name, fresh, growth), fresh, momentum))
    child.train(parent.training)
    return child


def axis_maps(
    parent: ClipArch, child: ClipArch, operator: GrowthOperator, seed: int
) -> Mapping[str, AxisMap]:
    """A map for every axis whose size differs between two architectures."""
    rng = torch.Generator().manual_seed(seed)
    names = {axis.name for row in PARAM_AXES.values() for axis in parse_axes(row).axes}
    sizes = {n: (axis_size(parent, n), axis_size(child, n)) for n in sorted(names)}
    return {n: operator.axis(n, old, new, rng) for n, (old, new) in sizes.items() if old != new}


def block_sources(
    parent: ClipArch, child: ClipArch, operator: GrowthOperator
) -> Mapping[str, tuple[BlockSource, ...]]:
    """For every list of blocks, where each of the child's blocks comes from."""
    return {
        blocks: operator.depth(parent.size(dimension), child.size(dimension))
        if parent.size(dimension) != child.size(dimension)
        else tuple(BlockSource(i, is_inserted=False) for i in range(parent.size(dimension)))
        for blocks, dimension in BLOCK_LISTS.items()
    }


class GrownTensor(NamedTuple):
    """An enlarged parameter, and which of its entries are free."""

    value: Float[Tensor, "..."]
    is_free: Bool[Tensor, "..."]


def inherit_tensor(
    weight: Float[Tensor, "..."],
    axes: AxisSpec,
    sizes: tuple[int, ...],
    maps: Mapping[str, AxisMap],
) -> GrownTensor:
    """Enlarge one parameter along the axes that grow.

    Args:
        weight: The parent's parameter as PyTorch stores it.
        axes: Its row of the axis table.
        sizes: The parent's size of each elementary axis of the row.
        maps: One map for each axis that grows.

    Returns:
        The child's parameter, unfolded into elementary axes, with its free entries marked.
    """
    value = weight.reshape(sizes)
    is_new = torch.zeros([1] * value.ndim, dtype=torch.bool, device=weight.device)
    is_zero = is_new.clone()
    for position, axis in enumerate(axes.axes):
        if axis.name not in maps:
            continue
        expansion = maps[axis.name].expansion(axis.role)
        matrix = expansion.matrix.to(weight.device, weight.dtype)
        value = torch.tensordot(value, matrix, dims=([position], [1])).movedim(-1, position)
        along = [1] * value.ndim
        along[position] = -1
        new_here = expansion.is_new.to(weight.device).reshape(along)
        is_new = is_new | new_here
        is_zero = is_zero if expansion.is_free else is_zero | new_here
    return GrownTensor(value, (is_new & ~is_zero).expand(value.shape))


class _Growth(NamedTuple):
    parent: Clip
    params: Mapping[str, Tensor]
    maps: Mapping[str, AxisMap]
    blocks: Mapping[str, tuple[BlockSource, ...]]

    def source(self, name: str) -> tuple[str | None, bool]:
        """The parent's parameter behind a child's, and whether its block is inserted."""
        block = split_block(name)
        if block is None:
            return name, False
        blocks, number, rest = block
        source = self.blocks[blocks][number]
        if source.parent_block is None:
            return None, source.is_inserted
        return f"{blocks}.{source.parent_block}.{rest}", source.is_inserted


def _inherit_param(name: str, fresh: Tensor, growth: _Growth) -> Inherited:
    axes = param_axes(name)
    source, is_inserted = growth.source(name)
    if is_inserted and axes.writes_stream:
        return Inherited(torch.zeros_like(fresh), axes.is_linear, is_silent=False)
    if source is None:
        return Inherited(fresh.clone(), axes.is_linear, is_silent=is_inserted)
    weight = growth.params[source].detach()
    grown = inherit_tensor(weight, axes, axes.shape(growth.parent.arch), growth.maps)
    value = torch.where(grown.is_free, fresh.reshape(grown.value.shape), grown.value)
    return Inherited(value.reshape(fresh.shape), axes.is_linear, is_silent=is_inserted)


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be between 0 and 1, but got {momentum}.")


def _check_growth(parent: ClipArch, child: ClipArch) -> None:
    for dimension, (old, new) in dimension_steps(parent, child).items():
        if new < old:
            raise ValueError(
                f"The child's {dimension} must be at least the parent's, but got {old} -> {new}. "
                "Growing never shrinks a dimension."
            )
        if dimension not in GROWABLE:
            raise ValueError(
                f"{dimension} cannot grow, but got {old} -> {new}. "
                f"Dimensions that can: {', '.join(GROWABLE)}."
            )


def find_operator(name: str) -> GrowthOperator:
    """The growth operator of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, but got {name!r}.")
    return OPERATORS[name]


def find_blend(name: str) -> Blend:
    """The reading of PIM of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in PIM:
        raise ValueError(f"pim must be one of {', '.join(PIM)}, but got {name!r}.")
    return PIM[name]

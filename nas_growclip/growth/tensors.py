"""One parameter at a time: unfold it into axes, apply the maps, fold it back."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nas_growclip.growth.depth import BlockSource
from nas_growclip.growth.maps import AxisMap
from nas_growclip.growth.pim import Inherited
from nas_growclip.growth.plan import GrowthPlan
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import (
    AxisSpec,
    param_axes,
)


def grown_params(plan: GrowthPlan, fresh: Mapping[str, Tensor]) -> Iterator[Inherited]:
    """Every parameter of the child before PIM's blend, one after the other.

    Args:
        plan: The plan.
        fresh: A fresh initialisation of the child.
    """
    for name, value in fresh.items():
        yield grown_param(name, value, plan)


def grown_param(name: str, fresh: Tensor, plan: GrowthPlan) -> Inherited:
    """One parameter of the child before PIM's blend.

    Raises:
        ValueError: If the axis table has no row for it.
    """
    axes, source = param_axes(name), plan.source(name)
    is_silent = source.mode in ("silent", "gated")
    inherited = Inherited(name, fresh, fresh, None, axes.is_linear, is_silent, is_zero=False)
    if source.mode == "silent" and axes.writes_stream:
        return inherited._replace(value=torch.zeros_like(fresh), is_zero=True)
    if source.parents:
        value, null = _grown(name, fresh, axes, source, plan)
        inherited = inherited._replace(value=value, null=null)
    if source.mode == "cancelled":
        cancelled = _cancelled(name, inherited.value, axes, plan.child_arch)
        return inherited._replace(value=cancelled, null=None)
    if plan.operator.is_noisy and inherited.null is not None:
        inherited = inherited._replace(value=_noisy(inherited, plan.config.snr_db))
    return inherited


def _grown(
    name: str, fresh: Tensor, axes: AxisSpec, source: BlockSource, plan: GrowthPlan
) -> tuple[Tensor, Tensor | None]:
    parts = axes.parts() if axes.is_fused else (axes,)
    weights = _unfolded(plan.parent_weight(name, source), parts, plan.parent_arch)
    uppers: list[Tensor] | list[None] = [None] * len(parts)
    if _takes_upper(axes, plan):
        uppers = _unfolded(plan.parent_weight(name, source, above=1), parts, plan.parent_arch)
    news = _unfolded(fresh, parts, plan.child_arch)
    pieces = [
        inherit_tensor(*tensors, plan.maps)
        for tensors in zip(weights, uppers, news, parts, strict=True)
    ]
    values = torch.stack([value for value, _ in pieces]).reshape(fresh.shape)
    nulls = [null for _, null in pieces if null is not None]
    return values, torch.stack(nulls).reshape(fresh.shape) if nulls else None


def _unfolded(tensor: Tensor, parts: Sequence[AxisSpec], arch: ClipArch) -> list[Tensor]:
    return list(tensor.reshape(len(parts), *parts[0].shape(arch)))


def inherit_tensor(
    weight: Float[Tensor, "..."],
    upper: Float[Tensor, "..."] | None,
    fresh: Float[Tensor, "..."],
    axes: AxisSpec,
    maps: Mapping[str, AxisMap],
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."] | None]:
    """Enlarge one parameter along the axes that grow.

    Args:
        weight: The parent's parameter, unfolded into elementary axes.
        upper: The same parameter of the block above, for operators that take from it.
        fresh: A fresh initialisation of the child's, unfolded likewise.
        axes: Its row of the axis table.
        maps: One map for each axis that grows.

    Returns:
        The child's parameter, unfolded, and the fresh weight's part along null directions (None
        where there are none).
    """
    expansions = [
        (position, maps[axis.name].expansion(axis.role))
        for position, axis in enumerate(axes.axes)
        if axis.name in maps
    ]
    value, kept, shared = weight, fresh, fresh
    is_zero = torch.zeros([1] * fresh.ndim, dtype=torch.bool, device=fresh.device)
    is_upper, scale = is_zero.clone(), 1.0
    for position, expansion in expansions:
        value = expansion(value, position)
        upper = None if upper is None else expansion(upper, position)
        shared = expansion.shared_part(shared, position)
        along = [1] * fresh.ndim
        along[position] = -1
        is_new = expansion.is_new.to(fresh.device).reshape(along)
        if expansion.is_free:
            kept = expansion.kept(kept, position)
            scale *= expansion.free_scale if bool(is_new.any()) else 1.0
        else:
            is_zero = is_zero | is_new
        if expansion.is_upper is not None:
            is_upper = is_upper | expansion.is_upper.to(fresh.device).reshape(along)
    if upper is not None:
        value = torch.where(is_upper, upper, value)
    if kept is not fresh:
        value = value + scale * torch.where(is_zero, 0, fresh - kept)
    if shared is fresh:
        return value, None
    is_held = ~is_zero if kept is fresh else ~is_zero & (fresh == kept)
    return value, torch.where(is_held, fresh - shared, 0)


def _takes_upper(axes: AxisSpec, plan: GrowthPlan) -> bool:
    expansions = (
        plan.maps[axis.name].expansion(axis.role) for axis in axes.axes if axis.name in plan.maps
    )
    return any(expansion.is_upper is not None for expansion in expansions)


def _cancelled(name: str, value: Tensor, axes: AxisSpec, arch: ClipArch) -> Tensor:
    """Pair value channels and MLP units: the second half copies the first, with fan-out -1."""
    if axes.writes_stream and not axes.is_linear:
        return torch.zeros_like(value)
    unfolded = value.reshape(axes.shape(arch)).clone()
    for position, axis in enumerate(axes.axes):
        if not axis.name.endswith(("head_dim", "mlp_width")):
            continue
        half = unfolded.shape[position] // 2
        first, second, rest = (
            (slice(None),) * position + (part,)
            for part in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        if axis.role == "read":
            unfolded[second] = -unfolded[first]
            unfolded[rest] = 0
        elif axes.is_fused:
            values = unfolded[2]
            values[second[1:]] = values[first[1:]]
        else:
            unfolded[second] = unfolded[first]
    return unfolded.reshape(value.shape)


def _noisy(inherited: Inherited, snr_db: float) -> Tensor:
    """Add noise along null directions, at a signal-to-noise ratio over the whole tensor."""
    if inherited.null is None or not bool(inherited.null.any()):
        return inherited.value
    ratio: Tensor = 10 ** (-snr_db / 20) * inherited.value.norm() / inherited.null.norm()
    return inherited.value + ratio * inherited.null

"""AdamW's moments through a growth: the same maps, seen from the gradient.

A first moment grows as the gradient does, a second moment as its square. If a stream is written c
times as large and read through gains divided by c, gradients of its writers are divided by c and
those of the gains multiplied (up to the mean over the stream, which new coordinates shift, and to
which the next LayerNorm is blind); copies' gradients come in their readers' shares. Entries that
are new have no moments and a step count of 0: they take their first optimizer step as fresh ones
do, however many the rest of their tensor has had.

Reference: staged training (Shen et al., 2022, arXiv 2203.06211), section 3.3, for even copies.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nas_growclip.growth.maps import AxisMap, Expansion
from nas_growclip.growth.plan import GrowthPlan
from nas_growclip.models.axes import STREAM_AXES, AxisSpec, param_axes, split_block

MOMENTS = ("exp_avg", "exp_avg_sq")


def grow_moments(plan: GrowthPlan, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moments and step counts of a child's parameters.

    Args:
        plan: The plan by which the child was grown.
        moments: The parent's ``exp_avg.NAME``, ``exp_avg_sq.NAME`` and ``step_count.NAME``, the
            number of optimizer steps of the whole tensor or of each entry.

    Returns:
        The same for the child, under the child's names. Parameters that start from zero are left
        out: those of inserted blocks, and those whose entries mix several of the parent's.
    """
    grown: dict[str, Tensor] = {}
    gradients = {axis: gradient_map(axis, plan.maps[axis]) for axis in plan.maps}
    for name in _child_names(plan):
        source = _source_name(name, plan)
        axes = param_axes(name)
        if source is None or f"exp_avg.{source}" not in moments:
            continue
        states = {key: moments[f"{key}.{source}"] for key in (*MOMENTS, "step_count")}
        is_grown = any(axis.name in plan.maps for axis in axes.axes)
        if not is_grown and not plan.is_folded(source):
            grown |= {f"{key}.{name}": value.clone() for key, value in states.items()}
        elif plan.config.moments == "grow" and not plan.is_folded(source):
            mapped = _mapped(states, axes, plan, gradients)
            if mapped["step_count"].any():
                grown |= {f"{key}.{name}": value for key, value in mapped.items()}
    return grown


def gradient_map(axis: str, axis_map: AxisMap) -> AxisMap:
    """How gradients grow where parameters grow by ``axis_map``."""
    if axis_map.write is axis_map.read:  # appended or resampled rows
        rows = replace(axis_map.write, matrix=_unmixed(axis_map.write.matrix))
        return AxisMap(rows, rows, rows, rows)
    read, write, gain = axis_map.read.matrix, axis_map.write.matrix, axis_map.gain.matrix
    is_stream = axis in STREAM_AXES

    def gradient(expansion: Expansion, matrix: Float[Tensor, "new old"]) -> Expansion:
        return replace(expansion, matrix=_unmixed(matrix), is_centred=False, is_rotated=False)

    query = axis_map.expansion("query")
    scales = torch.where(query.matrix != 0, 1 / query.matrix.where(query.matrix != 0, 1), 0)
    return replace(
        axis_map,
        write=gradient(axis_map.write, read * gain if is_stream else read),
        read=gradient(axis_map.read, axis_map.shift.matrix if is_stream else write),
        gain=gradient(axis_map.gain, read / gain.where(gain != 0, 1)),
        shift=gradient(axis_map.shift, read),
        query=None if axis_map.query is None else gradient(query, scales),
    )


def _unmixed(matrix: Float[Tensor, "new old"]) -> Float[Tensor, "new old"]:
    """Zero the rows of entries that mix several others: theirs are no moments of anything."""
    count = torch.bincount(matrix.to_sparse().coalesce().indices()[0], minlength=len(matrix))
    return matrix * (count <= 1)[:, None] if bool((count > 1).any()) else matrix


def _mapped(
    states: Mapping[str, Tensor],
    axes: AxisSpec,
    plan: GrowthPlan,
    gradients: Mapping[str, AxisMap],
) -> dict[str, Tensor]:
    parts = axes.parts() if axes.is_fused else (axes,)
    shape = (len(parts), *parts[0].shape(plan.parent_arch))
    stored = axes.stored_shape(plan.child_arch)
    step_count = states["step_count"].expand(states["exp_avg"].shape)
    grown: dict[str, Tensor] = {}
    changes: tuple[tuple[str, Tensor, Callable[[Tensor], Tensor]], ...] = (
        ("exp_avg", states["exp_avg"], torch.clone),
        ("exp_avg_sq", states["exp_avg_sq"], torch.square),
        ("step_count", step_count.to(torch.float64), lambda matrix: matrix.abs().sign()),
    )
    for key, value, change in changes:
        pieces = [
            _along_all_axes(piece, part, gradients, change)
            for piece, part in zip(value.reshape(shape), parts, strict=True)
        ]
        grown[key] = torch.stack(pieces).reshape(stored)
    grown["step_count"] = grown["step_count"].to(torch.int32)
    return grown


def _along_all_axes(
    value: Tensor,
    axes: AxisSpec,
    maps: Mapping[str, AxisMap],
    change: Callable[[Tensor], Tensor],
) -> Tensor:
    for position, axis in enumerate(axes.axes):
        if axis.name in maps:
            expansion = maps[axis.name].expansion(axis.role)
            if expansion.is_upper is not None:  # another block's entries: as good as new
                keep = ~expansion.is_upper[:, None]
                expansion = replace(expansion, matrix=expansion.matrix * keep, is_upper=None)
            value = replace(expansion, matrix=change(expansion.matrix))(value, position)
    return value


def _child_names(plan: GrowthPlan) -> list[str]:
    names = []
    for name in plan.params:
        block = split_block(name)
        if block is None:
            names.append(name)
        elif block[1] == 0:
            names += [
                f"{block[0]}.{number}.{block[2]}" for number in range(len(plan.blocks[block[0]]))
            ]
    return names


def _source_name(name: str, plan: GrowthPlan) -> str | None:
    block = split_block(name)
    if block is None:
        return name
    source = plan.blocks[block[0]][block[1]]
    if source.is_inserted or len(source.parents) != 1:
        return None
    return f"{block[0]}.{source.parents[0][0]}.{block[2]}"

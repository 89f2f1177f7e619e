"""The plan of a growth: where every parameter of a child comes from.

Every axis that grows has a map (``growth/operators.py``), and blocks come from where the depth
operator says (``growth/depth.py``). Weights, their moving average and AdamW's moments are all
filled from one plan, so they agree on what was copied, drawn and inserted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_growclip.growth.candidates import check_growth
from nas_growclip.growth.config import DEFAULT_GROWTH, GrowthConfig
from nas_growclip.growth.depth import BlockSource, DepthStep, find_depth_operator
from nas_growclip.growth.inputs import NO_INPUTS, GrowthInputs
from nas_growclip.growth.maps import AxisMap, AxisStep
from nas_growclip.growth.operators import SPECIAL_AXES, GrowthOperator, find_operator
from nas_growclip.growth.pim import PimVariant, check_groups, find_pim_variant
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import (
    BLOCK_LISTS,
    PARAM_AXES,
    axis_size,
    norm_of_reader,
    param_axes,
    parse_axes,
    split_block,
)
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import folded_state


@dataclass(frozen=True, kw_only=True)
class GrowthPlan:
    """One growth, planned: where everything in the child comes from."""

    parent_model: Clip
    """Left as it is."""
    child_arch: ClipArch
    params: Mapping[str, Tensor]
    """What is inherited, under the parent's names: its weights or their moving average."""
    maps: Mapping[str, AxisMap]
    """A map for every axis that grows."""
    blocks: Mapping[str, tuple[BlockSource, ...]]
    """For every list of blocks, where each of the child's blocks comes from."""
    config: GrowthConfig
    operator: GrowthOperator
    pim_variant: PimVariant
    seed: int

    @property
    def parent_arch(self) -> ClipArch:
        """The parent's architecture."""
        return self.parent_model.arch

    @property
    def grows(self) -> bool:
        """Whether any dimension grows; otherwise the child is a copy."""
        return self.child_arch != self.parent_arch

    def source(self, name: str) -> BlockSource:
        """Where a child's parameter comes from; block numbers mean nothing outside blocks."""
        block = split_block(name)
        return self.blocks[block[0]][block[1]] if block else BlockSource(((0, 1.0),))

    def parent_weight(self, name: str, source: BlockSource, above: int = 0) -> Tensor:
        """The parent's parameter behind a child's, of the block ``above`` its source if asked."""
        block = split_block(name)
        if block is None:
            return self.folded(name)
        blocks, _, rest = block
        top = self.parent_arch.size(BLOCK_LISTS[blocks]) - 1
        numbers = [(min(number + above, top), weight) for number, weight in source.parents]
        if len(numbers) == 1 and not isinstance(numbers[0][1], Tensor):
            return self.folded(f"{blocks}.{numbers[0][0]}.{rest}")
        return sum(
            (w * self.folded(f"{blocks}.{number}.{rest}") for number, w in numbers),
            start=torch.zeros(()),
        )

    def folded(self, name: str) -> Tensor:
        """A parent's parameter, its LayerNorm's gain and shift folded in where the maps say so."""
        weight = self.params[name].detach()
        norm = self._norm_to_fold(name)
        if norm is None:
            return weight
        gain, shift = (self.params[f"{norm}.{part}"].detach() for part in ("weight", "bias"))
        if name.endswith(".weight"):
            return weight * gain
        return weight + self.params[name.removesuffix("bias") + "weight"].detach() @ shift

    def is_folded(self, name: str) -> bool:
        """Whether a parent's parameter takes part in the folding of norms."""
        is_norm = any(
            axis.role in ("gain", "shift")
            and axis.name in self.maps
            and self.maps[axis.name].folds_norms
            for axis in param_axes(name).axes
        )
        return is_norm or self._norm_to_fold(name) is not None

    def _norm_to_fold(self, name: str) -> str | None:
        norm = norm_of_reader(name)
        if norm is None:
            return None
        stream = param_axes(f"{norm}.weight").axes[0].name
        return norm if stream in self.maps and self.maps[stream].folds_norms else None


def plan_growth(
    parent_model: Clip,
    child_arch: ClipArch,
    config: GrowthConfig = DEFAULT_GROWTH,
    *,
    seed: int = 0,
    inputs: GrowthInputs = NO_INPUTS,
) -> GrowthPlan:
    """Plan a growth: everything about it that depends on neither fresh weights nor data.

    Args:
        parent_model: The model to grow; left as it is.
        child_arch: The architecture to reach; no dimension but the patch size may be smaller.
        config: How to grow.
        seed: Fixes the fresh entries and what operators draw.
        inputs: For the ``ema`` variant, the moving average.

    Raises:
        ValueError: If a dimension shrinks, a name is unknown, an operator cannot grow an axis by
            that much, the moving average is missing, or the axis table has no row for a parameter.
    """
    parent_arch = parent_model.arch
    check_growth(parent_arch, child_arch)
    for name, _ in parent_model.named_parameters():
        param_axes(name)  # without a row the child would silently lack it
    check_groups(config.pim_exclude)
    operator, pim_variant = find_operator(config.operator), find_pim_variant(config.pim)
    averages = None
    if pim_variant.takes_ema and child_arch != parent_arch and not operator.forgets:
        averages = _known(inputs.ema)
    return GrowthPlan(
        parent_model=parent_model,
        child_arch=child_arch,
        params=folded_state(parent_model, averages),
        maps=axis_maps(parent_arch, child_arch, config, seed),
        blocks=block_sources(parent_arch, child_arch, config),
        config=config,
        operator=operator,
        pim_variant=pim_variant,
        seed=seed,
    )


def _known(ema: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    if ema is None:
        raise ValueError(
            "pim 'ema' must have the parent's moving average, but there is none. "
            "Train the parent with train.ema_decay above 0."
        )
    return ema


def axis_maps(
    parent_arch: ClipArch, child_arch: ClipArch, config: GrowthConfig, seed: int
) -> Mapping[str, AxisMap]:
    """A map for every axis that differs between two architectures."""
    operator, rng = find_operator(config.operator), torch.Generator().manual_seed(seed)
    names = {axis.name for row in PARAM_AXES.values() for axis in parse_axes(row).axes}
    maps = {}
    for name in sorted(names):
        old, new = axis_size(parent_arch, name), axis_size(child_arch, name)
        is_regridded = parent_arch.image.grid != child_arch.image.grid
        if old != new or (name == "image.tokens" and is_regridded):
            rule = SPECIAL_AXES.get(name, operator.axis)
            maps[name] = rule(AxisStep(name, old, new, parent_arch, child_arch, config, rng))
    return maps


def block_sources(
    parent_arch: ClipArch, child_arch: ClipArch, config: GrowthConfig
) -> Mapping[str, tuple[BlockSource, ...]]:
    """For every list of blocks, where each of the child's blocks comes from."""
    operator = find_depth_operator(config.depth_operator)
    blocks = {}
    for name, dimension in BLOCK_LISTS.items():
        old, new = parent_arch.size(dimension), child_arch.size(dimension)
        same = tuple(BlockSource(((index, 1.0),)) for index in range(old))
        step = DepthStep(old, new, config.placement)
        blocks[name] = same if old == new else operator.sources(step)
    return blocks

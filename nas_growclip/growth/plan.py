"""Where every parameter of a child comes from: the plan of a growth, and its execution.

Each of the child's parameters is unfolded into its elementary axes (``models/axes.py``), every
axis that grew is multiplied by its map (``growth/operators.py``), and blocks come from where the
depth operator says (``growth/depth.py``). Nothing here knows of data, and nothing changes a parent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import BlockSource, DepthStep, find_depth_operator
from nas_growclip.growth.maps import AxisMap, AxisStep
from nas_growclip.growth.operators import SPECIAL_AXES, GrowthOperator
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import (
    BLOCK_LISTS,
    NORM_OF_READER,
    PARAM_AXES,
    axis_size,
    param_axes,
    parse_axes,
    split_block,
)


@dataclass(frozen=True)
class Growth:
    """One growth, planned: where everything in the child comes from."""

    arch: ClipArch
    child_arch: ClipArch
    params: Mapping[str, Tensor]
    """The parent's parameters."""
    maps: Mapping[str, AxisMap]
    """A map for every axis that grows."""
    blocks: Mapping[str, tuple[BlockSource, ...]]
    """For every list of blocks, where each of the child's blocks comes from."""
    config: GrowthConfig
    is_noisy: bool
    seed: int

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
        top = self.arch.size(BLOCK_LISTS[blocks]) - 1
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
        block = split_block(name)
        is_norm = (
            block is not None
            and block[2].startswith("norm")
            and any(
                axis.name in self.maps and self.maps[axis.name].folds_norms
                for axis in param_axes(name).axes
            )
        )
        return is_norm or self._norm_to_fold(name) is not None

    def _norm_to_fold(self, name: str) -> str | None:
        block = split_block(name)
        if block is None:
            return None
        reader, _, _ = block[2].rpartition(".")
        if reader not in NORM_OF_READER:
            return None
        weight = param_axes(f"{block[0]}.0.{reader}.weight")
        stream = next(axis.name for axis in weight.axes if axis.role == "read")
        if stream not in self.maps or not self.maps[stream].folds_norms:
            return None
        return f"{block[0]}.{block[1]}.{NORM_OF_READER[reader]}"


def axis_maps(
    parent: ClipArch,
    child: ClipArch,
    operator: GrowthOperator,
    config: GrowthConfig,
    seed: int,
) -> Mapping[str, AxisMap]:
    """A map for every axis that differs between two architectures."""
    rng = torch.Generator().manual_seed(seed)
    names = {axis.name for row in PARAM_AXES.values() for axis in parse_axes(row).axes}
    maps = {}
    for name in sorted(names):
        old, new = axis_size(parent, name), axis_size(child, name)
        if old != new or (name == "image.tokens" and parent.image.grid != child.image.grid):
            rule = SPECIAL_AXES.get(name, operator.axis)
            maps[name] = rule(AxisStep(name, old, new, parent, child, config, rng))
    return maps


def block_sources(
    parent: ClipArch, child: ClipArch, config: GrowthConfig
) -> Mapping[str, tuple[BlockSource, ...]]:
    """For every list of blocks, where each of the child's blocks comes from."""
    operator = find_depth_operator(config.depth_operator)
    blocks = {}
    for name, dimension in BLOCK_LISTS.items():
        old, new = parent.size(dimension), child.size(dimension)
        same = tuple(BlockSource(((index, 1.0),)) for index in range(old))
        step = DepthStep(old, new, config.placement)
        blocks[name] = same if old == new else operator.sources(step)
    return blocks

"""Growth operators: how one axis of every parameter is enlarged, and where new blocks come from.

An operator gives each axis an ``AxisMap``: one expansion for the parameters that write the axis,
one for those that read it, and two for a LayerNorm's gain and shift over it. Entries that did not
exist in the parent are either zero or *free*: free entries cannot change the child's function, so
they hold a fresh initialisation. To add an operator, write its functions and one line in
``OPERATORS``; the contract tests then hold it to what it claims.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nas_growclip.growth.space import GROWABLE
from nas_growclip.models.axes import STREAM_AXES, Role


@dataclass(frozen=True)
class Expansion:
    """How parameters of one role are enlarged along an axis."""

    matrix: Float[Tensor, "new old"]
    """Child entries as combinations of parent entries."""
    is_new: Bool[Tensor, " new"]
    """Entries that the parent did not have."""
    is_free: bool
    """Whether new entries may hold anything (a fresh initialisation) instead of zero."""


class AxisMap(NamedTuple):
    """How one axis grows, by the role in which a parameter uses it."""

    write: Expansion
    read: Expansion
    gain: Expansion
    shift: Expansion

    def expansion(self, role: Role) -> Expansion:
        """The expansion for one role."""
        expansion: Expansion = getattr(self, role)
        return expansion


class BlockSource(NamedTuple):
    """Where one block of the child comes from."""

    parent_block: int | None
    """The parent's block, None for a fresh one."""
    is_inserted: bool
    """Whether it is new; an inserted block starts with zeroed writers of the residual stream."""


@dataclass(frozen=True)
class GrowthOperator:
    """One way to grow: along an axis, and in depth."""

    axis: Callable[[str, int, int, torch.Generator], AxisMap]
    """Axis name, old size, new size, random generator -> its map."""
    depth: Callable[[int, int], tuple[BlockSource, ...]]
    """Old and new number of blocks -> a source for each block of the child."""
    preserves: frozenset[str]
    """Dimensions whose growth leaves every embedding as it was."""


def exact_axis(axis: str, old: int, new: int, rng: torch.Generator) -> AxisMap:
    """Enlarge an axis by any ratio without changing the function.

    A residual stream is centred and scaled by c = sqrt(new / old), its new coordinates are zero,
    and each LayerNorm's gain is divided by c: mean and variance, and so the epsilon's weight,
    stay as they were. Other axes (heads, MLP units) get fresh units that nobody reads yet.

    Reference: the zero fill is LEMON's average expansion (Wang et al., 2024, arXiv 2310.07999)
    with one copy, after centring; the scaling keeps the epsilon, which LEMON changes.
    """
    is_new = torch.arange(new) >= old
    keep = torch.eye(new, old, dtype=torch.float64)
    if axis not in STREAM_AXES:
        fresh_units = Expansion(keep, is_new, is_free=True)
        unread = Expansion(keep, is_new, is_free=False)
        return AxisMap(write=fresh_units, read=unread, gain=fresh_units, shift=fresh_units)
    scale = sqrt(new / old)
    centred = keep - keep.sum(dim=1, keepdim=True) / old
    return AxisMap(
        write=Expansion(scale * centred, is_new, is_free=False),
        read=Expansion(keep, is_new, is_free=True),
        gain=Expansion(keep / scale, is_new, is_free=True),
        shift=Expansion(keep, is_new, is_free=False),
    )


def identity_insert(old: int, new: int) -> tuple[BlockSource, ...]:
    """Insert copies of blocks, spread evenly, each behind its original and silent at first.

    Silent: what they write to the residual stream is zero, so the function is unchanged. With no
    block to copy, inserted blocks are fresh.
    """
    if old == 0:
        return tuple(BlockSource(None, is_inserted=True) for _ in range(new))
    sources = [position * old // new for position in range(new)]
    return tuple(
        BlockSource(source, is_inserted=position > 0 and sources[position - 1] == source)
        for position, source in enumerate(sources)
    )


def random_axis(axis: str, old: int, new: int, rng: torch.Generator) -> AxisMap:
    """Forget the axis: every entry is fresh, as when training starts from scratch."""
    forget = Expansion(
        torch.zeros(new, old, dtype=torch.float64),
        torch.ones(new, dtype=torch.bool),
        is_free=True,
    )
    return AxisMap(forget, forget, forget, forget)


def random_insert(old: int, new: int) -> tuple[BlockSource, ...]:
    """Put fresh, fully active blocks behind the parent's."""
    kept = tuple(BlockSource(index, is_inserted=False) for index in range(old))
    return kept + tuple(BlockSource(None, is_inserted=False) for _ in range(new - old))


OPERATORS: Mapping[str, GrowthOperator] = {
    "exact": GrowthOperator(exact_axis, identity_insert, preserves=frozenset(GROWABLE)),
    "random": GrowthOperator(random_axis, random_insert, preserves=frozenset()),
}
"""Growth operators by name."""

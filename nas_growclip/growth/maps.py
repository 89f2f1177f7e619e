"""How one axis is enlarged: the matrices of an operator, by the role in which a parameter uses it.

A child's parameter is its parent's, multiplied along every axis that grew by that axis's matrix.
What the parent does not determine is *free* (nothing notices it, so it holds a fresh
initialisation) or *null* (a direction in which copies may drift apart unnoticed, which PIM and
symmetric noise use).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import Role


class AxisStep(NamedTuple):
    """One axis that grows, with what an operator may want to know."""

    axis: str
    old: int
    new: int
    parent_arch: ClipArch
    child_arch: ClipArch
    config: GrowthConfig
    rng: torch.Generator

    @property
    def is_integer_ratio(self) -> bool:
        """Whether the new size is a multiple of the old one."""
        return self.new % self.old == 0


@dataclass(frozen=True)
class Expansion:
    """How parameters of one role are enlarged along an axis."""

    matrix: Float[Tensor, "new old"]
    """Child entries as combinations of parent entries; may be sparse (COO) for a long axis."""
    is_new: Bool[Tensor, " new"]
    """Entries that the parent did not have."""
    is_free: bool = False
    """Whether new entries may hold anything (a fresh initialisation) instead of the matrix's."""
    free_scale: float = 1.0
    """Size of free entries, as a multiple of a fresh initialisation."""
    is_centred: bool = False
    """Whether the parent's mean along the axis is subtracted first."""
    is_rotated: bool = False
    """Whether the matrix is dense, and what is orthogonal to its columns is free."""
    copies: Int[Tensor, " new"] | None = None
    """For an axis that is read: the entry that each one copies, -1 for none. Only the sum over
    copies matters, so their differences are null directions."""
    is_upper: Bool[Tensor, " new"] | None = None
    """Entries that are taken from the block above instead."""

    def __call__(self, value: Float[Tensor, "..."], position: int) -> Float[Tensor, "..."]:
        """Enlarge a tensor along one of its axes."""
        if self.is_centred:
            value = value - value.mean(dim=position, keepdim=True)
        if self._picks is None or self.matrix.requires_grad:
            matrix = self.matrix.to(value.device, value.dtype)
            return _product(value, matrix, position)
        source, factor = self._picks
        taken = value.index_select(position, source.to(value.device))
        return taken * _along(factor.to(value.device, value.dtype), position, value.ndim)

    @functools.cached_property
    def _picks(self) -> tuple[Int[Tensor, " new"], Float[Tensor, " new"]] | None:
        """For each child entry the one parent entry it comes from, and its factor.

        None if some entry mixes several: then a product of matrices is needed.
        """
        if self.is_rotated:
            return None
        rows, columns = self.matrix.to_sparse().coalesce().indices()
        if len(rows) != len(rows.unique()):
            return None
        source = torch.zeros(len(self.is_new), dtype=torch.long)
        factor = torch.zeros(len(self.is_new), dtype=self.matrix.dtype)
        source[rows] = columns
        factor[rows] = self.matrix.detach().to_sparse().coalesce().values()
        return source, factor

    @property
    def dense(self) -> Float[Tensor, "new old"]:
        """The whole linear map, centring included."""
        matrix = self.matrix.to_dense()
        return matrix - matrix.mean(dim=1, keepdim=True) if self.is_centred else matrix

    def kept(self, fresh: Float[Tensor, "..."], position: int) -> Float[Tensor, "..."]:
        """The part of a fresh tensor that is not free along the axis."""
        if self.is_rotated:
            basis = self.matrix.to(fresh.device, fresh.dtype)
            onto = basis @ torch.linalg.pinv(basis)
            return _product(fresh, onto, position)
        return fresh * ~_along(self.is_new.to(fresh.device), position, fresh.ndim)

    def shared_part(self, fresh: Float[Tensor, "..."], position: int) -> Float[Tensor, "..."]:
        """The part of a fresh tensor that copies have in common: their mean."""
        if self.copies is None:
            return fresh
        groups = torch.where(self.copies < 0, torch.arange(len(self.copies)) + len(self.copies), 0)
        labels = groups + self.copies.clamp(min=0)
        groups = torch.unique(labels, return_inverse=True)[1].to(fresh.device)
        sums = torch.zeros_like(fresh).index_add_(position, groups, fresh)
        counts = torch.bincount(groups, minlength=len(groups)).clamp(min=1).to(fresh.dtype)
        means = sums / _along(counts, position, fresh.ndim)
        return means.index_select(position, groups)


@dataclass(frozen=True)
class AxisMap:
    """How one axis grows, by the role in which a parameter uses it."""

    write: Expansion
    read: Expansion
    gain: Expansion
    shift: Expansion
    stream_gain: Expansion | None = None
    """A stream-writing LayerNorm's gain; as ``write`` where it is None."""
    query: Expansion | None = None
    """Rows of queries; as ``write`` where it is None."""
    key: Expansion | None = None
    """Rows of keys; as ``write`` where it is None."""
    text_side: Expansion | None = None
    """The text tower's side of the joint embedding; as ``write`` where it is None."""
    folds_norms: bool = False
    """Whether LayerNorms' gains and shifts are first folded into what reads through them."""

    def expansion(self, role: Role) -> Expansion:
        """The expansion for one role."""
        stated: Expansion | None = getattr(self, role)
        return self.write if stated is None else stated


def _product(value: Tensor, matrix: Tensor, position: int) -> Tensor:
    product: Tensor = torch.tensordot(value, matrix, dims=([position], [1]))
    return product.movedim(-1, position)


def _along(values: Tensor, position: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[position] = -1
    return values.reshape(shape)

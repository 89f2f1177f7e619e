"""Parameter inheriting with momentum (PIM): inherited weights blended with fresh ones.

GrowCLIP (Deng et al., ICCV 2023, arXiv 2308.11331) gives the idea; its formula and coefficient
are not public in any source we could reach, so the readings here are ours and are named. At
momentum 1 every reading is plain inheriting.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Inherited(NamedTuple):
    """A grown parameter and what a blend may do to it."""

    value: Float[Tensor, "..."]
    is_linear: bool
    """Whether it is the matrix of a linear map, not a bias, norm, position or temperature."""
    is_silent: bool
    """Whether nothing it computes reaches the residual stream yet (inside an inserted block)."""


Blend = Callable[[Inherited, Tensor, float], Tensor]


def convex(inherited: Inherited, fresh: Tensor, momentum: float) -> Tensor:
    """Blend every matrix: momentum * inherited + (1 - momentum) * fresh.

    Biases, norms, positions and the temperature are inherited whole. Changes the function for any
    momentum below 1, sharply below about 0.95.
    """
    if not inherited.is_linear:
        return inherited.value
    return momentum * inherited.value + (1 - momentum) * fresh


def null_space(inherited: Inherited, fresh: Tensor, momentum: float) -> Tensor:
    """Blend only where the function cannot change: exact for every momentum.

    These are the inner matrices of inserted blocks, which are copies at momentum 1 and fresh at
    momentum 0. (The other free entries, new units behind zero fan-out, are fresh at any momentum.)
    """
    return convex(inherited, fresh, momentum) if inherited.is_silent else inherited.value


PIM: Mapping[str, Blend] = {"convex": convex, "null_space": null_space}
"""Readings of PIM by name."""

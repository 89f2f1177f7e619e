"""Parameter inheriting with momentum (PIM): inherited weights blended with fresh ones.

GrowCLIP (Deng et al., ICCV 2023, arXiv 2308.11331) gives the idea; its formula and coefficient
are not public in any source we could reach, so the variants here are ours and are named. At
momentum 1 ``convex`` and ``null_space`` are plain inheriting.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.io.choices import look_up, require_choice

PIM_GROUPS: Mapping[str, tuple[str, ...]] = {
    "token_embedding": ("text.token_embedding.",),
    "patch_embedding": ("image.trunk.patch_embed.",),
    "attention": (".attn.", ".attn_pool.kv.", ".attn_pool.proj."),
    "mlp": (".mlp.",),
    "projection": ("image.projection.", "text.projection."),
    "inserted": (),
}
"""Groups of matrices by name, each with what its parameters' names contain; ``inserted`` holds the
zero output projections of inserted blocks. Biases, norms, positions, the class token and the
temperature are never blended."""


class Inherited(NamedTuple):
    """A grown parameter and what a blend may do to it."""

    name: str
    value: Float[Tensor, "..."]
    fresh: Float[Tensor, "..."]
    null: Float[Tensor, "..."] | None
    """The fresh weight's part along directions that nothing notices; None where there are none."""
    is_linear: bool
    """Whether it is the matrix of a linear map, not a bias, norm, position or temperature."""
    is_silent: bool
    """Whether nothing it computes reaches the residual stream yet (inside an inserted block)."""
    is_zero: bool
    """Whether it is a silent block's output projection."""


Blend = Callable[[Inherited, GrowthConfig], Tensor]


@dataclass(frozen=True)
class PimVariant:
    """One variant of PIM."""

    blend: Blend
    takes_ema: bool = False
    """Whether the parent's moving average is inherited instead of its weights."""
    is_budgeted: bool = False
    """Whether the momentum is searched for: the smallest one within ``config.budget``."""
    is_exact: bool = False
    """Whether the function stays the parent's at every momentum (under an exact operator)."""
    is_exact_at_one: bool = False
    """Whether it does at momentum 1."""


def convex(inherited: Inherited, config: GrowthConfig) -> Tensor:
    """Blend every matrix: m * inherited + (1 - m) * fresh.

    Changes the function for any momentum below 1, sharply below about 0.95.
    """
    if config.momentum == 1 or not blends(inherited, config):
        return inherited.value
    return inherited.value.lerp(inherited.fresh, 1 - config.momentum)


def null_space(inherited: Inherited, config: GrowthConfig) -> Tensor:
    """Blend only where the function cannot change: exact for every momentum.

    These are the differences between copies, W_k += (1 - m) (phi_k - mean phi_k), and the inner
    matrices of silent blocks, which are copies at momentum 1 and fresh at momentum 0. (Free
    entries, new units behind zero fan-out, are fresh at any momentum.)

    Reference: LEMON's projection mode (Wang et al., 2024, arXiv 2310.07999) is momentum 0.
    """
    if not blends(inherited, config):
        return inherited.value
    if inherited.is_silent and not inherited.is_zero:
        return convex(inherited, config)
    if inherited.null is None:
        return inherited.value
    return inherited.value + (1 - config.momentum) * inherited.null


def shrink_perturb(inherited: Inherited, config: GrowthConfig) -> Tensor:
    """Shrink every matrix to m times itself and add a share of a fresh one, for comparison.

    Reference: Ash and Adams, 2020 (arXiv 1910.08475), section 4: lambda is m here, and sigma is
    ``config.perturbation`` in units of the fresh initialisation.
    """
    if not blends(inherited, config):
        return inherited.value
    return config.momentum * inherited.value + config.perturbation * inherited.fresh


def blends(inherited: Inherited, config: GrowthConfig) -> bool:
    """Whether PIM may touch the parameter at all."""
    if not inherited.is_linear:
        return False
    if inherited.is_zero and "inserted" in config.pim_exclude:
        return False
    parts = [part for group in config.pim_exclude for part in PIM_GROUPS[group]]
    return not any(part in inherited.name for part in parts)


PIM_VARIANTS: Mapping[str, PimVariant] = {
    "convex": PimVariant(convex, is_exact_at_one=True),
    "null_space": PimVariant(null_space, is_exact=True),
    "budgeted": PimVariant(convex, is_budgeted=True),
    "ema": PimVariant(convex, takes_ema=True),
    "shrink_perturb": PimVariant(shrink_perturb),
}
"""Variants of PIM by name."""


def find_pim_variant(name: str) -> PimVariant:
    """The PIM variant of that name.

    Raises:
        ValueError: If there is none.
    """
    return look_up(PIM_VARIANTS, name, "pim")


def check_groups(names: tuple[str, ...]) -> None:
    """Check the names of excluded groups.

    Raises:
        ValueError: If one is unknown.
    """
    for name in names:
        require_choice(name, PIM_GROUPS, "pim_exclude")

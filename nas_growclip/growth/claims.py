"""What a growth claims, dimension by dimension: does the child compute the parent's embeddings?"""

from collections.abc import Iterator
from typing import NamedTuple

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import find_depth_operator
from nas_growclip.growth.exactness import EXACT, LOSSY, Claim
from nas_growclip.growth.operators import find_operator
from nas_growclip.growth.pim import find_pim_variant
from nas_growclip.models.arch import ClipArch, dimension_steps


class StepClaim(NamedTuple):
    """One dimension's step, and whether it is exact."""

    dimension: str
    old: int
    new: int
    is_exact: bool
    condition: str
    """When the operator is exact in this dimension."""


def claim_of(dimension: str, config: GrowthConfig) -> Claim:
    """The claim of a config's operators in one dimension."""
    operator = find_operator(config.operator)
    if operator.forgets or operator.is_learned:
        return LOSSY
    if dimension.endswith("depth"):
        return EXACT if find_depth_operator(config.depth_operator).is_exact else LOSSY
    return operator.claims[dimension]


def step_claims(
    parent_arch: ClipArch, child_arch: ClipArch, config: GrowthConfig
) -> Iterator[StepClaim]:
    """The claims of every step from a parent to a child."""
    variant = find_pim_variant(config.pim)
    is_kept = variant.is_exact or (variant.is_exact_at_one and config.momentum == 1)
    for dimension, (old, new) in dimension_steps(parent_arch, child_arch).items():
        claim = claim_of(dimension, config)
        holds = claim.holds(parent_arch, child_arch) and is_kept
        yield StepClaim(dimension, old, new, holds, claim.condition)


def is_exact(parent_arch: ClipArch, child_arch: ClipArch, config: GrowthConfig) -> bool:
    """Whether every step from a parent to a child is exact."""
    return all(claim.is_exact for claim in step_claims(parent_arch, child_arch, config))

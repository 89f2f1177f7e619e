"""The dynamic growth space: which dimensions may grow to which sizes from this parent.

A candidate is a tuple of growth steps; the empty tuple, *no growth*, is always the first one and
is the control that gives every gain its zero. The space depends on the parent (sizes are absolute
or ratios of it) and on the number of pairs (a bound widens as the data grows).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from nas_growclip.arch import ClipArch

GROWABLE = (
    "image.depth",
    "image.width",
    "image.mlp_width",
    "text.depth",
    "text.width",
    "text.mlp_width",
    "shared.depth",
    "shared.mlp_width",
)
"""Dimensions that the operators can grow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthStep:
    """One dimension from an old to a new size, as in ``image.width 384 -> 512``."""

    dimension: str
    old: int
    new: int

    def __post_init__(self) -> None:
        if self.new <= self.old:
            raise ValueError(
                f"A growth step must enlarge {self.dimension}, but got {self.old} -> {self.new}. "
                "Choose a larger size."
            )

    def __str__(self) -> str:
        return f"{self.dimension} {self.old} -> {self.new}"


Candidate = tuple[GrowthStep, ...]
"""Growth steps that are taken together; the empty tuple is *no growth*."""


def apply_steps(parent: ClipArch, candidate: Candidate) -> ClipArch:
    """The child's architecture after every step of a candidate."""
    return parent.with_sizes({step.dimension: step.new for step in candidate})


def candidate_label(candidate: Candidate) -> str:
    """Short name of a candidate, as in ``image.width=96+text.depth=4``; ``none`` for no growth."""
    return "+".join(f"{step.dimension}={step.new}" for step in candidate) or "none"

"""Growth steps, and candidates made of them: what a trial may try."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nas_growclip.models.arch import ClipArch, dimension_steps

SHRINKABLE = frozenset({"image.patch_size"})
"""Dimensions that may also become smaller: smaller patches are more tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthStep:
    """One dimension from an old to a new size, as in ``image.width 384 -> 512``."""

    dimension: str
    old: int
    new: int
    momentum: float | None = None
    """PIM's momentum where it is searched for, the same in all steps of a candidate."""

    def __post_init__(self) -> None:
        if self.new == self.old or (self.new < self.old and self.dimension not in SHRINKABLE):
            raise ValueError(
                f"A growth step must enlarge {self.dimension}, but got {self.old} -> {self.new}. "
                "Choose a larger size."
            )

    def __str__(self) -> str:
        with_momentum = "" if self.momentum is None else f" (momentum {self.momentum:g})"
        return f"{self.dimension} {self.old} -> {self.new}{with_momentum}"


Candidate = tuple[GrowthStep, ...]
"""Growth steps that are taken together; the empty tuple is *no growth*."""


def apply_steps(parent: ClipArch, candidate: Candidate) -> ClipArch:
    """The child's architecture after every step of a candidate."""
    return parent.with_sizes({step.dimension: step.new for step in candidate})


def candidate_label(candidate: Candidate) -> str:
    """Short name of a candidate, as in ``image.width=96+text.depth=4``; ``none`` for no growth."""
    momentum = candidate_momentum(candidate)
    suffix = "" if momentum is None else f"@{momentum:g}"
    return ("+".join(f"{step.dimension}={step.new}" for step in candidate) or "none") + suffix


def candidate_momentum(candidate: Candidate) -> float | None:
    """PIM's momentum of a candidate; None where it is not searched for."""
    return candidate[0].momentum if candidate else None


def check_growth(parent: ClipArch, child: ClipArch) -> None:
    """Check that a child can be grown from a parent.

    Raises:
        ValueError: If a dimension shrinks or a step would change nothing.
    """
    steps = dimension_steps(parent, child)
    for dimension, (old, new) in steps.items():
        if new < old and dimension not in SHRINKABLE:
            raise ValueError(
                f"The child's {dimension} must be at least the parent's, but got {old} -> {new}. "
                "Growing never shrinks a dimension."
            )
    for dimension in ("shared.mlp_width", "shared.heads", "shared.head_dim"):
        if dimension in steps and not child.shared.depth:
            raise ValueError(
                f"{dimension} has nothing to grow while shared.depth is 0. Grow shared.depth too."
            )


GROW = "grow"

MOMENTUM = "momentum"

T = TypeVar("T")


def dimensions_label(candidate: Candidate) -> str:
    """The dimensions that a candidate grows, as in ``image.width+text.depth``; else ``none``."""
    return "+".join(step.dimension for step in candidate) or "none"


def _momenta(candidates: Sequence[Candidate]) -> tuple[float, ...]:
    momenta = [candidate_momentum(candidate) for candidate in candidates]
    return _unique(momentum for momentum in momenta if momentum is not None)


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))

"""The dynamic growth space: which dimensions may grow to which sizes from this parent.

A candidate is a tuple of growth steps; the empty tuple, *no growth*, is always the first one and
is the control that gives every gain its zero. The space depends on the parent (sizes are absolute
or ratios of it) and on the number of pairs (a bound widens as the data grows).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from nas_growclip.arch import DIMENSIONS, ClipArch

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


@dataclass(frozen=True, kw_only=True)
class SizeChoices:
    """Sizes that one dimension may take next; the three ways may be mixed."""

    sizes: tuple[int, ...] = ()
    """Absolute sizes; those at or below the parent's are left out."""
    ratios: tuple[float, ...] = ()
    """Multiples of the parent's size, rounded up to a legal one."""
    add: tuple[int, ...] = ()
    """Amounts on top of the parent's size, rounded up to a legal one."""
    from_pairs: int = 0
    """The dimension may grow once the stage has so many pairs."""

    def __post_init__(self) -> None:
        if not (self.sizes or self.ratios or self.add):
            raise ValueError("must give sizes, ratios or add. Add one of them.")
        for ratio in self.ratios:
            if not ratio > 1:
                raise ValueError(f"ratios: must be above 1, but got {ratio}.")
        for name in ("sizes", "add"):
            for value in getattr(self, name):
                if value < 1:
                    raise ValueError(f"{name}: must be 1 or more, but got {value}.")

    def new_sizes(self, old: int, unit: int) -> tuple[int, ...]:
        """Legal sizes above ``old``, in rising order; ``unit`` divides every legal size."""
        wished = [
            *self.sizes,
            *(ceil(round(old * ratio, 6)) for ratio in self.ratios),
            *(old + amount for amount in self.add),
        ]
        legal = {-(-size // unit) * unit for size in wished}
        return tuple(sorted(size for size in legal if size > old))


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How many dimensions may grow together from some number of pairs on."""

    from_pairs: int
    num_dimensions: int


@dataclass(frozen=True, kw_only=True)
class GrowthSpace:
    """Which dimensions may take which sizes, and how that widens with the data.

    Raises:
        ValueError: If a dimension is unknown or cannot grow.
    """

    dimensions: Mapping[str, SizeChoices]
    combine: tuple[Combination, ...] = (Combination(from_pairs=0, num_dimensions=1),)
    """Dimensions that may grow together; the last entry reached by the data counts."""

    def __post_init__(self) -> None:
        for dimension in self.dimensions:
            if dimension not in GROWABLE:
                known = ", ".join(GROWABLE)
                what = "cannot grow yet" if dimension in DIMENSIONS else "unknown dimension"
                raise ValueError(f"dimensions: {dimension}: {what}. Growable: {known}.")

    def candidates(self, parent: ClipArch, num_pairs: int) -> tuple[Candidate, ...]:
        """Every candidate from this parent at this data size, no growth first."""
        open_steps = {
            dimension: tuple(
                GrowthStep(dimension=dimension, old=parent.size(dimension), new=new)
                for new in choices.new_sizes(parent.size(dimension), _unit(parent, dimension))
            )
            for dimension, choices in self.dimensions.items()
            if num_pairs >= choices.from_pairs
        }
        return ((), *self._combined(open_steps, num_pairs))

    def _combined(
        self, open_steps: Mapping[str, tuple[GrowthStep, ...]], num_pairs: int
    ) -> Iterator[Candidate]:
        reached = [c.num_dimensions for c in self.combine if num_pairs >= c.from_pairs]
        for count in range(1, (reached[-1] if reached else 1) + 1):
            for dimensions in itertools.combinations(open_steps, count):
                yield from itertools.product(*(open_steps[d] for d in dimensions))


def _unit(arch: ClipArch, dimension: str) -> int:
    heads = {"image.width": arch.image.head_dim, "text.width": arch.text.head_dim}
    return heads.get(dimension, 1)

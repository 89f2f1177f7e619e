"""Growth steps, and candidates made of them: what a trial may try."""

from collections.abc import Mapping
from dataclasses import dataclass

from nas_growclip.io.mappings import read_fields
from nas_growclip.models.arch import ClipArch, dimension_steps

SHRINKABLE = frozenset({"image.patch_size"})
"""Dimensions that may also become smaller: smaller patches are more tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthStep:
    """One dimension from an old to a new size, as in ``image.width 384 -> 512``.

    Raises:
        ValueError: If the new size is not larger (of a patch: the same).
    """

    dimension: str
    old: int
    new: int

    def __post_init__(self) -> None:
        if self.new == self.old or (self.new < self.old and self.dimension not in SHRINKABLE):
            raise ValueError(
                f"A growth step must enlarge {self.dimension}, but got {self.old} -> {self.new}. "
                "Choose a larger size."
            )

    def __str__(self) -> str:
        return f"{self.dimension} {self.old} -> {self.new}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Growth steps that are taken together; without any it is *no growth*, the control.

    Raises:
        ValueError: If a dimension has two steps, or the momentum is out of range or nothing grows
            by it.
    """

    steps: tuple[GrowthStep, ...] = ()
    momentum: float | None = None
    """PIM's momentum where it is searched for; None leaves the configured one."""

    def __post_init__(self) -> None:
        read_fields(self)
        for dimension in self.dimensions:
            if self.dimensions.count(dimension) > 1:
                raise ValueError(
                    f"A candidate must have one step for {dimension}, but got "
                    f"{self.dimensions.count(dimension)}. Give one step to the last size."
                )
        if self.momentum is not None and not (self.steps and 0 <= self.momentum <= 1):
            raise ValueError(
                "A candidate's momentum must be between 0 and 1, and None for no growth, but got "
                f"{self.momentum} for {self}."
            )

    @property
    def grows(self) -> bool:
        """Whether any dimension grows: false for the control."""
        return bool(self.steps)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that grow, in the order of the steps."""
        return tuple(step.dimension for step in self.steps)

    @property
    def label(self) -> str:
        """Unique short name, as in ``image.width=96+text.depth=4@0.95``; ``none`` for no growth."""
        suffix = "" if self.momentum is None else f"@{self.momentum:g}"
        return ("+".join(f"{step.dimension}={step.new}" for step in self.steps) or "none") + suffix

    def apply(self, parent_arch: ClipArch) -> ClipArch:
        """The child's architecture after every step."""
        return parent_arch.with_sizes({step.dimension: step.new for step in self.steps})

    def __str__(self) -> str:
        suffix = "" if self.momentum is None else f" (momentum {self.momentum:g})"
        return (" and ".join(map(str, self.steps)) or "no growth") + suffix


NO_GROWTH = Candidate()
"""The control of every search: the parent itself, trained on."""


def scheduled(parent_arch: ClipArch, sizes: Mapping[str, int]) -> Candidate:
    """The steps from a parent to scheduled sizes; sizes that it has already are no steps.

    Raises:
        ValueError: If they are no legal growth of the parent.
    """
    steps = (
        GrowthStep(dimension=dimension, old=parent_arch.size(dimension), new=size)
        for dimension, size in sizes.items()
        if size != parent_arch.size(dimension)
    )
    return legal(parent_arch, Candidate(steps=tuple(steps)))


def legal(parent_arch: ClipArch, candidate: Candidate) -> Candidate:
    """The candidate, if it is a legal growth of the parent.

    Raises:
        ValueError: If it is not.
    """
    check_growth(parent_arch, candidate.apply(parent_arch))
    return candidate


def check_growth(parent_arch: ClipArch, child_arch: ClipArch) -> None:
    """Check that a child can be grown from a parent.

    Raises:
        ValueError: If a dimension shrinks or a step would change nothing.
    """
    steps = dimension_steps(parent_arch, child_arch)
    for dimension, (old, new) in steps.items():
        if new < old and dimension not in SHRINKABLE:
            raise ValueError(
                f"The child's {dimension} must be at least the parent's, but got {old} -> {new}. "
                "Growing never shrinks a dimension."
            )
    for dimension in ("shared.mlp_width", "shared.heads", "shared.head_dim"):
        if dimension in steps and not child_arch.shared.depth:
            raise ValueError(
                f"{dimension} has nothing to grow while shared.depth is 0. Grow shared.depth too."
            )

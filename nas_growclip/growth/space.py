"""The dynamic growth space: which dimensions may grow to which sizes from this parent.

The empty candidate, *no growth*, is always the first one and is the control that gives every gain
its zero. The space depends on the parent (sizes are absolute or ratios of it) and on the number of
pairs (a bound widens as the data grows).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from nas_growclip.growth.candidates import (
    NO_GROWTH,
    SHRINKABLE,
    Candidate,
    GrowthStep,
    legal,
)
from nas_growclip.growth.encoding import ConditionalEncoding, OrdinalEncoding, Suggests
from nas_growclip.io.choices import require_choice
from nas_growclip.io.mappings import from_mapping, read_fields, read_mapping
from nas_growclip.io.ranges import check_ranges, within
from nas_growclip.io.shipped import file_or_shipped
from nas_growclip.models.arch import DIMENSIONS, MAX_SIZE, TIED_DIMENSIONS, ClipArch

Steps = tuple[GrowthStep, ...]
"""One way for a dimension, or a group of dimensions, to grow."""

MAX_CANDIDATES = 100_000
"""A space with more is refused: it is listed, and searches try few of it."""


@dataclass(frozen=True, kw_only=True)
class SizeChoices:
    """Sizes that one dimension may take next; the three ways may be mixed."""

    sizes: tuple[int, ...] = ()
    """Absolute sizes; those at or below the parent's are left out (of a patch, that one only)."""
    ratios: tuple[float, ...] = ()
    """Multiples of the parent's size, rounded up to a legal one."""
    add: tuple[int, ...] = ()
    """Amounts on top of the parent's size, rounded up to a legal one."""
    from_pairs: int = 0
    """The dimension may grow once the stage has so many pairs."""

    def __post_init__(self) -> None:
        read_fields(self)
        if not (self.sizes or self.ratios or self.add):
            raise ValueError("must give sizes, ratios or add. Add one of them.")
        sizes = within(1, MAX_SIZE)
        check_ranges(self, sizes=sizes, add=sizes, ratios=within(1, MAX_SIZE, "(]"))

    def new_sizes(self, old: int, unit: int, *, may_shrink: bool = False) -> tuple[int, ...]:
        """Legal new sizes in rising order; ``unit`` divides every legal size."""
        wished = [
            *self.sizes,
            *(ceil(round(old * ratio, 6)) for ratio in self.ratios),
            *(old + amount for amount in self.add),
        ]
        legal = {-(-size // unit) * unit for size in wished}
        return tuple(sorted(size for size in legal if size > old or (may_shrink and size < old)))


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How many dimensions may grow together from some number of pairs on."""

    from_pairs: int
    """Pairs of the stage from which on this entry counts."""
    num_dimensions: int
    """Dimensions that may grow together, at most."""


@dataclass(frozen=True, kw_only=True)
class GrowthSpace:
    """Which dimensions may take which sizes, and how that widens with the data.

    Raises:
        ValueError: If a dimension is unknown or cannot grow.
    """

    dimensions: Mapping[str, SizeChoices]
    combine: tuple[Combination, ...] = (Combination(from_pairs=0, num_dimensions=1),)
    """Dimensions that may grow together; the last entry reached by the data counts."""
    together: tuple[tuple[str, ...], ...] = ()
    """Groups of dimensions that only grow together, each to its first size, its second, and so on;
    a group counts as one dimension in ``combine``. It may grow once each of its dimensions may."""
    momenta: tuple[float, ...] = ()
    """PIM's momenta to search among; none leaves ``growth.momentum`` to every candidate."""

    def __post_init__(self) -> None:
        read_fields(self)
        for dimension in self.dimensions:
            require_choice(dimension, DIMENSIONS, "dimensions")
        self._check_together()
        check_ranges(self, momenta=within(0, 1))

    def _check_together(self) -> None:
        grouped = [dimension for group in self.together for dimension in group]
        for dimension in grouped:
            if dimension not in self.dimensions:
                raise ValueError(
                    f"together: {dimension!r} must be one of dimensions, but is not. Give its "
                    "sizes there."
                )
            if grouped.count(dimension) > 1:
                raise ValueError(f"together: {dimension!r} must be in one group, but is in more.")

    def candidates(self, parent: ClipArch, num_pairs: int) -> tuple[Candidate, ...]:
        """Every candidate from this parent at this data size, no growth first."""
        growths = [self._ways(group, parent, num_pairs) for group in self._groups()]
        combined = self._combined(growths, num_pairs)
        grown = [c for c in combined if _refusal(parent, c) is None]
        if not self.momenta:
            return (NO_GROWTH, *grown)
        blended = (replace(c, momentum=momentum) for c in grown for momentum in self.momenta)
        return (NO_GROWTH, *blended)

    def left_out(self, parent: ClipArch, num_pairs: int) -> dict[str, str]:
        """Why dimensions, or groups of them, cannot grow from this parent at this data size.

        Those that can are not in it. What more pairs or growth of another dimension would open is
        there as well.
        """
        reasons: dict[str, str] = {}
        reason: str | None
        for group in self._groups():
            late = max(self.dimensions[d].from_pairs for d in group)
            ended = [d for d in group if not _steps(parent, d, self.dimensions[d])]
            if num_pairs < late:
                reason = f"from {late:,} pairs on, {num_pairs:,} given"
            elif ended:
                reason = f"no further size of {', '.join(ended)}"
            else:
                reason = _first_refusal(parent, self._ways(group, parent, num_pairs))
            if reason:
                reasons[", ".join(group)] = reason
        return reasons

    def suggest(
        self, trial: Suggests, parent: ClipArch, num_pairs: int, *, as_levels: bool = False
    ) -> Candidate:
        """Draw a candidate in an Optuna trial, in an objective of one's own.

        The parameter ``grow`` chooses which dimensions grow, and each of those then its size under
        its own name. All choices are categorical, so any sampler can draw them, for any number of
        objectives. A study must keep to one parent, number of pairs and space: begin another one
        for another stage.

        Args:
            trial: Optuna's, or another one that has its ``suggest_categorical`` and
                ``suggest_int``.
            parent: The architecture that grows.
            num_pairs: Pairs that the stage trains on.
            as_levels: Whether to draw a whole number for every dimension instead, 0 for the size
                it has, which Gaussian processes and CMA-ES can model. Levels of no legal candidate
                mean the nearest one.

        Raises:
            ValueError: If earlier trials of the study had other choices.
        """
        encode = OrdinalEncoding if as_levels else ConditionalEncoding
        encoding = encode(self.candidates(parent, num_pairs))
        try:
            return encoding.suggest(trial)
        except ValueError as error:
            raise ValueError(
                "A study must keep to one parent, number of pairs and space, but a parameter had "
                f"other choices in earlier trials: {str(error).rstrip('.')}. Begin another study."
            ) from None

    def _groups(self) -> tuple[tuple[str, ...], ...]:
        """The groups, and each other dimension alone, in the order of ``dimensions``."""
        group_of = {dimension: group for group in self.together for dimension in group}
        return tuple(dict.fromkeys(group_of.get(d, (d,)) for d in self.dimensions))

    def _ways(self, group: Sequence[str], parent: ClipArch, num_pairs: int) -> tuple[Steps, ...]:
        """Every way a group may grow: each dimension to its first size, its second, and so on."""
        steps = (_open_steps(parent, d, self.dimensions[d], num_pairs) for d in group)
        return tuple(zip(*steps, strict=False))

    def _combined(
        self, growths: Sequence[tuple[Steps, ...]], num_pairs: int
    ) -> Iterator[Candidate]:
        reached = [c.num_dimensions for c in self.combine if num_pairs >= c.from_pairs]
        most = min(reached[-1] if reached else 1, len(growths))
        _check_count([len(growth) for growth in growths], most, max(1, len(self.momenta)))
        for count in range(1, most + 1):
            for chosen in itertools.combinations(growths, count):
                for parts in itertools.product(*chosen):
                    yield Candidate(steps=tuple(itertools.chain(*parts)))


def next_sizes(rule: Mapping[str, SizeChoices], parent: ClipArch, num_pairs: int) -> Candidate:
    """What grows by a rule: every dimension at once, each to its nearest size.

    Args:
        rule: For each dimension the sizes it may take next. One that has none left, or fewer pairs
            than it asks for, stays as it is.
        parent: The architecture that grows.
        num_pairs: Pairs of the stage.

    Raises:
        ValueError: If the sizes together are no legal growth.
    """
    steps = []
    for dimension, choices in rule.items():
        ways = _open_steps(parent, dimension, choices, num_pairs)
        steps += sorted(ways, key=lambda step: abs(step.new - step.old))[:1]
    return legal(parent, Candidate(steps=tuple(steps)))


def load_space(path: str | Path) -> GrowthSpace:
    """Read a growth space: that of an experiment, or a file of one alone.

    Args:
        path: YAML or JSON, as in ``experiments/`` or in ``search_spaces/``; or the name of a space
            that comes with the package, as ``tiny``.

    Raises:
        ValueError: If the file is missing, or it or a value in it is bad.
    """
    file = file_or_shipped(Path(path), "search_spaces")
    data, where = read_mapping(file), str(file)
    if isinstance(data.get("space"), str):
        named = space_file(data["space"], file.parent)
        data, where = read_mapping(named), str(named)
    elif "space" in data:
        data, where = data["space"], f"{file}: space"
    return from_mapping(GrowthSpace, data, where)


def space_file(name: str, folder: Path) -> Path:
    """The file that an experiment names as its space.

    Args:
        name: A file's path, or the name of a space that comes with the package.
        folder: The experiment's: what relative paths start from.

    Raises:
        ValueError: If it is a bare name and there is neither.
    """
    file = folder / name
    return file if file.exists() else folder / file_or_shipped(Path(name), "search_spaces")


def _check_count(num_growths: Sequence[int], most: int, num_momenta: int) -> None:
    """Refuse a space before it is spelled out: combined, a few sizes are soon billions."""
    ways = [1] + [0] * most  # to grow so many dimensions together
    for number in num_growths:
        for count in range(most, 0, -1):
            ways[count] += ways[count - 1] * number
    num_candidates = sum(ways[1:]) * num_momenta
    if num_candidates > MAX_CANDIDATES:
        raise ValueError(
            f"space: must have at most {MAX_CANDIDATES} candidates, but has {num_candidates:.3g}. "
            "Give fewer sizes, or let fewer dimensions grow together (combine)."
        )


def _steps(parent: ClipArch, dimension: str, choices: SizeChoices) -> tuple[GrowthStep, ...]:
    old, may_shrink = parent.size(dimension), dimension in SHRINKABLE
    return tuple(
        GrowthStep(dimension=dimension, old=old, new=new)
        for new in choices.new_sizes(old, _unit(parent, dimension), may_shrink=may_shrink)
    )


def _open_steps(
    parent: ClipArch, dimension: str, choices: SizeChoices, num_pairs: int
) -> tuple[GrowthStep, ...]:
    """A dimension's steps at a data size: none before it has ``from_pairs``."""
    return _steps(parent, dimension, choices) if num_pairs >= choices.from_pairs else ()


def _refusal(parent: ClipArch, candidate: Candidate) -> str | None:
    """Why a candidate is no legal growth; None if it is one."""
    try:
        legal(parent, candidate)
    except ValueError as error:
        return str(error)
    return None


def _first_refusal(parent: ClipArch, ways: Sequence[Steps]) -> str | None:
    """Why the first way is no legal growth; None if any is one."""
    refusals = [_refusal(parent, Candidate(steps=steps)) for steps in ways]
    return None if None in refusals else refusals[0]


def _unit(arch: ClipArch, dimension: str) -> int:
    """What every legal size of a dimension is a multiple of."""
    if dimension in ("image.image_size", "image.image_height"):
        return arch.image.patch_size
    if dimension == "embed_dim" and not arch.shared.depth:
        return 1
    tied = [
        name
        for name, leader in TIED_DIMENSIONS.items()
        if leader == dimension and not arch.is_explicit(name)
    ]
    return arch.size(tied[0].replace(".heads", ".head_dim")) if tied else 1

"""A stage's candidates as parameters that a search tool draws one by one, as Optuna does.

A stage's space is the list of its legal candidates, which need not be a product of sizes: a
combination may be illegal. Each encoding turns that list into parameters so that every sample
decodes to a legal candidate and every candidate can be drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from nas_growclip.growth.candidates import Candidate
from nas_growclip.growth.parameters import GROW, MOMENTUM, grow_value, momenta_of, unique

Value = str | int | float
Choose = Callable[[str, tuple[Value, ...]], Value]
"""(parameter, its choices) -> the chosen one."""


@runtime_checkable
class Suggests(Protocol):
    """What draws parameters: a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some choices."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        ...


class ConditionalEncoding:
    """Which dimensions grow, then to which sizes, then with which momentum.

    ``grow`` chooses a set of dimensions; each of them then has a parameter of its own name. Where
    legality leaves only some sizes after what was chosen before, that is part of the parameter's
    name, since a parameter's choices must be the same in all trials of a study.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        dimensions = unique(name for c in self.candidates for name in c.dimensions)
        self._sizes = {name: _sizes(self.candidates, name) for name in dimensions}
        self._momenta = momenta_of(self.candidates)
        self._by_dimensions: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            self._by_dimensions.setdefault(grow_value(candidate), []).append(candidate)

    def suggest(self, trial: Suggests) -> Candidate:
        """Draw a candidate's parameters in a trial, one after the other."""
        return self.walk(lambda name, choices: _suggested(trial, name, choices))

    def params(self, candidate: Candidate) -> dict[str, Value]:
        """The parameters that give a candidate.

        Raises:
            ValueError: If the candidate is not in the space.
        """
        _check_member(candidate, self.candidates)
        found: dict[str, Value] = {}

        def choose(name: str, choices: tuple[Value, ...]) -> Value:
            found[name] = _value_in(candidate, name)
            return found[name]

        self.walk(choose)
        return found

    def choices(self) -> dict[str, tuple[Value, ...]]:
        """Every parameter that some candidate asks for, with its choices."""
        found: dict[str, tuple[Value, ...]] = {}
        for candidate in self.candidates:

            def choose(
                name: str, choices: tuple[Value, ...], candidate: Candidate = candidate
            ) -> Value:
                found[name] = choices
                return _value_in(candidate, name)

            self.walk(choose)
        return found

    def walk(self, choose: Choose) -> Candidate:
        """Let ``choose`` answer one proposal after the other until one candidate is left."""
        before = grow = str(choose(GROW, tuple(self._by_dimensions)))
        left = self._by_dimensions[grow]
        for place, dimension in enumerate(left[0].dimensions):
            sizes = unique(c.steps[place].new for c in left)
            is_full = sizes == self._sizes[dimension]
            size = choose(dimension if is_full else f"{dimension}|{before}", sizes)
            left = [c for c in left if c.steps[place].new == size]
            before += f",{dimension}={size}"
        momenta = momenta_of(left)
        if momenta:
            is_full = momenta == self._momenta
            momentum = choose(MOMENTUM if is_full else f"{MOMENTUM}|{before}", momenta)
            left = [c for c in left if c.momentum == momentum]
        return left[0]


class OrdinalEncoding:
    """A level for each dimension: 0 is not grown, k its k-th size in rising order.

    All parameters are whole numbers and always asked for, which is what Gaussian processes and
    CMA-ES need. Levels of no legal candidate mean the nearest one by the sum of differences; of
    equally near ones the earlier.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        steps = [step for candidate in self.candidates for step in candidate.steps]
        self.sizes = {
            dimension: tuple(sorted({s.new for s in steps if s.dimension == dimension}))
            for dimension in unique(step.dimension for step in steps)
        }
        self.momenta = momenta_of(self.candidates)
        self._levels = [self._levels_of(candidate) for candidate in self.candidates]

    def suggest(self, trial: Suggests) -> Candidate:
        """Draw every level in a trial; gives the nearest candidate."""
        drawn = {name: trial.suggest_int(name, 0, top) for name, top in self.tops().items()}
        distances = [_distance(drawn, levels) for levels in self._levels]
        return self.candidates[distances.index(min(distances))]

    def params(self, candidate: Candidate) -> dict[str, Value]:
        """The levels of a candidate.

        Raises:
            ValueError: If the candidate is not in the space.
        """
        _check_member(candidate, self.candidates)
        return {**dict.fromkeys(self.tops(), 0), **self._levels_of(candidate)}

    def tops(self) -> dict[str, int]:
        """Each parameter's highest level."""
        tops: dict[str, int] = {str(d): len(sizes) for d, sizes in self.sizes.items()}
        return tops | ({MOMENTUM: len(self.momenta) - 1} if self.momenta else {})

    def _levels_of(self, candidate: Candidate) -> dict[str, int]:
        levels = {str(dimension): 0 for dimension in self.sizes}
        levels |= {s.dimension: 1 + self.sizes[s.dimension].index(s.new) for s in candidate.steps}
        momentum = candidate.momentum
        return levels | ({} if momentum is None else {MOMENTUM: self.momenta.index(momentum)})


def _suggested(trial: Suggests, name: str, choices: tuple[Value, ...]) -> Value:
    chosen: Value = trial.suggest_categorical(name, choices)
    return chosen


def _value_in(candidate: Candidate, name: str) -> Value:
    """A parameter's value in a candidate."""
    name = name.partition("|")[0]
    if name == GROW:
        return grow_value(candidate)
    momentum = candidate.momentum
    if name == MOMENTUM and momentum is not None:
        return momentum
    return next(step.new for step in candidate.steps if step.dimension == name)


def _check_member(candidate: Candidate, candidates: Sequence[Candidate]) -> None:
    if candidate not in candidates:
        raise ValueError(
            f"{candidate.label!r} must be one of the space's {len(candidates)} "
            "candidates, but is not. Was it made for another parent or data size?"
        )


def _distance(drawn: Mapping[str, int], levels: Mapping[str, int]) -> int:
    return sum(abs(drawn[name] - level) for name, level in levels.items())


def _sizes(candidates: Sequence[Candidate], dimension: str) -> tuple[Value, ...]:
    return unique(s.new for c in candidates for s in c.steps if s.dimension == dimension)

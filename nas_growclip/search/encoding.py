"""A stage's candidates as a search space, for Optuna and for NNI.

A stage's space is the list of its legal candidates, which need not be a product of sizes: a
combination may be illegal. Each encoding turns that list into parameters so that every sample
decodes to a legal candidate and every candidate can be drawn.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from optuna.trial import BaseTrial

from nas_growclip.growth.space import Candidate, candidate_label, candidate_momentum

GROW = "grow"
MOMENTUM = "momentum"

Value = str | int | float
T = TypeVar("T")
Choose = Callable[[str, tuple[Value, ...]], Value]
"""(parameter, its choices) -> the chosen one."""


class ConditionalEncoding:
    """Which dimensions grow, then to which sizes, then with which momentum.

    ``grow`` chooses a set of dimensions; each of them then has a parameter of its own name. Where
    legality leaves only some sizes after what was chosen before, that is part of the parameter's
    name, since a parameter's choices must be the same in all trials of a study.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        self._sizes = {
            step.dimension: _sizes(self.candidates, step.dimension)
            for candidate in self.candidates
            for step in candidate
        }
        self._momenta = _momenta(self.candidates)

    def suggest(self, trial: BaseTrial) -> Candidate:
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

    def walk(self, choose: Choose) -> Candidate:
        """Let ``choose`` answer one question after the other until one candidate is left."""
        grow = choose(GROW, _unique(dimensions_label(c) for c in self.candidates))
        left = [c for c in self.candidates if dimensions_label(c) == grow]
        before = f"{grow}"
        for place in range(len(left[0])):
            dimension = left[0][place].dimension
            sizes = _unique(c[place].new for c in left)
            is_full = sizes == self._sizes[dimension]
            size = choose(dimension if is_full else f"{dimension}|{before}", sizes)
            left = [c for c in left if c[place].new == size]
            before += f",{dimension}={size}"
        momenta = _momenta(left)
        if momenta:
            is_full = momenta == self._momenta
            momentum = choose(MOMENTUM if is_full else f"{MOMENTUM}|{before}", momenta)
            left = [c for c in left if candidate_momentum(c) == momentum]
        return left[0]


class OrdinalEncoding:
    """A level for each dimension: 0 is not grown, k its k-th size in rising order.

    All parameters are whole numbers and always asked for, which is what Gaussian processes and
    CMA-ES need. Levels of no legal candidate mean the nearest one by the sum of differences; of
    equally near ones the earlier.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        steps = [step for candidate in self.candidates for step in candidate]
        self.sizes = {
            dimension: tuple(sorted({s.new for s in steps if s.dimension == dimension}))
            for dimension in _unique(step.dimension for step in steps)
        }
        self.momenta = _momenta(self.candidates)
        self._levels = [self._levels_of(candidate) for candidate in self.candidates]

    def suggest(self, trial: BaseTrial) -> Candidate:
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
        levels |= {s.dimension: 1 + self.sizes[s.dimension].index(s.new) for s in candidate}
        momentum = candidate_momentum(candidate)
        return levels | ({} if momentum is None else {MOMENTUM: self.momenta.index(momentum)})


def nni_space(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The candidates as an NNI search space: a nested choice of ``_type`` and ``_value``."""
    names = _unique(dimensions_label(candidate) for candidate in candidates)
    groups = [[c for c in candidates if dimensions_label(c) == name] for name in names]
    items = [{"_name": n, **_nni_sizes(g, 0)} for n, g in zip(names, groups, strict=True)]
    return {GROW: _nni_choice(items)}


def candidate_from_nni(sample: Mapping[str, Any], candidates: Sequence[Candidate]) -> Candidate:
    """The candidate of an NNI sample; no growth for the empty one, which NNI gives outside it.

    Raises:
        ValueError: If the sample is of no candidate.
    """
    if not sample:
        return ()
    wanted = _flat_sample(sample.get(GROW))
    for candidate in candidates:
        values: dict[str, Value] = {GROW: dimensions_label(candidate)}
        values |= {s.dimension: s.new for s in candidate}
        momentum = candidate_momentum(candidate)
        values |= {} if momentum is None else {MOMENTUM: momentum}
        if values.keys() == wanted.keys() and all(
            _is_same(wanted[name], value) for name, value in values.items()
        ):
            return candidate
    raise ValueError(
        f"NNI's sample must be one of the stage's {len(candidates)} candidates, but got "
        f"{dict(sample)!r}. Is the search space that of this stage?"
    )


def dimensions_label(candidate: Candidate) -> str:
    """The dimensions that a candidate grows, as in ``image.width+text.depth``; else ``none``."""
    return "+".join(step.dimension for step in candidate) or "none"


def _nni_sizes(group: Sequence[Candidate], place: int) -> dict[str, Any]:
    """The rest of a group's parameters; one inside the other where they are no product."""
    columns: list[tuple[str, tuple[Value, ...]]] = [
        (group[0][p].dimension, _unique(c[p].new for c in group))
        for p in range(place, len(group[0]))
    ]
    momenta = _momenta(group)
    columns += [(MOMENTUM, momenta)] if momenta else []
    if len(group) == math.prod(len(values) for _, values in columns):
        return {name: _nni_choice(list(values)) for name, values in columns}
    name, sizes = columns[0]
    parts = {size: [c for c in group if c[place].new == size] for size in sizes}
    return {
        name: _nni_choice([{"_name": str(s), **_nni_sizes(p, place + 1)} for s, p in parts.items()])
    }


def _nni_choice(values: list[Any]) -> dict[str, Any]:
    return {"_type": "choice", "_value": values}


def _flat_sample(part: Any) -> dict[str, Any]:
    """A nested sample as one level: the name of each part under its own key."""
    if not isinstance(part, Mapping):
        return {GROW: part}
    flat: dict[str, Any] = {GROW: part.get("_name")}
    for name, value in part.items():
        if isinstance(value, Mapping):
            inner = _flat_sample(value)
            flat |= {name: inner.pop(GROW), **inner}
        elif name != "_name":
            flat[name] = value
    return flat


def _is_same(given: Any, value: Value) -> bool:
    """Whether NNI means a value; its tuners give 96.0, numpy's 96 or "96" for 96."""
    if isinstance(value, str):
        return bool(given == value)
    try:
        return math.isclose(float(given), value)
    except (TypeError, ValueError):
        return False


def _suggested(trial: BaseTrial, name: str, choices: tuple[Value, ...]) -> Value:
    chosen = trial.suggest_categorical(name, choices)
    assert isinstance(chosen, str | int | float)
    return chosen


def _value_in(candidate: Candidate, name: str) -> Value:
    """A parameter's value in a candidate."""
    name = name.partition("|")[0]
    if name == GROW:
        return dimensions_label(candidate)
    momentum = candidate_momentum(candidate)
    if name == MOMENTUM and momentum is not None:
        return momentum
    return next(step.new for step in candidate if step.dimension == name)


def _check_member(candidate: Candidate, candidates: Sequence[Candidate]) -> None:
    if candidate not in candidates:
        raise ValueError(
            f"{candidate_label(candidate)!r} must be one of the space's {len(candidates)} "
            "candidates, but is not. Was it made for another parent or data size?"
        )


def _distance(drawn: Mapping[str, int], levels: Mapping[str, int]) -> int:
    return sum(abs(drawn[name] - level) for name, level in levels.items())


def _sizes(candidates: Sequence[Candidate], dimension: str) -> tuple[Value, ...]:
    return _unique(s.new for c in candidates for s in c if s.dimension == dimension)


def _momenta(candidates: Sequence[Candidate]) -> tuple[float, ...]:
    momenta = [candidate_momentum(candidate) for candidate in candidates]
    return _unique(momentum for momentum in momenta if momentum is not None)


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))

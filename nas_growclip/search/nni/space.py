"""The growth space as NNI's search space, and its samples as candidates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.growth.parameters import GROW, MOMENTUM, grow_value, momenta_of, unique


def nni_space(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The candidates as an NNI search space: one choice, with the sizes nested in its items.

    Nothing is nested in a nested choice: NNI 3.0's TPE, Random and GridSearch fail there with a
    KeyError. Sizes that are no product are cut into products, named by what each has fixed.
    """
    items = [{"_name": name, **_nni_sizes(part)} for name, part in _nni_parts(candidates).items()]
    return {GROW: _nni_choice(items)}


def candidate_from_nni(sample: Mapping[str, Any], candidates: Sequence[Candidate]) -> Candidate:
    """The candidate of an NNI sample; no growth for the empty one, which NNI gives outside it.

    Raises:
        ValueError: If the sample is of no candidate.
    """
    if not sample:
        return NO_GROWTH
    values = _values(sample)
    part = _nni_parts(candidates).get(str(values.pop("_name", None)), ())
    for candidate in part:
        if sample.keys() == {GROW} and _is_sample_of(values, candidate):
            return candidate
    raise ValueError(
        f"NNI's sample must be one of the stage's {len(candidates)} candidates, but got "
        f"{dict(sample)!r}. Is the search space that of this stage?"
    )


def sample_label(sample: Mapping[str, Any]) -> str:
    """The label of an NNI sample's candidate, as ``Candidate.label``; sizes are not checked."""
    values = _values(sample)
    name, momentum = str(values.pop("_name", None) or "none"), values.pop(MOMENTUM, None)
    steps = [f"{part}={int(values[part])}" if part in values else part for part in name.split("+")]
    return "+".join(steps) + ("" if momentum is None else f"@{momentum:g}")


def _values(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a sample grows under ``_name``, and the sizes that its name does not fix."""
    given = sample.get(GROW)
    return dict(given) if isinstance(given, Mapping) else {"_name": given}


def _nni_parts(candidates: Sequence[Candidate]) -> dict[str, Sequence[Candidate]]:
    """Candidates by what they grow, each part a product of its sizes and momenta."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(grow_value(candidate), []).append(candidate)
    parts: dict[str, Sequence[Candidate]] = {}
    for group in groups.values():
        parts |= _products(group, num_fixed=0)
    return parts


def _products(group: Sequence[Candidate], num_fixed: int) -> dict[str, Sequence[Candidate]]:
    """A group cut into products, by as many of the first sizes as it takes."""
    if len(group) == math.prod(len(values) for values in _columns(group).values()):
        return {_part_name(group[0], num_fixed): group}
    parts: dict[str, Sequence[Candidate]] = {}
    for size in unique(candidate.steps[num_fixed].new for candidate in group):
        part = [candidate for candidate in group if candidate.steps[num_fixed].new == size]
        parts |= _products(part, num_fixed + 1)
    return parts


def _part_name(candidate: Candidate, num_fixed: int) -> str:
    """What a part grows and has fixed, as in ``image.width=96+text.depth``."""
    fixed = [f"{step.dimension}={step.new}" for step in candidate.steps[:num_fixed]]
    return "+".join([*fixed, *(step.dimension for step in candidate.steps[num_fixed:])]) or "none"


def _columns(group: Sequence[Candidate]) -> dict[str, tuple[int | float, ...]]:
    """The sizes of each dimension, and the momenta, among candidates that grow the same."""
    columns: dict[str, tuple[int | float, ...]] = {
        step.dimension: unique(candidate.steps[place].new for candidate in group)
        for place, step in enumerate(group[0].steps)
    }
    momenta = momenta_of(group)
    return columns | ({MOMENTUM: momenta} if momenta else {})


def _nni_sizes(part: Sequence[Candidate]) -> dict[str, Any]:
    return {name: _nni_choice(list(values)) for name, values in _columns(part).items()}


def _nni_choice(values: list[Any]) -> dict[str, Any]:
    return {"_type": "choice", "_value": values}


def _is_sample_of(values: Mapping[str, Any], candidate: Candidate) -> bool:
    wanted = {name: column[0] for name, column in _columns([candidate]).items()}
    return values.keys() == wanted.keys() and all(
        _is_same(values[name], value) for name, value in wanted.items()
    )


def _is_same(given: Any, value: int | float) -> bool:
    """Whether NNI means a value; its tuners give 96.0 or numpy's 96 for 96."""
    try:
        return math.isclose(float(given), value)
    except (TypeError, ValueError):
        return False

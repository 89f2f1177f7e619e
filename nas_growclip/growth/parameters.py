"""Candidates as a search tool's parameters: names and values that all encodings share."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from nas_growclip.growth.candidates import Candidate

GROW = "grow"
"""The parameter that says which dimensions grow."""

MOMENTUM = "momentum"
"""The parameter that says by which momentum of PIM they inherit."""

T = TypeVar("T")


def grow_value(candidate: Candidate) -> str:
    """A candidate's value of ``grow``, as in ``image.width+text.depth``; ``none`` for no growth."""
    return "+".join(candidate.dimensions) or "none"


def momenta_of(candidates: Sequence[Candidate]) -> tuple[float, ...]:
    """The momenta among candidates, each once; empty where none is searched for."""
    return unique(c.momentum for c in candidates if c.momentum is not None)


def unique(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, in order of first appearance."""
    return tuple(dict.fromkeys(values))

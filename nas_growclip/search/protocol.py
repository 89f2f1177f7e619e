"""What a search backend is: who proposes the next candidate, by ask and tell.

Every backend begins with *no growth*, the control, never hands out a candidate twice, and depends
on its seed and on what it was told, nothing else: so a search that was interrupted resumes as if
it had not been.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from nas_growclip.growth.candidates import Candidate
from nas_growclip.records.entries import Trial
from nas_growclip.search.config import SearchConfig


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What a backend needs to know of the stage it searches."""

    candidates: Sequence[Candidate]
    """Legal candidates; the first is no growth."""
    seed: int
    stage: int
    run: Path | None = None
    """The run folder; None keeps an Optuna study in memory."""
    config: SearchConfig = field(default_factory=SearchConfig)
    recorded: Sequence[Trial] = ()
    """Scored trials of this search that are known already, by number."""
    warm_start_candidates: Sequence[Candidate] = ()
    """Candidates to try right after the control."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What Optuna's study shows of the stage: data size, parent, units."""


class Proposal(NamedTuple):
    """A candidate that was handed out to be tried."""

    number: int
    """The trial's number, from here to its record; 0 is no growth, the control."""
    candidate: Candidate


@runtime_checkable
class SearchBackend(Protocol):
    """Proposes candidates and learns from their trials; several workers may share one search."""

    def ask(self) -> Proposal | None:
        """The next candidate; None when every trial of the search is finished or handed out."""
        ...

    def report(self, number: int, point: int, loss: float) -> bool:
        """Take note of a trial's loss at a point of its curve; whether it should stop there."""
        ...

    def tell(self, trial: Trial) -> None:
        """Take note of a finished, scored trial that was asked for."""
        ...

    def finished(self) -> tuple[Proposal, ...]:
        """Finished trials in order, other workers' too, up to the first that is not finished."""
        ...

    def close(self) -> None:
        """Let go of what the backend holds open."""
        ...


def mixed_seed(*numbers: int) -> int:
    """One well-mixed seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

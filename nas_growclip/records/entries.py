"""What a run writes down: one JSON line a trial, one a stage, and the data frame read from them.

Records hold plain numbers, no tensors and no clock times, so that the same seed gives the same
lines, whether or not the run was interrupted; times go to ``timings.jsonl``. FLOPs are fvcore
FLOPs (one multiply-add is one); training counts three times the forward FLOPs for each pair seen
(forward once, backward twice).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from nas_growclip.growth.candidates import Candidate
from nas_growclip.io.mappings import to_mapping
from nas_growclip.models.arch import ClipArch

TRAIN_FLOPS_PER_FORWARD = 3
"""Forward once, backward twice: the usual count for training."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measured number beside what a model that knows nothing would get."""

    value: float
    chance: float
    """The same number's expectation where a model guesses at random."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate grown from the stage's parent, trained briefly and measured."""

    stage: int
    number: int
    candidate: Candidate
    arch: ClipArch
    flops: int
    """fvcore FLOPs of one image-text pair, forward."""
    params: int
    state: Literal["complete", "pruned", "failed"]
    """Pruned: stopped before the end of its share, since it was behind the others."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    """Learning curve: (pairs seen in this trial, validation loss)."""
    train_flops: int = 0
    """FLOPs spent to train this trial."""
    stage_pairs: int = 0
    """Pairs that the stage's whole budget lets this architecture see."""
    score: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    """The objective's terms, which add up to the score where the objective is a sum."""
    message: str = ""
    """Why the trial failed or where it was stopped."""

    @property
    def label(self) -> str:
        """Short name of the candidate."""
        return self.candidate.label


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A stage's training that diverged and went back to its last good state."""

    step: int
    """The step at which it was seen."""
    back_to: int
    """The step of the state that it went back to."""
    learning_rate: float
    """``train.learning_rate`` at that time, before it was lowered."""
    reason: str

    def __str__(self) -> str:
        return f"diverged at step {self.step} and went back to step {self.back_to}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One finished stage: what was chosen, what it cost, how good it is on ``test``."""

    stage: int
    num_pairs: int
    """Usable pairs in the stage's cumulative training data."""
    skipped: Mapping[str, int]
    """Pairs left out, by reason, over train, validation and test."""
    parent: ClipArch
    arch: ClipArch
    chosen: Candidate
    chosen_trial: int
    reason: str
    """Why this candidate, in the objective's terms."""
    flops: int
    flops_by_encoder: Mapping[str, int]
    params: int
    metrics: Mapping[str, Measure]
    """Measured on ``test``."""
    validation: Mapping[str, Measure]
    """Measured on ``validation``, which steered the search."""
    curve: tuple[tuple[int, float], ...]
    """Learning curve of the stage's model: (pairs seen in this stage, validation loss)."""
    pairs_seen: int
    """Pairs the stage's model saw in this stage, repeats included, its trial's included."""
    search_flops: int
    """Training FLOPs of the trials that were not continued."""
    train_flops: int
    """Training FLOPs of the continued trial and the rest of the stage, repeated steps included."""
    cumulative_flops: int
    """Training FLOPs of the whole run up to here, search included."""
    rollbacks: tuple[Rollback, ...] = ()
    """Where its training diverged; each halved the learning rate from there on."""


def search_flops(trials: Iterable[Trial], best: Trial) -> int:
    """Training FLOPs of a stage's trials that are not continued."""
    return sum(trial.train_flops for trial in trials if trial.number != best.number)


def to_line(record: Trial | StageResult) -> str:
    """One JSON line, keys in the order of the dataclass."""
    return json.dumps(to_mapping(record))

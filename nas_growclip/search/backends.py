"""Search backends: who proposes the next candidate, by ask and tell.

Every backend begins with *no growth*, the control, never proposes a candidate twice, and depends
on its seed and on what it was told, nothing else: so a search that was interrupted goes on as if
it had not been.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nas_growclip.growth.space import Candidate, candidate_label
from nas_growclip.records import Trial


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a stage is searched.

    Raises:
        ValueError: If a number is out of range.
    """

    backend: str = "optuna"
    """A name in ``BACKENDS``."""
    sampler: str = "tpe"
    """Optuna's sampler, a name in ``SAMPLERS``; the other backends have none."""
    num_trials: int = 8
    """Trials a stage, the control included."""
    trial_share: float = 0.05
    """Share of the stage's training FLOPs that each trial may spend."""
    curve_points: int = 6
    """Measurements of validation loss along a trial."""

    def __post_init__(self) -> None:
        if self.num_trials < 1:
            raise ValueError(f"num_trials: must be 1 or more, but got {self.num_trials}.")
        if not 0 < self.trial_share <= 1:
            raise ValueError(f"trial_share: must be in (0, 1], but got {self.trial_share}.")
        if self.curve_points < 1:
            raise ValueError(f"curve_points: must be 1 or more, but got {self.curve_points}.")


@dataclass(frozen=True, kw_only=True)
class StageSearch:
    """What a backend needs to know of the stage it searches."""

    candidates: Sequence[Candidate]
    """Legal candidates; the first is no growth."""
    seed: int
    stage: int
    num_pairs: int
    sampler: str = "tpe"
    storage: Path | None = None
    """Optuna's SQLite file; None keeps the study in memory."""


@runtime_checkable
class SearchBackend(Protocol):
    """Proposes candidates and learns from their trials."""

    @property
    def num_told(self) -> int:
        """Trials it already knows, from an earlier run of the same search."""
        ...

    def ask(self) -> Candidate | None:
        """The next candidate; None when there is none left."""
        ...

    def tell(self, trial: Trial) -> None:
        """Report the trial of the candidate that was asked for last."""
        ...


class OrderedSearch:
    """Proposes candidates in a fixed order: the baselines."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.num_told = 0

    def ask(self) -> Candidate | None:
        """The next candidate in order."""
        return self.candidates[self.num_told] if self.num_told < len(self.candidates) else None

    def tell(self, trial: Trial) -> None:
        """Go on to the next one."""
        self.num_told += 1


def exhaustive_search(search: StageSearch) -> SearchBackend:
    """Every candidate, in the order of the growth space."""
    return OrderedSearch(search.candidates)


def random_search(search: StageSearch) -> SearchBackend:
    """Candidates in a random order without repeats; the control stays first."""
    control, *rest = search.candidates
    random.Random(_mixed(search.seed, search.stage)).shuffle(rest)
    return OrderedSearch((control, *rest))


class OptunaSearch:
    """Optuna behind ask and tell: one study a stage, since a study's choices cannot change.

    The sampler is made anew for each question, seeded by how much the study knows, so that a
    process that died leaves no trace in what comes after it. Attributes are written while the
    trial runs, since Optuna freezes finished trials.
    """

    PARAMETER = "growth"
    MAX_REPEATS = 10

    def __init__(self, search: StageSearch) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search = search
        self.labels = {candidate_label(c): c for c in search.candidates}
        storage = f"sqlite:///{search.storage}" if search.storage else None
        self.study = optuna.create_study(
            study_name=f"stage_{search.stage:02d}",
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=RandomSampler(seed=search.seed),
        )
        self.study.set_user_attr("num_pairs", search.num_pairs)
        self.study.set_user_attr("flops", "fvcore FLOPs: one multiply-add is one")
        self._abandon_unfinished()
        self.scores = {t.params[self.PARAMETER]: t.value for t in self._told()}
        self.num_told = len(self._told())

    def ask(self) -> Candidate | None:
        """Optuna's next candidate that was not tried yet."""
        untried = [label for label in self.labels if label not in self.scores]
        if not untried:
            return None
        for _ in range(self.MAX_REPEATS):
            label = self._suggest(enqueue="none" if not self.scores else None)
            if label in untried:
                return self.labels[label]
            self._tell_repeat(label)
        draw = random.Random(self._question_seed())
        return self.labels[self._suggest(enqueue=draw.choice(untried))]

    def tell(self, trial: Trial) -> None:
        """Store the trial with its FLOPs, parameters, sizes, terms and learning curve."""
        attributes: dict[str, object] = {
            "number": trial.number,
            "flops": trial.flops,
            "params": trial.params,
            "train_flops": trial.train_flops,
            "message": trial.message,
            **{f"metric:{name}": value for name, value in trial.metrics.items()},
            **{f"term:{name}": value for name, value in trial.terms.items()},
            **{f"size:{name}": size for name, size in trial.arch.sizes().items()},
        }
        for pairs, loss in trial.curve:
            self.asked.report(loss, pairs)
        for name, value in attributes.items():
            self.asked.set_user_attr(name, value)
        if trial.state == "complete" and trial.score is not None:
            self.study.tell(self.asked, trial.score)
        else:
            self.study.tell(self.asked, state=TrialState.FAIL)
        self.scores[trial.label] = trial.score
        self.num_told += 1

    def _suggest(self, *, enqueue: str | None) -> str:
        self.study.sampler = SAMPLERS[self.search.sampler](self._question_seed())
        if enqueue is not None and not self._is_waiting():
            self.study.enqueue_trial({self.PARAMETER: enqueue})
        self.asked = self.study.ask()
        return str(self.asked.suggest_categorical(self.PARAMETER, list(self.labels)))

    def _tell_repeat(self, label: str) -> None:
        score = self.scores[label]
        self.asked.set_user_attr("repeat_of", label)
        if score is None:
            self.study.tell(self.asked, state=TrialState.FAIL)
        else:
            self.study.tell(self.asked, score)

    def _question_seed(self) -> int:
        finished = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state.is_finished() and "abandoned" not in t.user_attrs
        ]
        return _mixed(self.search.seed, self.search.stage, len(finished))

    def _told(self) -> list[FrozenTrial]:
        return [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state.is_finished()
            and "number" in t.user_attrs
            and "abandoned" not in t.user_attrs
        ]

    def _is_waiting(self) -> bool:
        return any(t.state.name == "WAITING" for t in self.study.get_trials(deepcopy=False))

    def _abandon_unfinished(self) -> None:
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state.name == "RUNNING":
                trial = optuna.trial.Trial(self.study, frozen._trial_id)
                trial.set_user_attr("abandoned", True)
                self.study.tell(trial, state=TrialState.FAIL)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=4, constant_liar=False)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": _random}
"""Optuna's samplers by name, made from a seed."""


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


BACKENDS: Mapping[str, Callable[[StageSearch], SearchBackend]] = {
    "optuna": OptunaSearch,
    "exhaustive": exhaustive_search,
    "random": random_search,
}
"""Search backends by name."""

"""Optuna behind ask and tell: one study a stage, shared by any number of workers.

A study's choices cannot change, so each stage has a study of its own. Three rules make it safe
to share. *Turns*: a worker chooses a candidate only when every running trial with a lower number
in the study has chosen, so no two choose the same, and each candidate has the number that its
record gets: how many were chosen before it. *Nothing is
remembered outside the study*: the sampler is made again for each proposal, on a copy of the study
in memory, seeded by how many candidates were handed out; a process that died leaves no trace in
what comes after it, and candidates that a sampler proposes again do not clutter the study.
*Heartbeats*: a running trial names its worker; where that is gone, the trial is failed and its
candidate is handed out again before anything else, under the number that it had.

Values are maximised: the score, where 0 is no growth; points of learning curves are reported as
exp(-loss), so that higher is better there too. Attributes are written while a trial runs, since
Optuna freezes finished trials.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.growth.encoding import ConditionalEncoding, OrdinalEncoding
from nas_growclip.io.files import locked
from nas_growclip.records.entries import Trial
from nas_growclip.records.folder import RunFolder, run_name
from nas_growclip.search.objective import partner_probability
from nas_growclip.search.optuna.dashboard import describe_trial
from nas_growclip.search.optuna.liveness import LivenessMonitor, identity, is_gone
from nas_growclip.search.optuna.samplers import (
    MULTI_OBJECTIVE,
    NUMBERS_ONLY,
    PRUNERS,
    SAMPLERS,
    experimental,
)
from nas_growclip.search.optuna.storage import impatient, open_storage
from nas_growclip.search.protocol import Proposal, SearchTask, mixed_seed

CONTROL = NO_GROWTH.label
SCORE = "score over no growth"
"""The study's value; above 0 is better than no growth."""
MAX_REPEATS = 30
"""Proposals in a row that were handed out before, after which one is drawn instead."""
TURN_SECONDS = 0.02
WAIT_SECONDS = 0.5
SIGNS_A_GRACE = 4


class OptunaSearch:
    """A stage's study, as one worker sees it.

    Raises:
        ValueError: If the storage cannot be opened, holds the study of an older version, or a
            recorded trial is not in the space.
    """

    def __init__(self, search: SearchTask) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.config = search, search.config
        self.by_label = {c.label: c for c in search.candidates}
        encode = OrdinalEncoding if self.config.sampler in NUMBERS_ONLY else ConditionalEncoding
        self.encoding = encode(search.candidates)
        was_there = search.stage > 0 or bool(search.recorded)
        self.storage = open_storage(self.config.storage, search.run, waits=was_there)
        self.study = self._study(self.storage)
        self._open: dict[int, optuna.Trial] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._monitor = LivenessMonitor(self.config.grace_seconds)
        self._worker = identity()
        self._set_up()
        self._return_lost()
        self._pulse = threading.Thread(target=self._give_signs, daemon=True)
        self._pulse.start()

    def ask(self) -> Proposal | None:
        """The next candidate; waits for other workers' last trials, which may come back."""
        while True:
            self._return_lost()
            trials = self._trials()
            is_waiting = any(t.state == TrialState.WAITING for t in trials)
            if is_waiting or self._lost(trials) or self._may_start_more(trials):
                proposal = self._claim()
                if proposal is not None:
                    return proposal
            elif self._is_over(trials):
                return None
            else:
                time.sleep(WAIT_SECONDS)

    def report(self, number: int, point: int, loss: float) -> bool:
        """Store a point of the learning curve; the pruner says whether to stop. Never the control.

        With two objectives Optuna takes no reports; the curve is stored with the trial's end.
        """
        if self.config.sampler in MULTI_OBJECTIVE:
            return False
        asked = self._open[number]
        asked.report(partner_probability(loss), point)
        return asked.user_attrs["candidate"] != CONTROL and bool(asked.should_prune())

    def tell(self, trial: Trial) -> None:
        """Store the trial with its FLOPs, parameters, sizes, terms and learning curve."""
        asked = self._open[trial.number]
        for name, value in trial_attributes(trial).items():
            asked.set_user_attr(name, value)
        describe_trial(self.study, asked, trial, self.search.run)
        with self._lock:
            del self._open[trial.number]
        if trial.state == "complete" and trial.score is not None:
            values = [trial.score, float(trial.flops)]
            self.study.tell(asked, values if self.config.sampler in MULTI_OBJECTIVE else values[0])
        else:
            was_pruned = trial.state == "pruned"
            self.study.tell(asked, state=TrialState.PRUNED if was_pruned else TrialState.FAIL)

    def finished(self) -> tuple[Proposal, ...]:
        """Finished trials in the order of their numbers, up to the first that is not finished."""
        ended = []
        for number, trial in sorted(_by_number(self._trials()).items()):
            if not trial.state.is_finished() or _is_lost_trial(trial):
                break
            ended.append(Proposal(number, self.by_label[trial.user_attrs["candidate"]]))
        return tuple(ended)

    def close(self) -> None:
        """Stop giving heartbeats; trials still open are left to be found lost."""
        self._closed.set()
        self._pulse.join()

    def _study(self, storage: BaseStorage) -> Study:
        two = self.config.sampler in MULTI_OBJECTIVE
        directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: 1 + two]
        study = optuna.create_study(
            study_name=study_name(self.search.run, self.search.stage, self.config.study_name),
            storage=storage,
            directions=directions,
            load_if_exists=True,
            sampler=RandomSampler(seed=self.search.seed),
            pruner=PRUNERS[self.config.pruner](self.config.curve_points),
        )
        if study.directions != directions:
            raise ValueError(
                f"Study {study.study_name!r} must maximize the score, but an older version made it "
                "to minimize. Finish the run with that version, or delete the study."
            )
        with experimental():
            study.set_metric_names([SCORE, "FLOPs a pair"] if two else [SCORE])
        return study

    def _set_up(self) -> None:
        """Attributes, what earlier runs recorded, and the queue's beginning: once a study."""
        if is_ready(self.study.user_attrs):
            return
        facts = {"optuna_version": optuna.__version__, **self.search.facts}
        for name, value in facts.items():
            self.study.set_user_attr(name, value)
        for trial in self.search.recorded:
            self._restore(trial)
        if not self.search.recorded:
            self._enqueue(NO_GROWTH, why="the control")
        for candidate in self.search.warm_start_candidates[: self.config.num_trials - 1]:
            self._enqueue(candidate, why="its dimensions gained in an earlier stage")
        self.study.set_user_attr("ready", True)

    def _enqueue(self, candidate: Candidate, **attributes: object) -> None:
        if candidate.label not in self._taken(self._trials()):
            params = self.encoding.params(candidate)
            self.study.enqueue_trial(params, user_attrs=dict(attributes))

    def _restore(self, trial: Trial) -> None:
        """Put a recorded trial into a study that lacks it."""
        if trial.label not in self.by_label:
            raise ValueError(
                f"Trial {trial.number} of stage {trial.stage} is recorded as {trial.label!r}, "
                "which this search would not propose. Was trials.jsonl changed?"
            )
        if trial.label in self._taken(self._trials()):
            return
        asked = self._mine(self.study.ask)
        self._take(asked, Proposal(trial.number, trial.candidate), {})
        if self.config.sampler not in MULTI_OBJECTIVE:
            for point, (_, loss) in enumerate(trial.curve):
                asked.report(partner_probability(loss), point)
        self.tell(trial)

    def _claim(self) -> Proposal | None:
        """Take a trial of the study, wait for its turn, choose; None if nothing was left."""
        trials = self._trials()
        is_left = bool(self._lost(trials) or self._unchosen(trials))
        asked = self._mine(self._fresh if is_left else self.study.ask)
        self._await_turn(asked.number)
        earlier = [
            t for t in self._trials() if t.number < asked.number or t.state == TrialState.WAITING
        ]
        given = self.storage.get_trial(asked._trial_id).system_attrs.get("fixed_params")
        attributes: dict[str, Any] = {}
        if given is not None and self._unchosen(earlier):
            self.study.enqueue_trial(given)  # what was before it in the queue comes first
            proposal = None
        elif given is not None:
            proposal = self._given(given, earlier)
        else:
            proposal, attributes = self._choose(earlier)
        if proposal is None:
            asked.set_user_attr("surplus", True)
            self.study.tell(asked, state=TrialState.FAIL)
        else:
            self._take(asked, proposal, attributes)
        return proposal

    def _fresh(self) -> optuna.Trial:
        """A new trial of the study, whatever is in its queue."""
        return optuna.Trial(self.study, self.storage.create_new_trial(self.study._study_id))

    def _mine(self, make: Callable[[], optuna.Trial]) -> optuna.Trial:
        """A running trial with this worker's name, made and named while no other worker looks.

        Unlocked, SQLite would give one trial of the queue to two.
        """
        with self._alone():
            asked = make()
            asked.set_user_attr("worker", self._worker)
        return asked

    def _alone(self) -> AbstractContextManager[None]:
        run = self.search.run
        return nullcontext() if run is None else locked(RunFolder(run).search_lock)

    def _given(self, params: Mapping[str, Any], earlier: list[FrozenTrial]) -> Proposal | None:
        """What a trial from the queue tries; None if that was tried before or is no candidate."""
        candidate = self._decoded(params)
        if candidate is None or candidate.label in self._taken(earlier):
            return None
        return Proposal(_next_number(earlier), candidate)

    def _choose(self, earlier: list[FrozenTrial]) -> tuple[Proposal | None, dict[str, Any]]:
        """What a new trial tries, and what the sampler wants to be kept with it."""
        for number, label in self._lost(earlier):
            return Proposal(number, self.by_label[label]), {}
        for candidate in self._unchosen(earlier):
            return Proposal(_next_number(earlier), candidate), {}
        taken = self._taken(earlier)
        untried = [label for label in self.by_label if label not in taken]
        if not untried or len(taken) >= self.config.num_trials:
            return None, {}
        known = [t for t in earlier if t.state != TrialState.WAITING]
        candidate, attributes = self._sampled(untried, known)
        return Proposal(_next_number(earlier), candidate), attributes

    def _sampled(
        self, untried: list[str], known: list[FrozenTrial]
    ) -> tuple[Candidate, dict[str, Any]]:
        """Ask the sampler on a copy of the study until it proposes something new."""
        handed_out = sum(_counts(t) for t in known)
        seed = mixed_seed(self.search.seed, self.search.stage, handed_out)
        copy = optuna.create_study(
            directions=self.study.directions, sampler=SAMPLERS[self.config.sampler](seed)
        )
        copy.add_trials([t for t in known if _counts(t)])
        for _ in range(MAX_REPEATS):
            proposed = copy.ask()
            candidate = self.encoding.suggest(proposed)
            if candidate.label in untried:
                return candidate, copy.trials[-1].system_attrs
            copy.tell(proposed, state=TrialState.FAIL)
        return self.by_label[random.Random(seed).choice(untried)], {}

    def _take(self, asked: optuna.Trial, proposal: Proposal, attributes: Mapping[str, Any]) -> None:
        """Write down what a running trial tries, and who tries it."""
        self.study.sampler = _Given(self.encoding.params(proposal.candidate))
        self.encoding.suggest(asked)
        for name, value in attributes.items():
            self.storage.set_trial_system_attr(asked._trial_id, name, value)
        asked.set_user_attr("number", proposal.number)
        asked.set_user_attr("dimensions", ", ".join(proposal.candidate.dimensions))
        asked.set_user_attr("candidate", proposal.candidate.label)
        with self._lock:
            self._open[proposal.number] = asked

    def _await_turn(self, number: int) -> None:
        """Wait until every running trial with a lower number has chosen its candidate."""
        while any(t.number < number and _is_choosing(t) for t in self._trials()):
            self._return_lost()
            time.sleep(TURN_SECONDS)

    def _return_lost(self) -> None:
        """Fail the running trials of workers that are gone; put their candidates into the queue."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and self._is_lost(trial):
                self._give_back(trial)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        if any(asked.number == trial.number for asked in list(self._open.values())):
            return False
        worker = trial.user_attrs.get("worker") or self._name_of(trial)
        gone = is_gone(worker) if worker else True
        if gone is None:
            return self._monitor.is_silent(trial.number, trial.user_attrs.get("sign"))
        return gone

    def _name_of(self, trial: FrozenTrial) -> str | None:
        """A trial's worker; None if that died before it gave its name, which takes no time."""
        with self._alone():
            name: str | None = self.storage.get_trial(trial._trial_id).user_attrs.get("worker")
        return name

    def _give_back(self, trial: FrozenTrial) -> None:
        try:
            self.storage.set_trial_user_attr(trial._trial_id, "abandoned", True)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # another worker was faster, or the trial's own worker was not gone

    def _lost(self, trials: list[FrozenTrial]) -> list[tuple[int, str]]:
        """Numbers and labels of the candidates whose workers are gone, not yet taken again."""
        ends = _by_number(trials)
        return [
            (number, trial.user_attrs["candidate"])
            for number, trial in sorted(ends.items())
            if _is_lost_trial(trial)
        ]

    def _unchosen(self, trials: list[FrozenTrial]) -> list[Candidate]:
        """What gone workers took from the queue and did not write down as what they try."""
        taken = self._taken(trials)
        queued = [
            self._decoded(trial.system_attrs["fixed_params"])
            for trial in trials
            if _is_lost_trial(trial)
            and "candidate" not in trial.user_attrs
            and "fixed_params" in trial.system_attrs
        ]
        return [c for c in queued if c is not None and c.label not in taken]

    def _give_signs(self) -> None:
        """Show that this worker lives, in every trial that it holds."""
        count, storage = 0, impatient(self.storage)
        while not self._closed.wait(self.config.grace_seconds / SIGNS_A_GRACE):
            count += 1
            with self._lock:
                for asked in self._open.values():
                    try:
                        storage.set_trial_user_attr(asked._trial_id, "sign", count)
                    except (optuna.exceptions.OptunaError, OSError):
                        continue  # the storage is away; the next sign may reach it

    def _may_start_more(self, trials: list[FrozenTrial]) -> bool:
        taken = self._taken(trials)
        return len(taken) < min(self.config.num_trials, len(self.by_label))

    def _is_over(self, trials: list[FrozenTrial]) -> bool:
        mine = {asked.number for asked in self._open.values()}
        return all(t.state.is_finished() or t.number in mine for t in trials)

    def _taken(self, trials: list[FrozenTrial]) -> set[str]:
        """Labels of the candidates that are tried, being tried, or in the queue."""
        labels = set()
        for trial in trials:
            if "candidate" in trial.user_attrs and _counts(trial):
                labels.add(trial.user_attrs["candidate"])
            elif not trial.state.is_finished() and "fixed_params" in trial.system_attrs:
                queued = self._decoded(trial.system_attrs["fixed_params"])
                labels |= {queued.label} if queued is not None else set()
        return labels

    def _decoded(self, params: Mapping[str, Any]) -> Candidate | None:
        """The candidate of given parameters; None for those of no candidate."""
        try:
            candidate = self.encoding.suggest(FixedTrial(dict(params)))
        except (ValueError, KeyError):
            return None
        return candidate if candidate.label in self.by_label else None

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


class _Given(RandomSampler):
    """Gives the parameters that were chosen already."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self._params = params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The chosen value."""
        return self._params[param_name]


def study_name(run: Path | None, stage: int, own: str | None = None) -> str:
    """Name of a stage's study; a storage may hold many runs.

    Args:
        run: The run folder; None for a search in memory.
        stage: The stage's number.
        own: ``search.study_name``.
    """
    of_run = own or f"growclip/{run_name(run) if run else 'memory'}"
    return f"{of_run}/stage_{stage:02d}"


def is_open(storage: BaseStorage, name: str) -> bool:
    """Whether a study is there with its queue, so that workers may join."""
    return name in optuna.get_all_study_names(storage) and is_ready(
        optuna.load_study(study_name=name, storage=storage).user_attrs
    )


def is_ready(attributes: Mapping[str, Any]) -> bool:
    """Whether a study with these attributes has its queue."""
    return bool(attributes.get("ready"))


def trial_attributes(trial: Trial) -> dict[str, Any]:
    """What the dashboard shows of a finished trial beside its value."""
    return {
        "FLOPs a pair": trial.flops,
        "parameters": trial.params,
        "training FLOPs": trial.train_flops,
        "pairs in the stage's budget": trial.stage_pairs,
        "learning curve": [list(point) for point in trial.curve],
        **({"message": trial.message} if trial.message else {}),
        **{f"metric: {name}": value for name, value in trial.metrics.items()},
        **{f"term: {name}": value for name, value in trial.terms.items()},
        **{f"size: {name}": size for name, size in trial.arch.sizes().items()},
    }


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial of the study is one of the search's, not one lost or surplus."""
    return "candidate" in trial.user_attrs and "abandoned" not in trial.user_attrs


def _is_lost_trial(trial: FrozenTrial) -> bool:
    return "abandoned" in trial.user_attrs and trial.state.is_finished()


def _next_number(earlier: list[FrozenTrial]) -> int:
    """The number of the candidate that is chosen next: how many were chosen before it."""
    return len(_by_number(earlier))


def _by_number(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The last trial of the study under each number: one that was lost is tried again."""
    chosen = (trial for trial in trials if "candidate" in trial.user_attrs)
    return {trial.user_attrs["number"]: trial for trial in chosen}


def _is_choosing(trial: FrozenTrial) -> bool:
    """Whether a worker has taken this trial but not yet chosen its candidate."""
    return trial.state == TrialState.RUNNING and "candidate" not in trial.user_attrs

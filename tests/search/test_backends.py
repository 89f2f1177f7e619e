"""Backends: in the space, control first, no repeats, repeatable, resumable, exhausted cleanly."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import optuna
import pytest

from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.records.folder import write_format
from nas_growclip.search.backends import BACKENDS
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.loop import Report, search
from nas_growclip.search.optuna import backend as optuna_search
from nas_growclip.search.optuna import samplers
from nas_growclip.search.optuna.backend import OptunaSearch, study_name
from nas_growclip.search.optuna.samplers import MULTI_OBJECTIVE, PRUNERS, SAMPLERS
from nas_growclip.search.optuna.storage import open_storage
from nas_growclip.search.protocol import Proposal, SearchTask
from tests.support.candidates import grown

CANDIDATES: tuple[Candidate, ...] = (
    NO_GROWTH,
    *(grown("image.mlp_width", 64, new) for new in range(70, 130, 10)),
    grown("text.depth", 2, 3),
)
SEARCHES = [
    *(SearchConfig(backend=name, num_trials=100) for name in BACKENDS if name != "optuna"),
    *(SearchConfig(sampler=name, num_trials=100, storage="journal") for name in SAMPLERS),
    SearchConfig(num_trials=100),
]
"""Every backend and sampler; a journal takes a third of SQLite's time, which one of them uses."""
IN_SQLITE = [SearchConfig(sampler=name, num_trials=100) for name in SAMPLERS if name != "tpe"]


def search_task(config: SearchConfig, run: Path | None = None, **changes: object) -> SearchTask:
    made = SearchTask(candidates=CANDIDATES, seed=3, stage=1, run=run, config=config)
    return replace(made, **changes)


def measure(proposal: Proposal, report: Report) -> Trial:
    """A made-up trial whose score is the new size; one candidate fails."""
    number, candidate = proposal
    size = candidate.steps[0].new if candidate.grows else 64
    failed = size == 90
    stopped = not failed and [point for point in (1, 2) if report(point, 200 / size - point)]
    return Trial(
        stage=1,
        number=number,
        candidate=candidate,
        arch=ClipArch.preset("tiny"),
        flops=size,
        params=size,
        state="failed" if failed else "pruned" if stopped else "complete",
        metrics={} if failed else {"loss": 1 / size},
        curve=() if failed else ((0, 2.0), (10, 1 / size)),
        message="out of memory" if failed else "",
    )


def score(trial: Trial) -> Trial:
    size = trial.candidate.steps[0].new if trial.candidate.grows else 64
    return replace(trial, score=float(size)) if trial.state == "complete" else trial


def run_search(made: SearchTask, most: int = 1000) -> list[Trial]:
    """The trials of a search, in order; ``most`` interrupts it in the trial after so many."""
    trials: list[Trial] = []

    def measured(proposal: Proposal, report: Report) -> Trial:
        if len(trials) == most:
            raise KeyboardInterrupt
        return measure(proposal, report)

    def scored(trial: Trial) -> Trial:
        trials.append(replace(score(trial), number=len(made.recorded) + len(trials)))
        return score(trial)

    backend = BACKENDS[made.config.backend](made)
    try:
        search(backend, measured, scored)
        told = [proposal.candidate for proposal in backend.finished()]
        assert told == [trial.candidate for trial in (*made.recorded, *trials)]
    except KeyboardInterrupt:
        pass
    finally:
        backend.close()
    return trials


def labels(trials: Sequence[Trial]) -> list[str]:
    return [trial.label for trial in trials]


@pytest.fixture(autouse=True, scope="module")
def few_repeats() -> Iterator[None]:
    """With so few candidates samplers repeat themselves; a Gaussian process takes long for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna_search, "MAX_REPEATS", 5)
        yield


@pytest.fixture
def all_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds a trial is taken for dead: a process that opens the study again killed it."""
    monkeypatch.setattr(optuna_search, "is_gone", lambda worker: True)


@pytest.fixture(
    params=[*SEARCHES, *(pytest.param(each, marks=pytest.mark.campaign) for each in IN_SQLITE)],
    ids=lambda config: f"{config.backend}-{config.sampler}",
)
def config(request: pytest.FixtureRequest) -> SearchConfig:
    return request.param


def test_search_stays_in_the_space_without_repeats_and_ends(config: SearchConfig) -> None:
    trials = whole_search(config)
    assert labels(trials)[0] == "none"
    assert sorted(labels(trials)) == sorted(c.label for c in CANDIDATES)
    assert [trial.number for trial in trials] == list(range(len(CANDIDATES)))


def test_search_stops_at_its_number_of_trials(config: SearchConfig) -> None:
    assert len(run_search(search_task(replace(config, num_trials=3)))) == 3


def test_same_seed_asks_the_same_and_another_seed_does_not(config: SearchConfig) -> None:
    asked = labels(whole_search(config))
    assert labels(run_search(search_task(replace(config, num_trials=6)))) == asked[:6]
    if config.backend != "exhaustive":
        made = search_task(replace(config, num_trials=4))
        others = (labels(run_search(replace(made, seed=seed))) for seed in (4, 5, 6))
        assert any(other != asked[:4] for other in others)


@cache
def whole_search(config: SearchConfig) -> tuple[Trial, ...]:
    """The trials of a search that nothing interrupts, of all candidates."""
    return tuple(run_search(search_task(config)))


@pytest.mark.parametrize("done", [1, 4])
@pytest.mark.usefixtures("all_are_gone")
def test_interrupted_search_goes_on_as_if_it_had_not_been(
    config: SearchConfig, done: int, tmp_path: Path
) -> None:
    whole = whole_search(config)[:6]
    made = search_task(replace(config, num_trials=6), tmp_path)
    first = run_search(made, most=done)
    assert labels(first) == labels(whole[:done])
    rest = run_search(replace(made, recorded=tuple(first)))
    assert labels([*first, *rest]) == labels(whole)
    assert [t.number for t in (*first, *rest)] == list(range(6))


def test_trials_recorded_but_not_in_the_study_are_told(
    config: SearchConfig, tmp_path: Path
) -> None:
    whole = whole_search(config)[:6]
    made = search_task(replace(config, num_trials=6), tmp_path, recorded=whole[:3])
    rest = run_search(made)
    assert labels(rest) == labels(whole[3:])


def test_records_of_another_search_are_refused(config: SearchConfig) -> None:
    control = measure(Proposal(0, NO_GROWTH), lambda point, loss: False)
    alien = replace(control, candidate=grown("image.mlp_width", 64, 999))
    made = search_task(config, recorded=(alien,))
    with pytest.raises(ValueError, match=r"recorded as 'image.mlp_width=999', which this search"):
        BACKENDS[config.backend](made)


def test_only_the_control_is_searched_in_an_empty_space(config: SearchConfig) -> None:
    assert labels(run_search(search_task(config, candidates=(NO_GROWTH,)))) == ["none"]


def test_promising_candidates_come_right_after_the_control(tmp_path: Path) -> None:
    config = SearchConfig(num_trials=4, storage="journal")
    made = search_task(config, tmp_path, warm_start_candidates=CANDIDATES[5:7])
    assert labels(run_search(made))[:3] == ["none", *(c.label for c in CANDIDATES[5:7])]


def test_candidate_enqueued_by_hand_is_tried_next_and_once(tmp_path: Path) -> None:
    made = search_task(SearchConfig(num_trials=4, storage="journal"), tmp_path)
    backend = OptunaSearch(made)
    for wanted in ("text.depth", "no such thing", "text.depth"):
        backend.study.enqueue_trial({"grow": wanted, "text.depth": 3})
    backend.close()
    tried = labels(run_search(made))
    assert tried[:2] == ["none", "text.depth=3"]
    assert tried.count("text.depth=3") == 1


def stored(made: SearchTask) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(made.config.storage, made.run)
    study = optuna.load_study(study_name=study_name(made.run, made.stage), storage=storage)
    return study.get_trials()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_optuna_study_holds_what_a_dashboard_shows(sampler: str, tmp_path: Path) -> None:
    made = search_task(SearchConfig(sampler=sampler, num_trials=5), tmp_path, facts={"pairs": 10})
    failing = next(c for c in CANDIDATES if c.grows and c.steps[0].new == 90)
    trials = run_search(replace(made, warm_start_candidates=(failing,)))
    assert [trial.state for trial in trials].count("failed") == 1
    held = stored(made)
    assert [t.user_attrs["number"] for t in held] == list(range(5))
    for frozen, trial in zip(held, trials, strict=True):
        assert frozen.user_attrs["candidate"] == trial.label
        assert frozen.user_attrs["FLOPs a pair"] == trial.flops
        assert frozen.user_attrs["size: image.width"] == 64
        assert frozen.params
        assert frozen.state.name == ("FAIL" if trial.state == "failed" else "COMPLETE")
        if trial.state == "complete":
            assert frozen.values[0] == (trial.score or 0)
        if sampler not in MULTI_OBJECTIVE and trial.state == "complete":
            assert set(frozen.intermediate_values) == {1, 2}
    summary = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")[0]
    assert summary.user_attrs["pairs"] == 10
    assert summary.user_attrs["optuna_version"] == optuna.__version__


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
def test_pruned_trials_are_recorded_as_such_and_the_control_never(
    pruner: str, tmp_path: Path
) -> None:
    config = SearchConfig(sampler="grid", pruner=pruner, num_trials=8, storage="journal")
    made = search_task(config, tmp_path)

    def slow(proposal: Proposal, report: Report) -> Trial:
        """Each trial is worse than the one before."""
        losses = [(point, proposal.number + 1.0 / point) for point in range(1, 7)]
        stopped = [point for point, loss in losses if report(point, loss)]
        trial = measure(Proposal(proposal.number, NO_GROWTH), lambda point, loss: False)
        state = "pruned" if stopped else "complete"
        return replace(trial, candidate=proposal.candidate, state=state)

    backend = OptunaSearch(made)
    states: list[str] = []

    def scored(trial: Trial) -> Trial:
        states.append(trial.state)
        return score(trial)

    search(backend, slow, scored)
    backend.close()
    assert states[0] == "complete"
    assert states.count("pruned") >= 2
    assert [f.state.name.lower() for f in stored(made)] == states


def test_runs_of_one_name_share_a_storage(tmp_path: Path) -> None:
    runs = [tmp_path / place / "run" for place in "ab"]
    for run in runs:
        run.mkdir(parents=True)
        write_format(run)
    config = SearchConfig(num_trials=2, storage=f"sqlite:///{tmp_path}/shared.db")
    for run in runs:
        assert len(run_search(search_task(config, run))) == 2
    names = optuna.get_all_study_names(config.storage)
    assert len(names) == 2
    assert sorted(names) == sorted(study_name(run, 1) for run in runs)


@pytest.mark.parametrize("url", ["nonsense", "mysqlite://x", "sqlite:////no/such/folder/study.db"])
def test_bad_storage_is_one_clear_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"search.storage: cannot open .*postgresql\+psycopg"):
        OptunaSearch(search_task(SearchConfig(storage=url), tmp_path, stage=0))


def test_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/x"
    with pytest.raises(ValueError, match=r"me:\*\*\*@127.0.0.1") as caught:
        OptunaSearch(search_task(SearchConfig(storage=url), tmp_path, stage=0))
    assert "secret" not in str(caught.value)


def test_lost_trial_is_failed_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = search_task(SearchConfig(num_trials=3), tmp_path)
    lost = OptunaSearch(made)
    assert lost.ask() == Proposal(0, NO_GROWTH)
    other = OptunaSearch(made)
    proposal = other.ask()
    assert proposal is not None
    assert proposal.number == 1
    lost.close()
    monkeypatch.setattr(optuna_search, "is_gone", lambda worker: True)
    assert other.ask() == Proposal(0, NO_GROWTH)
    other.close()
    first, *_ = stored(made)
    assert first.state.name == "FAIL"
    assert first.user_attrs["abandoned"]


def test_own_samplers_pruners_and_study_names_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "SAMPLERS", dict(SAMPLERS))
    monkeypatch.setattr(samplers, "PRUNERS", dict(PRUNERS))
    monkeypatch.setattr(optuna_search, "SAMPLERS", samplers.SAMPLERS)
    monkeypatch.setattr(optuna_search, "PRUNERS", samplers.PRUNERS)
    made: list[int] = []
    samplers.add_sampler("mine", lambda seed: made.append(seed) or samplers.random(seed))  # type: ignore[func-returns-value]
    samplers.add_pruner("strict", lambda points: optuna.pruners.ThresholdPruner(lower=2.0))
    config = SearchConfig(sampler="mine", pruner="strict", study_name="ours", num_trials=3)
    trials = run_search(search_task(config, tmp_path))
    assert made
    assert [trial.state for trial in trials[1:]] == ["pruned", "pruned"]
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/study.db") == ["ours/stage_01"]
    with pytest.raises(ValueError, match="must be a new one, but there is 'tpe'"):
        samplers.add_sampler("tpe", samplers.random)


def test_study_that_an_older_version_minimised_is_refused(tmp_path: Path) -> None:
    made = search_task(SearchConfig(), tmp_path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    optuna.create_study(study_name=study_name(made.run, made.stage), storage=storage)
    with pytest.raises(ValueError, match="must maximize the score, but an older version"):
        OptunaSearch(made)


@pytest.mark.parametrize("noticed", ["unnamed", "named", "while another waits for its turn"])
def test_what_a_worker_took_that_died_before_it_chose_is_tried_first(
    noticed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the control. A worker that took the queue's second trial meanwhile steps back."""
    made = search_task(SearchConfig(num_trials=4, grace_seconds=1e9), tmp_path)
    made = replace(made, warm_start_candidates=made.candidates[-1:])
    dead, alive = OptunaSearch(made), OptunaSearch(made)
    asked = dead.study.ask()
    if noticed != "unnamed":
        asked.set_user_attr("worker", "dead")
    named = 1 if noticed == "named" else 2

    def is_gone(worker: str) -> bool:
        return worker == "dead" and sum("worker" in t.user_attrs for t in stored(made)) >= named

    monkeypatch.setattr(optuna_search, "is_gone", is_gone)
    assert alive.ask() == Proposal(0, NO_GROWTH)
    assert alive.ask() == Proposal(1, made.candidates[-1])
    for backend in (dead, alive):
        backend.close()


def test_silent_worker_of_another_machine_is_taken_for_dead_after_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_search, "is_gone", lambda worker: None)
    made = search_task(SearchConfig(num_trials=1, grace_seconds=0.8), tmp_path)
    far = OptunaSearch(made)
    assert far.ask() == Proposal(0, NO_GROWTH)
    near = OptunaSearch(made)
    far.close()  # from here on it gives no sign
    assert near.ask() == Proposal(0, NO_GROWTH)
    near.close()


def test_signs_keep_a_slow_worker_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_search, "is_gone", lambda worker: None)
    made = search_task(SearchConfig(num_trials=1, grace_seconds=1.5), tmp_path)
    far, near = OptunaSearch(made), OptunaSearch(made)
    proposal = far.ask()
    assert proposal is not None
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        near._return_lost()
        time.sleep(0.05)
    far.tell(score(measure(proposal, lambda point, loss: False)))
    assert near.ask() is None
    for backend in (far, near):
        backend.close()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_trials": 0}, "num_trials: must be 1 or more, but got 0"),
        ({"trial_share": 0.0}, r"trial_share: must be in \(0, 1\], but got 0.0"),
        ({"curve_points": 0}, "curve_points: must be 1 or more"),
        ({"nni_workers": 0}, "nni_workers: must be 1 or more"),
        ({"grace_seconds": 0.0}, "grace_seconds: must be above 0"),
        ({"sampler": "nsga2", "pruner": "median"}, "prunes by one objective only"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**setting)

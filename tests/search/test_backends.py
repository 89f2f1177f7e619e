"""Backends: in the space, control first, no repeats, repeatable, resumable, exhausted cleanly."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from nas_growclip.arch import ClipArch
from nas_growclip.growth.space import Candidate, GrowthStep, candidate_label
from nas_growclip.records import Trial
from nas_growclip.search.backends import (
    BACKENDS,
    SAMPLERS,
    OptunaSearch,
    SearchBackend,
    SearchConfig,
    StageSearch,
)
from nas_growclip.search.loop import search

CANDIDATES: tuple[Candidate, ...] = (
    (),
    *((GrowthStep(dimension="image.mlp_width", old=64, new=new),) for new in range(70, 130, 10)),
)


def stage_search(folder: Path | None = None, **changes: object) -> StageSearch:
    made = StageSearch(
        candidates=CANDIDATES,
        seed=3,
        stage=1,
        num_pairs=10,
        storage=folder / "study.db" if folder else None,
    )
    return replace(made, **changes)


def measure(number: int, candidate: Candidate) -> Trial:
    """A made-up trial whose score is the new size; one candidate fails."""
    size = candidate[0].new if candidate else 64
    failed = size == 90
    return Trial(
        stage=1,
        number=number,
        candidate=candidate,
        arch=ClipArch.preset("tiny"),
        flops=size,
        params=size,
        state="failed" if failed else "complete",
        metrics={} if failed else {"loss": 1 / size},
        curve=() if failed else ((0, 2.0), (10, 1 / size)),
        score=None if failed else float(size),
        message="out of memory" if failed else "",
    )


def labels(trials: tuple[Trial, ...]) -> list[str]:
    return [trial.label for trial in trials]


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str, folder: Path | None = None) -> SearchBackend:
    return BACKENDS[name](stage_search(folder))


def test_search_stays_in_the_space_without_repeats_and_ends(name: str) -> None:
    trials = search(make(name), measure, num_trials=100)
    assert labels(trials)[0] == "none"
    assert sorted(labels(trials)) == sorted(map(candidate_label, CANDIDATES))
    assert [trial.number for trial in trials] == list(range(len(CANDIDATES)))


def test_search_stops_at_its_number_of_trials(name: str) -> None:
    assert len(search(make(name), measure, num_trials=3)) == 3


def test_same_seed_asks_the_same(name: str) -> None:
    one, two = (search(make(name), measure, num_trials=6) for _ in range(2))
    assert labels(one) == labels(two)


@pytest.mark.parametrize("done", range(5))
def test_interrupted_search_goes_on_as_if_it_had_not_been(
    name: str, done: int, tmp_path: Path
) -> None:
    whole = search(make(name, None), measure, num_trials=6)
    (tmp_path / "a").mkdir()
    first = search(make(name, tmp_path / "a"), measure, num_trials=done)
    asked = make(name, tmp_path / "a")
    asked_again = search(asked, measure, num_trials=done, recorded=first)
    asked.ask()  # dies in the next trial, before telling
    resumed = search(make(name, tmp_path / "a"), measure, num_trials=6, recorded=asked_again)
    assert labels(resumed) == labels(whole)


def test_trial_recorded_but_not_told_is_told_later(name: str, tmp_path: Path) -> None:
    whole = search(make(name), measure, num_trials=6)
    resumed = search(make(name, tmp_path), measure, num_trials=6, recorded=whole[:3])
    assert labels(resumed) == labels(whole)


def test_records_of_another_search_are_refused(name: str) -> None:
    alien = replace(measure(0, ()), candidate=CANDIDATES[2])
    with pytest.raises(ValueError, match=r"recorded as 'image.mlp_width=80', which this search"):
        search(make(name), measure, num_trials=3, recorded=(alien,))


def test_only_the_control_is_searched_in_an_empty_space(name: str) -> None:
    backend = BACKENDS[name](stage_search(candidates=((),)))
    assert labels(search(backend, measure, num_trials=5)) == ["none"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_optuna_study_holds_what_a_dashboard_shows(sampler: str, tmp_path: Path) -> None:
    backend = OptunaSearch(stage_search(tmp_path, sampler=sampler))
    trials = search(backend, measure, num_trials=7)
    study = optuna.load_study(study_name="stage_01", storage=f"sqlite:///{tmp_path}/study.db")
    told = [t for t in study.trials if "number" in t.user_attrs]
    assert [t.user_attrs["number"] for t in told] == list(range(7))
    for stored, trial in zip(told, trials, strict=True):
        assert stored.params == {"growth": trial.label}
        assert stored.user_attrs["flops"] == trial.flops
        assert stored.user_attrs["size:image.width"] == 64
        assert stored.state.name == ("FAIL" if trial.state == "failed" else "COMPLETE")
        if trial.state == "complete":
            assert stored.value == trial.score
            assert stored.intermediate_values == dict(trial.curve)
    assert study.best_value == max(t.score for t in trials if t.score is not None)
    assert study.user_attrs["num_pairs"] == 10


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_trials": 0}, "num_trials: must be 1 or more, but got 0"),
        ({"trial_share": 0.0}, r"trial_share: must be in \(0, 1\], but got 0.0"),
        ({"curve_points": 0}, "curve_points: must be 1 or more"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**setting)

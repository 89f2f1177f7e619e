"""The growth space in an Optuna objective of one's own: any sampler, any number of objectives."""

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FixedTrial

from nas_growclip.growth.candidates import Candidate
from nas_growclip.growth.space import load_space
from nas_growclip.models.arch import ClipArch
from nas_growclip.search.optuna.samplers import experimental

SPACE = load_space("tiny")
TINY = ClipArch.preset("tiny")
NUM_PAIRS = 10_000
CANDIDATES = SPACE.candidates(TINY, NUM_PAIRS)


def cost(candidate: Candidate) -> float:
    """Least where the text tower is deeper and the image tower wider."""
    sizes = candidate.apply(TINY).sizes()
    return abs(sizes["text.depth"] - 3) + abs(sizes["image.width"] - 128) / 64


def suggested(
    sampler: BaseSampler, num_trials: int, *, as_levels: bool = False, num_objectives: int = 1
) -> list[Candidate]:
    """What a study with an objective of one's own draws."""
    found: list[Candidate] = []

    def objective(trial: optuna.Trial) -> float | tuple[float, int]:
        found.append(SPACE.suggest(trial, TINY, NUM_PAIRS, as_levels=as_levels))
        grown = len(found[-1].steps)
        return cost(found[-1]) if num_objectives == 1 else (cost(found[-1]), grown)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * num_objectives)
    study.optimize(objective, n_trials=num_trials)
    return found


@pytest.mark.parametrize("as_levels", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: TPESampler(seed=0, n_startup_trials=4),
        lambda: RandomSampler(seed=0),
        lambda: QMCSampler(seed=0, warn_independent_sampling=False),
        lambda: GPSampler(seed=0, n_startup_trials=4),
        lambda: CmaEsSampler(seed=0, n_startup_trials=4, warn_independent_sampling=False),
    ],
    ids=["tpe", "random", "qmc", "gp", "cmaes"],
)
def test_any_sampler_draws_candidates(make: Callable[[], BaseSampler], as_levels: bool) -> None:
    with experimental():
        found = suggested(make(), 12, as_levels=as_levels)
    assert set(found) <= set(CANDIDATES)
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    "make",
    [lambda: NSGAIISampler(seed=0, population_size=4), lambda: TPESampler(seed=0)],
    ids=["nsga2", "tpe"],
)
def test_two_objectives_have_a_front(make: Callable[[], BaseSampler]) -> None:
    found = suggested(make(), 40, num_objectives=2)
    assert set(found) <= set(CANDIDATES)
    assert min(map(cost, found[20:])) <= min(map(cost, found[:20]))


def test_brute_force_draws_every_candidate_once() -> None:
    with experimental():
        found = suggested(BruteForceSampler(seed=0), 200)
    assert sorted(c.label for c in found) == sorted(c.label for c in CANDIDATES)


def test_levels_find_what_a_gaussian_process_looks_for() -> None:
    with experimental():
        found = suggested(GPSampler(seed=0, n_startup_trials=8), 24, as_levels=True)
    assert min(map(cost, found)) == 0


def test_parameters_are_those_of_a_run() -> None:
    params = {"grow": "image.width+text.depth", "image.width": 96, "text.depth": 3}
    assert SPACE.suggest(FixedTrial(params), TINY, NUM_PAIRS).label == "image.width=96+text.depth=3"


def test_another_stage_in_the_same_study_is_refused() -> None:
    study = optuna.create_study()
    SPACE.suggest(study.ask(), TINY, 100)
    with pytest.raises(ValueError, match=r"A study must keep to one parent.*Begin another study"):
        SPACE.suggest(study.ask(), TINY, NUM_PAIRS)

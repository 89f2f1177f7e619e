"""Budgets in FLOPs, schedules and restarts: what a stage may choose and what it may spend."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.data.stages import open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_experiment
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.experiment.stage_plan import StageRun
from nas_growclip.experiment.stage_setup import make_stage
from nas_growclip.growth.candidates import apply_steps
from nas_growclip.search.config import SearchConfig
from tests.support.runs import smoke_config


def stage_of(config: ExperimentConfig, tmp_path: Path, index: int = 0) -> StageRun:
    import torch  # noqa: PLC0415

    data = open_stages(config.data, None)[index]
    return make_stage(config, tmp_path, data, (), torch.device("cpu"))


@pytest.mark.parametrize("share", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("num_trials", [1, 3, 50])
def test_a_search_ends_within_its_flops(tmp_path: Path, share: float, num_trials: int) -> None:
    search = SearchConfig(num_trials=num_trials, trial_share=share)
    config = smoke_config(stage_flops=(2.0e10, 4.0e10), search=search)
    stage = stage_of(config, tmp_path)
    costs = sorted(
        (stage.train_flops(arch, stage.trial_steps(arch)) for arch in archs(stage)), reverse=True
    )
    others = costs[: min(num_trials, len(stage.candidates)) - 1]
    step = max(stage.train_flops(arch, 1) for arch in archs(stage))
    assert stage.budget + sum(others) <= 2.0e10 + step * (len(others) + 1)
    assert stage.budget + sum(others) >= 0.9 * 2.0e10


def archs(stage: StageRun):  # type: ignore[no-untyped-def]

    return [apply_steps(stage.parent.arch, candidate) for candidate in stage.candidates]


def test_passes_are_of_the_parent_and_searches_cost_extra(tmp_path: Path) -> None:
    few, many = (
        stage_of(smoke_config(search=SearchConfig(num_trials=n)), tmp_path) for n in (1, 9)
    )
    assert few.budget == many.budget


def test_a_schedule_leaves_one_choice(tmp_path: Path) -> None:
    config = smoke_config(schedule=({"image.width": 64, "text.depth": 1}, {}))
    stage = stage_of(config, tmp_path)
    ((step,),) = stage.candidates  # text.depth is 1 already: no step
    assert (step.dimension, step.old, step.new) == ("image.width", 32, 64)
    assert stage_of(config, tmp_path, 1).candidates == ((),)


def test_a_schedule_cannot_shrink(tmp_path: Path) -> None:
    stage = stage_of(smoke_config(schedule=({"image.mlp_width": 32}, {})), tmp_path)
    with pytest.raises(ValueError, match=r"must enlarge image\.mlp_width, but got 64 -> 32"):
        _ = stage.candidates


@pytest.mark.slow
def test_failed_scheduled_growth_is_told(tmp_path: Path) -> None:
    config = smoke_config(schedule=({}, {}))
    config = replace(config, train=replace(config.train, learning_rate=1e18))
    with pytest.raises(StageFailedError, match="training of stage 0 must not diverge, but did 4"):
        run_experiment(config, tmp_path / "run")


@pytest.mark.slow
def test_a_whole_trial_is_the_whole_stage(tmp_path: Path) -> None:
    """Trials to the end of the stage leave nothing to train, and every candidate is known."""
    search = SearchConfig(backend="exhaustive", num_trials=9, trial_share=1.0, curve_points=3)
    run = run_experiment(smoke_config(search=search, passes=2.0), tmp_path / "run")
    for stage in run.stages:
        trials = [trial for trial in run.trials if trial.stage == stage.stage]
        assert len(trials) == 4
        assert stage.curve == trials[stage.chosen_trial].curve
        assert stage.train_flops == trials[stage.chosen_trial].train_flops

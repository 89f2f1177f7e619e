"""Budgets in FLOPs, schedules and restarts: what a stage may choose and what it may spend."""

from pathlib import Path

import pytest

from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_experiment, run_stages
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.experiment.stage_plan import StagePlan, plan_stage
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.models.arch import ClipArch
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.trigger import TriggerConfig
from tests.support.faults import in_step, poison_batch
from tests.support.runs import one_stage, small_config, smoke_config


def plan_of(config: ExperimentConfig, index: int = 0) -> StagePlan:
    def not_asked_for() -> tuple[float, float]:
        raise AssertionError("no trigger asks for losses")

    earlier, num_pairs = (None, *config.data.stages)[index : index + 2]
    assert num_pairs is not None
    return plan_stage(config, index, num_pairs, config.parent_arch, earlier, not_asked_for)


@pytest.mark.parametrize("share", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("num_trials", [1, 3, 50])
def test_a_search_ends_within_its_flops(share: float, num_trials: int) -> None:
    search = SearchConfig(shortlist=None, num_trials=num_trials, trial_share=share)
    config = smoke_config(stage_flops=(2.0e10, 4.0e10), search=search)
    plan = plan_of(config)
    costs = sorted(
        (plan.train_flops(arch, plan.trial_steps(arch)) for arch in archs(config, plan)),
        reverse=True,
    )
    others = costs[: min(num_trials, len(plan.candidates)) - 1]
    step = max(plan.train_flops(arch, 1) for arch in archs(config, plan))
    assert plan.budget + sum(others) <= 2.0e10 + step * (len(others) + 1)
    assert plan.budget + sum(others) >= 0.9 * 2.0e10


def archs(config: ExperimentConfig, plan: StagePlan) -> list[ClipArch]:
    return [candidate.apply(config.parent_arch) for candidate in plan.candidates]


def test_passes_are_of_the_parent_and_searches_cost_extra() -> None:
    few, many = (plan_of(smoke_config(search=SearchConfig(num_trials=n))) for n in (1, 9))
    assert few.budget == many.budget


def test_a_schedule_leaves_one_choice() -> None:
    config = smoke_config(schedule=({"image.width": 64, "text.depth": 1}, {}))
    plan = plan_of(config)
    (candidate,) = plan.candidates  # text.depth is 1 already: no step
    assert str(candidate) == "image.width 32 -> 64"
    assert plan_of(config, 1).candidates == (NO_GROWTH,)


def test_a_schedule_cannot_shrink() -> None:
    with pytest.raises(ValueError, match=r"must enlarge image\.mlp_width, but got 64 -> 32"):
        smoke_config(schedule=({"image.mlp_width": 32}, {}))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"image.mlp_width": 64}, r"schedule\[1\]: .* must enlarge image.mlp_width, .* 128 -> 64"),
        ({"image.width": 33}, r"schedule\[1\]: .*33"),
        ({"image.patch_size": 5}, r"schedule\[1\]: .*5"),
    ],
)
def test_a_later_stage_is_refused_before_the_first_is_trained(
    sizes: dict[str, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        smoke_config(schedule=({"image.mlp_width": 128}, sizes))


RULE = {
    "image.width": SizeChoices(add=(1,), ratios=(3.0,)),
    "image.mlp_width": SizeChoices(ratios=(1.25,)),
    "text.depth": SizeChoices(sizes=(1, 2)),
    "image.patch_size": SizeChoices(sizes=(2, 4)),
}


def test_a_rule_takes_the_nearest_size_of_every_dimension() -> None:
    plan = plan_of(smoke_config(rule=RULE), 1)
    (candidate,) = plan.candidates
    assert str(candidate) == (
        "image.width 32 -> 64 and image.mlp_width 64 -> 80 and text.depth 1 -> 2 and "
        "image.patch_size 8 -> 4"
    )
    assert plan.is_given


def test_a_dimension_of_a_rule_waits_for_its_pairs_and_stays_at_its_last_size() -> None:
    waiting = {
        "image.width": SizeChoices(add=(16,), from_pairs=10**6),
        "image.depth": SizeChoices(add=(1,)),
        "text.depth": SizeChoices(sizes=(1,)),
    }
    (candidate,) = plan_of(smoke_config(rule=waiting), 1).candidates
    assert candidate.dimensions == ("image.depth",)


def test_a_rule_leaves_a_model_that_is_not_trained() -> None:
    plan = plan_of(smoke_config(rule=RULE))
    assert (plan.candidates, plan.is_given) == ((NO_GROWTH,), True)
    assert plan_of(smoke_config(rule=RULE, parent_checkpoint="parent")).candidates[0].grows


def test_a_rule_waits_for_its_trigger() -> None:
    plan = plan_of(smoke_config(rule=RULE, trigger=TriggerConfig(min_ratio=9.0)), 1)
    assert plan.candidates == (NO_GROWTH,)
    assert plan.given == "by the rule: the data did not grow enough: 2 times, at least 9 asked"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"image.size": SizeChoices(add=(1,))}, r"rule: must be one of .*'image\.size'"),
        ({"image.width": SizeChoices(ratios=(2.0**18,))}, r"rule, at stage 1: .*8388608"),
        ({"image.patch_size": SizeChoices(sizes=(5,))}, r"rule, at stage 1: .*5"),
    ],
)
def test_a_rule_that_would_fail_later_is_refused(rule: dict[str, SizeChoices], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        smoke_config(rule=rule)


@pytest.mark.slow
def test_failed_scheduled_growth_is_told(tmp_path: Path) -> None:
    config = smoke_config(schedule=({}, {}))
    with pytest.raises(StageFailedError, match="training of stage 0 must not diverge, but did 4"):
        run_experiment(config, tmp_path / "run", observer=poison_batch(in_step(1)))


@pytest.mark.slow
def test_a_growth_space_that_has_ended_is_told(tmp_path: Path) -> None:
    space = GrowthSpace(dimensions={"text.depth": SizeChoices(sizes=(1,))})
    run = run_stages(one_stage(small_config(space=space)), tmp_path / "run")
    assert run.stages[0].reason == (
        "no growth, for the growth space has nothing else now: text.depth (no further size of "
        "text.depth). Searched because the first data arrived."
    )


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

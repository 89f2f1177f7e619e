"""A stage's plan and context: values that are there, nothing that is read or measured on access."""

import builtins
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.data.stages import open_stages
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_plan import StagePlan, curve_steps, plan_stage
from nas_growclip.experiment.stage_setup import find_device, make_stage
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.trigger import TriggerConfig
from tests.support.runs import smoke_config


@pytest.fixture
def stage(tmp_path: Path) -> StageContext:
    config = smoke_config()
    return make_stage(config, tmp_path, open_stages(config.data, None)[0], (), find_device("cpu"))


def test_no_property_opens_a_file_or_computes_with_tensors(
    stage: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> object:
        raise AssertionError(f"a file was touched: {given}")

    for owner, name in ((builtins, "open"), (io, "open"), (os, "stat"), (os, "listdir")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr("torch.nn.Module.__call__", refuse)
    for value in (stage, stage.plan):
        properties = [n for n, p in vars(type(value)).items() if isinstance(p, property)]
        assert properties
        for name in properties:
            assert getattr(value, name) == getattr(value, name)


def test_a_plan_is_the_same_each_time_it_is_made(stage: StageContext) -> None:
    config = smoke_config()
    again = plan_stage(
        config, 0, stage.data.num_pairs, config.parent_arch, None, lambda: (0.0, 0.0)
    )
    assert again == stage.plan


@pytest.mark.parametrize(("name", "times"), [("data_grew", 0), ("always", 0), ("gap", 1)])
def test_losses_are_measured_only_where_the_trigger_asks(name: str, times: int) -> None:
    measured = []

    def measure() -> tuple[float, float]:
        measured.append(True)
        return 1.0, 1.0

    config = smoke_config(trigger=TriggerConfig(name=name))
    plan_stage(config, 0, 256, config.parent_arch, None, measure)
    assert len(measured) == times


def test_a_stage_is_measured_along_its_trial_and_to_its_end(stage: StageContext) -> None:
    plan, arch = stage.plan, smoke_config().parent_arch
    assert isinstance(plan, StagePlan)
    points = plan.stage_points(arch)
    assert points[: len(plan.trial_points(arch))] == plan.trial_points(arch)
    assert points[-1] == plan.stage_steps(arch)
    assert list(points) == sorted(set(points))


def test_curve_steps_end_where_they_should() -> None:
    assert curve_steps(0, 10, 3) == (3, 6, 10)
    assert curve_steps(4, 6, 5) == (5, 6)
    assert curve_steps(4, 4, 5) == ()


SPACE = GrowthSpace(dimensions={"image.depth": SizeChoices(add=(1, 2, 3, 4, 5))})


@pytest.mark.parametrize(("shortlist", "tried"), [(2, 2), (4, 4), (9, 5), (None, 5)])
def test_a_shortlist_is_what_the_stage_searches(shortlist: int | None, tried: int) -> None:
    """The budget leaves room for the trials of the shortlist, and all candidates are listed."""
    search = SearchConfig(shortlist=shortlist, num_trials=20, trial_share=0.1)
    gains = ObjectiveConfig(dimension_gains={"image.depth": 9.0})
    data = replace(smoke_config().data, stages=(256,))
    config = smoke_config(
        space=SPACE, search=search, objective=gains, data=data, stage_flops=(1e9,)
    )
    plan = plan_stage(config, 0, 256, config.parent_arch, None, lambda: (0.0, 0.0))
    assert len(plan.candidates) == 1 + tried
    assert not plan.candidates[0].grows
    assert plan.budget == pytest.approx(1e9 / (1 + 0.1 * tried))
    assert len(plan.growth_space) == 6
    assert plan.growth_space[: 1 + tried] == plan.candidates
    if tried == 5:
        assert plan.expected == ()
    else:
        assert [e.candidate for e in plan.expected if e.candidate.grows][:tried] == [
            *plan.candidates[1:]
        ]
        assert len(plan.expected) == 6

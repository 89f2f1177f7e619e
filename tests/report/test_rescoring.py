"""Finished runs scored again: their own settings give the recorded scores, without training."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from nas_growclip.cli.main import main
from nas_growclip.records.entries import Trial
from nas_growclip.records.frames import Run
from nas_growclip.report.rescoring import (
    choices,
    choose,
    is_reproduced,
    objective_config,
    rescore_run,
    rescored,
    stage_choices,
)
from nas_growclip.search.objective import OBJECTIVES
from tests.report.test_report import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Records as a run writes them, whose choices depend on the data size."""
    return write_run(tmp_path_factory.mktemp("rescoring") / "run", trials_after=2)


def trials_of(run: Run, stage: int) -> tuple[Trial, ...]:
    return tuple(trial for trial in run.trials if trial.stage == stage)


def without(run: Run, stage: int, number: int) -> Run:
    gone = (stage, number)
    return replace(run, trials=tuple(t for t in run.trials if (t.stage, t.number) != gone))


def changed_control(run: Run, stage: int, **changes: object) -> Run:
    trials = tuple(
        replace(t, **changes) if (t.stage, t.number) == (stage, 0) else t for t in run.trials
    )
    return replace(run, trials=trials)


def test_own_settings_give_the_recorded_scores(run: Run) -> None:
    for stage in (1, 2, 3):
        assert rescored(run, stage) == trials_of(run, stage)
        assert is_reproduced(run, stage)


@pytest.mark.slow
def test_a_real_run_gives_its_recorded_scores_and_choices(smoke_run: Run) -> None:
    for result in smoke_run.stages:
        assert is_reproduced(smoke_run, result.stage)
    chosen = {stage: at_ratios[1].trial.number for stage, at_ratios in choices(smoke_run).items()}
    assert chosen == {result.stage: result.chosen_trial for result in smoke_run.stages}


def test_choices_follow_the_data(run: Run) -> None:
    at_ratios = choices(run)
    assert {stage: [c.is_same for c in made] for stage, made in at_ratios.items()} == {
        1: [True, True, False],
        2: [True, True, True],
        3: [True, True, True],
    }
    assert [choice.num_pairs for choice in at_ratios[2]] == [20_000, 40_000, 80_000]
    for choice in (choice for made in at_ratios.values() for choice in made):
        assert choice.next_best is not None
        assert (choice.next_best.score or 0) <= (choice.trial.score or 0)
        assert choice.next_best.number != choice.trial.number
    _, same, twice = at_ratios[1]
    assert twice.trial.flops < same.trial.flops  # fewer passes over more pairs


def test_more_data_keeps_curves_and_flops(run: Run) -> None:
    for old, new in zip(trials_of(run, 2), rescored(run, 2, data_ratio=2.0), strict=True):
        assert replace(new, score=old.score, terms=old.terms) == old


def test_only_complete_trials_get_a_score(run: Run) -> None:
    states = {trial.state for trial in rescored(run, 1)}
    assert states == {"complete", "pruned", "failed"}
    for trial in rescored(run, 1, objective_config(run, {"name": "quality"})):
        assert (trial.score is not None) == (trial.state == "complete")
        assert bool(trial.terms) == (trial.state == "complete")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_scores_a_finished_run(name: str, run: Run) -> None:
    config = objective_config(run, {"name": name})
    for rescoring in rescore_run(run, config, data_ratio=2.0):
        assert rescoring.trials[0].score == pytest.approx(0.0)
        assert rescoring.chosen in rescoring.trials
        assert rescoring.chosen == choose(rescoring.trials, config)


def test_quality_by_hand(run: Run) -> None:
    trials = rescored(run, 3, objective_config(run, {"name": "quality"}))
    control = trials[0].metrics["loss"]
    for trial in trials:
        if trial.state == "complete":
            assert trial.score == pytest.approx(control - trial.metrics["loss"])


def test_a_dimensions_gain_is_changed_alone(run: Run) -> None:
    config = objective_config(run, {"dimension_gains.image.depth": 3.0, "gain_spread": 0.5})
    own = objective_config(run)
    assert config.gain_spread == 0.5
    assert config.dimension_gains == {**own.dimension_gains, "image.depth": 3.0}
    changed, before = rescored(run, 1, config)[1:], rescored(run, 1)[1:]
    for new, old in zip(changed, before, strict=True):
        if new.score is not None and "image.depth" in new.candidate.dimensions:
            assert new.score > (old.score or 0.0)


def test_records_after_a_stage_do_not_matter_to_it(run: Run) -> None:
    shorter = replace(run, stages=run.stages[:2])
    assert rescored(shorter, 2) == rescored(run, 2)


def test_scores_of_another_version_are_told(run: Run) -> None:
    trials = tuple(replace(t, score=0.5) if t.score is not None else t for t in run.trials)
    assert not is_reproduced(replace(run, trials=trials), 2)
    unscored = tuple(replace(t, score=None) for t in run.trials)
    assert not is_reproduced(replace(run, trials=unscored), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve_steepnes": 3.0}, "curve_steepnes: unknown key. Did you mean 'curve_steepness'"),
        ({"dimension_gains.image.dept": 3.0}, "dimension_gains: .* Did you mean 'image.depth'"),
        ({"decay_exponent": -1.0}, "decay_exponent: must be above 0, but got -1.0"),
        ({"name": "pareo"}, "name: must be one of .*pareto.*, but got 'pareo'"),
    ],
)
def test_bad_settings_are_refused(
    changes: Mapping[str, str | float], message: str, run: Run
) -> None:
    with pytest.raises(ValueError, match=message):
        objective_config(run, changes)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_bad_data_ratio_is_refused(ratio: float, run: Run) -> None:
    with pytest.raises(ValueError, match="data_ratio must be a finite number above 0"):
        rescored(run, 1, data_ratio=ratio)


def test_unfinished_stage_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"stage 4 must have finished .* only \[1, 2, 3\] have"):
        stage_choices(run, 4)


def test_run_without_a_finished_stage_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="a stage must have finished to be scored again"):
        rescore_run(replace(run, stages=()), objective_config(run))


def test_missing_or_failed_control_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"Stage 2 must have a complete control .* is missing"):
        rescored(without(run, 2, 0), 2)
    with pytest.raises(ValueError, match=r"Stage 2 must have a complete control .* is failed"):
        rescored(changed_control(run, 2, state="failed"), 2)


def test_damaged_records_are_told_by_stage_and_trial(run: Run) -> None:
    config = objective_config(run, {"name": "quality"})
    with pytest.raises(ValueError, match="Stage 1, trial 0: cannot be scored by 'quality': 'loss'"):
        rescored(changed_control(run, 1, metrics={}), 1, config)
    with pytest.raises(ValueError, match="must have a point after its start"):
        rescored(changed_control(run, 1, curve=()), 1)


def test_command_prints_both_scores_and_changes_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert main(["rescore", str(run.path), "--data-ratio", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("chosen then") == printed.count("chosen now") == len(run.stages)
    assert "chosen then, chosen now" in printed
    assert "pruned" in printed
    assert "Objective data_size_aware: pairs exponent " in " ".join(printed.split())
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_command_gives_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--objective", "quality", "--set", "curve_steepness=3", "--json"]
    assert main(["rescore", str(run.path), *options]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in stages] == [1, 2, 3]
    assert stages[0]["coefficients"]["name"] == "quality"
    assert stages[0]["coefficients"]["curve_steepness"] == pytest.approx(3.0)
    for stage, result in zip(stages, run.stages, strict=True):
        assert stage["chosen_then"] == result.chosen_trial
        scores = [c["score"] for c in stage["candidates"] if c["score"] is not None]
        assert stage["candidates"][stage["chosen_now"]]["score"] == max(scores)
        recorded = [trial.score for trial in trials_of(run, result.stage)]
        assert [c["recorded_score"] for c in stage["candidates"]] == recorded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "curve_steepnes=3"], "Did you mean 'curve_steepness'?"),
        (["--set", "curve_steepness"], "must be COEFFICIENT=NUMBER, as in curve_steepness=0.5"),
        (["--set", "curve_steepness=x"], "must be COEFFICIENT=NUMBER"),
        (["--set", "curve_steepness=inf"], "must be COEFFICIENT=NUMBER"),
        (["--set", "name=3"], "name: must be str"),
        (["--set", "curve_steepness=1e300"], "Check"),
        (["--objective", "pareo"], "name: must be one of"),
        (["--data-ratio", "0"], "data_ratio must be a finite number above 0"),
    ],
)
def test_command_refuses_bad_input_in_one_line(
    options: list[str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(run.path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("growclip: error: ")
    assert error.count("\n") == 1

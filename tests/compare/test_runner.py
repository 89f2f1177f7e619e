"""Whole comparisons: complete, the same after a kill, shared by processes, strict."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from nas_growclip.cli.main import main
from nas_growclip.compare import over_time, results
from nas_growclip.compare.arms import load_arms
from nas_growclip.compare.bootstrap import paired_difference
from nas_growclip.compare.config import CompareConfig, load_comparison
from nas_growclip.compare.folder import COMPARISON_FILE, FAILURE_FILE, CompareFolder
from nas_growclip.compare.results import write_results
from nas_growclip.compare.runner import results_so_far, run_comparison
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.records.folder import RunFolder, read_outcomes, read_stages
from nas_growclip.records.frames import load_run
from nas_growclip.search.coefficients import ObjectiveConfig
from tests.compare.test_compare_config import SMALL
from tests.support.forked_python import forking_python
from tests.support.processes import started

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TABLES = ("arms.csv", "runs.csv", "choices.csv")


def tables(folder: Path) -> dict[str, str]:
    return {name: (folder / "results" / name).read_text() for name in TABLES}


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    """The bootstrap's own tests take as many as it does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (over_time, results):
            patch.setattr(module, "paired_difference", partial(paired_difference, resamples=100))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    run_comparison(load_comparison(SMALL), out)
    return out


@pytest.fixture
def records(done: Path, tmp_path: Path) -> Path:
    """A copy of the comparison without its models, to change."""
    out = tmp_path / "out"
    shutil.copytree(done, out, ignore=shutil.ignore_patterns("*.safetensors"))
    return out


def test_every_arm_runs_at_its_best_rate_with_every_seed(done: Path) -> None:
    comparison = CompareFolder(load_comparison(SMALL), done)
    assert comparison.is_finished
    for arm in comparison.config.arms:
        tries = {
            rate: read_stages(done / "runs" / arm / f"lr_{rate:g}_seed_1000")[-1]
            .validation["loss"]
            .value
            for rate in comparison.config.learning_rates
        }
        assert comparison.chosen_rate(arm) == min(tries, key=lambda rate: tries[rate])
        assert [arm_run.seed for arm_run in comparison.runs(arm)] == [0, 1]
        assert all(comparison.is_complete(arm_run) for arm_run in comparison.runs(arm))


def test_arms_spend_the_same_flops_and_never_more(done: Path) -> None:
    frame = pd.read_csv(done / "results" / "arms.csv").set_index("arm")
    assert (frame["cumulative_flops"] <= 9.0e8).all()
    assert (frame["cumulative_flops"] >= 0.9 * 9.0e8).all()
    assert frame["flops"]["wider"] > frame["flops"]["fixed"]


def test_table_agrees_with_the_records(done: Path) -> None:
    frame = pd.read_csv(done / "results" / "arms.csv").set_index("arm")
    comparison = CompareFolder(load_comparison(SMALL), done)
    ends = {
        arm: [load_run(done / arm_run.path).stages[-1].metrics for arm_run in comparison.runs(arm)]
        for arm in ("fixed", "wider")
    }
    for metric in ("zero_shot_top1", "i2t_recall@1", "t2i_recall@1"):
        means = {arm: sum(m[metric].value for m in metrics) / 2 for arm, metrics in ends.items()}
        assert frame[metric]["wider"] == pytest.approx(means["wider"])
        difference = means["wider"] - means["fixed"]
        assert frame[f"{metric}.difference"]["wider"] == pytest.approx(difference)
        assert frame[f"{metric}.low"]["wider"] <= difference + 1e-9
        assert frame[f"{metric}.high"]["wider"] >= difference - 1e-9
    assert frame["zero_shot_top1.difference"].isna()["fixed"]


def test_means_over_stages_and_regret_agree_with_the_records(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    config = replace(load_comparison(SMALL), envelope=("fixed", "scratch"))
    comparison = CompareFolder(config, out)
    folder = write_results(comparison)
    frame = pd.read_csv(folder / "arms.csv").set_index("arm")
    metric = "i2t_recall@1"
    values = {
        arm: [
            [stage.metrics[metric].value for stage in load_run(out / arm_run.path).stages]
            for arm_run in comparison.runs(arm)
        ]
        for arm in comparison.config.arms
    }
    means = {arm: np.mean(by_seed, axis=0) for arm, by_seed in values.items()}
    best = np.maximum(means["fixed"], means["scratch"]).mean()
    for arm, by_stage in means.items():
        assert frame[f"{metric}.over_time"][arm] == pytest.approx(by_stage.mean())
        assert frame[f"{metric}.regret"][arm] == pytest.approx(best - by_stage.mean())
    text = (folder / "arms.md").read_text()
    assert "i2t R@1, mean over stages" in text
    assert "Regret: points by which the best fixed size" in text
    chosen = pd.read_csv(folder / "envelope.csv")
    assert set(chosen["best"]) <= {"fixed", "scratch"}


def cut_short(config: CompareConfig, out: Path, names: Mapping[str, str]) -> CompareConfig:
    """The comparison with copies of arms (by new name) that end a stage early, runs included."""
    arms = dict(config.arms)
    for new, name in names.items():
        experiment = config.experiment_of(name)
        steps = [dict(step) for step in experiment.schedule[:-1]]
        arms[new] = {
            **arms[name],
            "stage_flops": list(experiment.stage_flops[:-1]),
            "data": {"stages": list(config.experiment["data"]["stages"][:-1])},
            **({"schedule": steps} if steps else {}),
        }
        shutil.copytree(out / "runs" / name, out / "runs" / new)
        for path in (out / "runs" / new).glob("*/stages.jsonl"):
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return replace(config, arms=arms)


def test_an_arm_that_ends_early_is_compared_at_its_stages_alone(records: Path) -> None:
    """Not its last stage with another one's, and not its mean over fewer stages."""
    config = cut_short(load_comparison(SMALL), records, {"early": "fixed"})
    folder = results_so_far(replace(config, envelope=("early", "fixed")), records)
    frame = pd.read_csv(folder / "arms.csv").set_index("arm")
    metric = "i2t_recall@1"
    assert frame.loc["early", [f"{metric}.over_time", f"{metric}.difference"]].isna().all()
    assert frame["runs"]["early"] == frame["runs"]["fixed"]
    assert frame[f"{metric}.regret"].notna().all()
    row = next(x for x in (folder / "arms.md").read_text().splitlines() if x.startswith("| early"))
    assert "nan" not in row
    assert "ends on less data than the baseline" in (folder / "arms.md").read_text()


def test_an_arm_is_compared_with_the_baseline_of_its_own_data(records: Path) -> None:
    """Two data sizes in one comparison: each has its own arm without growth."""
    names = {"early": "fixed", "early_search": "growclip"}
    config = replace(cut_short(load_comparison(SMALL), records, names), other_baselines=("early",))
    frame = pd.read_csv(results_so_far(config, records) / "arms.csv").set_index("arm")
    assert dict(frame["baseline"]) == {
        **dict.fromkeys(("growclip", "fixed", "wider", "scratch"), "fixed"),
        **dict.fromkeys(names, "early"),
    }
    metric = "i2t_recall@1"
    gain = frame[metric]["early_search"] - frame[metric]["early"]
    row = frame.loc["early_search"]
    assert row[f"{metric}.difference"] == pytest.approx(gain)
    assert row[f"{metric}.over_time.difference"] == pytest.approx(gain)


def test_arms_without_a_common_seed_are_not_compared(records: Path) -> None:
    """While a comparison is under way, the baseline may have other seeds than an arm."""
    config = load_comparison(SMALL)
    comparison = CompareFolder(config, records)
    for arm, place in (("fixed", 0), ("wider", 1)):
        shutil.rmtree(records / comparison.runs(arm)[place].path)
    frame = pd.read_csv(results_so_far(config, records) / "arms.csv").set_index("arm")
    metric = "i2t_recall@1"
    assert (
        frame.loc["wider", [f"{metric}.difference", f"{metric}.over_time.difference"]].isna().all()
    )
    assert frame[metric].notna().all()
    assert frame[f"{metric}.over_time"].notna().all()


def test_results_so_far_need_no_model_and_say_what_is_missing(
    done: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records without weights, one fixed run not there yet: its seed has no regret."""
    config = load_comparison(SMALL)
    config = replace(config, envelope=("fixed",))
    (records / "comparison.yaml").write_text(config.to_yaml())
    missing = CompareFolder(config, records).runs("fixed")[-1]
    shutil.rmtree(records / missing.path)
    assert (
        main(["compare", str(records / "comparison.yaml"), "--out", str(records), "--so-far"]) == 0
    )
    printed = capsys.readouterr().out
    wanted = len(config.arms) * len(config.seeds)
    assert f"Under way: {wanted - 1} of {wanted} runs are complete." in printed
    assert "growclip 1 of 2" in printed
    assert not (records / missing.path).exists()
    assert "growclip" in (records / "results" / "envelope.csv").read_text()
    whole = pd.read_csv(done / "results" / "runs.csv")
    kept = whole[(whole["arm"] != "fixed") | (whole["seed"] != missing.seed)]
    pd.testing.assert_frame_equal(
        pd.read_csv(records / "results" / "runs.csv"), kept.reset_index(drop=True)
    )


def test_a_fixed_size_without_runs_leaves_no_regret(records: Path) -> None:
    """An envelope of those that happen to be there would flatter every arm."""
    config = load_comparison(SMALL)
    config = replace(config, envelope=("fixed", "scratch"))
    for arm_run in CompareFolder(config, records).runs("scratch"):
        shutil.rmtree(records / arm_run.path)
    folder = results_so_far(config, records)
    assert not any("regret" in column for column in pd.read_csv(folder / "arms.csv"))
    assert not (folder / "envelope.csv").exists()
    assert "Regret" not in (folder / "arms.md").read_text()


def test_results_so_far_of_no_comparison_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no comparison\.yaml\. Check --out"):
        results_so_far(load_comparison(SMALL), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_outcomes_are_the_metrics_item_by_item(done: Path) -> None:
    for arm_run in CompareFolder(load_comparison(SMALL), done).runs("growclip"):
        for stage in load_run(done / arm_run.path).stages:
            outcomes = read_outcomes(RunFolder(done / arm_run.path).stage(stage.stage))
            assert outcomes["zero_shot_top1/digits"].shape == (1797,)
            for name, right in outcomes.items():
                assert right.mean() == pytest.approx(stage.metrics[name].value)


def test_scratch_starts_afresh_and_fixed_goes_on(done: Path) -> None:
    """Stage 1 begins at the loss that stage 0 ended with, or far from it."""
    comparison = CompareFolder(load_comparison(SMALL), done)
    losses = {
        arm: load_run(done / comparison.runs(arm)[0].path).trials[1].curve[0][1]
        for arm in ("fixed", "scratch")
    }
    first = load_run(done / comparison.runs("fixed")[0].path).stages[0]
    assert losses["fixed"] == pytest.approx(first.validation["loss"].value, abs=1e-4)
    assert losses["scratch"] != pytest.approx(first.validation["loss"].value, abs=1e-2)


def test_scheduled_growth_is_what_was_asked(done: Path) -> None:
    run = load_run(done / CompareFolder(load_comparison(SMALL), done).runs("wider")[0].path)
    assert [stage.arch.image.width for stage in run.stages] == [32, 64]
    assert [len([t for t in run.trials if t.stage == k]) for k in (0, 1)] == [1, 1]
    assert run.stages[1].reason == "image.width 32 -> 64, as scheduled."
    assert run.trials[1].score == 0  # it is its own control


def test_coefficients_are_fitted_to_a_comparison(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is an experiment's objective; arms that share no parent teach nothing."""
    assert main(["calibrate", str(done / "runs")]) == 0
    printed = capsys.readouterr().out
    fitted = from_mapping(ObjectiveConfig, yaml.safe_load(printed)["objective"], "objective")
    before = ObjectiveConfig()
    assert fitted.dimension_gains["image.width"] != before.dimension_gains["image.width"]
    assert fitted.dimension_gains["embed_dim"] == pytest.approx(
        before.dimension_gains["embed_dim"] * before.curve_steepness / fitted.curve_steepness
    )
    assert "candidates that finished a stage beside no growth" in printed
    assert main(["calibrate", str(done / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == to_mapping(fitted)
    assert main(["calibrate", str(done / "runs" / "wider")]) == 2
    assert "At least one candidate must have grown and finished" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path)]) == 2
    assert "must be a run folder or hold some" in capsys.readouterr().err


def test_killed_and_started_again_gives_the_same_table(done: Path, tmp_path: Path) -> None:
    """Two of the arms with one seed; one process is killed, two end what it began."""
    comparison, whole, out = (
        small_comparison(("fixed", "growclip"), seeds=(0,)),
        tmp_path / "whole",
        tmp_path / "out",
    )
    for arm in comparison.arms:
        shutil.copytree(done / "runs" / arm, whole / "runs" / arm)
    (whole / COMPARISON_FILE).write_text(comparison.to_yaml())
    run_comparison(comparison, whole)  # which has all of its runs
    path = tmp_path / "comparison.yaml"
    path.write_text(comparison.to_yaml())
    with started(tmp_path / "log", "compare", str(path), "--out", str(out)) as process:
        while not list(out.glob("runs/fixed/*/stage_00/outcomes.npz")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        process.kill()
    assert not CompareFolder(comparison, out).is_finished
    with forking_python():
        run_comparison(comparison, out, workers=2)
    assert tables(out) == tables(whole)


def test_a_finished_comparison_is_not_run_again(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.glob("runs/*/*/*.jsonl")}
    assert main(["compare", str(SMALL), "--out", str(done)]) == 0
    assert {path: path.stat().st_mtime_ns for path in done.glob("runs/*/*/*.jsonl")} == before
    printed = capsys.readouterr().out
    assert "| fixed | 2 |" in printed
    assert "one multiply-add is one" in printed


def test_a_rate_that_fails_is_not_chosen(tmp_path: Path) -> None:
    """After one step at such a rate two layers in a row reach 1e36 times 1e18: no number."""
    comparison = small_comparison(("fixed",), learning_rates=(1e-3, 1e18), seeds=(0,))
    run_comparison(comparison, tmp_path / "out")
    failure = tmp_path / "out" / "runs" / "fixed" / "lr_1e+18_seed_1000" / FAILURE_FILE
    assert "finite" in json.loads(failure.read_text())["reason"]
    assert CompareFolder(comparison, tmp_path / "out").chosen_rate("fixed") == 1e-3


def test_an_arm_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """Such a decay makes every weight a million times larger at every step."""
    comparison = small_comparison(("fixed",), learning_rates=(1e-3, 2e-3), seeds=(0,))
    wild = {**comparison.arms["fixed"], "train": {"epsilon": 1e-30, "max_grad_norm": 1e30}}
    wild["train"] |= {"weight_decay": 1e9}
    comparison = replace(comparison, arms={**comparison.arms, "wild": wild})
    folder = run_comparison(comparison, tmp_path / "out")
    table = (folder / "arms.md").read_text()
    assert "| fixed | 1 |" in table
    assert "Arm wild: failed at every learning rate" in table
    with pytest.raises(LookupError, match="every learning rate of arm 'wild' failed"):
        CompareFolder(comparison, tmp_path / "out").chosen_rate("wild")


def test_arms_may_be_added_and_nothing_else_changed(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    comparison = load_comparison(SMALL)
    fewer = replace(comparison, arms={"fixed": comparison.arms["fixed"]}, seeds=(0,))
    assert [arm.name for arm in load_arms(CompareFolder(fewer, out))] == ["fixed"]
    changed = replace(comparison, tuning_seed=5)
    with pytest.raises(ValueError, match="holds another comparison: it differs in tuning_seed"):
        CompareFolder(changed, out)
    other = replace(comparison, arms={**comparison.arms, "wider": {"schedule": [{}, {}]}})
    with pytest.raises(ValueError, match="it differs in arms: wider"):
        CompareFolder(other, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="must be a new or empty folder or a comparison's"):
        CompareFolder(comparison, tmp_path / "full")


def test_an_arm_may_run_with_fewer_seeds(tmp_path: Path) -> None:
    arms, fewer = ("fixed", "growclip"), {"growclip": 2}
    comparison = small_comparison(arms, seeds=(3, 1, 2), num_seeds=fewer, learning_rates=())
    folder = CompareFolder(comparison, tmp_path / "out")
    assert [(u.arm, u.seed) for u in folder.open_runs()] == [
        ("fixed", 3),
        ("growclip", 3),
        ("fixed", 1),
        ("growclip", 1),
        ("fixed", 2),
    ]


def test_results_of_a_comparison_under_way(tmp_path: Path) -> None:
    comparison = CompareFolder(small_comparison(("fixed",), seeds=(0, 1)), tmp_path / "out")
    folder = write_results(comparison)
    assert (folder / "arms.md").exists()
    assert load_arms(comparison) == ()


def small_comparison(arms: tuple[str, ...], **changes: object) -> CompareConfig:
    comparison = load_comparison(SMALL)
    return replace(comparison, arms={name: comparison.arms[name] for name in arms}, **changes)  # type: ignore[arg-type]

"""A comparison's YAML: arms merged into one experiment, everything checked before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_growclip.compare.config import (
    ArmRun,
    CompareConfig,
    load_comparison,
    run_config,
    tuning_runs,
)
from nas_growclip.compare.folder import CompareFolder
from tests.support.runs import ROOT

SMALL = Path(__file__).parent / "small.yaml"


def changed(tmp_path: Path, **changes: Any) -> CompareConfig:
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMALL.read_text()) | changes))
    return load_comparison(path)


def test_arms_change_only_what_they_name() -> None:
    comparison = load_comparison(SMALL)
    grown, fixed = comparison.experiment_of("growclip"), comparison.experiment_of("fixed")
    assert grown.growth.momentum == 0.9
    assert grown.schedule == ()
    assert fixed.growth.momentum == 1.0
    assert fixed.schedule == ({}, {})
    assert grown.train == fixed.train
    assert grown.data == fixed.data


def test_runs_and_their_folders() -> None:
    comparison = load_comparison(SMALL)
    runs = tuning_runs(comparison, "wider")
    assert [arm_run.path.as_posix() for arm_run in runs] == [
        "runs/wider/lr_0.001_seed_1000",
        "runs/wider/lr_0.003_seed_1000",
    ]
    config = run_config(comparison, runs[1])
    assert (config.seed, config.train.learning_rate) == (1000, 3e-3)
    own = ArmRun("wider", None, 7)
    assert own.path.as_posix() == "runs/wider/seed_7"
    assert (
        run_config(comparison, own).train.learning_rate
        == comparison.experiment_of("wider").train.learning_rate
    )


def test_resolved_comparison_reads_back(tmp_path: Path) -> None:
    comparison = load_comparison(SMALL)
    (tmp_path / "comparison.yaml").write_text(comparison.to_yaml())
    assert load_comparison(tmp_path / "comparison.yaml") == comparison


def test_experiment_and_space_may_be_files(tmp_path: Path) -> None:
    comparison = changed(
        tmp_path,
        experiment=str(ROOT / "experiments" / "demo.yaml"),
        arms={"fixed": {}, "other": {"space": str(ROOT / "search_spaces" / "tiny.yaml")}},
        baseline="fixed",
    )
    assert comparison.experiment_of("other") == comparison.experiment_of("fixed")
    assert "image.depth" in comparison.experiment_of("fixed").space.dimensions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "fix"}, "baseline: must be one of .*fixed.*, but got 'fix'"),
        ({"seeds": []}, "seeds: must have one entry or more"),
        ({"seeds": [1, 1]}, "seeds: must be all different"),
        ({"num_seeds": {"fix": 1}}, "num_seeds: must be one of .*fixed.*, but got 'fix'"),
        ({"num_seeds": {"fixed": 0}}, "num_seeds.fixed: must be .*1.*, but got 0"),
        ({"num_seeds": {"fixed": 99}}, "num_seeds.fixed: must be .*but got 99"),
        ({"seeds": [1000]}, "tuning_seed: must be none of seeds, but got 1000"),
        ({"learning_rates": [0.0]}, "learning_rates: must be above 0"),
        ({"arms": {}}, "arms: must have one entry or more"),
        ({"arms": {"../x": {}}}, "'../x' must be made of letters"),
        ({"arms": {"fixed": {"trian": {}}}}, "arms: fixed: trian: unknown key. Did you mean"),
        ({"arms": {"fixed": {"schedule": [{}]}}}, "schedule: must have one entry for each of"),
        (
            {"arms": {"fixed": {"schedule": [{}, {"image.wdth": 64}]}}},
            "schedule: must be one of .*but got 'image.wdth'",
        ),
        ({"arms": {"fixed": {"stage_flops": [1.0, 0.0]}}}, "stage_flops: must be above 0"),
        ({"arms": {"fixed": 3}}, "arms: fixed: must be a mapping"),
        ({"experiment": 3}, "experiment: must be a mapping"),
        ({"experiment": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    ],
)
def test_bad_comparisons_say_where(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(tmp_path, **changes)


def test_a_folder_of_the_earlier_name_says_what_to_rename(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").touch()
    with pytest.raises(ValueError, match=r"Rename its study\.yaml to comparison\.yaml"):
        CompareFolder(load_comparison(SMALL), tmp_path)

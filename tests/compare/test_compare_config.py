"""A study's YAML: arms merged into one experiment, everything checked before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_growclip.compare.config import StudyConfig, Unit, load_study, tuning_units, unit_config
from tests.support.runs import ROOT

SMALL = Path(__file__).parent / "small.yaml"


def changed(tmp_path: Path, **changes: Any) -> StudyConfig:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMALL.read_text()) | changes))
    return load_study(path)


def test_arms_change_only_what_they_name() -> None:
    study = load_study(SMALL)
    grown, fixed = study.experiment_of("growclip"), study.experiment_of("fixed")
    assert grown.growth.momentum == 0.9
    assert grown.schedule == ()
    assert fixed.growth.momentum == 1.0
    assert fixed.schedule == ({}, {})
    assert grown.train == fixed.train
    assert grown.data == fixed.data


def test_units_and_their_folders() -> None:
    study = load_study(SMALL)
    units = tuning_units(study, "wider")
    assert [unit.path.as_posix() for unit in units] == [
        "runs/wider/lr_0.001_seed_1000",
        "runs/wider/lr_0.003_seed_1000",
    ]
    config = unit_config(study, units[1])
    assert (config.seed, config.train.learning_rate) == (1000, 3e-3)
    own = Unit("wider", None, 7)
    assert own.path.as_posix() == "runs/wider/seed_7"
    assert (
        unit_config(study, own).train.learning_rate
        == study.experiment_of("wider").train.learning_rate
    )


def test_resolved_study_reads_back(tmp_path: Path) -> None:
    study = load_study(SMALL)
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    assert load_study(tmp_path / "study.yaml") == study


def test_experiment_and_space_may_be_files(tmp_path: Path) -> None:
    study = changed(
        tmp_path,
        experiment=str(ROOT / "experiments" / "demo.yaml"),
        arms={"fixed": {}, "other": {"space": str(ROOT / "search_spaces" / "tiny.yaml")}},
        baseline="fixed",
    )
    assert study.experiment_of("other") == study.experiment_of("fixed")
    assert "image.depth" in study.experiment_of("fixed").space.dimensions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "fix"}, "baseline: must be one of .*'fixed'.*, but got 'fix'"),
        ({"seeds": []}, "seeds: must have one entry or more"),
        ({"seeds": [1, 1]}, "seeds: must be all different"),
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
def test_bad_studies_say_where(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(tmp_path, **changes)

"""Runs that begin alike take over each other's stages, and end as if they had trained them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.shared_prefix import (
    copy_shared_prefix,
    find_shared_prefix,
    num_shared_stages,
)
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.growth.config import GrowthConfig
from tests.compare.test_compare_config import SMALL

WIDER = {"image.width": 64}


@pytest.fixture(scope="module")
def fixed() -> ExperimentConfig:
    return load_comparison(SMALL).experiment_of("fixed")


@pytest.fixture(scope="module")
def fixed_run(fixed: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its run."""
    return run_stages(fixed, tmp_path_factory.mktemp("fixed") / "run").path


def with_stages(config: ExperimentConfig, stages: tuple[int, ...]) -> ExperimentConfig:
    return replace(config, data=replace(config.data, stages=stages))


def test_stages_are_alike_up_to_the_first_difference(fixed: ExperimentConfig) -> None:
    wider = replace(fixed, schedule=({}, WIDER))
    assert num_shared_stages(fixed, fixed) == 2
    assert num_shared_stages(fixed, wider) == 1
    assert num_shared_stages(fixed, replace(fixed, schedule=(WIDER, {}))) == 0
    assert num_shared_stages(fixed, replace(fixed, stage_flops=(3.0e8, 9.0e8))) == 1
    assert num_shared_stages(fixed, replace(fixed, stage_flops=(2.0e9, 2.0e9))) == 0
    assert num_shared_stages(fixed, with_stages(fixed, (128, 512))) == 1
    assert num_shared_stages(fixed, with_stages(fixed, (192, 256))) == 0
    assert num_shared_stages(fixed, replace(fixed, restart=True)) == 1
    assert num_shared_stages(fixed, replace(fixed, seed=1)) == 0
    rate = replace(fixed.train, learning_rate=1.0)
    assert num_shared_stages(fixed, replace(fixed, train=rate)) == 0


def test_inheriting_may_differ_before_anything_grows(fixed: ExperimentConfig) -> None:
    net2net = replace(fixed, schedule=({}, WIDER), growth=GrowthConfig(operator="net2net"))
    assert num_shared_stages(fixed, net2net) == 1
    grown = replace(fixed, schedule=(WIDER, {}))
    assert num_shared_stages(grown, replace(grown, growth=net2net.growth)) == 0
    moments = replace(fixed, growth=GrowthConfig(moments="grow"))
    assert num_shared_stages(fixed, moments) == 0


def test_searched_stages_are_not_shared(fixed: ExperimentConfig) -> None:
    searched = replace(fixed, schedule=())
    assert num_shared_stages(searched, searched) == 0


def test_records_without_models_are_not_gone_on_from(
    fixed: ExperimentConfig, fixed_run: Path, tmp_path: Path
) -> None:
    wider = replace(fixed, schedule=({}, WIDER))
    shutil.copytree(fixed_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors"))
    assert find_shared_prefix(wider, [(fixed, tmp_path / "run")]) is None
    prefix = find_shared_prefix(wider, [(fixed, tmp_path / "run"), (fixed, fixed_run)])
    assert prefix is not None
    assert prefix.run == fixed_run


@pytest.mark.slow
def test_a_run_that_takes_over_stages_ends_as_one_that_trained_them(
    fixed: ExperimentConfig, fixed_run: Path, tmp_path: Path
) -> None:
    wider = replace(fixed, schedule=({}, WIDER))
    run_stages(wider, tmp_path / "alone")
    prefix = find_shared_prefix(wider, [(fixed, fixed_run)])
    assert prefix is not None
    assert prefix.num_stages == 1
    copy_shared_prefix(wider, tmp_path / "shared", prefix)
    run_stages(wider, tmp_path / "shared")
    for name in ("stages.jsonl", "trials.jsonl", "config.yaml", "stage_00/model.safetensors"):
        alone, shared = (tmp_path / run / name for run in ("alone", "shared"))
        assert alone.read_bytes() == shared.read_bytes(), name
    names = {p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("*")}
    assert names == {p.relative_to(tmp_path / "shared") for p in (tmp_path / "shared").rglob("*")}


def test_nothing_is_taken_from_a_run_that_has_finished_no_stage(
    fixed: ExperimentConfig, tmp_path: Path
) -> None:
    assert find_shared_prefix(fixed, [(fixed, tmp_path / "not_there")]) is None


@pytest.mark.slow
def test_a_copy_that_was_interrupted_is_made_again(
    fixed: ExperimentConfig, fixed_run: Path, tmp_path: Path
) -> None:
    torn = tmp_path / ".shared.prefix" / "stage_00"
    torn.mkdir(parents=True)
    (torn / "rubbish").touch()
    prefix = find_shared_prefix(fixed, [(fixed, fixed_run)])
    assert prefix is not None
    copy_shared_prefix(fixed, tmp_path / "shared", prefix)
    assert not (tmp_path / "shared" / "stage_00" / "rubbish").exists()
    assert not torn.parent.exists()

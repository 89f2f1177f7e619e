"""The comparisons and experiments on real packs, cut down, where the packs are there."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.compare.arms import load_arms
from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.compare.results import arms_frame
from nas_growclip.compare.runner import run_comparison
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.run import run_stages
from tests.support.runs import ROOT

PACKS = ROOT.parent / "shared" / "data"
COMPARISONS = sorted((ROOT / "experiments" / "comparisons").glob("*.yaml"))

needs_packs = pytest.mark.skipif(
    not PACKS.is_dir(), reason="the data packs are not on this machine"
)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_every_comparison_loads(path: Path) -> None:
    comparison = load_comparison(path)
    assert comparison.baseline in comparison.arms
    first = path.read_text().splitlines()[:2]
    assert first[0].startswith("# Question: ")
    assert f"# Command:  growclip compare experiments/comparisons/{path.name}" in first[1]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("scenes", {"retrain_full", "grow_once_0.4", "growclip_data_0.4"}),
        ("larger", set()),
        ("monthly", {"retrain_all"}),
        ("cifar100", set()),
        ("pairs", set()),
    ],
)
def test_arms_spend_alike_but_for_those_that_say_otherwise(name: str, others: set[str]) -> None:
    comparison = load_comparison(ROOT / "experiments" / "comparisons" / f"{name}.yaml")
    totals = {arm: sum(comparison.experiment_of(arm).stage_flops) for arm in comparison.arms}
    usual = totals[next(arm for arm in comparison.arms if arm not in others)]
    assert {arm for arm, total in totals.items() if total != usual} == others
    for arm in (arm for arm in others if arm.endswith("_0.4")):
        assert totals[arm] == pytest.approx(0.4 * totals["retrain_full"], rel=0.01)
    assert len({str(comparison.experiment_of(arm).data) for arm in comparison.arms}) == 1


@needs_packs
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar100", "pairs"])
def test_comparison_on_a_pack_runs_cut_down(name: str, tmp_path: Path) -> None:
    comparison = load_comparison(ROOT / "experiments" / "comparisons" / f"{name}.yaml")
    data = {
        **comparison.experiment["data"],
        "stages": [1, 2],
        "validation_pairs": 64,
        "test_pairs": 200,
    }
    data["zero_shot"] = data["zero_shot"][1:2]
    small = replace(
        comparison,
        experiment={**comparison.experiment, "data": data, "stage_flops": [2.0e8, 4.0e8]},
        arms={
            "fixed": {"schedule": [{}, {}]},
            "wider": {"schedule": [{}, {"image.width": 24}]},
        },
        baseline="fixed",
        seeds=(0,),
        learning_rates=(),
    )
    run_comparison(small, tmp_path / "out", data_folder=PACKS)
    folder = CompareFolder(small, tmp_path / "out")
    frame = arms_frame(folder, load_arms(folder)).set_index("arm")
    assert (frame["failed or missing"] == 0).all()
    assert (frame["zero_shot_top1"] > 0).all()
    assert frame["zero_shot_top1.chance"]["fixed"] == pytest.approx(1 / 10)


@needs_packs
@pytest.mark.slow
def test_forgetting_on_the_pack(tmp_path: Path) -> None:
    """Held-out sets by stage are measured after their own stage and every later one."""
    config = load_config(ROOT / "experiments" / "forgetting.yaml")
    data = replace(config.data, test_pairs=100, validation_pairs=64, zero_shot=())
    config = replace(config, data=data, stage_flops=(1e8, 1e8, 1e8))
    run = run_stages(config, tmp_path / "run", data_folder=PACKS)
    measured = [
        {name.split("/")[0] for name in stage.metrics if name.startswith("stage_")}
        for stage in run.stages
    ]
    assert measured == [{"stage_0"}, {"stage_0", "stage_1"}, {"stage_0", "stage_1", "stage_2"}]

"""Every notebook of analysis/ runs top to bottom on runs made here, and draws its figures."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.search.config import SearchConfig
from tests.data.sources.test_webdataset import write_shards
from tests.support.runs import ROOT, smoke_config

pytestmark = pytest.mark.slow

ANALYSIS = ROOT / "analysis"
NOTEBOOKS = sorted(path.name for path in ANALYSIS.glob("*.ipynb"))
GROWN = ({}, {"image.width": 64})


def tiny(**changes: object) -> ExperimentConfig:
    config = smoke_config(passes=2.0, **changes)
    return replace(config, data=replace(config.data, stages=(64, 128), test_pairs=32))


def oracle() -> ExperimentConfig:
    search = SearchConfig(backend="exhaustive", num_trials=9, trial_share=1.0, curve_points=12)
    return tiny(search=search)


def momentum(value: float) -> ExperimentConfig:
    return tiny(schedule=GROWN, growth=GrowthConfig(momentum=value))


def monthly() -> ExperimentConfig:
    shards = WebdatasetConfig(
        stages=(1, 2),
        train="{00000..00001}.tar",
        validation="00002.tar",
        test="00003.tar",
        test_by_stage=("00004.tar", "00005.tar"),
    )
    config = tiny(schedule=GROWN)
    return replace(config, data=shards, train=replace(config.train, batch_size=16))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Run folders for each notebook."""
    root = tmp_path_factory.mktemp("notebooks")
    write_shards(root / "shards", num_shards=6, per_shard=40)
    configs = {
        "oracle": oracle(),
        "m_0.5": momentum(0.5),
        "m_1": momentum(1.0),
        "months": monthly(),
        "none": tiny(schedule=({}, {})),
    }
    for name, config in configs.items():
        run_stages(config, root / name, data_folder=root / "shards")
    both = [root / "m_0.5", root / "m_1"]
    return {
        "accuracy_vs_flops.ipynb": both,
        "trajectories.ipynb": both,
        "pim_momentum.ipynb": both,
        "search_regret.ipynb": [root / "oracle"],
        "forgetting.ipynb": [root / "months"],
        "dimensions.ipynb": [root / "none", root / "m_1"],
    }


def execute(notebook: str, folder: Path, runs: list[Path]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    command += ["--output-dir", str(folder), str(ANALYSIS / notebook)]
    environment = os.environ | {"GROWCLIP_RUNS": os.pathsep.join(map(str, runs))}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_and_draws(
    notebook: str, runs: dict[str, list[Path]], tmp_path: Path
) -> None:
    done = execute(notebook, tmp_path, runs[notebook])
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads((tmp_path / notebook).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("text/html" in output.get("data", {}) for output in outputs)  # a table
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_no_run_is_told(tmp_path: Path) -> None:
    run_stages(replace(tiny(), data=tiny().data), tmp_path / "run")
    (tmp_path / "run" / "stages.jsonl").write_text("")
    done = execute(NOTEBOOKS[0], tmp_path, [tmp_path / "run"])
    assert done.returncode != 0
    assert "No finished stage in" in done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_name_no_place_of_a_machine(notebook: str) -> None:
    text = (ANALYSIS / notebook).read_text()
    assert not [word for word in ("/home/", "/Users/", "/tmp/", "C:\\\\") if word in text]

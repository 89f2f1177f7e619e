"""Every notebook of analysis/ runs top to bottom on runs made here, and draws its figures."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipykernel.kernelapp  # noqa: F401 (the forked kernels have it)
import matplotlib as mpl
import pytest
from jupyter_client import launcher

from analysis.notebooks import ROOT, commands, main, notebooks, pictures
from analysis.scene_shards import SHARDS, write_shards
from analysis.style import chosen_runs
from nas_growclip.cli.main import COMMANDS
from nas_growclip.compare.config import ArmRun, load_comparison, run_config
from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.sources.table import open_split
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.run import run_stages
from tests.support.forked_python import forking_python
from tests.support.runs import with_small_vocabulary

ANALYSIS = ROOT / "analysis"
EXPERIMENTS = ROOT / "experiments" / "notebooks"
NOTEBOOKS = notebooks()
pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = ("text/plain", "text/html", "text/latex")


def make_runs(name: str, arms: tuple[str, ...], sizes: tuple[int, ...], out: Path) -> None:
    """Runs of a notebook's comparison with fewer arms, one seed, less data and fewer steps."""
    config = load_comparison(EXPERIMENTS / f"{name}.yaml")
    for arm in arms:
        run = ArmRun(arm, None, config.seeds[0])
        full = run_config(config, run)
        zero_shot = full.data.zero_shot if name == "growth" else ()
        data = replace(full.data, stages=sizes, test_pairs=32, zero_shot=zero_shot)
        search = replace(full.search, num_trials=min(full.search.num_trials, 3))
        small = replace(full, data=data, search=search, passes=1.0, stage_flops=())
        run_stages(with_small_vocabulary(small), out / name / run.path)


@pytest.fixture(scope="module")
def executed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks with outputs, and of their pictures, on runs smaller still."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ANALYSIS, root / "analysis", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    study = Path("benchmarks", "records", "study")
    shutil.copytree(ROOT / study, root / study)
    runs = root / "runs" / "notebooks"
    make_runs("growth", ("searched",), (64, 96), runs)
    make_runs("momentum", ("inherit", "half"), (64, 96), runs)
    make_runs("dimensions", ("none@256", "image.width@256"), (64, 96), runs)
    oracle = load_config(EXPERIMENTS / "oracle.yaml")
    data = replace(oracle.data, stages=(64, 96), test_pairs=32, zero_shot=())
    short = replace(oracle, data=data, passes=2.0)
    run_stages(with_small_vocabulary(short), runs / "oracle")
    write_shards(runs / "shards")
    forgetting = replace(load_config(EXPERIMENTS / "forgetting.yaml"), passes=1.0)
    run_stages(with_small_vocabulary(forgetting), runs / "forgetting", data_folder=runs / "shards")
    with pytest.MonkeyPatch.context() as patch, forking_python(launcher):
        patch.setattr(sys, "argv", ["notebooks", "--root", str(root), "--no-runs"])
        for name in [name for name in sys.modules if name.partition(".")[0] == "analysis"]:
            patch.delitem(sys.modules, name)  # each kernel imports what is beside its notebook
        patch.setitem(mpl.rcParams, "backend", "module://matplotlib_inline.backend_inline")
        main()
    return root


def outputs(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", ())]


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_notebook_runs_and_draws(name: str, executed: Path) -> None:
    found = outputs(executed / "analysis" / name)
    assert any("image/png" in output.get("data", {}) for output in found)
    assert any("text/html" in output.get("data", {}) for output in found)  # a table
    assert not [output for output in found if output.get("name") == "stderr"]


@pytest.mark.slow
def test_figures_are_kept_for_the_docs(executed: Path) -> None:
    kept = {path.stem.rpartition("_")[0] for path in (executed / "docs").rglob("*.png")}
    assert kept == {path.stem for path in NOTEBOOKS}


@pytest.mark.slow
def test_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    for name in ("__init__.py", "style.py", "trajectories.ipynb"):
        shutil.copy(ANALYSIS / name, tmp_path / "analysis" / name)
    command = [sys.executable, "-m", "analysis.notebooks", "--root", str(tmp_path), "--no-runs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "No finished stage in runs/notebooks/growth/" in done.stderr


def texts(path: Path) -> str:
    """Sources and outputs of a notebook but its pictures."""
    cells = json.loads(path.read_text())["cells"]
    shown = [
        "".join(output.get("data", {}).get(kind, ())) + "".join(output.get("text", ()))
        for output in outputs(path)
        for kind in TEXTS
    ]
    return "\n".join(["".join(cell["source"]) for cell in cells] + shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_with_outputs_and_name_no_place_of_a_machine(path: Path) -> None:
    assert any(True for _ in pictures(_as_notebook(path)))
    forbidden = re.compile(r"/home/|/Users/|/tmp/|/root/|/work/|[A-Z]:\\\\|site-packages")
    assert not forbidden.search(texts(path))


def _as_notebook(path: Path) -> Any:
    class Notebook:
        cells = json.loads(path.read_text())["cells"]

    return Notebook


def test_the_commands_that_make_the_runs_are_there() -> None:
    found = [shlex.split(command) for command in commands(NOTEBOOKS)]
    assert len(found) == 6
    for program, what, *arguments in found:
        if program == "growclip":
            assert what in COMMANDS
            load = load_comparison if what == "compare" else load_config
            load(ROOT / arguments[0])
            assert arguments[-1].startswith("runs/notebooks/")
        else:
            assert (program, what, arguments[0]) == ("python", "-m", "analysis.scene_shards")


def test_the_index_names_every_notebook_and_its_figures() -> None:
    page = (ROOT / "docs" / "guide" / "notebooks.md").read_text()
    for path in NOTEBOOKS:
        assert f"`{path.name}`" in page
        assert f"notebooks/{path.stem}_1.png" in page


def test_shards_of_two_kinds_are_pairs(tmp_path: Path) -> None:
    write_shards(tmp_path)
    config = WebdatasetConfig(
        stages=(2,), train="train/{00000..00001}.tar", validation="validation.tar", test="test.tar"
    )
    pairs = list(open_split(config, tmp_path, "train", 2).epoch(None))
    assert len(pairs) == SHARDS["train/00000"][1] + SHARDS["train/00001"][1]
    negatives = [pair.caption.startswith("a negative of ") for pair in pairs]
    assert sum(negatives) == SHARDS["train/00001"][1]


def test_runs_may_be_named_by_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROWCLIP_RUNS", os.pathsep.join([str(tmp_path / "a*"), str(tmp_path)]))
    with pytest.raises(ValueError, match="not a run folder"):
        chosen_runs([])

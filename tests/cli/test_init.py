"""First minutes: an experiment is written, and everything it needs comes with the package."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
import torch

import nas_growclip
from nas_growclip.cli.choices import Source
from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.compare.config import load_comparison
from nas_growclip.data.config import DataConfig
from nas_growclip.experiment.config import load_config
from nas_growclip.io import versions
from nas_growclip.io.shipped import SHIPPED, file_or_shipped, shipped_names
from nas_growclip.models.arch import PRESETS, ClipArch
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from tests.support.offline import HOOK
from tests.support.runs import ROOT


@pytest.mark.parametrize("parent", PRESETS)
@pytest.mark.parametrize("source", get_args(Source))
def test_what_is_written_is_an_experiment(source: str, parent: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["init", str(file), "--source", source, "--parent", parent]) == 0
    config = load_config(file)
    assert config.data.source == source
    assert config.parent_arch == ClipArch.preset(parent)
    assert config.space.candidates(config.parent_arch, 10_000)
    assert "growclip run" in file.read_text().splitlines()[1]


def test_every_source_can_be_asked_for() -> None:
    sources = {get_args(kind.__annotations__["source"])[0] for kind in get_args(DataConfig)}
    assert sources == set(get_args(Source))


def test_a_trained_parent_is_not_warmed_up_as_fresh_weights_are(tmp_path: Path) -> None:
    arch = ClipArch.preset("tiny").with_sizes({"shared.depth": 0})
    save_model(Clip(arch), tmp_path / "model")
    file = tmp_path / "mine.yaml"
    assert main(["init", str(file), "--parent", str(tmp_path / "model")]) == 0
    config = load_config(file)
    assert config.parent_checkpoint == str(tmp_path / "model")
    assert config.train.learning_rate == 1e-4
    assert not any(name.startswith("shared") for name in config.space.dimensions)


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert main(["init", str(file)]) == BAD_INPUT
    assert "must be a new file" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_a_name_that_is_neither_file_nor_shipped_is_told_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "dmeo", "--out", str(tmp_path / "run")]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "'dmeo' must be a file, or the name of one of the experiments that come with" in said
    assert "demo" in said


def test_a_file_comes_before_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_or_shipped(Path("demo"), "experiments") == SHIPPED / "experiments" / "demo.yaml"
    Path("demo").write_text("mine")
    assert file_or_shipped(Path("demo"), "experiments") == Path("demo")


def test_an_experiments_space_may_be_named(tmp_path: Path) -> None:
    text = (ROOT / "experiments" / "demo.yaml").read_text()
    named = tmp_path / "named.yaml"
    named.write_text(text.replace("../search_spaces/tiny.yaml", "tiny"))
    assert load_config(named) == load_config(ROOT / "experiments" / "demo.yaml")
    (tmp_path / "tiny").write_text("dimensions: {text.depth: {add: [1]}}")
    assert list(load_config(named).space.dimensions) == ["text.depth"]


def test_everything_shipped_is_read() -> None:
    needs_a_model = {"vit_b_32"}
    assert set(shipped_names("experiments")) >= {"demo", "smoke", "pairs", *needs_a_model}
    for name in set(shipped_names("experiments")) - needs_a_model:
        load_config(file_or_shipped(Path(name), "experiments"))
    for name in shipped_names("experiments/comparisons"):
        load_comparison(file_or_shipped(Path(name), "experiments/comparisons"))
    assert main(["space", "tiny", "--space", "tiny", "--pairs", "1000", "--format", "nni"]) == 0


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == nas_growclip.__version__ != versions.UNKNOWN


def test_sources_that_are_not_installed_have_an_unknown_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_found(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == versions.UNKNOWN


# The wheel.


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees this one's libraries."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a build leaves files beside the sources
    for name in ("nas_growclip", "experiments", "search_spaces"):
        passing = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=passing)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    subprocess.run(["unzip", "-q", str(wheel), "-d", str(packages)], check=True)
    (packages / "libraries.pth").write_text(str(Path(torch.__file__).parents[1]))
    return python


BETWEEN = "== the next command =="
COMMANDS = f"""{HOOK}
import json
from pathlib import Path
import nas_growclip
from nas_growclip.cli.main import main
print(nas_growclip.__file__)
shorter, *commands = sys.argv[1:]
for command in commands:
    print({BETWEEN!r})
    assert main(command.split()) == 0, command
    if command.startswith("init "):
        file = Path(command.split()[1])
        text = file.read_text()
        for old, new in json.loads(shorter).items():
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
"""
"""In one process, which imports PyTorch once and cannot ask another machine.

What is written is shortened.
"""


@pytest.mark.long("an environment of its own, whose bytecode is not there yet")
def test_a_wheel_holds_all_that_the_first_minutes_need(installed: Path, tmp_path: Path) -> None:
    shorter = {
        "stages: [2000, 4000, 8000]": "stages: [128]",
        "passes: 8.0": "passes: 1.0",
        "num_trials: 6 ": "num_trials: 2 ",
        "validation_pairs: 256 ": "validation_pairs: 32 ",
        "test_pairs: 1024 ": "test_pairs: 32 ",
        "zero_shot: [scenes, digits]": "zero_shot: [scenes]",
    }
    commands = (
        "init mine.yaml",
        "run mine.yaml --out run --device cpu",
        "space tiny --space tiny --pairs 1000 --format nni",
        "flops tiny --json",
    )
    python = [str(installed), "-c", COMMANDS, json.dumps(shorter), *commands]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        python, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert "SERVER" not in done.stderr
    where, _, ran, space, flops = done.stdout.split(BETWEEN)
    assert str(installed.parents[1]) in where
    assert "Report:" in ran
    assert (tmp_path / "run" / "report" / "index.html").is_file()
    assert "_name" in space
    assert json.loads(flops)

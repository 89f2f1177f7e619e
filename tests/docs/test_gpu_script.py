"""``benchmarks/gpu.sh`` runs dry to its end, and the page about it names the wheels it needs."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu, gpu_wheels
from nas_growclip.models.arch import ClipArch
from tests.support.runs import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PAGE = ROOT / "docs" / "reference" / "gpu.md"


def run_script(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=os.environ | {"PYTHON": sys.executable} | settings,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.long("a process of its own tests, trains, compiles, grows, loads and evaluates")
def test_a_dry_run_measures_every_part(tmp_path: Path) -> None:
    done = run_script("--dry-run", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    tables = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    plan = gpu.dry_plan(tmp_path)
    assert {name: len(part) for name, part in gpu.parts_of(plan).items()} == {
        name: len(table["rows"]) for name, table in tables.items()
    }
    assert tables["Tests"]["rows"] == [{"passed": 7, "failed": 0, "skipped": 0}]
    assert [row["compiled"] for row in tables["Training"]["rows"]] == [False, False]
    for row in tables["Training"]["rows"] + tables["Training, compiled"]["rows"]:
        assert row["ratio"] > 0
        assert 0 < row["our utilisation"] < 1
    assert tables["Growth"]["rows"][0]["change of a similarity"] < 1e-5
    assert tables["Retrieval evaluation"]["rows"][0]["captions"] == plan.num_images * gpu.CAPTIONS
    assert (tmp_path / "gpu.md").read_text().count("\n## ") == len(tables)


def test_wheels_are_installed_without_the_network_and_out_is_a_must(tmp_path: Path) -> None:
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(f'#!/bin/bash\necho "$PYTHONPATH $*" >>{log}\n')
    python.chmod(0o755)
    (tmp_path / "one-1.0-py3-none-any.whl").touch()
    settings = {"PYTHON": str(python), "WHEELS": str(tmp_path)}
    assert run_script(**settings).returncode == 2
    assert run_script(str(tmp_path / "out"), **settings).returncode == 0
    install, check, measure = log.read_text().splitlines()
    assert "pip install" in install
    assert "--no-index" in install
    assert str(tmp_path / "one-1.0-py3-none-any.whl") in install
    assert check.endswith(f"/site:{ROOT} -m benchmarks.gpu_wheels --check")
    assert f"-m benchmarks.gpu {tmp_path / 'out'} --scratch" in measure
    assert "--dry-run" not in measure


def test_the_page_lists_the_wheels() -> None:
    listed = re.findall(r"`([\w.-]+==[\w.]+)`", PAGE.read_text())
    assert sorted(listed) == sorted(gpu_wheels.wheels()), "see `python -m benchmarks.gpu_wheels`"
    assert "torch" not in [pin.partition("==")[0] for pin in gpu_wheels.wheels()]
    assert len(gpu_wheels.wheels(["timm", "Open_CLIP.torch"])) == len(gpu_wheels.wheels()) - 2


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_wheels.missing() == []
    wanted = ("pytest>=99", "not-there", "hypothesis")
    monkeypatch.setattr(gpu_wheels, "FOR_TESTS", wanted)
    outdated, absent = gpu_wheels.missing()
    assert outdated.startswith("pytest>=99 (has ")
    assert absent == "not-there (has none)"


def test_a_part_that_waits_for_ever_is_ended_and_named(tmp_path: Path) -> None:
    parts = {"Stuck": [threading.Event().wait], "Next": [lambda: {"speed": 1.0}]}
    *_, tables = gpu.measured(gpu.dry_plan(tmp_path), parts, seconds=60, longest=0.05)
    assert tables["Stuck"].errors == ["TimeoutError: it took more than 0.05 s."]
    assert tables["Next"].rows == [{"speed": 1.0}]


def test_a_part_that_fails_is_named_and_those_that_are_late_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def fail() -> gpu.Row:
        raise ValueError("no card")

    def take_long() -> gpu.Row:
        now[0] += 9
        return {"speed": 1234.5, "exact": True}

    parts = {"One": [fail], "Two": [take_long, take_long], "Three": [fail]}
    plan = gpu.dry_plan(tmp_path)
    *_, tables = gpu.measured(plan, parts, seconds=5)
    text = gpu.markdown({"device": "none"}, tables)
    assert "**ValueError: no card**" in text
    assert "| 1,234 | yes |\n\n**A row was left out" in text
    late = "A row was left out: 5 s were over."
    assert (tables["Two"].errors, tables["Three"].errors) == ([late], [late])


def test_utilisation_counts_as_the_matrix_rate_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multiply-add is one in both: n^3 for a product of n x n matrices."""
    plan = gpu.dry_plan(tmp_path)
    monkeypatch.setattr(gpu, "timed", lambda plan, work: (work(), 0.5))
    assert gpu.matrix_rate(plan) == 10 * plan.matrix**3 / 0.5
    assert plan.evaluated == ClipArch.preset("tiny").with_sizes(
        {"image.depth": 1, "text.depth": 1, "shared.depth": 0}
    )

"""The scripts in the guide run as printed, each in a process of its own.

Their parent has a small vocabulary: CLIP's takes most of the time of its training.
"""

import ast
import math
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from optuna.trial import FixedTrial

from nas_growclip.cli.main import main
from nas_growclip.growth.space import load_space
from nas_growclip.models.arch import PRESETS, ClipArch
from nas_growclip.models.flops import count_flops
from tests.support.processes import ran
from tests.support.runs import ROOT
from tests.support.words import with_words

SCRIPTS = ROOT / "docs" / "guide" / "scripts"
EXAMPLES = [SCRIPTS / f"{name}.py" for name in ("nni_trial", "optuna_objective", "plain_loop")]
TINY = with_words(ClipArch.preset("tiny"))


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)


def run(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script in a stranger's folder, on one thread; NNI's modules are imported anew."""

    def script() -> None:
        for module in [name for name in sys.modules if name.split(".")[0] == "nni"]:
            del sys.modules[module]
        sys.path.insert(0, str(folder))
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")

    return ran(script, folder, **variables)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_in_the_guide(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 30
    pages = [page.read_text() for page in (ROOT / "docs" / "guide").glob("own_*.md")]
    assert sum(f'--8<-- "{path.name}"' in page for page in pages) == 1


@pytest.mark.slow
def test_an_objective_of_ones_own_has_a_front_of_loss_and_flops(tmp_path: Path) -> None:
    ended = run("optuna_objective.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    space = load_space("tiny")
    front = []
    for line in ended.stdout.splitlines():
        params, _, values = line.partition("} ")
        loss, flops = ast.literal_eval(values)
        candidate = space.suggest(FixedTrial(ast.literal_eval(params + "}")), TINY, 10_000)
        assert flops == count_flops(candidate.apply(TINY))
        front.append((flops, loss))
    assert front
    assert all(math.isfinite(loss) for _, loss in front)
    losses = [loss for _, loss in sorted(front)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
def test_a_plain_loop_grows_twice_and_goes_on_learning(tmp_path: Path) -> None:
    ended = run("plain_loop.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    printed = [line.split() for line in ended.stdout.splitlines()]
    assert [int(step) for step, _ in printed] == [0, 10, 20, 30, 40, 50]
    losses = [float(loss) for _, loss in printed]
    assert losses[-1] < losses[0]
    assert all(map(math.isfinite, losses))


FAKE_NNI = """
import json, os

def get_next_parameter():
    return json.loads(os.environ["SAMPLE"])

def report_final_result(result):
    print("reported", result)
"""


def losses_of(stdout: str) -> list[float]:
    return [-float(found) for found in re.findall(r"(?:reported|Final result:) (-[\d.]+)", stdout)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nni") is None, reason="NNI is not installed: nas_growclip[nni]")
def test_a_trial_of_ones_own_tries_what_nni_says_and_alone_no_growth(tmp_path: Path) -> None:
    alone = run("nni_trial.py", tmp_path)
    assert alone.returncode == 0, alone.stderr
    (tmp_path / "nni.py").write_text(FAKE_NNI)
    sample = '{"grow": {"_name": "image.width", "image.width": 96.0}}'
    grown = run("nni_trial.py", tmp_path, SAMPLE=sample)
    assert grown.returncode == 0, grown.stderr
    (control,), (loss,) = losses_of(alone.stdout + alone.stderr), losses_of(grown.stdout)
    assert 0 < loss != control > 0


def test_nnis_config_starts_the_trial_with_the_space_that_it_reads(tmp_path: Path) -> None:
    text = (SCRIPTS / "nni_trial.yml").read_text()
    config = yaml.safe_load(text)
    assert config["trialCommand"] == "python nni_trial.py"
    command = re.search(r"growclip (space .*)$", text, re.MULTILINE)
    assert command
    *arguments, out = shlex.split(command[1])
    assert out == config["searchSpaceFile"]
    assert main([*arguments, str(tmp_path / out)]) == 0
    assert "num_pairs=10_000" in (SCRIPTS / "nni_trial.py").read_text()
    assert (tmp_path / out).read_text() == (ROOT / "search_spaces" / out).read_text()

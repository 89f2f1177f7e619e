"""What the project depends on: bounded, pinned, permissively licensed; and no network in a run."""

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nas_growclip.search.config import SearchConfig
from tests.support.forked_python import forking_python
from tests.support.offline import HOOK
from tests.support.runs import ROOT, small_config, smoke_config

USERS_EXTRAS = (
    "nni",
    "dashboard",
    "postgres",
    "slurm",
    "tokenizers",
    "notebook",
    "onnx",
    "transformers",
    "docs",
)
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Unlicense|Zlib|CMU|CC0)\b"
)
WITH_CONDITIONS = {
    "certifi": "MPL-2.0: a list of certificates, used as it is",
    "fqdn": "MPL-2.0: of the notebook server",
    "pathspec": "MPL-2.0: of MkDocs, which builds the documentation",
    "psycopg": "LGPL-3.0: PostgreSQL's driver, an extra",
    "psycopg-binary": "LGPL-3.0: the same",
}
"""Other licences, and why they may stay; docs/reference/licences.md tells users."""
NVIDIA = re.compile(r"^(nvidia-|cuda-)")
"""CUDA's libraries, which PyTorch's own builds bring: NVIDIA's licence, free of charge."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(extras: tuple[str, ...]) -> dict[str, Distribution]:
    """Everything that the project and some of its extras install, as far as it is installed."""
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [Requirement(t) for e in extras for t in PROJECT["optional-dependencies"][e]]
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        asked = requirement.extras | {""}
        if name in found and not requirement.extras:
            continue
        found[name] = installed
        for text in installed.requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in asked):
                wanted.append(inner)
    return found


def licence(installed: Distribution) -> str:
    """The licence as the distribution states it."""
    about = installed.metadata
    classifiers = [c for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    expression = about.get("License-Expression") or about.get("License") or ""
    return " ".join([expression[:200], *classifiers])


def test_every_dependency_is_bounded_on_both_sides() -> None:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(t for name in USERS_EXTRAS for t in extras[name])]
    for text in texts:
        operators = {clause.operator for clause in Requirement(text).specifier}
        assert "<" in operators or "==" in operators, text


def test_constraints_pin_everything_that_is_needed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(Requirement(line).name): line for line in lines if line}
    for name, installed in needed(USERS_EXTRAS).items():
        if name not in pins and (NVIDIA.match(name) or name == "triton"):
            continue  # of PyTorch's CUDA builds, which pin them exactly
        assert name in pins, f"{name} {installed.version} is not pinned"
        assert "==" in pins[name]


def test_licences_are_permissive_or_named() -> None:
    others = {
        name: licence(installed)
        for name, installed in needed(USERS_EXTRAS).items()
        if not NVIDIA.match(name) and not PERMISSIVE.search(licence(installed))
    }
    assert set(others) <= set(WITH_CONDITIONS), others
    listed = (ROOT / "docs" / "reference" / "licences.md").read_text()
    assert all(f"`{name}`" in listed for name in WITH_CONDITIONS)


OFFLINE = f"""{HOOK}
from nas_growclip.cli.main import main
experiment, run = sys.argv[1:]
for arguments in (["run", experiment, "--out", run], ["report", run]):
    print("COMMAND", arguments[0], file=sys.stderr, flush=True)
    if main(arguments):
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run and then its report say, by command, where no other machine may be asked."""
    folder = tmp_path_factory.mktemp("offline")
    search = SearchConfig(num_trials=2, trial_share=0.3, curve_points=2)
    data = replace(smoke_config().data, stages=(64, 96))
    experiment = folder / "experiment.yaml"
    experiment.write_text(small_config(search=search, data=data).to_yaml())
    command = [sys.executable, "-W", "ignore", "-c", OFFLINE, str(experiment), str(folder / "run")]
    with forking_python():
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    parts = ended.stderr.split("COMMAND ")[1:]
    return {part.split()[0]: part for part in parts}


@pytest.mark.slow
def test_a_run_asks_no_network_and_opens_no_port(said: dict[str, str]) -> None:
    assert "stage 1: chose" in said["run"]
    assert "NETWORK" not in said["run"]
    assert "SERVER" not in said["run"]


@pytest.mark.slow
def test_what_reads_a_run_asks_no_network(said: dict[str, str]) -> None:
    assert "NETWORK" not in said["report"]

"""What the project depends on: bounded, pinned, permissively licensed; and no network in a run."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.runs import ROOT, SMOKE

USERS_EXTRAS = ("nni", "dashboard", "postgres", "slurm", "notebook", "docs")
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


OFFLINE = """
import sys
def refuse(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        print("NETWORK", event, args, file=sys.stderr, flush=True)
        raise OSError("no network is needed")
    if event == "socket.bind" and isinstance(args[1], tuple):
        print("SERVER", args, file=sys.stderr, flush=True)
sys.addaudithook(refuse)
from nas_growclip.cli.main import main
code = main(sys.argv[1:])
sys.exit(code)
"""


@pytest.fixture(scope="module")
def run_offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose process may ask no other machine; what it said is in ``said``."""
    folder = tmp_path_factory.mktemp("offline")
    ended = offline("run", str(SMOKE), "--out", str(folder / "run"))
    (folder / "said").write_text(ended.stderr)
    assert ended.returncode == 0, ended.stderr
    return folder


def offline(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_run_asks_no_network_and_opens_no_port(run_offline: Path) -> None:
    said = (run_offline / "said").read_text()
    assert "stage 1: chose" in said
    assert "NETWORK" not in said
    assert "SERVER" not in said


@pytest.mark.slow
def test_what_reads_a_run_asks_no_network(run_offline: Path) -> None:
    ended = offline("report", str(run_offline / "run"))
    assert ended.returncode == 0, ended.stderr
    assert "NETWORK" not in ended.stderr

"""What ``benchmarks/gpu.sh`` needs beside PyTorch, as ``name==version``, from constraints.txt.

Command: python -m benchmarks.gpu_wheels [--have FILE]     (here, where the network is)
or: python -m benchmarks.gpu_wheels --check                (on the machine with the GPU)
"""

import argparse
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROVIDED = ("torch", "torchvision")
"""What the machine with the GPU has, with all that they need: builds for its driver."""
FOR_TESTS = ("beartype>=0.20", "hypothesis>=6.120", "pytest>=8.3", "transformers>=4.50")


def requirements() -> list[Requirement]:
    """The package's own dependencies and the tests'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in (*project["dependencies"], *FOR_TESTS)]


def with_dependencies(names: Iterable[str]) -> set[str]:
    """Installed packages and all that they need."""
    found, waiting = set[str](), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needed = (Requirement(line) for line in requires(name) or ())
            waiting += [
                canonicalize_name(r.name)
                for r in needed
                if r.marker is None or r.marker.evaluate({"extra": ""})
            ]
    return found


def wheels(have: Iterable[str] = ()) -> list[str]:
    """Pins of what has to be brought, but for what the machine has."""
    needed = with_dependencies(requirement.name for requirement in requirements())
    needed -= with_dependencies(PROVIDED) | {canonicalize_name(name) for name in have}
    pins = (ROOT / "constraints.txt").read_text().split()
    return [pin for pin in pins if pin.partition("==")[0] in needed]


def missing() -> list[str]:
    """Dependencies that this machine does not fulfil, and what it has instead."""
    unmet = []
    for requirement in requirements():
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not requirement.specifier.contains(found, prereleases=True):
            unmet.append(f"{requirement} (has {found})")
    return unmet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--have", type=Path, help="names of what the machine has, as pip freeze")
    parser.add_argument("--check", action="store_true", help="say what this machine lacks")
    options = parser.parse_args()
    if options.check and (unmet := missing()):
        raise SystemExit(f"This machine must have {', '.join(unmet)}. Bring wheels in WHEELS.")
    if not options.check:
        lines = options.have.read_text().split() if options.have else []
        print(*wheels(line.partition("==")[0] for line in lines), sep="\n")


if __name__ == "__main__":
    main()

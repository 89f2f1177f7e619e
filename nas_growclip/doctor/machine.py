"""What every check asks of the machine: versions, cores, other Pythons; and what a check finds."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

DEFAULT_PORT = 8080
"""Of NNI's web page and of optuna-dashboard."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Literal["ok", "warning", "problem", "skipped"]
    found: str
    remedy: str = ""


def installed_version(package: str) -> str | None:
    """A package's version, read without importing it; None if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def installed_requirements(package: str) -> Sequence[str]:
    """What a package declares that it needs; nothing if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires(package) or ()
    return ()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bundled_node() -> Path | None:
    """The Node runtime that comes with NNI."""
    spec = importlib.util.find_spec("nni_node")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "node" if places else None


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is looked at: this machine, its packages and perhaps a run folder."""

    run: Path | None = None
    python: str = sys.executable
    """The interpreter that imports what may be broken."""
    python_version: tuple[int, int] = sys.version_info[:2]
    seconds: float = 240.0
    """How long another process may take."""
    version: Callable[[str], str | None] = installed_version
    requirements: Callable[[str], Sequence[str]] = installed_requirements
    proc: Path = Path("/proc")
    nni_home: Path = field(default_factory=lambda: Path.home() / "nni-experiments")
    node: Path | None = field(default_factory=bundled_node)
    port: int = DEFAULT_PORT
    cores: int = field(default_factory=num_cores)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    @cached_property
    def imports(self) -> Mapping[str, Mapping[str, Any]]:
        """For each module in ``_MODULES`` its import's error, empty if it went well."""
        printed, end = run_python(self, _IMPORT, _MODULES)
        answers = dict(json.loads(line) for line in printed.splitlines() if line[:2] == '["')
        unanswered = {"error": end or "no answer"}
        return {module: answers.get(module, unanswered) for module in _MODULES}


_MODULES = ("pkg_resources", "websockets", "torch", "torchvision", "timm", "open_clip")
"""In this order: what may crash the process comes last."""

_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        answer = {"error": ""}
        if name == "torch":
            devices = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
            answer.update(threads=module.get_num_threads(), devices=devices)
            answer.update(cuda=module.version.cuda)
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("\\n" + json.dumps([name, answer]), flush=True)
"""


def run_python(
    place: Place, code: str, arguments: Sequence[str] = (), given: str = ""
) -> tuple[str, str]:
    """Run code in another process.

    Returns:
        What it printed, and how it ended if not well.
    """
    command = [place.python, "-P", "-c", code, *arguments]
    try:
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=place.seconds
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), f"no end in {place.seconds:g} s"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    end = f"exit code {done.returncode}: {said[-1] if said else 'no message'}"
    return done.stdout.decode(errors="replace"), end if done.returncode else ""


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _shown(text: str) -> str:
    """One line of bounded length, without the passwords of URLs."""
    text = re.sub(r"(://[^\s:/@]*:)(?!\*\*\*@).*(?=@)", r"\1***", text, flags=re.DOTALL)
    text = re.sub(r"((?:password|passwd|pwd)=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
    return " ".join(text.split())[:400]

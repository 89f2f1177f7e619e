"""What a check looks at, as one value, and what it finds; nothing of it is the check's own to ask.

Versions and requirements are read from the packages' metadata, so that none is written here twice.
"""

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

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nas_growclip.io.versions import installed_version

PACKAGE = "nas_growclip"

DEFAULT_PORT = 8080
"""Of NNI's web page and of optuna-dashboard."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Literal["ok", "warning", "problem", "skipped"]
    found: str
    remedy: str = ""


def installed_requirements(package: str) -> Sequence[str]:
    """What a package declares that it needs; nothing if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.requires(package) or ()
    return ()


def required_python() -> str:
    """The versions of Python that this package can run with."""
    with suppress(metadata.PackageNotFoundError):
        return str(metadata.metadata(PACKAGE)["Requires-Python"])
    return ""


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bundled_node() -> Path | None:
    """The Node runtime that comes with NNI."""
    spec = importlib.util.find_spec("nni_node")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / "node" if folders else None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is looked at: this machine, its packages and perhaps a run folder."""

    run: Path | None = None
    python: str = sys.executable
    """The interpreter that imports what may be broken."""
    python_version: tuple[int, int] = sys.version_info[:2]
    required_python: str = field(default_factory=required_python)
    seconds: float = 240.0
    """How long another process may take."""
    version: Callable[[str], str | None] = installed_version
    requirements: Callable[[str], Sequence[str]] = installed_requirements
    proc: Path = Path("/proc")
    nni_home: Path = field(default_factory=lambda: Path.home() / "nni-experiments")
    node: Path | None = field(default_factory=bundled_node)
    port: int = DEFAULT_PORT
    cores: int = field(default_factory=num_cores)
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Environment variables."""
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def wanted(self, package: str, by: str = PACKAGE) -> str:
        """The versions of a package that another one asks for, as in ``>=4.5,<6``; or nothing."""
        for requirement in map(Requirement, self.requirements(by)):
            if canonicalize_name(requirement.name) == canonicalize_name(package):
                return ",".join(sorted(map(str, requirement.specifier), reverse=True))
        return ""

    def pip_install(self, package: str, by: str = PACKAGE) -> str:
        """The command that installs a version that is asked for."""
        return f"pip install '{package}{self.wanted(package, by)}'"

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
    environment: Environment, code: str, arguments: Sequence[str] = (), given: str = ""
) -> tuple[str, str]:
    """Run code in another process.

    Returns:
        What it printed, and how it ended if not well.
    """
    command = [environment.python, "-P", "-c", code, *arguments]
    try:
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=environment.seconds
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(
            errors="replace"
        ), f"no end in {environment.seconds:g} s"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    end = f"exit code {done.returncode}: {said[-1] if said else 'no message'}"
    return done.stdout.decode(errors="replace"), end if done.returncode else ""


def is_port_taken(host: str, port: int) -> bool:
    """Whether a server listens there, or another program holds the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def without_passwords(text: str) -> str:
    """One line of bounded length, without the passwords of URLs."""
    text = re.sub(r"(://[^\s:/@]*:)(?!\*\*\*@).*(?=@)", r"\1***", text, flags=re.DOTALL)
    text = re.sub(r"((?:password|passwd|pwd)=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
    return " ".join(text.split())[:400]

"""NNI on this machine: its packages, its node, its ports, and what experiments left behind."""

import json
import subprocess
from contextlib import suppress

from nas_growclip.doctor.machine import Environment, Finding, is_port_taken
from nas_growclip.doctor.packages import check_import, check_version, fits

NNI_EXTRA = "pip install 'nas_growclip[nni]'"


def check_nnictl(environment: Environment) -> Finding:
    """``nnictl`` finds ``pkg_resources``, which setuptools no longer ships."""
    nni = environment.version("nni")
    if nni is None:
        return _no_nni()
    if not fits(nni, environment.wanted("nni")):
        return Finding(
            "problem", f"nni must be {environment.wanted('nni')}, but is {nni}", NNI_EXTRA
        )
    setuptools = environment.version("setuptools")
    remedy = environment.pip_install("setuptools")
    if error := environment.imports["pkg_resources"]["error"]:
        found = f"nnictl needs pkg_resources ({error}); setuptools: {setuptools or 'not installed'}"
        return Finding("problem", found, remedy)
    if setuptools and not fits(setuptools, environment.wanted("setuptools")):
        return Finding(
            "warning", f"setuptools {setuptools} may lack pkg_resources, which nnictl needs", remedy
        )
    return Finding("ok", f"nni {nni}, setuptools {setuptools}")


def check_typeguard(environment: Environment) -> Finding:
    """Typeguard is one that NNI 3.0 can use."""
    if environment.version("nni") is None:
        return _no_nni()
    return check_version(environment, "typeguard", by="nni")


def check_websockets(environment: Environment) -> Finding:
    """NNI's channel to its manager can be imported."""
    if environment.version("nni") is None:
        return _no_nni()
    return check_import(
        environment, "websockets", "websockets", environment.pip_install("websockets", by="nni")
    )


def check_node(environment: Environment) -> Finding:
    """NNI's own Node runtime starts: it needs a C library that is new enough."""
    if environment.version("nni") is None or environment.node is None:
        return _no_nni()
    remedy = "Use a newer base system (glibc 2.28 or later), or the search backend 'optuna'."
    try:
        command = [str(environment.node), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=environment.seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("problem", f"NNI's Node does not start: {error}", remedy)
    if done.returncode:
        return Finding("problem", f"NNI's Node does not start: {done.stderr}", remedy)
    return Finding("ok", f"Node {done.stdout.strip()}")


def check_nni_port(environment: Environment) -> Finding:
    """The default port of NNI's web page is free."""
    if environment.version("nni") is None:
        return _no_nni()
    note = "NNI's web server listens on every interface, without a login"
    if not is_port_taken("0.0.0.0", environment.port):
        return Finding("ok", f"{environment.port} is free; {note}")
    return Finding(
        "warning",
        f"{environment.port} is taken; {note}",
        "`growclip run` picks a free port by itself; by hand: nnictl create --port PORT",
    )


def check_nni_leftovers(environment: Environment) -> Finding:
    """No NNI manager runs on after whoever started it has gone."""
    if not (environment.proc / "self").exists():
        return Finding("skipped", f"there is no process table in {environment.proc}")
    running: list[str] = []
    left: list[str] = []
    for name, pid in _nni_experiments(environment):
        if "nni_node" in _command(environment, pid):
            (running if _is_owned(environment, pid) else left).append(f"{name} (process {pid})")
    if left:
        remedy = "If nobody needs them: nnictl stop --all (or nnictl stop ID for one)"
        return Finding(
            "warning", f"NNI experiments run without an owner: {', '.join(left)}", remedy
        )
    return Finding("ok", f"under way with an owner: {', '.join(running) or 'none'}")


def _no_nni() -> Finding:
    return Finding("skipped", "NNI is not installed", f"To search with it: {NNI_EXTRA}")


def _nni_experiments(environment: Environment) -> list[tuple[str, int]]:
    """NNI's own list of experiments: their names and their managers' processes."""
    try:
        listed = json.loads((environment.nni_home / ".experiment").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # NNI, too, takes a list that it cannot read for an empty one
    entries = listed.items() if isinstance(listed, dict) else ()
    pids = [(name, entry.get("pid")) for name, entry in entries if isinstance(entry, dict)]
    return [(name, pid) for name, pid in pids if isinstance(pid, int)]


def _command(environment: Environment, pid: int) -> str:
    with suppress(OSError):
        return (environment.proc / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""


def _is_owned(environment: Environment, pid: int) -> bool:
    """Whether the parent is one that starts managers, and not one that takes in orphans."""
    with suppress(OSError, ValueError, IndexError):
        stat = (environment.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        parent = int(stat.rpartition(")")[2].split()[1])
        command = _command(environment, parent)
        starters = ("growclip", "nnictl") if parent == 1 else ("growclip", "nnictl", "python")
        return any(word in command for word in starters)
    return False

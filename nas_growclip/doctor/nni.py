"""NNI on this machine: its packages, its node, its ports, and what experiments left behind."""

import json
import subprocess
from contextlib import suppress

from nas_growclip.doctor.machine import Finding, Place, _is_taken
from nas_growclip.doctor.packages import _fits, _imported, _version_within

SETUPTOOLS = ">=77.0.3,<81"

TYPEGUARD = ">=3,<4.1.3"
"""What NNI 3.0 asks for."""

NNI_EXTRA = "pip install 'nas_growclip[nni]'"


def check_nnictl(place: Place) -> Finding:
    """``nnictl`` finds ``pkg_resources``, which setuptools no longer ships."""
    nni = place.version("nni")
    if nni is None:
        return _no_nni()
    if not _fits(nni, ">=3"):
        return Finding("problem", f"nni must be 3.0 or newer, but is {nni}", NNI_EXTRA)
    setuptools = place.version("setuptools")
    remedy = f"pip install 'setuptools{SETUPTOOLS}'"
    if error := place.imports["pkg_resources"]["error"]:
        found = f"nnictl needs pkg_resources ({error}); setuptools: {setuptools or 'not installed'}"
        return Finding("problem", found, remedy)
    if setuptools and not _fits(setuptools, "<81"):
        return Finding("warning", f"setuptools {setuptools} is about to drop pkg_resources", remedy)
    return Finding("ok", f"nni {nni}, setuptools {setuptools}")


def check_typeguard(place: Place) -> Finding:
    """Typeguard is one that NNI 3.0 can use."""
    if place.version("nni") is None:
        return _no_nni()
    return _version_within(place, "typeguard", TYPEGUARD)


def check_websockets(place: Place) -> Finding:
    """NNI's channel to its manager can be imported."""
    if place.version("nni") is None:
        return _no_nni()
    return _imported(place, "websockets", "websockets", "pip install 'websockets>=10.1'")


def check_node(place: Place) -> Finding:
    """NNI's own Node runtime starts: it needs a C library that is new enough."""
    if place.version("nni") is None or place.node is None:
        return _no_nni()
    remedy = "Use a newer base system (glibc 2.28 or later), or the search backend 'optuna'."
    try:
        command = [str(place.node), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=place.seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("problem", f"NNI's Node does not start: {error}", remedy)
    if done.returncode:
        return Finding("problem", f"NNI's Node does not start: {done.stderr}", remedy)
    return Finding("ok", f"Node {done.stdout.strip()}")


def check_nni_port(place: Place) -> Finding:
    """The default port of NNI's web page is free."""
    if place.version("nni") is None:
        return _no_nni()
    note = "NNI's web server listens on every interface, without a login"
    if not _is_taken("0.0.0.0", place.port):
        return Finding("ok", f"{place.port} is free; {note}")
    return Finding(
        "warning",
        f"{place.port} is taken; {note}",
        "`growclip run` picks a free port by itself; by hand: nnictl create --port PORT",
    )


def check_nni_leftovers(place: Place) -> Finding:
    """No NNI manager runs on after whoever started it has gone."""
    if not (place.proc / "self").exists():
        return Finding("skipped", f"there is no process table in {place.proc}")
    running: list[str] = []
    left: list[str] = []
    for name, pid in _nni_experiments(place):
        if "nni_node" in _command(place, pid):
            (running if _is_owned(place, pid) else left).append(f"{name} (process {pid})")
    if left:
        remedy = "If nobody needs them: nnictl stop --all (or nnictl stop ID for one)"
        return Finding(
            "warning", f"NNI experiments run without an owner: {', '.join(left)}", remedy
        )
    return Finding("ok", f"under way with an owner: {', '.join(running) or 'none'}")


def _no_nni() -> Finding:
    return Finding("skipped", "NNI is not installed", f"To search with it: {NNI_EXTRA}")


def _nni_experiments(place: Place) -> list[tuple[str, int]]:
    """NNI's own list of experiments: their names and their managers' processes."""
    try:
        listed = json.loads((place.nni_home / ".experiment").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # NNI, too, takes a list that it cannot read for an empty one
    entries = listed.items() if isinstance(listed, dict) else ()
    pids = [(name, entry.get("pid")) for name, entry in entries if isinstance(entry, dict)]
    return [(name, pid) for name, pid in pids if isinstance(pid, int)]


def _command(place: Place, pid: int) -> str:
    with suppress(OSError):
        return (place.proc / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""


def _is_owned(place: Place, pid: int) -> bool:
    """Whether the parent is one that starts managers, and not one that takes in orphans."""
    with suppress(OSError, ValueError, IndexError):
        stat = (place.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        parent = int(stat.rpartition(")")[2].split()[1])
        command = _command(place, parent)
        starters = ("growclip", "nnictl") if parent == 1 else ("growclip", "nnictl", "python")
        return any(word in command for word in starters)
    return False

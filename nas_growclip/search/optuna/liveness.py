"""Which process works on a trial, and whether it is still there.

On its own machine a process is looked up in the process table, so that a killed worker is known
to be gone at once. Of another machine only heartbeats are seen: a worker whose sign has not
changed for the grace period is taken for dead. The observer's own clock measures that period, so
machines need not agree on the time.
"""

import os
import socket
import time
from pathlib import Path


def identity() -> str:
    """This process: machine and process namespace, number, time of start."""
    return f"{_place()}:{os.getpid()}:{_started(os.getpid())}"


def host_and_process(worker: str) -> str:
    """A worker's name as shown to people, as in ``host, process 123``."""
    place, pid, _ = worker.rsplit(":", 2)
    return f"{place.partition('/')[0]}, process {pid}"


def is_gone(worker: str) -> bool | None:
    """Whether a worker's process has ended; None for one on another machine."""
    place, pid, started = worker.rsplit(":", 2)
    if place != _place():
        return None
    return _started(int(pid)) != started


class LivenessMonitor:
    """Notices heartbeats that no longer change.

    Args:
        grace_seconds: How long a sign may stay the same.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self._seen: dict[int, tuple[object, float]] = {}

    def is_silent(self, key: int, sign: object) -> bool:
        """Whether the sign under this key was the same for the whole grace period."""
        now = time.monotonic()
        last, since = self._seen.get(key, (None, now))
        if key not in self._seen or last != sign:
            self._seen[key] = (sign, now)
            return False
        return now - since >= self.grace_seconds


def _place() -> str:
    namespace = Path("/proc/self/ns/pid")
    inside = str(namespace.readlink()) if namespace.exists() else ""
    return f"{socket.gethostname()}/{inside}".replace(":", "")


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] == "Z" else fields[19]
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "0"

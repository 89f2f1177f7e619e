"""The processes of an NNI experiment, and that none of them outlives the run.

NNI's manager, a server, starts the tuner and the trials, and runs on when the process that started
it dies. So every one of them inherits a mark, an environment variable with the experiment's
folder, by which they are found even where their parents are gone. A watchdog, this file run as a
program, waits for its owner's end, however it comes, and then kills whatever bears the mark.
"""

import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "GROWCLIP_NNI_FOLDER"
"""Environment variable that all processes of an experiment bear."""
POLL_SECONDS = 0.5
KILL_SECONDS = 30.0
LOCK_FILE = "lock"
TUNER_OPTION = "--exp_params"
"""What the command line of NNI's tuner has, and no other's."""


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Do something that starts marked processes; when it ends, however it does, none is left.

    Those that an earlier owner left behind are killed first.

    Args:
        folder: The experiment's folder; whoever guards it is its only owner.

    Raises:
        ValueError: If another process is the folder's owner.
    """
    with owned(folder):
        kill_processes(folder)
        with _watchdog(folder):
            yield


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Processes started inside bear the mark, and reach their manager past any proxy."""
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    hosts = ",".join(filter(None, (exceptions, "localhost")))
    with environment({MARK: str(folder), "no_proxy": hosts}):
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started inside have these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def find_processes(folder: Path) -> list[psutil.Process]:
    """Every process that bears the folder's mark."""
    return [process for process in psutil.process_iter() if _mark(process) == str(folder)]


def find_tuner(folder: Path) -> list[psutil.Process]:
    """The processes of the experiment's tuner."""
    return [p for p in find_processes(folder) if TUNER_OPTION in command_line(p)]


def command_line(process: psutil.Process) -> str:
    """What a process was started with; empty if it is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill_processes(folder: Path) -> None:
    """Kill every process that bears the folder's mark, and those that they start meanwhile."""
    deadline = time.monotonic() + KILL_SECONDS
    while (processes := find_processes(folder)) and time.monotonic() < deadline:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=POLL_SECONDS)


def wait_for_end(folder: Path, seconds: float) -> None:
    """Wait until no process bears the folder's mark, but no longer than so long."""
    deadline = time.monotonic() + seconds
    while find_processes(folder) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def watch(owner: int, folder: Path) -> None:
    """Wait until the owner closes its end of the pipe on stdin or is gone; then kill."""
    while os.getppid() == owner and not select.select([0], [], [], POLL_SECONDS)[0]:
        pass
    kill_processes(folder)


def _mark(process: psutil.Process) -> str | None:
    with suppress(psutil.Error, OSError):
        mark: str | None = process.environ().get(MARK)
        return mark
    return None


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the only one who starts something in a folder.

    Raises:
        ValueError: If another process is.
    """
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: must be used by one NNI experiment at a time, but another process "
                "runs one in it. Wait for it, or stop it."
            ) from None
        yield


@contextmanager
def _watchdog(folder: Path) -> Iterator[None]:
    """A watchdog in a session of its own, so that Ctrl-C does not reach it."""
    watchdog = subprocess.Popen(
        [sys.executable, "-I", __file__, str(os.getpid()), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with watchdog:
        yield


if __name__ == "__main__":
    watch(int(sys.argv[1]), Path(sys.argv[2]))

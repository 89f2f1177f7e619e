"""Work in processes of its own: forked from this one where it can be, so nothing is imported."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from nas_growclip.cli.main import main

NUM_PROCESSES = 2
"""As many as train together."""


def forked(work: Callable[[], object], said: Path | None = None) -> int:
    """Start some work in a forked child; the child's process number.

    The child ends with what the work returns if that is a number, else with 0; with 1 if it fails.
    What it writes on stderr goes to ``said``.
    """
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: PyTorch's, which are idle
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        if said is not None:
            sys.stderr = said.open("w", buffering=1)
        result = work()
        status = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def reopen_streams() -> None:
    """In a child: write to the files that its descriptors 1 and 2 are now, line by line."""
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def ending(child: int) -> int:
    """Wait for a child; its exit code, or the signal that killed it with its sign turned."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ran(
    work: Callable[[], object], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Do some work in a forked child, in a folder and with environment variables of its own.

    Returns:
        What ``subprocess.run`` gives: how the child ended and what it wrote.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def redirected() -> object:
            warnings.simplefilter("ignore")
            os.chdir(folder)
            os.environ.update(variables)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            reopen_streams()
            return work()

        code = ending(forked(redirected))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([], code, out.read(), err.read())


def session_members(session: int) -> list[int]:
    """Living processes of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                members.append(int(stat.parent.name))
    return members


class Child:
    """A forked child, used as a process of ``subprocess`` is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        """Its exit code, when it has ended."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Process {self.pid} must end within {timeout} s, but did not.")
            time.sleep(0.01)
        return code

    def kill(self) -> int:
        """Kill it unless it has ended; its exit code."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.returncode = ending(self.pid)
        assert self.returncode is not None
        return self.returncode


@contextmanager
def started(log: Path, *arguments: str) -> Iterator[Child]:
    """A growclip command in a process of its own, which does not outlive this."""

    def command() -> int:
        warnings.simplefilter("ignore")
        return main(arguments)

    child = Child(forked(command, log))
    try:
        yield child
    finally:
        child.kill()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def in_two_processes(work: Callable[[], object], logs: Path) -> list[int]:
    """Do some work in two processes that are told what torchrun tells its own; their exit codes.

    What each writes on stderr goes to a file of its rank in ``logs``. As under torchrun, the other
    one is killed where one fails, once it had time to fail by itself.
    """
    port = free_port()
    place = {"WORLD_SIZE": NUM_PROCESSES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}

    def ranked(rank: int) -> object:
        warnings.simplefilter("ignore")
        told = place | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({name: str(value) for name, value in told.items()})
        return work()

    children = [
        Child(forked(partial(ranked, rank), logs / f"{rank}.log")) for rank in range(NUM_PROCESSES)
    ]
    # As under torchrun neither of them is where they meet: one may end before the other has joined.
    meeting = distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    deadline = math.inf
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if any(child.poll() for child in children):
            deadline = min(deadline, time.monotonic() + 2.0)
        time.sleep(0.01)
    codes = [child.kill() for child in children]
    del meeting
    return codes

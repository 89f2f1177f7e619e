"""Runs in a child process that is killed: forked from this one, so that nothing is imported."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


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


def ending(child: int) -> int:
    """Wait for a child; its exit code, or the signal that killed it with its sign turned."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_after(calls: int, what: Callable[..., object]) -> Callable[..., object]:
    """A function that kills its process at the end of its n-th call."""
    made = 0

    def dying(*given: object, **named: object) -> object:
        nonlocal made
        result = what(*given, **named)
        made += 1
        if made == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return dying

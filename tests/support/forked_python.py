"""Python commands that are forked from this process in place of started: nothing is imported."""

import asyncio
import inspect
import os
import runpy
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.processes import forked, reopen_streams

PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
"""File descriptors as ``Popen`` names them; -1 where there is none."""


class ForkedPython(subprocess.Popen[Any]):
    """``Popen`` of this Python with ``-m`` or ``-c`` as a fork; of other commands as ever.

    Its environment, folder, streams and session are those that were asked for. Its own commands
    are forked as well.
    """

    def _execute_child(self, args: Any, *given: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        options = inspect.signature(start).bind(args, *given).arguments
        if isinstance(args, str) or args[0] != sys.executable or options["shell"]:
            start(args, *given)
            return
        is_ready, tell = os.pipe()
        self.pid = forked(lambda: _as_started(args[1:], options, tell))
        os.close(tell)
        os.read(is_ready, 1)  # its end: the child has its session, which others may ask for
        os.close(is_ready)
        self._child_created = True
        self._close_pipe_fds(*(options[name] for name in PIPES))  # type: ignore[attr-defined]


def _as_started(arguments: Sequence[str], options: Mapping[str, Any], tell: int) -> int:
    """In the child: what a new Python would do; its exit code."""
    _leave_parent()
    if options["start_new_session"]:
        os.setsid()
    os.close(tell)
    _take_streams(options)
    if options["env"] is not None:
        os.environ.clear()
        os.environ.update(options["env"])
    if options["cwd"] is not None:
        os.chdir(options["cwd"])
    warnings.simplefilter("ignore")
    try:
        _run(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
    return 0


def _leave_parent() -> None:
    """Have nothing to do with the event loop of the parent, which would hear of signals here."""
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _take_streams(options: Mapping[str, Any]) -> None:
    """Read and write where ``Popen`` was told to."""
    for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
        if options[name] not in (-1, number):
            os.dup2(options[name], number)
    for name in ("p2cwrite", "c2pread", "errread"):
        if options[name] != -1:
            os.close(options[name])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    reopen_streams()


def _run(arguments: Sequence[str]) -> None:
    """Run a module or some code as the main program."""
    place = next(n for n, word in enumerate(arguments) if word in ("-m", "-c"))
    option, what, *rest = arguments[place:]
    sys.argv = [option, *rest]
    sys.path.insert(0, "")
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    program = types.ModuleType("__main__")
    sys.modules["__main__"] = program
    exec(compile(what, "<string>", "exec"), program.__dict__)


@contextmanager
def forking_python(*modules: types.ModuleType) -> Iterator[None]:
    """Let all of this process fork its Python commands.

    Args:
        modules: Those that have taken ``Popen`` from ``subprocess`` by its name.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (subprocess, *modules):
            patch.setattr(module, "Popen", ForkedPython)
        yield

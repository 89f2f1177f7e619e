"""An NNI experiment that goes on by itself: started, looked at and stopped by three commands.

It is in a folder of its own, whose mark all of its processes bear, so that none is left when it is
stopped, whatever became of its manager. Needs NNI: call ``check_installed`` first.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from nni.experiment import Experiment, rest

from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.search.nni.experiment import (
    POLL_SECONDS,
    STATES,
    STOP_SECONDS,
    NniExperiment,
    NniTrial,
    Running,
    check,
    launch,
    read_job,
)
from nas_growclip.search.nni.processes import (
    find_tuner,
    kill_processes,
    marked,
    owned,
    wait_for_end,
)

STATE_FILE = "experiment.json"


class ByHand(NamedTuple):
    """An experiment that was started."""

    id: str
    """NNI's own name of it."""
    port: int
    """Of its web server."""


class Status(NamedTuple):
    """What an experiment does."""

    experiment: ByHand
    state: str
    """NNI's word, or why there is none."""
    ended: tuple[NniTrial, ...]
    waiting: int
    """Trials that have not started."""
    running: int


def create(experiment: NniExperiment, port: int | None = None) -> ByHand:
    """Start an experiment, which goes on; its tuner works and its first trial has started.

    Args:
        experiment: What to run.
        port: Of its web server; a free one if not given.

    Raises:
        ValueError: If the folder's experiment still runs.
        ChildProcessError: If it does not start, or its first trial fails; nothing of it runs then.
    """
    folder = experiment.folder.resolve()
    make_folder(folder)
    with owned(folder):
        _refuse_running(folder)
        kill_processes(folder)  # what a broken one left behind
        with _nothing_left_if_it_fails(folder), marked(folder):
            running = launch(experiment, folder, port)
            made = ByHand(running.manager.id, running.manager.port)
            write_atomically(folder / STATE_FILE, json.dumps(made._asdict()).encode())
            running.manager._proc.returncode = 0  # Python need not wait for what goes on
            _await_first_trial(running)
    return made


def status(folder: Path) -> Status:
    """What the folder's experiment does.

    Raises:
        ValueError: If there is no experiment.
    """
    made = _known(folder)
    with _reaching(folder):
        return _look(made, folder)


def _look(made: ByHand, folder: Path) -> Status:
    running = _connect(made, folder)
    try:
        state = check(running)
    except ChildProcessError as error:
        return Status(made, str(error), (), 0, 0)
    jobs, results = running.manager.list_trial_jobs(), running.manager.get_job_metrics()
    ended = [job for job in jobs if job.status in STATES]
    return Status(
        made,
        state,
        tuple(read_job(job, results.get(job.trialJobId, ())) for job in ended),
        sum(job.status == "WAITING" for job in jobs),
        sum(job.status == "RUNNING" for job in jobs),
    )


def stop(folder: Path) -> ByHand:
    """Stop the folder's experiment, in order where that works; no process of it is left.

    Raises:
        ValueError: If there is no experiment.
    """
    made, place = _known(folder), folder.resolve()
    with _reaching(folder), suppress(OSError):
        _ask_to_stop(made)
        wait_for_end(place, STOP_SECONDS)
    kill_processes(place)
    (folder / STATE_FILE).unlink()
    return made


def is_known(folder: Path) -> bool:
    """Whether an experiment was started in a folder and not stopped."""
    return (folder / STATE_FILE).is_file()


def _ask_to_stop(made: ByHand) -> None:
    """Ask the experiment's manager to stop, unless another one has its port now.

    Raises:
        OSError: If nobody answers.
    """
    if rest.get(made.port, "/experiment")["id"] == made.id:
        rest.delete(made.port, "/experiment")


@contextmanager
def _reaching(folder: Path) -> Iterator[None]:
    """Reach a manager past any proxy."""
    with marked(folder.resolve()):
        yield


def _known(folder: Path) -> ByHand:
    with suppress(OSError):
        return ByHand(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
    raise ValueError(f"{folder} must hold an NNI experiment, but none was started in it.")


def _connect(made: ByHand, folder: Path) -> Running:
    manager = Experiment("local")
    manager.id, manager.port = made.id, made.port
    manager.config.experiment_working_directory = str(folder)
    return Running(manager, tuple(find_tuner(folder.resolve())))


def _refuse_running(folder: Path) -> None:
    if find_tuner(folder):
        made = _known(folder)
        raise ValueError(
            f"{folder} must hold one NNI experiment at a time, but {made.id} runs at "
            f"http://localhost:{made.port}. Stop it first."
        )


@contextmanager
def _nothing_left_if_it_fails(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        kill_processes(folder)
        (folder / STATE_FILE).unlink(missing_ok=True)
        raise


def _await_first_trial(running: Running) -> None:
    """Wait until a trial runs or has ended.

    Raises:
        ChildProcessError: If the experiment fails meanwhile, or its first trial does.
    """
    while True:
        check(running)
        jobs: list[Any] = running.manager.list_trial_jobs()
        failed = [read_job(job, ()) for job in jobs if job.status == "FAILED"]
        if failed:
            raise ChildProcessError(
                f"The first trial must run, but it failed: {failed[0].message or 'no word of it'}"
            )
        if any(job.status in (*STATES, "RUNNING") for job in jobs):
            return
        time.sleep(POLL_SECONDS)

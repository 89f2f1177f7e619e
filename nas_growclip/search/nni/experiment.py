"""One NNI experiment from start to end: start its manager, wait, read the results, stop it.

Everything that NNI writes is in the experiment's folder, except the list of experiments that it
keeps in ``~/nni-experiments``. Its web server listens on every interface without a login while
the experiment runs; the port is a free one.
"""

import logging
import os
import shlex
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nas_growclip.io.choices import require_choice
from nas_growclip.io.files import make_folder, write_atomically

_log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Another process may take the free port before NNI does."""
START_SECONDS = 120
"""NNI gives its server 3 seconds to start and its tuner 10, too few on a busy machine."""
PATIENCE = f"""\
globalThis.setTimeout = new Proxy(setTimeout, {{
  apply: (wait, self, [run, time, ...more]) =>
    wait(run, time === 10000 ? {1000 * START_SECONDS} : time, ...more)
}});
"""
"""JavaScript for NNI's manager: the one wait of 10 seconds in it, that for the tuner, is longer."""
POLL_SECONDS = 1.0
OVER = frozenset({"DONE", "TUNER_NO_MORE_TRIAL"})
"""NNI's words for an experiment without new trials; it does not go from the second to the first."""
QUIET_POLLS = 3
"""Polls without a running trial after which such an experiment is over."""
STOP_SECONDS = 70.0
"""NNI's manager gives itself 60 seconds to stop."""
STDERR_FILE = "trial.stderr"


@dataclass(frozen=True, kw_only=True)
class NniExperiment:
    """What an NNI experiment needs to know.

    Raises:
        ValueError: If the tuner or the assessor is not in its table.
    """

    name: str
    space: Mapping[str, Any]
    """Search space in NNI's form."""
    command: tuple[str, ...]
    """The trial command: program and arguments."""
    folder: Path
    """Where NNI keeps the experiment's files; one experiment at a time."""
    num_trials: int
    workers: int = 1
    """Trials at the same time."""
    tuner: str = "TPE"
    """A name in ``TUNERS``."""
    assessor: str = "none"
    """A name in ``ASSESSORS``."""
    seed: int = 0
    curve_points: int = 6
    """Intermediate results of a whole trial."""
    max_seconds: int | None = None
    """After so long no trial is started any more; those that run are waited for."""

    def __post_init__(self) -> None:
        for name, table in (("tuner", TUNERS), ("assessor", ASSESSORS)):
            require_choice(getattr(self, name), table, f"NNI's {name}")


class NniTrial(NamedTuple):
    """A trial that has ended, as NNI knows it."""

    number: int
    """NNI's number of the trial, from 0 on."""
    parameters: Mapping[str, Any]
    """The tuner's sample."""
    state: Literal["complete", "pruned", "failed"]
    """Pruned: stopped by the assessor, or by hand."""
    metrics: Mapping[str, float]
    """The final result, the score as ``default``; empty where there is none."""
    curve: tuple[Mapping[str, float], ...] = ()
    """The intermediate results, those of a pruned trial too."""
    message: str = ""
    """The last line that a failed trial wrote to stderr."""


def ignore_trial(trial: NniTrial) -> None:
    """Wait for the experiment's end."""


def run_nni_experiment(
    experiment: NniExperiment, on_trial: Callable[[NniTrial], None] = ignore_trial
) -> tuple[NniTrial, ...]:
    """Run an NNI experiment to its end; however this ends, no process of it is left.

    Args:
        experiment: What to run.
        on_trial: Called with each trial when it has ended.

    Returns:
        Every trial by number.

    Raises:
        ValueError: If NNI is not installed, or the folder is in use.
        ChildProcessError: If NNI's manager or its tuner fails.
    """
    check_installed()
    from nas_growclip.search.nni.processes import guarded, marked

    folder = experiment.folder.resolve()
    make_folder(folder)
    with guarded(folder), marked(folder), _started(experiment, folder) as running:
        ended: dict[int, NniTrial] = {}
        for trial in _ended_trials(running):
            if trial.number not in ended:
                ended[trial.number] = trial
                on_trial(trial)
        return tuple(ended[number] for number in sorted(ended))


class Running(NamedTuple):
    """A started experiment: NNI's object for it, and the processes of its tuner."""

    manager: Any
    tuner: tuple[Any, ...]


def check_installed() -> None:
    """Import NNI, which prints nothing from then on.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import nni
    except ModuleNotFoundError as error:
        raise ValueError(
            f"NNI must be installed for this, but {error.name!r} is missing. "
            "Run: pip install 'nas_growclip[nni]'."
        ) from None
    nni.silence_stdout()


@contextmanager
def _started(experiment: NniExperiment, folder: Path) -> Iterator[Running]:
    """The experiment with a tuner that works; stopped at the end."""
    running = launch(experiment, folder)
    try:
        _log.info(
            f"NNI's page is at http://localhost:{running.manager.port}, for everyone who reaches "
            "this machine, while the search runs"
        )
        yield running
    finally:
        stop_manager(running.manager)


def launch(experiment: NniExperiment, folder: Path, port: int | None = None) -> Running:
    """Start an experiment, and wait for its tuner's first proposal.

    Args:
        experiment: What to run.
        folder: Where; processes that are started in its mark are found by it.
        port: Of the web server; a free one if not given.

    Raises:
        ChildProcessError: If it does not start; then nothing of it runs.
    """
    for _ in range(ATTEMPTS):
        manager = _make(experiment, folder)
        try:
            return _start(manager, folder, port or _free_port())
        except (OSError, RuntimeError) as error:
            failed = error
            stop_manager(manager)
    raise ChildProcessError(
        f"NNI must start, but did not in {ATTEMPTS} attempts. The last one: {failed}"
    ) from None


def _make(experiment: NniExperiment, folder: Path) -> Any:
    from nni.experiment import Experiment

    made = Experiment("local")
    config = made.config
    config.experiment_name = experiment.name
    config.search_space = dict(experiment.space)
    config.trial_command = shlex.join(experiment.command)
    config.trial_code_directory = str(Path.cwd())
    config.trial_concurrency = experiment.workers
    config.max_trial_number = experiment.num_trials
    config.max_experiment_duration = experiment.max_seconds
    config.experiment_working_directory = str(folder)
    config.tuner.name = experiment.tuner
    config.tuner.class_args = TUNERS[experiment.tuner](experiment.seed % 2**31)
    if experiment.assessor != "none":
        config.assessor.name = experiment.assessor
        config.assessor.class_args = ASSESSORS[experiment.assessor](experiment.curve_points)
    return made


def _start(manager: Any, folder: Path, port: int) -> Running:
    """Start the manager and wait for the tuner's first proposal."""
    from nni.experiment import RunMode

    from nas_growclip.search.nni.processes import find_tuner

    with _patient(folder), _unclosed_files():
        manager.start(port, run_mode=RunMode.Detach)
    running = Running(manager, tuple(find_tuner(folder)))
    while not manager.list_trial_jobs():
        check(running)
        time.sleep(POLL_SECONDS)
    return running


def stop_manager(manager: Any) -> None:
    """Ask the manager to stop, and wait; if it does not, the guard kills it."""
    from nni.experiment import rest

    if manager.port is not None:
        with suppress(OSError, subprocess.TimeoutExpired):
            rest.delete(manager.port, "/experiment")
            manager._proc.wait(timeout=STOP_SECONDS)
    with _unclosed_files():
        manager._stop_logging()


def _ended_trials(running: Running) -> Iterator[NniTrial]:
    """Trials that have ended, again and again, until the experiment is over."""
    quiet = 0
    while quiet <= QUIET_POLLS:
        status = check(running)
        jobs, results = running.manager.list_trial_jobs(), running.manager.get_job_metrics()
        is_over = quiet == QUIET_POLLS
        for job in jobs:
            if _has_ended(job) or (is_over and job.status in STATES):
                yield read_job(job, results.get(job.trialJobId, ()))
        runs = any(job.status not in STATES for job in jobs)
        quiet = quiet + 1 if status in OVER and not runs else 0
        time.sleep(POLL_SECONDS)


def check(running: Running) -> str:
    """NNI's word for the experiment's status.

    NNI itself does not notice when its tuner dies, and waits forever.

    Raises:
        ChildProcessError: If the experiment failed or was stopped.
    """
    from nni.experiment import rest

    from nas_growclip.search.nni.processes import is_alive

    manager = running.manager
    try:
        answer = rest.get(manager.port, "/check-status")
    except OSError as error:
        raise _failure(manager, f"its manager does not answer: {error}") from None
    status: str = answer["status"]
    if status in ("ERROR", "STOPPING", "STOPPED"):
        raise _failure(manager, f"its status is {status} {'; '.join(answer['errors'])}".strip())
    if not any(is_alive(process) for process in running.tuner):
        raise _failure(manager, "its tuner has died")
    return status


def _failure(manager: Any, reason: str) -> ChildProcessError:
    log = Path(manager.config.experiment_working_directory) / manager.id / "log"
    return ChildProcessError(
        f"NNI's experiment must run to its end, but {reason}. See {log}; the same command resumes "
        "from here."
    )


def _has_ended(job: Any) -> bool:
    """Whether a job has ended, and NNI has stored its final result, which may come later."""
    return job.status in STATES and (job.status != "SUCCEEDED" or bool(job.finalMetricData))


def read_job(job: Any, results: Sequence[Any]) -> NniTrial:
    """A job of NNI's that has ended, with its results."""
    points = sorted((r for r in results if r.type == "PERIODICAL"), key=lambda r: int(r.sequence))
    return NniTrial(
        number=job.sequenceId,
        parameters=job.hyperParameters[0].parameters,
        state=STATES[job.status],
        metrics=_values(job.finalMetricData[0]) if job.finalMetricData else {},
        curve=tuple(_values(point) for point in points),
        message=_last_line(Path(job.logPath) / STDERR_FILE) if job.status == "FAILED" else "",
    )


def _values(result: Any) -> Mapping[str, float]:
    return result.data if isinstance(result.data, dict) else {"default": result.data}


def _last_line(path: Path) -> str:
    with suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def _patient(folder: Path) -> Iterator[None]:
    """NNI's server and its tuner may take longer to start."""
    from nni.experiment import launcher

    from nas_growclip.search.nni.processes import environment

    launcher._check_rest_server.__defaults__ = (START_SECONDS, None)
    script = folder / "patience.js"
    write_atomically(script, PATIENCE.encode())
    given = os.environ.get("NODE_OPTIONS")
    options = " ".join(filter(None, (given, f'--require "{script}"')))
    with environment({"NODE_OPTIONS": options}):
        yield


@contextmanager
def _unclosed_files() -> Iterator[None]:
    """NNI leaves its logs and a socket to the garbage collector."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
        yield


STATES: Mapping[str, Literal["complete", "pruned", "failed"]] = {
    "SUCCEEDED": "complete",
    "EARLY_STOPPED": "pruned",
    "USER_CANCELED": "pruned",
    "SYS_CANCELED": "pruned",
    "FAILED": "failed",
}
"""NNI's words for a job that has ended; what its assessor stops is called USER_CANCELED too."""

TUNERS: Mapping[str, Callable[[int], dict[str, Any] | None]] = {
    "TPE": lambda seed: {"optimize_mode": "maximize", "seed": seed},
    "Random": lambda seed: {"seed": seed},
    "Evolution": lambda seed: {"optimize_mode": "maximize", "population_size": 8},
    "GridSearch": lambda seed: None,
}
"""NNI's tuners that work with today's libraries, and their arguments by seed; Evolution takes
none."""

ASSESSORS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda points: {},
    "Medianstop": lambda points: {"optimize_mode": "maximize", "start_step": 2},
    "Curvefitting": lambda points: {"epoch_num": points, "start_step": min(4, points)},
}
"""NNI's assessors and their arguments by the number of intermediate results."""

"""Runs that are killed at random moments or in a phase, and what they leave behind."""

import filecmp
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import optuna
import torch
from safetensors import safe_open

from nas_growclip.cli.main import main as growclip
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.io.logs import logger
from nas_growclip.records.folder import RunFolder, read_trials
from nas_growclip.search.optuna.backend import study_name
from nas_growclip.search.optuna.storage import open_storage
from tests.support.processes import reopen_streams, session_members
from tests.support.runs import ROOT, smoke_config

PHASES = {
    "saving a state or model": ("_write_tensors",),
    "writing a file": ("replace_atomically", "append_line"),
    "report": ("write_report", "print_summary"),
    "growing": ("grow_training",),
    "measuring": ("measure_stage", "finite_loss"),
    "training of a trial": ("_train_to_points", "measure_candidate"),
    "training of the stage": ("_train_to_points", "continue_training"),
    "choosing and finishing": ("choose_trial", "describe_choice", "finish_stage"),
    "search": ("run_search",),
}
"""Phases by the functions of which all (the first two trainings) or one is running."""


BOTH = ("training of a trial", "training of the stage")


START_OR_END = "start or end"


PATIENCE_S = 120.0
"""Seconds for a start that is not killed, beyond what the undisturbed run took."""


ORPHANS_DIE_IN_S = 15.0
"""Loading processes look for their parent every five seconds."""


COMMAND = """
import sys
from pathlib import Path
from tests.support.killing import tell_stack_to
tell_stack_to(Path(sys.argv[1]))
from nas_growclip.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


class Kill(NamedTuple):
    """One kill: what was running, and whether that was waited for."""

    run: int
    phase: str
    aimed_at: str
    seconds: float
    """From the start of the process."""


@dataclass
class Process:
    """A started command, in a session of its own; its stack can be asked for."""

    pid: int
    stacks: Path
    returncode: int | None = None

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode is not None

    def kill(self) -> None:
        """Kill it and nothing else."""
        os.kill(self.pid, signal.SIGKILL)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def phase(self) -> str:
        """What it is doing."""
        before = self.stacks.stat().st_size
        if before == 0 or self.has_ended():
            return START_OR_END  # it would not know the signal yet
        os.kill(self.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline and not self.has_ended():
            words = self.stacks.read_bytes()[before:]
            if words.endswith(b"\n\n"):
                return phase_of(words.decode())
            time.sleep(0.0005)
        return START_OR_END

    def survivors(self) -> list[int]:
        """Processes of its session that live on, once they had time to see that it is gone."""
        deadline = time.monotonic() + ORPHANS_DIE_IN_S
        while (alive := session_members(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive


def phase_of(stack: str) -> str:
    """The phase that a stack belongs to."""
    running = {line.removeprefix("in ") for line in stack.splitlines()}
    for phase, functions in PHASES.items():
        found = [function in running for function in functions]
        if all(found) if phase in BOTH else any(found):
            return phase
    return START_OR_END


def start(arguments: Sequence[str], log: Path, *, fresh: bool) -> Process:
    """Start ``growclip`` with these arguments, by a fork or as a fresh command."""
    stacks = log.with_suffix(".stacks")
    stacks.write_bytes(b"")
    if not fresh:
        return Process(fork(arguments, log, stacks), stacks)
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, str(stacks), *arguments]
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True
        )
    return Process(process.pid, stacks)


def fork(arguments: Sequence[str], log: Path, stacks: Path) -> int:
    """Give the command to a forked child, which has everything imported."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's threads, which are idle
        child = os.fork()
    if child == 0:
        forked_command(arguments, log, stacks)
    return child


def forked_command(arguments: Sequence[str], log: Path, stacks: Path) -> None:
    """In the child: the command as its process runs it; never returns."""
    code = 1
    try:
        os.setsid()
        with log.open("ab") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            reopen_streams()
            tell_stack_to(stacks)
            warnings.simplefilter("ignore")
            code = growclip(arguments)
            sys.stdout.flush()
    finally:
        os._exit(code)


def tell_stack_to(path: Path) -> None:
    """Let this process write what it is doing into a file when it gets SIGUSR1."""

    def tell(number: int, frame: FrameType | None) -> None:
        words = "".join(f"in {each.name}\n" for each in traceback.extract_stack(frame))
        with path.open("ab") as file:
            file.write(f"{words}\n".encode())

    signal.signal(signal.SIGUSR1, tell)
    path.write_text("ready\n\n")


class Campaign:
    """One experiment, its undisturbed run, and runs that are killed.

    Args:
        config: The experiment.
        out: A new folder.
        seed: Of the moments.
        fresh: Whether each start is a fresh process.
    """

    def __init__(
        self, config: ExperimentConfig, out: Path, seed: int = 0, *, fresh: bool = False
    ) -> None:
        self.config, self.out, self.fresh = config, out, fresh
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.faults: list[str] = []
        out.mkdir(parents=True)
        self.experiment = out / "experiment.yaml"
        self.experiment.write_text(config.to_yaml())
        self.reference = out / "undisturbed" / "run"
        started = time.monotonic()
        process = self._start(self.reference)
        self._wait(process, time.monotonic() + 10 * PATIENCE_S)
        self.seconds = time.monotonic() - started
        logger.info(f"undisturbed: {self.seconds:.1f} s")

    def go(self, num_kills: int) -> None:
        """Kill so often, in as many runs as that takes, and look at each when it has ended."""
        number = 0
        while len(self.kills) < num_kills:
            run = self.out / f"killed_{number:02d}" / "run"
            self._kill_until_complete(number, run, num_kills)
            self.faults += [f"{run}: {fault}" for fault in differences(run, self.reference)]
            self.faults += [f"{run}: {fault}" for fault in repetitions(run, self.config)]
            number += 1

    def table(self) -> str:
        """The kills by phase, in Markdown."""
        hits = Counter(kill.phase for kill in self.kills)
        lines = ["| phase | kills |", "|---|---|"]
        lines += [f"| {phase} | {hits[phase]} |" for phase in (START_OR_END, *PHASES)]
        return "\n".join(lines)

    def _kill_until_complete(self, number: int, run: Path, num_kills: int) -> None:
        while True:
            process = self._start(run)
            if len(self.kills) == num_kills:
                self._wait(process, time.monotonic() + self.seconds + PATIENCE_S)
                return
            kill = self._kill(number, process)
            if kill is None:
                self._check_end(process)
                return
            self.kills.append(kill)
            logger.info(f"kill {len(self.kills)}: {kill.phase} after {kill.seconds:.2f} s")
            orphans = process.survivors()
            if orphans:
                self.faults.append(f"{run}: processes {orphans} lived on after {kill}")

    def _kill(self, number: int, process: Process) -> Kill | None:
        """Kill a process at a random moment, or in a phase; None if it ended before."""
        started = time.monotonic()
        aims = self._aims()
        moment = started + self.random.uniform(0.0, self.seconds / (2 if aims else 4))
        while time.monotonic() < moment:
            if process.has_ended():
                return None
            time.sleep(0.002)
        phase = process.phase()
        while aims and phase not in aims and not process.has_ended():
            time.sleep(0.001)
            phase = process.phase()
        if process.has_ended():
            return None
        time.sleep(self.random.uniform(0.0, 0.002))
        process.kill()
        return Kill(number, phase, ", ".join(aims), time.monotonic() - started)

    def _aims(self) -> list[str]:
        """The phases that were hit least, for every second kill."""
        if len(self.kills) % 2 == 0:
            return []
        hits = Counter(kill.phase for kill in self.kills)
        fewest = min(hits[phase] for phase in PHASES)
        return [phase for phase in PHASES if hits[phase] == fewest]

    def _start(self, run: Path) -> Process:
        run.parent.mkdir(exist_ok=True)
        arguments = ["run", str(self.experiment), "--out", str(run), "--device", "cpu"]
        return start(arguments, run.with_suffix(".log"), fresh=self.fresh)

    def _wait(self, process: Process, deadline: float) -> None:
        while not process.has_ended():
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"A run must end, but did not: see {process.stacks.parent}.")
            time.sleep(0.02)
        self._check_end(process)

    def _check_end(self, process: Process) -> None:
        if process.returncode != 0:
            raise ChildProcessError(
                f"A run must end well, but ended with {process.returncode}: see "
                f"{process.stacks.with_suffix('.log')}."
            )


WALL_TIME = re.compile(r'(?<= time">)[^<]*')
NEVER_THE_SAME = {"format.json", "timings.jsonl", ".owner", "study.db", "study.lock"}
"""Files of a run folder that hold ids, times, process numbers or attempts."""


def differences(run: Path, reference: Path) -> list[str]:
    """What a run folder holds that an undisturbed run's does not, or the other way round."""
    ours, theirs = (files_of(folder) for folder in (run, reference))
    found = [f"{name} is left over" for name in sorted(ours - theirs)]
    found += [f"{name} is missing" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs - NEVER_THE_SAME):
        if not are_same(run / name, reference / name):
            found.append(f"{name} differs")
    return found


def are_same(one: Path, other: Path) -> bool:
    """Whether two files hold the same; the order of metadata in safetensors is by chance.

    Wall times on a report's page never repeat.
    """
    if one.suffix == ".html":
        return WALL_TIME.sub("", one.read_text()) == WALL_TIME.sub("", other.read_text())
    if one.suffix != ".safetensors":
        return filecmp.cmp(one, other, shallow=False)
    with safe_open(str(one), "pt") as first, safe_open(str(other), "pt") as second:
        if first.metadata() != second.metadata() or set(first.keys()) != set(second.keys()):
            return False
        return all(torch.equal(first.get_tensor(n), second.get_tensor(n)) for n in first.keys())  # noqa: SIM118


def files_of(run: Path) -> set[str]:
    """Files of a run folder by name; Optuna's pictures have random names and are left out."""
    return {
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] != "artifacts"
    }


def repetitions(run: Path, config: ExperimentConfig) -> list[str]:
    """Candidates that were tried, recorded or completed more than once."""
    found = []
    timings = [json.loads(line) for line in (RunFolder(run).timings).read_text().splitlines()]
    measured = Counter((t["stage"], t["what"]) for t in timings if t["what"] != "training")
    found += [f"{what} was measured {n} times" for what, n in measured.items() if n > 1]
    recorded = Counter((trial.stage, trial.label) for trial in read_trials(run))
    found += [f"{what} is recorded {n} times" for what, n in recorded.items() if n > 1]
    storage = open_storage(config.search.storage, run)
    for stage in range(len(config.data.stages)):
        study = optuna.load_study(study_name=study_name(run, stage), storage=storage)
        ends = Counter(
            trial.user_attrs["candidate"]
            for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        )
        found += [f"stage {stage}: {c} completed {n} times" for c, n in ends.items() if n > 1]
        is_open = [t.number for t in study.trials if not t.state.is_finished()]
        found += [f"stage {stage}: trial {number} of the study is open" for number in is_open]
    return found


def experiment() -> ExperimentConfig:
    """The smoke experiment with all that a growth can carry along."""
    config = smoke_config()
    return replace(
        config,
        data=replace(config.data, stages=(128, 192, 256), workers=1),
        search=replace(config.search, num_trials=4),
        growth=replace(config.growth, moments="grow", depth_operator="gated", gate_steps=1000),
        train=replace(config.train, ema_decay=0.9, checkpoint_steps=2),
        passes=6.0,
    )

"""Run a study: every arm's rates, then every arm's seeds, by as many processes as work on it.

The folder is the state. A run that is there is not run again, one that was interrupted goes on,
and processes that share the folder share the work: each takes a run that no other one holds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas_growclip.compare.config import StudyConfig, Unit, unit_config
from nas_growclip.compare.folder import FAILURE_FILE, StudyFolder
from nas_growclip.compare.results import write_results
from nas_growclip.compare.shared_prefix import find_beginning, take_beginning
from nas_growclip.data.config import DataConfig
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_experiment
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.io.files import make_folder, try_locked, write_atomically
from nas_growclip.io.mappings import to_mapping
from nas_growclip.io.progress import say
from nas_growclip.training.loop import DivergedError

POLL_SECONDS = 1.0


class StudyWorker:
    """One process that works on a study.

    Args:
        study: The study's folder.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
    """

    def __init__(
        self, study: StudyFolder, data_folder: Path | None = None, device: str | None = None
    ) -> None:
        self.study = study
        self.data_folder = data_folder
        self.device = device
        self._opened: dict[str, Sequence[DataStage]] = {}

    def work(self) -> None:
        """Take runs until none is left, waiting for those that other processes hold."""
        while not self.study.is_finished:
            if not any(self._try_unit(unit) for unit in self.study.open_units()):
                time.sleep(POLL_SECONDS)

    def _try_unit(self, unit: Unit) -> bool:
        """Run a unit unless another process holds it; whether it was run."""
        folder = self.study.out / unit.path
        make_folder(folder.parent)
        with try_locked(folder.with_name(f".{folder.name}.lock")) as is_mine:
            if not is_mine or self.study.has_ended(unit):
                return False
            say(f"{unit.path}")
            try:
                self._run(unit, folder)
            except (DivergedError, StageFailedError) as error:
                reason = json.dumps({"reason": str(error)}) + "\n"
                write_atomically(folder / FAILURE_FILE, reason.encode())
                say(f"{unit.path} failed: {error}")
        return True

    def _run(self, unit: Unit, folder: Path) -> None:
        config = unit_config(self.study.config, unit)
        if not folder.exists():
            beginning = find_beginning(config, self._others(unit))
            if beginning is not None:
                say(f"{unit.path}: takes {beginning.num_stages} stages from {beginning.run}")
                take_beginning(config, folder, beginning)
        run_experiment(
            config,
            folder,
            data_folder=self.data_folder,
            device=self.device,
            stages=self._stages(config.data),
            with_report=False,
        )

    def _others(self, unit: Unit) -> Iterator[tuple[ExperimentConfig, Path]]:
        """The runs of other arms with a unit's seed and rate."""
        for arm in self.study.config.arms:
            if arm != unit.arm:
                other = unit._replace(arm=arm)
                yield unit_config(self.study.config, other), self.study.out / other.path

    def _stages(self, config: DataConfig) -> Sequence[DataStage]:
        """A data configuration's stages, opened once for all runs that share it."""
        key = json.dumps(to_mapping(config))
        if key not in self._opened:
            self._opened[key] = open_stages(config, self.data_folder)
        return self._opened[key]


def run_study(
    config: StudyConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Run what is left of a study, then write its tables and figures.

    Args:
        config: The study.
        out: Its folder; made if it is not there, taken up again if it is.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
        workers: Processes at the same time on this machine; more may join by the same command.

    Returns:
        The folder of its results.

    Raises:
        ValueError: If the folder holds another study, data is bad, or a worker fails.
    """
    study = StudyFolder(config, out)
    worker = StudyWorker(study, Path(data_folder) if data_folder is not None else None, device)
    if workers > 1 and not study.is_finished:
        _run_workers(worker, workers)
    worker.work()
    return write_results(study)


def _run_workers(worker: StudyWorker, workers: int) -> None:
    """Let processes of their own do the work, the cores shared out among them."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    command = [sys.executable, "-m", "nas_growclip.compare.worker", str(worker.study.out)]
    command += ["--threads", str(threads)]
    if worker.data_folder is not None:
        command += ["--data", str(worker.data_folder)]
    if worker.device is not None:
        command += ["--device", worker.device]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if any(codes):
        raise ValueError(
            f"{worker.study.out}: a worker ended with exit code {max(codes, key=abs)}; its message "
            "is above. The same command goes on from here."
        )

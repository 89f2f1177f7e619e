"""Run a comparison: every arm's rates, then every arm's seeds, by as many processes as take part.

The folder is the state. A run that is there is not run again, one that was interrupted resumes,
and processes that share the folder share the work: each takes a run that no other one has locked.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas_growclip.compare.config import ArmRun, CompareConfig, run_config
from nas_growclip.compare.folder import COMPARISON_FILE, FAILURE_FILE, CompareFolder
from nas_growclip.compare.results import write_results
from nas_growclip.compare.shared_prefix import copy_shared_prefix, find_shared_prefix
from nas_growclip.data.config import DataConfig
from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.experiment.stage import StageFailedError
from nas_growclip.io.files import make_folder, try_locked, write_atomically
from nas_growclip.io.mappings import to_mapping
from nas_growclip.training.loop import DivergedError

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class CompareWorker:
    """One process that takes part in a comparison.

    Args:
        comparison: The comparison's folder.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
    """

    def __init__(
        self, comparison: CompareFolder, data_folder: Path | None = None, device: str | None = None
    ) -> None:
        self.comparison = comparison
        self.data_folder = data_folder
        self.device = device
        self._opened: dict[str, Sequence[DataStage]] = {}

    def work(self) -> None:
        """Take runs until none is left, waiting for those that other processes have locked."""
        while not self.comparison.is_finished:
            if not any(self._try_run(arm_run) for arm_run in self.comparison.open_runs()):
                time.sleep(POLL_SECONDS)

    def _try_run(self, arm_run: ArmRun) -> bool:
        """Do a run unless another process has locked it; whether it was run."""
        folder = self.comparison.out / arm_run.path
        make_folder(folder.parent)
        with try_locked(folder.with_name(f".{folder.name}.lock")) as is_mine:
            if not is_mine or self.comparison.has_ended(arm_run):
                return False
            _log.info(f"{arm_run.path}")
            try:
                self._run(arm_run, folder)
            except (DivergedError, StageFailedError) as error:
                reason = json.dumps({"reason": str(error)}) + "\n"
                write_atomically(folder / FAILURE_FILE, reason.encode())
                _log.warning(f"{arm_run.path} failed: {error}")
        return True

    def _run(self, arm_run: ArmRun, folder: Path) -> None:
        config = run_config(self.comparison.config, arm_run)
        if not folder.exists():
            prefix = find_shared_prefix(config, self._others(arm_run))
            if prefix is not None:
                _log.info(f"{arm_run.path}: copies {prefix.num_stages} stages of {prefix.run}")
                copy_shared_prefix(config, folder, prefix)
        run_stages(
            config,
            folder,
            data_folder=self.data_folder,
            device=self.device,
            stages=self._stages(config.data),
        )

    def _others(self, arm_run: ArmRun) -> Iterator[tuple[ExperimentConfig, Path]]:
        """The runs of other arms with a run's seed and rate."""
        for arm in self.comparison.config.arms:
            if arm != arm_run.arm:
                other = arm_run._replace(arm=arm)
                yield run_config(self.comparison.config, other), self.comparison.out / other.path

    def _stages(self, config: DataConfig) -> Sequence[DataStage]:
        """A data configuration's stages, opened once for all runs that share it."""
        key = json.dumps(to_mapping(config))
        if key not in self._opened:
            self._opened[key] = open_stages(config, self.data_folder)
        return self._opened[key]


def run_comparison(
    config: CompareConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Run what is left of a comparison, then write its tables and figures.

    Args:
        config: The comparison.
        out: Its folder; made if it is not there, resumed if it is.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
        workers: Processes at the same time on this machine; more may join by the same command.

    Returns:
        The folder of its results.

    Raises:
        ValueError: If the folder holds another comparison, data is bad, or a worker fails.
    """
    comparison = CompareFolder(config, out)
    worker = CompareWorker(
        comparison, Path(data_folder) if data_folder is not None else None, device
    )
    if workers > 1 and not comparison.is_finished:
        _run_workers(worker, workers)
    worker.work()
    return write_results(comparison)


def results_so_far(config: CompareConfig, out: str | Path) -> Path:
    """Write the tables and figures of the runs that are complete, and run nothing.

    Args:
        config: The comparison.
        out: Its folder; of its runs the records are enough, the models may be elsewhere.

    Returns:
        The folder of its results.

    Raises:
        ValueError: If the folder is not there or holds another comparison.
    """
    if not (Path(out) / COMPARISON_FILE).exists():
        raise ValueError(
            f"{out}: must be a comparison's folder, but has no {COMPARISON_FILE}. Check --out, or "
            "leave --so-far out to start."
        )
    return write_results(CompareFolder(config, out))


def _run_workers(worker: CompareWorker, workers: int) -> None:
    """Let other processes do the runs, each with its part of the cores."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    command = [sys.executable, "-m", "nas_growclip.compare.worker", str(worker.comparison.out)]
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
            f"{worker.comparison.out}: a worker ended with exit code {max(codes, key=abs)}; its "
            "message is above. The same command resumes from here."
        )

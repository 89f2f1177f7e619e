"""A run and its workers as jobs of a Slurm cluster, through submitit: ``growclip submit``.

The run is one job, each worker another one that may begin when the run has begun. A job that is
preempted or out of time is queued again, and resumes where it was. All of them need the run folder
on a disk that every machine sees.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from nas_growclip.cli.choices import Cluster
from nas_growclip.cli.options import DataFolder, ExperimentFile, RunOption, require_at_least_one
from nas_growclip.io.ranges import at_least, require_in_range
from nas_growclip.io.shipped import file_or_shipped

if TYPE_CHECKING:
    from submitit import AutoExecutor

_log = logging.getLogger(__name__)


@dataclass
class GrowclipJob:
    """One growclip command as a job."""

    arguments: tuple[str, ...]
    processes: int = 1
    """Above 1: those of torchrun, on the job's machine."""

    def __call__(self) -> None:
        """Run the command.

        Raises:
            RuntimeError: If it fails; its own words are in the job's log.
        """
        launcher = ["-m"]
        if self.processes > 1:
            count = f"--nproc-per-node={self.processes}"
            launcher = ["-m", "torch.distributed.run", "--standalone", count, "-m"]
        command = [sys.executable, *launcher, "nas_growclip", *self.arguments]
        code = subprocess.run(command, check=False).returncode
        if code:
            raise RuntimeError(f"growclip {' '.join(self.arguments)}: exit code {code}.")

    def checkpoint(self) -> Any:
        """What submitit queues when this job is stopped: the same again, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    experiment: ExperimentFile,
    out: RunOption,
    data: DataFolder = None,
    workers: Annotated[int, typer.Option(metavar="N", help="workers beside the run")] = 0,
    processes: Annotated[
        int, typer.Option(metavar="N", help="processes of torchrun, for the run's training")
    ] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="an option of sbatch, with _ for -, as in partition=gpu; may be given again",
        ),
    ] = None,
    cluster: Annotated[
        Cluster, typer.Option(help="local: processes of this machine, to try it")
    ] = "slurm",
) -> None:
    """Queue a run and its workers as jobs of a Slurm cluster, through submitit.

    Logs are in RUN/jobs; a job that is preempted or out of time is queued again and resumes.

    Example:
        growclip submit experiments/mine.yaml --out /shared/run --workers 7 --slurm partition=gpu
    """
    require_in_range("--workers", workers, at_least(0))
    require_at_least_one("--processes", processes)
    if workers and processes > 1:
        raise ValueError(
            f"--workers must be 0 where torchrun's {processes} processes share each model, but is "
            f"{workers}. Choose one of the two."
        )
    from nas_growclip.experiment.config import load_config
    from nas_growclip.experiment.run import prepare_folder

    experiment = file_or_shipped(experiment, "experiments")
    config = load_config(experiment)
    executor = make_executor(slurm or (), cluster, out / "jobs")
    prepare_folder(config, out)  # so that a worker finds it
    where = () if data is None else ("--data", str(data.resolve()))
    run = str(out.resolve())
    leader = GrowclipJob(("run", str(experiment.resolve()), "--out", run, *where), processes)
    queue_jobs(executor, leader, [GrowclipJob(("worker", run, *where))] * workers)


def queue_jobs(
    executor: "AutoExecutor", run: GrowclipJob, workers: Sequence[GrowclipJob]
) -> list[Any]:
    """Queue the run, then its workers, which begin when the run has begun.

    Returns:
        submitit's jobs, the run's first.
    """
    jobs = [executor.submit(run)]
    _log.info(f"job {jobs[0].job_id}: the run; its log is {jobs[0].paths.stderr}")
    if executor.cluster == "slurm":
        after = {"dependency": f"after:{jobs[0].job_id}"}
        executor.update_parameters(slurm_additional_parameters=after)
    for worker in workers:
        jobs.append(executor.submit(worker))
        _log.info(f"job {jobs[-1].job_id}: a worker")
    return jobs


def make_executor(settings: Sequence[str], cluster: Cluster, logs: Path) -> "AutoExecutor":
    """An executor of submitit with the given options of sbatch.

    Raises:
        ValueError: If submitit or Slurm is missing, or an option is unknown.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ValueError(
            f"submitit must be installed for this, but {error.name!r} is missing. "
            "Run: pip install 'nas_growclip[slurm]'."
        ) from None
    options = dict(map(parse_setting, settings))
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        if cluster == "local":  # which keeps no time unless it is told one
            executor.update_parameters(timeout_min=24 * 60)
        executor.update_parameters(name="growclip", **options)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(f"--cluster {cluster}: {error}") from None
    return executor


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``partition=gpu``, as submitit's ``slurm_partition``.

    Raises:
        ValueError: If it has another form.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--slurm must be KEY=VALUE, but got {text!r}.")
    return f"slurm_{key}", yaml.safe_load(value)

r"""A run and its workers as jobs of a Slurm cluster, through submitit.

    python -m nas_growclip.cli.slurm EXPERIMENT --out RUN --workers 7 --slurm partition=gpu \
        --slurm gpus_per_node=1 --slurm time=1440

The run is one job, each worker another one that may begin when the run has begun. A job that is
preempted or out of time is queued again, and goes on where it was. All of them need the run folder
on a disk that every machine sees.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from submitit import Executor

_log = logging.getLogger(__name__)

BAD_INPUT = 2


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
        """What submitit queues when this job is stopped: the same again, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main(arguments: Sequence[str] | None = None) -> int:
    """Queue the jobs and print their numbers."""
    options = make_parser().parse_args(arguments)
    try:
        submit(options)
    except (ValueError, OSError) as error:
        print(f"nas_growclip.cli.slurm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m nas_growclip.cli.slurm", description="Queue a run and its workers."
    )
    parser.add_argument("experiment", type=Path, metavar="EXPERIMENT", help="YAML file")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where data paths start")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="beside the run")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="of torchrun, for the run's training"
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of sbatch, with _ for -, as in partition=gpu; may be repeated",
    )
    parser.add_argument(
        "--cluster",
        default="slurm",
        choices=("slurm", "local"),
        help="local: processes of this machine, to try it",
    )
    return parser


def submit(options: argparse.Namespace) -> list[Any]:
    """Queue the run, then its workers.

    Returns:
        submitit's jobs, the run's first.

    Raises:
        ValueError: If an option is bad, the experiment is, or there is no Slurm.
    """
    from nas_growclip.experiment.config import load_config
    from nas_growclip.experiment.run import prepare_folder

    if options.workers and options.processes > 1:
        raise ValueError(
            f"--workers must be 0 where torchrun's {options.processes} processes share each "
            f"model, but is {options.workers}. Choose one of the two."
        )
    config = load_config(options.experiment)
    data = [] if options.data is None else ["--data", str(options.data.resolve())]
    run = str(options.out.resolve())
    prepare_folder(config, options.out)  # so that a worker finds it
    executor = make_executor(options, options.out / "jobs")
    arguments = ("run", str(options.experiment.resolve()), "--out", run, *data)
    jobs = [executor.submit(GrowclipJob(arguments, options.processes))]
    _log.info(f"job {jobs[0].job_id}: the run; its log is {jobs[0].paths.stderr}")
    if options.cluster == "slurm":
        after = {"dependency": f"after:{jobs[0].job_id}"}
        executor.update_parameters(slurm_additional_parameters=after)
    for _ in range(options.workers):
        jobs.append(executor.submit(GrowclipJob(("worker", run, *data))))
        _log.info(f"job {jobs[-1].job_id}: a worker")
    return jobs


def make_executor(options: argparse.Namespace, logs: Path) -> "Executor":
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
    settings = {}
    for setting in options.slurm:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise ValueError(f"--slurm must be KEY=VALUE, but got {setting!r}.")
        settings[f"slurm_{key}"] = yaml.safe_load(value)
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=options.cluster)
        if options.cluster == "local":  # which keeps no time unless it is told one
            executor.update_parameters(timeout_min=24 * 60)
        executor.update_parameters(name="growclip", **settings)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(f"--cluster {options.cluster}: {error}") from None
    return executor


if __name__ == "__main__":
    sys.exit(main())

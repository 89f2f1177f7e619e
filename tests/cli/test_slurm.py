"""A run and its workers as jobs: of submitit on this machine, and by a stand-in for sbatch."""

import os
import stat
from pathlib import Path

import pytest

from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.cli.slurm import GrowclipJob, make_executor, queue_jobs
from nas_growclip.experiment.run import is_complete, prepare_folder
from nas_growclip.records.folder import read_trials
from nas_growclip.search.config import SearchConfig
from tests.support.forked_python import forking_python
from tests.support.runs import ROOT, SMOKE, small_config

pytest.importorskip("submitit")

SBATCH = """#!/bin/sh
cat "$1" >> {log}
echo "Submitted batch job $(wc -l < {log})"
"""


@pytest.mark.slow
def test_run_and_worker_as_local_jobs_end_the_run(tmp_path: Path) -> None:
    out, experiment = tmp_path / "run", tmp_path / "small.yaml"
    config = small_config(search=SearchConfig(num_trials=2, trial_share=0.3, curve_points=2))
    experiment.write_text(config.to_yaml())
    prepare_folder(config, out)
    run = GrowclipJob(("run", str(experiment), "--out", str(out)))
    workers = [GrowclipJob(("worker", str(out)))]
    with forking_python():
        jobs = queue_jobs(make_executor((), "local", out / "jobs"), run, workers)
        assert [job.result() for job in jobs] == [None, None], jobs[0].stderr()
    assert is_complete(config, out)
    assert "the run in" in (jobs[1].stderr() or "")
    labels = [(trial.stage, trial.label) for trial in read_trials(out)]
    assert len(labels) == len(set(labels))


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs by Slurm's names; what sbatch was given is in the file."""
    log, programs = tmp_path / "submitted", tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH.format(log=log)), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return log


def test_options_reach_sbatch_and_workers_begin_after_the_run(sbatch: Path, tmp_path: Path) -> None:
    options = ["--workers", "2", "--slurm", "partition=gpu", "--slurm", "gpus_per_node=1"]
    assert main(["submit", str(SMOKE), "--out", str(tmp_path / "run"), *options]) == 0
    scripts = sbatch.read_text().split("#!/bin/bash")[1:]
    assert len(scripts) == 3
    assert all("#SBATCH --partition=gpu" in script for script in scripts)
    assert all("#SBATCH --gpus-per-node=1" in script for script in scripts)
    first = len(("#!/bin/bash" + scripts[0]).splitlines())
    after = [f"#SBATCH --dependency=after:{first}" in script for script in scripts]
    assert after == [False, True, True]
    assert (tmp_path / "run" / "config.yaml").exists()


def test_a_stopped_job_is_queued_again_as_it_was() -> None:
    job = GrowclipJob(("run", "experiment.yaml", "--out", "run"), 8)
    assert job.checkpoint().function == job


def test_a_failing_command_is_a_failed_job() -> None:
    with pytest.raises(RuntimeError, match="growclip report nowhere: exit code 2"):
        GrowclipJob(("report", "nowhere"))()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm", "partition"], "--slurm must be KEY=VALUE, but got 'partition'"),
        (["--slurm", "no_such_option=1"], "no_such_option"),
        (["--workers", "1", "--processes", "2"], "--workers must be 0 where torchrun's 2"),
    ],
)
def test_bad_options_are_refused(
    options: list[str],
    message: str,
    sbatch: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["submit", str(SMOKE), "--out", str(tmp_path / "run"), *options]) == BAD_INPUT
    assert message in capsys.readouterr().err
    assert not sbatch.exists()


def test_without_slurm_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(ROOT))
    assert main(["submit", str(SMOKE), "--out", str(tmp_path / "run")]) == BAD_INPUT
    assert "srun" in capsys.readouterr().err

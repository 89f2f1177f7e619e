"""``growclip nni``: an experiment is started, looked at and stopped, and nothing of it is left."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.experiment.run import prepare_folder
from nas_growclip.records.folder import RunFolder
from nas_growclip.search.nni.experiment import NniExperiment, Running, check_installed
from tests.support.runs import smoke_config

pytestmark = pytest.mark.skipif(
    find_spec("nni") is None, reason="NNI is not installed: nas_growclip[nni]"
)


def by_hand() -> Any:
    """The module of the three commands, which needs NNI."""
    check_installed()
    return import_module("nas_growclip.search.nni.by_hand")


def processes(folder: Path) -> list[Any]:
    found: list[Any] = import_module("nas_growclip.search.nni.processes").find_processes(folder)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose first stage is still to be searched."""
    config = smoke_config()
    data = replace(config.data, stages=(256,), validation_pairs=32, test_pairs=32, zero_shot=())
    prepare_folder(replace(config, data=data), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def folder(run: Path) -> Iterator[Path]:
    """Where the run's first stage has its experiment; whatever the test does, it ends."""
    made = RunFolder(run).stage(0).nni_by_hand
    yield made
    import_module("nas_growclip.search.nni.processes").kill_processes(made.resolve())


@pytest.mark.slow
def test_it_is_created_looked_at_and_stopped(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ["nni", "create", str(run), "--trials", "1", "--device", "cpu"]
    assert main(create) == 0
    said = capsys.readouterr().out
    made = json.loads((folder / by_hand().STATE_FILE).read_text())
    assert f"NNI experiment {made['id']} runs at http://localhost:{made['port']}" in said
    (first,) = by_hand().status(folder).ended or [None]
    assert first is None or first.state == "complete"
    assert main(create) == BAD_INPUT
    assert f"one NNI experiment at a time, but {made['id']} runs" in capsys.readouterr().err
    while not by_hand().status(folder).ended:
        time.sleep(0.5)
    assert main(["nni", "status", str(run)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert "1 ended, 0 running, 0 waiting" in head
    assert ": complete; default 0." in line
    assert "score" in line
    assert main(["nni", "stop", str(run)]) == 0
    assert processes(folder) == []
    records = sorted(path.stem for path in (folder / "records").glob("*.json"))
    assert "none" in records
    assert len(records) == 2
    assert not (RunFolder(run).trials).exists()
    assert main(["nni", "stop", str(run)]) == BAD_INPUT
    assert "must have one NNI experiment unless --stage" in capsys.readouterr().err


def failing(folder: Path, **changes: Any) -> NniExperiment:
    command = (sys.executable, "-c", "raise SystemExit('out of everything')")
    space = {"x": {"_type": "choice", "_value": [1, 2]}}
    made = NniExperiment(name="test", space=space, command=command, folder=folder, num_trials=2)
    return replace(made, **changes)


def test_a_first_trial_that_fails_is_told_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NNI's list of trials is given: a real trial may be seen running before it fails."""
    manager = SimpleNamespace(id="x", port=1, _proc=SimpleNamespace(returncode=None))
    jobs = iter([("WAITING",), ("WAITING", "FAILED")])
    log = folder / "log"
    left: list[subprocess.Popen[bytes]] = []

    def job(status: str) -> SimpleNamespace:
        given = {"sequenceId": 0, "hyperParameters": [SimpleNamespace(parameters={})]}
        return SimpleNamespace(status=status, finalMetricData=None, logPath=str(log), **given)

    def launch(*given: Any) -> Any:
        log.mkdir()
        (log / "trial.stderr").write_text("growclip nni-trial: out of everything\n")
        left.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        return Running(manager, ())

    manager.list_trial_jobs = lambda: [job(status) for status in next(jobs)]
    monkeypatch.setattr(by_hand(), "launch", launch)
    monkeypatch.setattr(by_hand(), "check", lambda running: "RUNNING")
    monkeypatch.setattr(by_hand(), "POLL_SECONDS", 0.0)
    with pytest.raises(ChildProcessError, match="it failed: growclip nni-trial: out of everything"):
        by_hand().create(failing(folder))
    assert [process.wait() for process in left] == [0]  # psutil has waited for it
    assert processes(folder) == []
    assert not by_hand().is_known(folder)


def test_a_tuner_that_does_not_start_is_told_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def fail(*given: Any) -> None:
        left.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        raise RuntimeError("Tuner did not connect in 10 seconds.")

    monkeypatch.setattr("nas_growclip.search.nni.experiment._start", fail)
    with pytest.raises(ChildProcessError, match="The last one: Tuner did not connect"):
        by_hand().create(failing(folder))
    assert [process.wait() for process in left] == [0, 0]  # psutil has waited for them
    assert processes(folder) == []
    assert not by_hand().is_known(folder)


def test_what_a_dead_manager_left_is_told_and_stopped(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir(parents=True)
    (folder / by_hand().STATE_FILE).write_text(json.dumps({"id": "gone", "port": 1}))
    with import_module("nas_growclip.search.nni.processes").marked(folder.resolve()):
        left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    assert main(["nni", "status", str(run)]) == 0
    assert "its manager does not answer" in capsys.readouterr().out
    assert main(["nni", "stop", str(run)]) == 0
    assert left.wait() == 0  # psutil has waited for it
    assert processes(folder) == []


def test_another_experiment_at_the_same_port_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    folder.mkdir(parents=True)
    (folder / by_hand().STATE_FILE).write_text(json.dumps({"id": "mine", "port": 8080}))
    monkeypatch.setattr(by_hand().rest, "get", lambda port, path: {"id": "another"})
    monkeypatch.setattr(by_hand().rest, "delete", lambda port, path: asked.append(path))
    assert by_hand().stop(folder).id == "mine"
    assert asked == []


def test_a_space_without_candidates_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunFolder(run).config
    text = config.read_text()
    assert "from_pairs: 0" in text
    config.write_text(text.replace("from_pairs: 0", "from_pairs: 100000"))
    assert main(["nni", "create", str(run), "--device", "cpu"]) == BAD_INPUT
    assert "must have a candidate, but has none" in capsys.readouterr().err

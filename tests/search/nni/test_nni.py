"""NNI: the trial command, and an experiment's start, end and processes."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from nas_growclip.cli import nni_trial
from nas_growclip.cli.main import BAD_INPUT, main, make_command
from nas_growclip.cli.nni_trial import FAILED, Reports, try_candidate
from nas_growclip.experiment.run import prepare_folder
from nas_growclip.experiment.stage_setup import open_stage
from nas_growclip.experiment.trial import trained_trial
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.growth.space import load_space
from nas_growclip.models.arch import ClipArch
from nas_growclip.search.nni.experiment import (
    ASSESSORS,
    TUNERS,
    NniExperiment,
    NniTrial,
    check_installed,
    run_nni_experiment,
)
from nas_growclip.search.nni.space import candidate_from_nni, nni_space, sample_label
from nas_growclip.training.loop import DivergedError
from tests.support.runs import ROOT, smoke_config

needs_nni = pytest.mark.skipif(
    find_spec("nni") is None, reason="NNI is not installed: nas_growclip[nni]"
)
SAMPLE = {"grow": {"_name": "image.width", "image.width": 64.0}}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SLEEP = ("sleep", "600")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose first stage is still to be searched."""
    folder = tmp_path_factory.mktemp("nni") / "run"
    config = smoke_config()
    data = replace(config.data, stages=(256,), validation_pairs=32, test_pairs=32, zero_shot=())
    prepare_folder(replace(config, data=data), folder)
    return folder


@dataclass
class FakeNni:
    """What a trial tells NNI."""

    sample: dict[str, Any] | None
    intermediate: list[dict[str, float]] = field(default_factory=list)
    final: list[dict[str, float]] = field(default_factory=list)


@pytest.fixture
def fake_nni(monkeypatch: pytest.MonkeyPatch) -> FakeNni:
    fake, module = FakeNni(SAMPLE), ModuleType("nni")
    module.get_next_parameter = lambda: fake.sample  # type: ignore[attr-defined]
    module.report_intermediate_result = fake.intermediate.append  # type: ignore[attr-defined]
    module.report_final_result = fake.final.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nni", module)
    monkeypatch.delenv("NNI_PLATFORM", raising=False)
    monkeypatch.delenv("NNI_TRIAL_COMMAND_CHANNEL", raising=False)
    return fake


def arguments(run: Path, *more: str) -> list[str]:
    return ["nni-trial", "--run", str(run), "--device", "cpu", *more]


@pytest.mark.parametrize("momenta", [(), (0.5, 0.9)])
def test_a_samples_label_is_its_candidates(momenta: tuple[float, ...]) -> None:
    arch = ClipArch.preset("tiny")
    space = load_space("tiny")
    found = [c for c in space.candidates(arch, 50_000) if c.grows]
    candidates = [replace(c, momentum=m) for c in found for m in momenta or (None,)]
    for item in nni_space(candidates)["grow"]["_value"]:
        sizes = {name: choice["_value"][-1] for name, choice in item.items() if name != "_name"}
        sample = {"grow": {"_name": item["_name"], **sizes}}
        assert sample_label(sample) == candidate_from_nni(sample, candidates).label
    assert sample_label({}) == NO_GROWTH.label


def test_trial_reports_its_curve_and_its_score(
    run: Path, tmp_path: Path, fake_nni: FakeNni
) -> None:
    assert main(arguments(run, "--trials", str(tmp_path))) == 0
    stage = open_stage(run, trials=tmp_path)
    records = sorted(path.name for path in tmp_path.glob("*.json"))
    assert records == ["image.width=64.json", "none.json"]
    curve = json.loads((tmp_path / "image.width=64.json").read_text())["curve"][1:]
    assert len(curve) == stage.config.search.curve_points
    assert fake_nni.intermediate == [
        {"default": math.exp(-loss), "loss": loss} for _, loss in curve
    ]
    (final,) = fake_nni.final
    assert final.keys() == {"default", "score", "loss", "flops", "params"}
    assert final["loss"] == curve[-1][1]
    assert final["score"] != 0
    control = json.loads((tmp_path / "none.json").read_text())["metrics"]["loss"]
    assert final["default"] == math.exp(final["score"] - control)


def test_recorded_trial_is_not_trained_again(
    run: Path, tmp_path: Path, fake_nni: FakeNni, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(run, "--trials", str(tmp_path))) == 0
    curve, final = list(fake_nni.intermediate), list(fake_nni.final)
    fake_nni.intermediate.clear()
    monkeypatch.setattr("nas_growclip.experiment.trial.trained_trial", None)
    assert main(arguments(run, "--trials", str(tmp_path))) == 0
    assert fake_nni.intermediate == curve
    assert fake_nni.final == [*final, *final]


def test_alone_it_tries_no_growth(
    run: Path, tmp_path: Path, fake_nni: FakeNni, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nni.sample = {}
    assert main(arguments(run, "--trials", str(tmp_path))) == 0
    assert fake_nni.final[0]["score"] == 0
    assert fake_nni.final[0]["default"] == fake_nni.intermediate[-1]["default"]
    assert len(fake_nni.intermediate) == 3
    assert "no growth is tried" in capsys.readouterr().err


def test_candidate_by_hand_needs_no_nni(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)
    assert main(arguments(run, "--trials", str(tmp_path), "--candidate", "text.depth=2")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.keys() for line in lines[:3]] == [{"default", "loss"}] * 3
    assert lines[3].keys() == {"default", "score", "loss", "flops", "params"}


def test_failed_trial_gives_one_line_and_a_failing_code(
    run: Path,
    tmp_path: Path,
    fake_nni: FakeNni,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverge(stage: Any, candidate: Any, *rest: Any) -> Any:
        if candidate.grows:
            raise DivergedError("the loss is nan")
        return trained_trial(stage, candidate, *rest)

    monkeypatch.setattr("nas_growclip.experiment.trial.trained_trial", diverge)
    assert main(arguments(run, "--trials", str(tmp_path))) == FAILED
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "growclip nni-trial: image.width=64: failed: DivergedError: the loss is nan"
    assert fake_nni.final == []


def test_failed_control_is_told_before_the_candidate_is_trained(
    run: Path,
    tmp_path: Path,
    fake_nni: FakeNni,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverge(*_: Any) -> Any:
        raise DivergedError("the loss is nan")

    monkeypatch.setattr("nas_growclip.experiment.trial.trained_trial", diverge)
    assert main(arguments(run, "--trials", str(tmp_path))) == BAD_INPUT
    assert "The control trial of stage 0 must complete" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.json")] == ["none.json"]


def test_infinite_loss_is_not_reported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = open_stage(run, trials=tmp_path)
    losses = (math.nan, math.inf, 2.0)

    def measured(stage: Any, number: int, candidate: Any, report: Any) -> Any:
        for point, loss in enumerate(losses, start=1):
            assert report(point, loss) is False
        raise ValueError("enough")

    monkeypatch.setattr("nas_growclip.experiment.trial.measure_candidate", measured)
    told: list[dict[str, float]] = []
    with pytest.raises(ValueError, match="enough"):
        try_candidate(stage, 0, NO_GROWTH, Reports(told.append, told.append))
    assert told == [{"default": math.exp(-2.0), "loss": 2.0}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threads", "0"], "--threads: must be 1 or more, but got 0."),
        (["--candidate", "image.width=65"], "--candidate: must be one of none, "),
        (["--stage", "3"], "stage must be between 0 and 0"),
    ],
)
def test_bad_options_are_told(
    run: Path,
    tmp_path: Path,
    fake_nni: FakeNni,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main(arguments(run, "--trials", str(tmp_path), *more)) == BAD_INPUT
    assert message in capsys.readouterr().err


def test_missing_nni_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nni", None)
    assert main(arguments(run)) == BAD_INPUT
    assert "NNI must be installed for this, but 'nni' is missing" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"Run: pip install 'nas_growclip\[nni\]'"):
        check_installed()


def test_ended_experiment_is_told(
    run: Path, fake_nni: FakeNni, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_nni.sample = None
    assert main(arguments(run)) == BAD_INPUT
    assert "NNI's experiment must be running, but has ended." in capsys.readouterr().err


@pytest.mark.parametrize("service", ["local", "remote"])
def test_trial_takes_the_row_that_nni_shows_for_it(
    service: str, fake_nni: FakeNni, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = {"parameter_id": 7, "parameters": {"grow": {"_name": "none"}}}
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"hyperParameters": [json.dumps(row)]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    trial_module = ModuleType("nni.trial")
    sys.modules["nni"].trial = trial_module  # type: ignore[attr-defined]
    sys.modules["nni"].get_trial_id = lambda: "abc12"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nni.trial", trial_module)
    with HTTPServer(("localhost", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"localhost:{server.server_port}"
        if service == "remote":  # the channel is a keeper's, which has no table
            keeper = tmp_path / "trial_keeper" / "trial_keeper_config.json"
            keeper.parent.mkdir()
            told = {"managerCommandChannel": f"ws://{address}/platform/remote/1"}
            keeper.write_text(json.dumps(told))
            monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path / "trials" / "abc12"))
            address = "localhost:9"
        channel = f"http://{address}/env/an-env/abc12"
        monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", channel)
        sample, _ = nni_trial.ask_nni()
    assert sample == row["parameters"]
    assert trial_module._params == row  # type: ignore[attr-defined]
    assert asked == ["/api/v1/nni/trial-jobs/abc12"]


def test_under_nni_an_interrupt_ends_the_trial_by_signal(
    run: Path, fake_nni: FakeNni, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("NNI_PLATFORM", "local")
    try:
        main(arguments(run, "--threads", "0"))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def experiment(folder: Path, **changes: Any) -> NniExperiment:
    settings: dict[str, Any] = {
        "name": "test",
        "space": {"x": {"_type": "choice", "_value": [1, 2, 3, 4]}},
        "command": SLEEP,
        "folder": folder,
        "num_trials": 4,
    }
    return NniExperiment(**(settings | changes))


@pytest.mark.parametrize("what", ["tuner", "assessor"])
def test_unknown_algorithm_is_told(what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"NNI's {what}: must be one of .*but got 'SMAC'"):
        experiment(tmp_path, **{what: "SMAC"})


def nni_algorithm(name: str, arguments: dict[str, Any] | None, kind: str) -> Any:
    package_utils = import_module("nni.tools.package_utils")
    return package_utils.create_builtin_class_instance(name, arguments, kind)


@needs_nni
@pytest.mark.parametrize("name", TUNERS)
def test_tuner_proposes_candidates(name: str, run: Path) -> None:
    candidates = open_stage(run).plan.candidates
    tuner = nni_algorithm(name, TUNERS[name](2**31 - 1), "tuners")
    tuner.update_search_space(nni_space(candidates))
    for number in range(3):
        sample = tuner.generate_parameters(number)
        assert candidate_from_nni(sample, candidates) in candidates
        tuner.receive_trial_result(number, sample, {"default": float(number), "flops": 1.0})
        tuner.trial_end(number, True)


@pytest.fixture
def quiet_fits() -> Iterator[None]:
    """Curvefitting's fits of short curves warn of what they cannot fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"nni\.algorithms\.hpo\.curvefitting_assessor")
        yield


@needs_nni
@pytest.mark.usefixtures("quiet_fits")
@pytest.mark.parametrize("name", sorted(set(ASSESSORS) - {"none"}))
def test_assessor_stops_the_worse_and_spares_the_better(name: str) -> None:
    good = [3.0, 2.6, 2.4, 2.3, 2.22, 2.17]
    bad = [3.3, 3.2, 3.12, 3.08, 3.06, 3.05]
    better = [0.9 * loss for loss in good]
    assessor = nni_algorithm(name, ASSESSORS[name](len(good)), "assessors")

    def stops(trial: str, losses: list[float]) -> bool:
        told = [{"default": math.exp(-loss), "loss": loss} for loss in losses]
        answers = [assessor.assess_trial(trial, told[:end]) for end in range(1, len(told) + 1)]
        return any(answer is not None and not answer.value for answer in answers)

    assert not stops("first", good)
    assessor.trial_end("first", True)
    assert not stops("same", good)
    assert not stops("better", better)
    assert stops("bad", bad)


def trial_options(arguments: list[str]) -> dict[str, Any]:
    """The options of ``growclip nni-trial ...`` as the command gets them."""
    name, *options = arguments
    parsed: dict[str, Any] = make_command().commands[name].make_context(name, options).params
    return parsed


@needs_nni
def test_config_of_the_remote_service_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "experiments" / "nni" / "remote.yml").read_text()
    path, shared, home = tmp_path / "nni" / "remote.yml", tmp_path / "shared", tmp_path / "home"
    (shared / "runs" / "demo" / "stage_02").mkdir(parents=True)
    (shared / "runs" / "demo" / "stage_02" / "search_space.json").write_text("{}")
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_text("a key")
    path.parent.mkdir()
    path.write_text(text.replace("/SHARED", str(shared)))
    monkeypatch.setenv("HOME", str(home))
    config = import_module("nni.experiment").ExperimentConfig.load(path)
    config.validate()
    assert config.training_service.platform == "remote"
    assert [machine.host for machine in config.training_service.machine_list] == [
        "10.0.0.2",
        "10.0.0.3",
    ]
    program, *arguments = shlex.split(config.trial_command)
    folders = {str(machine.python_path) for machine in config.training_service.machine_list}
    assert (folders, Path(program).name) == ({str(Path(program).parent)}, "growclip")
    assert trial_options(arguments)["run"] == shared / "runs" / "demo"
    assert "without a login" in text


@needs_nni
def test_config_of_nnictl_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "experiments" / "nni" / "config.yml").read_text()
    settings = yaml.safe_load(text)
    path = tmp_path / "experiments" / "nni" / "config.yml"
    space = (path.parent / settings["searchSpaceFile"]).resolve()
    for file, content in ((path, text), (space, "{}")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    config = import_module("nni.experiment").ExperimentConfig.load(path).canonical_copy()
    assert Path(config.training_service.trial_code_directory) == tmp_path
    assert Path(config.experiment_working_directory) == tmp_path / "runs" / "nni"
    program, *arguments = shlex.split(config.trial_command)
    assert program == ".venv/bin/growclip"
    given = trial_options(arguments)
    stage = f"stage_{given['stage']:02d}"
    assert space == tmp_path / given["run"] / stage / "search_space.json"
    assert "without a login" in text


HEEDS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
OWNER = """
import subprocess, sys, time
from pathlib import Path
from nas_growclip.search.nni.processes import guarded, marked
folder = Path(sys.argv[1])
with guarded(folder), marked(folder):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("started", flush=True)
    time.sleep(float(sys.argv[2]))
"""
EXPERIMENT_OWNER = """
import sys
from pathlib import Path
from nas_growclip.search.nni.experiment import NniExperiment, run_nni_experiment
run_nni_experiment(NniExperiment(
    name="test", space={"x": {"_type": "choice", "_value": [1, 2, 3, 4]}},
    command=("sleep", "600"), folder=Path(sys.argv[1]), num_trials=4, workers=2,
))
"""


def guard() -> Any:
    """The module of the processes, which needs NNI's psutil."""
    return import_module("nas_growclip.search.nni.processes")


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Have a process of its own run a script: one that ends by Ctrl+C even if this one does not."""
    code = HEEDS_CTRL_C + script
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def processes(folder: Path) -> list[str]:
    """Command lines of an experiment's processes, and of its watchdog."""
    found = [guard().command_line(process) for process in guard().find_processes(folder)]
    return found + watchdogs(folder)


def watchdogs(folder: Path) -> list[str]:
    lines = [guard().command_line(process) for process in guard().psutil.process_iter()]
    return [line for line in lines if "nni/processes.py" in line and str(folder) in line]


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.2)


@needs_nni
@pytest.mark.parametrize("end", [None, *SIGNALS])
def test_marked_processes_end_with_their_owner(tmp_path: Path, end: signal.Signals | None) -> None:
    with start(OWNER, tmp_path, 600 if end else 0.5) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        assert len(processes(tmp_path)) == 2
        if end:
            owner.send_signal(end)
        owner.communicate()
    assert owner.returncode == (-end if end else 0)
    wait_until(lambda: not processes(tmp_path), 10)


@needs_nni
def test_what_an_earlier_owner_left_is_killed(tmp_path: Path) -> None:
    with guard().marked(tmp_path):
        left = subprocess.Popen(SLEEP)
    assert processes(tmp_path) == ["sleep 600"]
    with guard().guarded(tmp_path):
        assert processes(tmp_path) == watchdogs(tmp_path)
    left.wait(10)


@needs_nni
def test_mark_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    with guard().marked(tmp_path):
        assert os.environ[guard().MARK] == str(tmp_path)
        assert os.environ["no_proxy"] == "example.org,localhost"
    assert guard().MARK not in os.environ
    assert "no_proxy" not in os.environ


@needs_nni
def test_folder_has_one_owner(tmp_path: Path) -> None:
    with (
        guard().guarded(tmp_path),
        pytest.raises(ValueError, match="must be used by one NNI experiment at a time"),
        guard().guarded(tmp_path),
    ):
        pass


@needs_nni
@pytest.mark.slow
@pytest.mark.long("NNI's tuner, its manager and a trial are new processes")
def test_experiment_runs_a_warm_started_trial(run: Path, tmp_path: Path) -> None:
    candidates = open_stage(run).plan.candidates
    command = [sys.executable, "-m", "nas_growclip", "nni-trial", "--run", str(run)]
    command += ["--trials", str(tmp_path / "trials"), "--device", "cpu", "--threads", "1"]
    told: list[NniTrial] = []
    trials = run_nni_experiment(
        experiment(
            tmp_path / "nni",
            space=nni_space(candidates),
            command=tuple(command),
            num_trials=1,
        ),
        told.append,
    )
    assert processes(tmp_path / "nni") == []
    assert told == list(trials)
    assert [trial.state for trial in trials] == ["complete"]
    for trial in trials:
        candidate = candidate_from_nni(trial.parameters, candidates)
        record = tmp_path / "trials" / f"{candidate.label}.json"
        assert json.loads(record.read_text())["metrics"]["loss"] == trial.metrics["loss"]
        assert trial.metrics.keys() == {"default", "score", "loss", "flops", "params"}
        assert len(trial.curve) == 3
        assert trial.curve[-1]["loss"] == trial.metrics["loss"]


@needs_nni
@pytest.mark.slow
def test_failed_trials_have_their_last_line(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('out of everything')")
    told: list[NniTrial] = []
    made = experiment(tmp_path, command=command, num_trials=2, workers=2)
    trials = run_nni_experiment(made, told.append)
    assert sorted(told, key=lambda trial: trial.number) == list(trials)
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert [trial.message for trial in trials] == ["out of everything"] * 2
    assert processes(tmp_path) == []


@needs_nni
@pytest.mark.slow
def test_death_of_the_tuner_ends_the_experiment(tmp_path: Path) -> None:
    def kill_tuner() -> None:
        wait_until(lambda: "sleep 600" in processes(tmp_path), 120)
        for process in guard().find_tuner(tmp_path):
            process.kill()

    killer = threading.Thread(target=kill_tuner)
    killer.start()
    with pytest.raises(ChildProcessError, match="but its tuner has died"):
        run_nni_experiment(experiment(tmp_path))
    killer.join()
    assert processes(tmp_path) == []


@needs_nni
@pytest.mark.slow
@pytest.mark.parametrize("end", SIGNALS)
def test_no_process_outlives_an_interrupted_experiment(tmp_path: Path, end: signal.Signals) -> None:
    with start(EXPERIMENT_OWNER, tmp_path) as owner:
        wait_until(lambda: processes(tmp_path).count("sleep 600") == 2, 120)
        assert len(watchdogs(tmp_path)) == 1
        owner.send_signal(end)
        owner.communicate()
    assert owner.returncode == -end
    wait_until(lambda: not processes(tmp_path), 10)

"""Workers on one stage: each candidate once, whoever dies, on every kind of storage."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import prepare_folder, run_stages
from nas_growclip.experiment.worker import work
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.growth.space import GrowthSpace, SizeChoices
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Trial
from nas_growclip.records.folder import RunFolder, read_stages, read_trials
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.loop import Report, search
from nas_growclip.search.optuna.backend import OptunaSearch, is_open, study_name
from nas_growclip.search.optuna.liveness import LivenessMonitor, host_and_process, identity, is_gone
from nas_growclip.search.optuna.storage import open_storage
from nas_growclip.search.protocol import Proposal, SearchTask
from nas_growclip.training.events import at
from tests.support.candidates import grown
from tests.support.faults import both, die_at, fail_at, in_step
from tests.support.postgres import PostgresServer, missing_postgres, postgres_server
from tests.support.processes import Child, forked, started
from tests.support.runs import ROOT, smoke_config

pytestmark = pytest.mark.usefixtures("close_connections")

STORAGES = ("sqlite", "journal", "postgresql")
DEADLINE = 240.0
"""Seconds for what takes a few on an idle machine."""


# Storages.


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if missing_postgres():
        pytest.skip(missing_postgres())
    with postgres_server() as server:
        yield server


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str | None:
    """A setting of ``search.storage`` that holds nothing yet."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database(f"test_{time.monotonic_ns()}")
    return None if request.param == "sqlite" else "journal"


# Who is there.

TELL_AND_WAIT = (
    "from nas_growclip.search.optuna.liveness import *; print(identity(), flush=True); input()"
)


@contextmanager
def another_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that waits, and its identity."""
    command = [sys.executable, "-c", TELL_AND_WAIT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_this_process_is_there() -> None:
    assert identity() == identity()
    assert is_gone(identity()) is False
    assert host_and_process(identity()).endswith(f", process {os.getpid()}")


def test_other_process_is_gone_as_soon_as_it_is_killed() -> None:
    with another_process() as (process, worker):
        assert is_gone(worker) is False
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(worker) is True  # its parent has not asked for its end: a zombie
        process.wait()
        assert is_gone(worker) is True


def test_another_process_of_the_same_number_is_not_the_worker() -> None:
    place_and_number, _, started = identity().rpartition(":")
    assert is_gone(f"{place_and_number}:{int(started) - 1}") is True


def test_worker_on_another_machine_or_in_another_container_is_not_judged() -> None:
    place, number, started = identity().rsplit(":", 2)
    assert is_gone(f"elsewhere-{place}:{number}:{started}") is None
    assert is_gone(f"{place}1:{number}:{started}") is None


def test_watch_counts_from_the_last_change_of_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = LivenessMonitor(10.0)
    assert not watch.is_silent(1, None)
    now = 109.0
    assert not watch.is_silent(1, 5)
    now = 118.0
    assert not watch.is_silent(1, 5)
    assert not watch.is_silent(2, 5)  # seen for the first time
    now = 119.0
    assert watch.is_silent(1, 5)
    assert not watch.is_silent(1, 6)


# Many processes ask at the same time.

ASKING = 4
ROUNDS = 1
SIZES = range(65, 90)
CANDIDATES = (
    NO_GROWTH,
    *(grown("image.mlp_width", 64, size) for size in SIZES),
)
LABELS = sorted(c.label for c in CANDIDATES)
together: Barrier


def set_barrier(barrier: Barrier) -> None:
    global together
    together = barrier


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes that begin at the same time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by each process
    barrier = context.Barrier(ASKING)
    with ProcessPoolExecutor(ASKING, context, set_barrier, (barrier,)) as executor:
        yield executor


def many_candidates(storage: str | None, run: Path, stage: int) -> SearchTask:
    """Twenty-six candidates; the first half of them waits in the study's queue."""
    return SearchTask(
        candidates=CANDIDATES,
        seed=7,
        stage=stage,
        run=run,
        config=SearchConfig(storage=storage, num_trials=len(CANDIDATES)),
        warm_start_candidates=CANDIDATES[1 : len(CANDIDATES) // 2],
    )


def instant_trial(proposal: Proposal, report: Report) -> Trial:
    """A made-up trial; one in three fails."""
    size = proposal.candidate.steps[0].new if proposal.candidate.grows else 64
    report(1, 1 / size)
    return Trial(
        stage=0,
        number=proposal.number,
        candidate=proposal.candidate,
        arch=ClipArch.preset("tiny"),
        flops=size,
        params=size,
        state="failed" if size % 3 == 0 else "complete",
        score=None if size % 3 == 0 else float(size),
    )


def ask_all(made: SearchTask) -> list[tuple[int, str]]:
    """Take part in a search; what this process tried."""
    tried = []

    def measure(proposal: Proposal, report: Report) -> Trial:
        tried.append((proposal.number, proposal.candidate.label))
        return instant_trial(proposal, report)

    backend = OptunaSearch(made)
    together.wait(DEADLINE)
    try:
        search(backend, measure, lambda trial: trial)
        assert len(backend.finished()) == len(CANDIDATES)
    finally:
        backend.close()
    return tried


@pytest.mark.slow
def test_processes_that_ask_at_once_share_the_candidates(
    storage: str | None, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    for stage in range(ROUNDS):
        made = many_candidates(storage, tmp_path, stage)
        first = OptunaSearch(made)  # the run's own process makes the study
        futures = [pool.submit(ask_all, made) for _ in range(ASKING)]
        tried = [each for future in futures for each in future.result(DEADLINE)]
        finished = [(q.number, q.candidate.label) for q in first.finished()]
        first.close()
        assert sorted(label for _, label in tried) == LABELS
        assert len({number for number, _ in tried}) == len(CANDIDATES)
        assert sorted(tried) == finished
        check_study(open_storage(storage, tmp_path), study_name(tmp_path, stage))


def check_study(storage: BaseStorage, name: str) -> None:
    """Nothing is left open, nobody was taken for dead."""
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert all(trial.state.is_finished() for trial in trials)
    assert not any("abandoned" in trial.user_attrs for trial in trials)
    kept = [trial for trial in trials if "surplus" not in trial.user_attrs]
    assert sorted(trial.user_attrs["candidate"] for trial in kept) == LABELS
    assert all("candidate" not in trial.user_attrs for trial in trials if trial not in kept)


def open_together(storage: str | None, run: Path) -> str:
    together.wait(DEADLINE)
    try:
        open_storage(storage, run)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_run_and_workers_may_make_the_storage_at_the_same_time(
    storage: str | None, pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    for number in range(5 if storage is None else 1):
        run = tmp_path / str(number)
        run.mkdir()
        futures = [pool.submit(open_together, storage, run) for _ in range(ASKING)]
        assert [future.result(DEADLINE) for future in futures] == [""] * ASKING


# A worker is killed in a trial.

STAGES = (128, 160)
NUM_TRIALS = 6
POINTS = 6


def small_experiment(
    storage: str | None, stages: tuple[int, ...] = STAGES, **search: Any
) -> ExperimentConfig:
    dimensions = {
        "image.mlp_width": SizeChoices(ratios=(1.5, 2.0, 3.0)),
        "text.mlp_width": SizeChoices(ratios=(1.5, 2.0)),
        "text.depth": SizeChoices(add=(1, 2)),
    }
    settings: dict[str, Any] = {"shortlist": None, "num_trials": NUM_TRIALS}
    settings |= {"trial_share": 0.5, "curve_points": POINTS}
    return smoke_config(
        space=GrowthSpace(dimensions=dimensions),
        data=replace(smoke_config().data, stages=stages, zero_shot=()),
        passes=6.0,
        search=SearchConfig(storage=storage, **settings | search),
    )


def stage_trials(storage: BaseStorage, run: Path, stage: int) -> list[FrozenTrial]:
    if not is_open(storage, study_name(run, stage)):
        return []
    return optuna.load_study(study_name=study_name(run, stage), storage=storage).trials


def process_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["worker"].split(":")[1]) if "worker" in trial.user_attrs else 0


@pytest.mark.slow
def test_killed_workers_candidate_is_tried_again_and_each_is_completed_once(
    storage: str | None, tmp_path: Path
) -> None:
    stages = STAGES if storage and "postgresql" in storage else STAGES[:1]
    config = small_experiment(storage, stages)
    run = tmp_path / "run"
    prepare_folder(config, run)
    opened = open_storage(storage, run)
    dying = tmp_path / "dying"

    def lead() -> None:
        run_stages(
            config, run, device="cpu", observer=at("trial_begins", lambda _: wait_for(dying))
        )

    def work_and_die() -> None:
        in_third = in_step(3, "trial of")
        tell = fail_at("step", dying.touch, in_third)
        work(run, device="cpu", observer=both(tell, die_at("step", 1, in_third)))

    leader = Child(forked(lead, tmp_path / "run.log"))
    worker = Child(forked(work_and_die, tmp_path / "worker.log"))
    try:
        assert worker.wait(DEADLINE) == -signal.SIGKILL, (tmp_path / "worker.log").read_text()
        with started(tmp_path / "another.log", "worker", str(run)) as another:
            assert leader.wait(DEADLINE) == 0, (tmp_path / "run.log").read_text()
            assert another.wait(DEADLINE) == 0, (tmp_path / "another.log").read_text()
    finally:
        leader.kill()
    check_lost_trial(stage_trials(opened, run, 0), worker.pid)
    for stage in range(len(stages)):
        check_records(run, stage)
        check_trials(stage_trials(opened, run, stage), run, stage)
    assert len(read_stages(run)) == len(stages)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_lost_trial(trials: list[FrozenTrial], killed: int) -> None:
    """The killed worker's trial is marked; another one has its number and its candidate."""
    (trial,) = [trial for trial in trials if "abandoned" in trial.user_attrs]
    assert (trial.state, process_of(trial)) == (TrialState.FAIL, killed)
    assert len(trial.intermediate_values) < POINTS
    (again,) = [
        other
        for other in trials
        if other.number != trial.number
        and other.user_attrs.get("number") == trial.user_attrs["number"]
    ]
    assert again.user_attrs["candidate"] == trial.user_attrs["candidate"]
    assert again.state == TrialState.COMPLETE
    assert process_of(again) != killed


def check_records(run: Path, stage: int) -> None:
    """Each candidate is recorded once, and was trained to its end once."""
    trials = [trial for trial in read_trials(run) if trial.stage == stage]
    assert [trial.number for trial in trials] == list(range(NUM_TRIALS))
    assert trials[0].label == "none"
    assert len({trial.label for trial in trials}) == NUM_TRIALS
    assert {trial.state for trial in trials} == {"complete"}
    assert all(trial.score is not None for trial in trials)
    timings = [json.loads(line) for line in (RunFolder(run).timings).read_text().splitlines()]
    measured = Counter(t["what"] for t in timings if t["stage"] == stage)
    assert measured.pop("training") == 1
    assert len(measured) == NUM_TRIALS
    assert set(measured.values()) == {1}


def check_trials(trials: list[FrozenTrial], run: Path, stage: int) -> None:
    """The study holds one completed trial a record, in the order of the records."""
    ends = {t.user_attrs["number"]: t for t in trials if t.state == TrialState.COMPLETE}
    recorded = [trial.label for trial in read_trials(run) if trial.stage == stage]
    assert [ends[number].user_attrs["candidate"] for number in sorted(ends)] == recorded
    others = [trial for trial in trials if trial not in ends.values()]
    assert {trial.state for trial in others} <= {TrialState.FAIL}
    assert all({"abandoned", "surplus"} & set(trial.user_attrs) for trial in others)
    assert not any("surplus" in t.user_attrs or "abandoned" in t.user_attrs for t in ends.values())


# The command.


def test_worker_needs_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", str(tmp_path)]) == BAD_INPUT
    assert "not a run folder: it has no config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["exhaustive", "random", "nni"])
def test_worker_needs_a_backend_that_is_shared(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_folder(small_experiment(None, backend=backend), tmp_path)
    assert main(["worker", str(tmp_path)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert f"search.backend must be 'optuna' for workers to join, but is '{backend}'" in said
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "format.json"}


def test_worker_leaves_when_its_patience_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_folder(small_experiment("journal"), tmp_path)
    began = time.monotonic()
    assert main(["worker", str(tmp_path), "--patience", "0.5"]) == 0
    assert 0.5 < time.monotonic() - began < DEADLINE
    assert "no work for 0.5 s; left" in capsys.readouterr().err
    assert not (RunFolder(tmp_path).trials).exists()

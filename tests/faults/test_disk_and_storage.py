"""Full and read-only disks, clocks that jump, storages that go away: told, and gone on from."""

import ast
import json
import logging
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection

import nas_growclip.search.optuna.storage as storage_module
from nas_growclip.cli.main import BAD_INPUT, main
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.experiment.run import run_stages
from nas_growclip.io.files import owned, remove_abandoned, temporary_suffix, write_atomically
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.lines import append_line
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.optuna.storage import open_storage
from tests.support.postgres import missing_postgres, postgres_programs, postgres_server
from tests.support.processes import ending, forked
from tests.support.runs import ROOT, records_of, smoke_config

pytestmark = pytest.mark.usefixtures("one_thread")

A_TRIAL_ENDED = "stage 0, trial 0: "


def small(storage: str | None = None, stages: tuple[int, ...] = (64, 96)) -> ExperimentConfig:
    config = smoke_config(
        data=replace(smoke_config().data, stages=stages, zero_shot=()),
        search=SearchConfig(
            num_trials=2, trial_share=0.3, curve_points=2, storage=storage, grace_seconds=2.0
        ),
        passes=2.0,
    )
    return replace(config, train=replace(config.train, checkpoint_steps=2))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_stages(small(), run)
    return run


# Disks.


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory; skips where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_module, "PATIENCE_S", 0.2)
    experiment, log = tmp_path / "small.yaml", tmp_path / "log"
    experiment.write_text(small().to_yaml())
    needed = sum(path.stat().st_size for path in undisturbed.rglob("*")) // 1024
    with mounted(tmp_path / "disk", "size=100k") as disk:
        out = disk / "run"
        command = ["run", str(experiment), "--out", str(out), "--device", "cpu"]
        ends = []
        for size in (100, 200, *(share * needed // 100 for share in (30, 60, 90))):
            remount(disk, f"size={size}k")
            ends.append(ending(forked(lambda: main(command), log)))
            said = log.read_text().splitlines()[-1]

            assert said.startswith("growclip: error: ")
            assert "cannot be written" in said or "search.storage: " in said
            assert "No space left" in said or "disk is full" in said or "disk I/O" in said
            assert not list(out.rglob("*.tmp"))
        assert set(ends) == {BAD_INPUT}
        remount(disk, "size=300m")
        assert ending(forked(lambda: main(command), log)) == 0
        assert records_of(out) == records_of(undisturbed)


@pytest.mark.slow
def test_a_read_only_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tmp_path / "small.yaml"
    experiment.write_text(small().to_yaml())
    with mounted(tmp_path / "disk", "size=50m") as disk:
        (disk / "run").mkdir()
        remount(disk, "ro")
        for out in (disk / "run", disk / "new"):
            assert main(["run", str(experiment), "--out", str(out)]) == BAD_INPUT
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith(f"growclip: error: {out}")
            assert "Read-only file system" in said
        with pytest.raises(ValueError, match=r"\.owner: cannot be written: Read-only file system"):
            owned(disk / "run").__enter__()


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk where none can be mounted."""
    kept, lines = tmp_path / "kept.bin", tmp_path / "lines.jsonl"
    kept.write_bytes(b"old")
    append_line(lines, "first")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        with pytest.raises(ValueError, match=r"kept\.bin: cannot be written: File too large"):
            write_atomically(kept, bytes(1000))
        with pytest.raises(ValueError, match=r"lines\.jsonl: cannot be written: File too large"):
            append_line(lines, "x" * 1000)

    assert ending(forked(work)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.bin", "lines.jsonl"]
    assert kept.read_bytes() == b"old"
    append_line(lines, "second")
    assert lines.read_text() == "first\nsecond\n"


def test_half_written_files_of_killed_writers_go_those_of_living_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = os.uname().nodename
    (tmp_path / "stage_00").mkdir()
    gone = tmp_path / "stage_00" / f".training.safetensors.{host}.{ended.pid}.tmp"
    other_machine = tmp_path / f".a.elsewhere-{host}.{ended.pid}.tmp"
    living = tmp_path / f".b.{host}.{os.getppid()}.tmp"
    named_alike = tmp_path / ".notes.tmp"
    for path in (gone, other_machine, living, named_alike):
        path.write_text("half")
    folder = tmp_path / f".drawn.{host}.{ended.pid}.tmp"
    folder.mkdir()
    (folder / "picture.png").write_text("half")
    remove_abandoned(tmp_path)
    left = {path for path in tmp_path.rglob("*") if path.is_file() or path == folder}
    assert left == {other_machine, living, named_alike}
    assert temporary_suffix() == f".{host}.{os.getpid()}.tmp"


# Clocks.


def test_no_duration_is_taken_from_the_clock_on_the_wall() -> None:
    found = []
    for path in (ROOT / "nas_growclip").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.time",
                "datetime.now",
                "datetime.utcnow",
            ):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()

    def backwards() -> float:
        nonlocal now
        now -= 3600.0
        return now

    monkeypatch.setattr(time, "time", backwards)
    run_stages(small(), tmp_path / "run")
    assert records_of(tmp_path / "run") == records_of(undisturbed)
    timings = (RunFolder(tmp_path / "run").timings).read_text().splitlines()
    assert all(0 <= json.loads(line)["seconds"] < 600 for line in timings)


# Storages.


@contextmanager
def when_said(acts: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Do something once, in the run itself, when the product logs a line that holds some words."""
    left = dict(acts)

    class Acting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for words in [words for words in left if words in record.getMessage()]:
                left.pop(words)()

    handler, logger = Acting(), logging.getLogger("nas_growclip")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.slow
def test_sqlite_that_goes_away_is_waited_for(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder stands in the place of the file for a while, so that it cannot be opened."""
    monkeypatch.setattr(storage_module, "SQLITE_PATIENCE", 1)
    out = tmp_path / "run"
    file, aside = out / "study.db", out / "aside.db"

    def take_away() -> None:
        file.rename(aside)
        file.mkdir()

    def bring_back() -> None:
        file.rmdir()
        aside.rename(file)

    monkeypatch.setattr(storage_module, "get_storage", unpooled(storage_module.get_storage))
    with when_said({A_TRIAL_ENDED: take_away, "is away: ": bring_back}):
        run_stages(small(), out)
    said = capsys.readouterr().err
    assert "is away: " in said
    assert "unable to open database file" in said
    assert records_of(out) == records_of(undisturbed)


def unpooled(make: Callable[[object], object]) -> Callable[[object], object]:
    """Connections are opened again, as after a network disk was away."""

    def made(storage: object) -> object:
        def close(connection: Connection) -> None:
            storage.engine.dispose()  # type: ignore[attr-defined]

        event.listen(storage.engine, "commit", close)  # type: ignore[attr-defined]
        event.listen(storage.engine, "rollback", close)  # type: ignore[attr-defined]
        return make(storage)

    return made


@pytest.mark.slow
@pytest.mark.usefixtures("close_connections")
@pytest.mark.skipif(bool(missing_postgres()), reason=missing_postgres())
def test_postgresql_that_restarts_is_waited_for_and_one_that_stays_away_is_told(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    with postgres_server() as server:
        url = server.new_database("faults")
        stop, start = (partial(control, server.port, what) for what in ("stop", "start"))
        with when_said({A_TRIAL_ENDED: stop, "is away: ": start}):
            run_stages(small(url), out)
        said = capsys.readouterr().err
        assert f"search.storage: {url} is away: " in said
        assert records_of(out) == records_of(undisturbed)
        # Another run, whose storage does not come back in time.
        monkeypatch.setattr(storage_module, "PATIENCE_S", 1.0)
        later = tmp_path / "later"
        url = server.new_database("later")
        experiment, log = tmp_path / "later.yaml", tmp_path / "log"
        experiment.write_text(small(url).to_yaml())
        command = ["run", str(experiment), "--out", str(later), "--device", "cpu"]
        with when_said({A_TRIAL_ENDED: stop}):
            assert ending(forked(lambda: main(command), log)) == BAD_INPUT
        said = log.read_text().splitlines()[-1]
        assert f"search.storage: {url} must be there, but was away for 1 s: " in said
        assert said.endswith("Bring it back; then the same command resumes.")
        start()
        assert ending(forked(lambda: main(command), log)) == 0, log.read_text()
        assert records_of(later) == records_of(undisturbed)


def control(port: int, what: str) -> None:
    """Stop or start the test's server as the user that runs it."""
    started = Path(tempfile.gettempdir()).glob("growclip-postgres-*/data/postmaster.opts")
    (folder,) = (opts for opts in started if f'"{port}"' in opts.read_text())
    programs = postgres_programs()
    assert programs is not None
    user = folder.owner() if os.geteuid() == 0 else None
    options = ["-m", "fast"]
    if what == "start":
        options = ["-l", "server.log", "-o", f"-h 127.0.0.1 -p {port} -k ''"]
    command = [str(programs / "pg_ctl"), "-D", "data", "-w", *options, what]
    subprocess.run(
        command,
        cwd=folder.parents[1],
        user=user,
        extra_groups=[] if user else None,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_a_call_that_no_waiting_helps_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "PATIENCE_S", 60.0)
    opened = open_storage(None, tmp_path)
    began = time.monotonic()
    with pytest.raises(KeyError):
        opened.get_trial(999)
    study = opened.create_new_study([optuna.study.StudyDirection.MINIMIZE], "a")
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        opened.create_new_study([optuna.study.StudyDirection.MINIMIZE], "a")
    assert opened.get_n_trials(study) == 0
    assert time.monotonic() - began < 30


def test_a_storage_that_was_never_there_is_told_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=r"search\.storage: cannot open sqlite:///.*unable to open"
    ):
        open_storage(f"sqlite:///{tmp_path}/missing/study.db", tmp_path)
    assert time.monotonic() - began < 30


def test_the_wait_grows_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    def away() -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(ValueError, match=r"x must be there, but was away for 100 s: the network"):
        storage_module._patiently(away, "x", 100.0)()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 8.5]

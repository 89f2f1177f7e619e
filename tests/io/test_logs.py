"""Messages go through logging: plain lines on stderr, unless the library's user says otherwise."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_growclip.io import progress
from nas_growclip.io.logs import log_errors_only, logger
from nas_growclip.io.progress import track

MODULE = logging.getLogger("nas_growclip.experiment.stage")


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    level, handlers, propagate = logger.level, logger.handlers[:], logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:], logger.propagate = handlers, propagate


def test_a_message_is_one_line_on_stderr_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    MODULE.info("stage [1] done, 100 %")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "stage [1] done, 100 %\n")


def test_a_message_is_shown_once_where_the_root_logs_too() -> None:
    code = (
        "import logging, nas_growclip; logging.basicConfig();"
        "logging.getLogger('nas_growclip.experiment.stage').info('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "done\n"


def test_a_level_silences_progress_and_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    logger.setLevel(logging.WARNING)
    MODULE.info("done")
    MODULE.warning("the storage is away")
    assert capsys.readouterr().err == "the storage is away\n"


def test_a_follower_shows_errors_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    log_errors_only()
    MODULE.warning("rolled back")
    assert list(track(range(3), total=3, label="train")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_messages_can_be_sent_elsewhere_and_take_the_place_of_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    logger.handlers[:] = [logging.FileHandler(tmp_path / "log")]
    MODULE.info("done")
    list(track(range(2), total=2, label="train"))
    logger.handlers[0].close()
    assert capsys.readouterr().err == ""
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "done"
    assert lines[-1].startswith("train: 2/2")


def test_a_message_beside_a_bar_stands_above_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for _ in track(range(2), total=2, label="train"):
        MODULE.info("in between")
    assert capsys.readouterr().err.count("in between\n") == 2

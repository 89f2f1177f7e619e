import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nas_growclip.io import progress
from nas_growclip.io.progress import track

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> pytest.CaptureFixture[str]:
    """What a terminal gets to see: rich takes any stream for one where colour is forced."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return capsys


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless moved; its only item is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return now


def ticking(clock: list[float], count: int, seconds: float) -> Iterator[int]:
    for item in range(count):
        clock[0] += seconds
        yield item


def test_every_item_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), total=5, label="count")) == [0, 1, 2, 3, 4]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_what_is_quick_prints_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    list(track(ticking(clock, 10, 0.2), total=10, label="quick"))
    assert capsys.readouterr().err == ""


def test_plain_lines_come_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    list(track(ticking(clock, 40, 1.0), total=40, label="stage 1: train"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("stage 1: train: ")
    assert lines[0].endswith(" left")
    assert len(lines) == 5
    assert lines[-1] == "stage 1: train: 40/40, 1 it/s"


def test_the_last_line_is_not_said_twice(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    list(track(ticking(clock, 1, 4.0), total=1, label="one"))
    assert capsys.readouterr().err == "one: 1/1, 0.25 it/s\n"


def test_plain_line_gives_rate_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    items = track(ticking(clock, 200, 4.0), total=1000, label="slow")
    next(items)
    next(items)
    items.close()
    assert capsys.readouterr().err == "slow: 1/1000, 0.25 it/s, 1:06:36 left\n"


@pytest.mark.parametrize("total", [0, 3])
def test_nothing_to_go_through(total: int, terminal: pytest.CaptureFixture[str]) -> None:
    assert list(track([], total=total, label="nothing")) == []


def test_more_items_than_expected(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    list(track(ticking(clock, 3, 5.0), total=0, label="more"))
    assert "more: 3/0" in capsys.readouterr().err


def test_terminal_gets_a_bar_with_label_as_it_stands(terminal: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), total=3, label="stage [1]")) == [0, 1, 2]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.readouterr().err)
    assert "stage [1]" in text
    assert "3/3" in text


def test_bar_stops_when_the_caller_stops_early(terminal: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        items = track(range(5), total=5, label="early")
        next(items)
        items.close()
    text = terminal.readouterr().err
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 2


def test_bar_stops_when_the_source_fails(terminal: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken source")

    with pytest.raises(RuntimeError, match="broken source"):
        list(track(broken(), total=2, label="broken"))
    text = terminal.readouterr().err
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1


def test_bar_inside_a_bar_does_not_crash(terminal: pytest.CaptureFixture[str]) -> None:
    pairs = [
        (outer, inner)
        for outer in track(range(2), total=2, label="outer")
        for inner in track(range(2), total=2, label="inner")
    ]
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_bar_that_finds_the_terminal_taken_is_silent(
    terminal: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(self: object) -> None:
        raise progress.LiveError("Only one live display may be active at once")

    monkeypatch.setattr(progress.Progress, "start", taken)
    assert list(track(range(3), total=3, label="inner")) == [0, 1, 2]
    assert terminal.readouterr().err == ""


def test_progress_does_not_need_torch() -> None:
    code = "import sys, nas_growclip.io.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

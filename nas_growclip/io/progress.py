"""Progress: how far a loop has come.

A terminal gets a bar with the rate and the time left on stderr; everything else gets a message in
the log at most every ten seconds. Nothing here depends on what is counted.
"""

import logging
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nas_growclip.io.logs import is_logged_to_stderr, logger

_log = logging.getLogger(__name__)

T = TypeVar("T")

QUIET_SECONDS = 3.0
"""What finishes sooner than this prints no plain line."""

LINE_SECONDS = 10.0
"""Plain lines come at most this often."""


def track(iterable: Iterable[T], *, total: int, label: str) -> Generator[T]:
    """Yield from an iterable and show how far it has come.

    Args:
        iterable: What to go through.
        total: How many items are expected; 0 if there are none.
        label: What is being done, as in ``stage 2: train``.
    """
    console = Console(stderr=True)
    wants_bar = console.is_terminal and is_logged_to_stderr()
    is_shown = logger.isEnabledFor(logging.INFO)
    bar = _start_bar(console, label, total) if wants_bar and is_shown else None
    if bar is None:
        yield from _track_plain(iterable, total, label, shown=not wants_bar)
        return
    try:
        task = bar.task_ids[0]
        for item in iterable:
            yield item
            bar.advance(task)
    finally:
        bar.stop()


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} it/s" if speed else "", style="progress.data.speed")


def _start_bar(console: Console, label: str, total: int) -> Progress | None:
    """A running bar, or none if another one already has the terminal."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    bar.add_task(label, total=total)
    with suppress(LiveError):
        bar.start()
        return bar
    return None


@dataclass
class _PlainLines:
    label: str
    total: int
    started: float
    printed: float | None = None
    printed_done: int = -1

    def update(self, done: int) -> None:
        now = time.monotonic()
        due = self.started + QUIET_SECONDS if self.printed is None else self.printed + LINE_SECONDS
        if now >= due:
            self._print(done, now)

    def finish(self, done: int) -> None:
        if self.printed is not None and done != self.printed_done:
            self._print(done, time.monotonic())

    def _print(self, done: int, now: float) -> None:
        rate = done / max(now - self.started, 1e-9)
        left = f", {_duration((self.total - done) / rate)} left" if done < self.total else ""
        _log.info(f"{self.label}: {done}/{self.total}, {rate:.3g} it/s{left}")
        self.printed, self.printed_done = now, done


def _track_plain(iterable: Iterable[T], total: int, label: str, *, shown: bool) -> Iterator[T]:
    lines = _PlainLines(label, total, started=time.monotonic())
    done = 0
    for item in iterable:
        yield item
        done += 1
        if shown:
            lines.update(done)
    lines.finish(done)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

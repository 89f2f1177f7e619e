"""Where a run comes from, for the top of its report: seed, version, device, wall time.

Times never repeat, so they stand apart: everything else on the page follows from the records.
"""

from typing import NamedTuple

from nas_growclip.io.formatting import DASH, duration
from nas_growclip.records.folder import Timing, read_timings, written_by
from nas_growclip.records.frames import Run
from nas_growclip.report.tables import Table

TIMES_NOTE = "Times of trials are added up over the processes that shared them."


class Fact(NamedTuple):
    """A fact of a run."""

    name: str
    value: str
    is_time: bool = False


def facts(run: Run) -> tuple[Fact, ...]:
    """What a reader asks first of a run.

    Raises:
        ValueError: If the run folder's files of times or of its format are damaged.
    """
    timings = read_timings(run.path)
    devices = dict.fromkeys(timing.device for timing in timings if timing.device)
    return (
        Fact("seed", str(run.config.get("seed", DASH))),
        Fact("made by", f"nas_growclip {written_by(run.path)}"),
        Fact("device", ", ".join(devices) or "not recorded"),
        Fact("wall time", _sum(timings), is_time=True),
    )


def time_table(run: Run) -> Table:
    """One row a stage: how long its trials took, and the rest of its training with measuring.

    Raises:
        ValueError: If the file of times is damaged.
    """
    timings = read_timings(run.path)
    rows = []
    for stage in run.stages:
        own = [timing for timing in timings if timing.stage == stage.stage]
        trials = [timing for timing in own if timing.what.startswith("trial ")]
        rest = [timing for timing in own if timing not in trials]
        rows.append((str(stage.stage), _sum(trials), _sum(rest), _sum(own)))
    columns = ("stage", "trials", "training and measuring", "together")
    return Table(
        title="Wall time",
        columns=columns,
        rows=tuple(rows),
        time_columns=frozenset(columns[1:]),
        notes=(TIMES_NOTE,),
    )


def _sum(timings: list[Timing] | tuple[Timing, ...]) -> str:
    return duration(sum(timing.seconds for timing in timings)) if timings else DASH

"""A comparison's tables and figures, made from the records of its runs alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas_growclip.compare.bootstrap import Outcomes, paired_difference
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.io.formatting import percent, si
from nas_growclip.plots import accuracy_vs_flops
from nas_growclip.plots.saving import FORMATS, to_bytes
from nas_growclip.records.folder import RunFolder, read_outcomes, read_timings
from nas_growclip.records.frames import Run, load_run
from nas_growclip.records.words import FLOPS_NOTE

METRICS = ("zero_shot_top1", "i2t_recall@1", "t2i_recall@1")
RESULTS_FOLDER = "results"

NOTES = f"""\
Means over seeds, with the standard deviation over seeds after the sign; in percent. In brackets:
the difference to the baseline in points, with a 95 % interval of the paired bootstrap over seeds
and test items. {FLOPS_NOTE}
Training FLOPs are of the whole run, its searches included; those of the learning rate's choice are
not. Wall time is of training, trials and measuring.
"""


@dataclass(frozen=True)
class Arm:
    """An arm's complete runs, seed by seed."""

    name: str
    learning_rate: float | None
    runs: Mapping[int, Run]
    """By seed."""

    def outcomes(self, seeds: Sequence[int]) -> list[Outcomes]:
        """What the last stage's models got right."""
        runs = (self.runs[seed] for seed in seeds)
        return [read_outcomes(RunFolder(run.path).stage(run.stages[-1].stage)) for run in runs]


def load_arms(comparison: CompareFolder) -> tuple[Arm, ...]:
    """The arms that have a complete run, in the comparison's order."""
    return tuple(_arms(comparison))


def _arms(comparison: CompareFolder) -> Iterator[Arm]:
    for name in comparison.config.arms:
        try:
            runs = comparison.runs(name)
        except LookupError:
            continue
        done = {
            u.seed: load_run(comparison.out / u.path) for u in runs if comparison.is_complete(u)
        }
        if done:
            yield Arm(name, runs[0].learning_rate, done)


def runs_frame(arms: Sequence[Arm]) -> pd.DataFrame:
    """One row a run and stage, as ``Run.stages_frame``, with ``arm`` and ``seed``."""
    frames = []
    for arm in arms:
        for seed, run in arm.runs.items():
            frame = run.stages_frame()
            frame.insert(0, "arm", arm.name)
            frame.insert(1, "seed", seed)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def arms_frame(comparison: CompareFolder, arms: Sequence[Arm]) -> pd.DataFrame:
    """One row an arm: means and spreads after the last stage, differences to the baseline."""
    baseline = next((arm for arm in arms if arm.name == comparison.config.baseline), None)
    return pd.DataFrame([_arm_row(arm, baseline, len(comparison.config.seeds)) for arm in arms])


def _arm_row(arm: Arm, baseline: Arm | None, num_seeds: int) -> dict[str, Any]:
    last = [run.stages[-1] for run in arm.runs.values()]
    row: dict[str, Any] = {
        "arm": arm.name,
        "runs": len(last),
        "failed or missing": num_seeds - len(last),
        "learning_rate": arm.learning_rate,
        "flops": sum(stage.flops for stage in last) / len(last),
        "cumulative_flops": sum(stage.cumulative_flops for stage in last) / len(last),
    }
    for metric in METRICS:
        measures = [stage.metrics.get(metric) for stage in last]
        values = pd.Series([m.value if m else None for m in measures], dtype=float)
        row[metric] = values.mean()
        row[f"{metric}.sd"] = values.std()
        row[f"{metric}.chance"] = measures[0].chance if measures[0] else None
        row |= _difference_row(metric, arm, baseline)
    return row


def _difference_row(metric: str, arm: Arm, baseline: Arm | None) -> dict[str, float]:
    if baseline is None or arm.name == baseline.name:
        return {}
    seeds = [seed for seed in arm.runs if seed in baseline.runs]
    try:
        found = paired_difference(metric, arm.outcomes(seeds), baseline.outcomes(seeds))
    except LookupError:
        return {}
    names = (f"{metric}.difference", f"{metric}.low", f"{metric}.high")
    return dict(zip(names, found, strict=True))


def choices_frame(arms: Sequence[Arm]) -> pd.DataFrame:
    """How often each arm chose what in each stage."""
    rows = [
        {"arm": arm.name, "stage": stage.stage, "chosen": stage.chosen.label}
        for arm in arms
        for run in arm.runs.values()
        for stage in run.stages
    ]
    frame = pd.DataFrame(rows, columns=["arm", "stage", "chosen"])
    return frame.value_counts(sort=False).rename("runs").reset_index()


def times_frame(arms: Sequence[Arm]) -> pd.DataFrame:
    """Seconds of training, trials and measuring, the mean over an arm's runs."""
    rows = [
        {"arm": arm.name, "seconds": sum(timing.seconds for timing in read_timings(run.path))}
        for arm in arms
        for run in arm.runs.values()
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seconds"])
    return frame.groupby("arm", sort=False).mean().reset_index()


def markdown_table(frame: pd.DataFrame, times: pd.DataFrame) -> str:
    """The table of arms as Markdown, with its notes."""
    seconds = dict(times.itertuples(index=False, name=None)) if len(times) else {}
    head = (
        "arm",
        "runs",
        "rate",
        "FLOPs a pair",
        "training FLOPs",
        "zero-shot top-1",
        "i2t R@1",
        "t2i R@1",
        "wall time, s",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in frame.to_dict("records"):
        rate = row["learning_rate"]
        cells = (
            str(row["arm"]),
            str(row["runs"]),
            "own" if rate is None or rate != rate else f"{rate:g}",
            si(row["flops"]),
            si(row["cumulative_flops"]),
            *(_metric_cell(row, metric) for metric in METRICS),
            f"{seconds.get(row['arm'], float('nan')):.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + NOTES


def _metric_cell(row: Mapping[Any, Any], metric: str) -> str:
    text = f"{percent(row[metric], 2)} ± {percent(row[f'{metric}.sd'], 2)}"
    difference = row.get(f"{metric}.difference")
    if difference is None or difference != difference:
        return text
    low, high = row[f"{metric}.low"], row[f"{metric}.high"]
    return f"{text} ({100 * difference:+.2f}: {100 * low:+.2f} to {100 * high:+.2f})"


def write_results(comparison: CompareFolder) -> Path:
    """Write the tables and figures of the runs there are.

    Returns:
        The folder: ``runs.csv``, ``arms.csv``, ``choices.csv``, ``times.csv``, ``arms.md`` and
        ``accuracy_vs_flops`` as PNG, SVG and PDF. All but the times follow from the seeds alone.
    """
    arms = load_arms(comparison)
    folder = comparison.out / RESULTS_FOLDER
    make_folder(folder)
    table, times = arms_frame(comparison, arms), times_frame(arms)
    frames = {
        "runs.csv": runs_frame(arms),
        "arms.csv": table,
        "choices.csv": choices_frame(arms),
        "times.csv": times,
    }
    for name, frame in frames.items():
        write_atomically(folder / name, frame.to_csv(index=False, lineterminator="\n").encode())
    text = markdown_table(table, times)
    for arm in filter(comparison.has_failed, comparison.config.arms):
        text += f"\nArm {arm}: failed at every learning rate; see failure.json of its runs.\n"
    write_atomically(folder / "arms.md", text.encode())
    if arms:
        figure = accuracy_vs_flops({arm.name: tuple(arm.runs.values()) for arm in arms})
        for suffix in FORMATS:
            write_atomically(folder / f"accuracy_vs_flops.{suffix}", to_bytes(figure, suffix))
    return folder

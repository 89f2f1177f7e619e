"""A comparison's tables and figures, made from the records of its runs alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nas_growclip.compare.arms import Arm, common_seeds, load_arms
from nas_growclip.compare.bootstrap import Difference, paired_difference
from nas_growclip.compare.config import CompareConfig
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.compare.over_time import (
    difference_over_stages,
    envelope,
    mean_over_stages,
    regret,
    seeds_with_envelope,
)
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.io.formatting import percent, si
from nas_growclip.plots import accuracy_over_time, accuracy_vs_flops
from nas_growclip.plots.saving import FORMATS, to_bytes
from nas_growclip.records.folder import read_timings
from nas_growclip.records.frames import Run
from nas_growclip.records.words import FLOPS_NOTE

METRICS: Mapping[str, str] = {
    "zero_shot_top1": "zero-shot top-1",
    "i2t_recall@1": "i2t R@1",
    "t2i_recall@1": "t2i R@1",
}
"""What arms are compared by, and the heads of its columns."""
Draw = Callable[[Mapping[str, Sequence[Run]], Sequence[str]], Figure]
"""(runs by arm, names of the fixed sizes) -> a figure."""
FIGURES: Mapping[str, Draw] = {
    "accuracy_vs_flops": lambda runs, _: accuracy_vs_flops(runs),
    "accuracy_over_time": accuracy_over_time,
}
"""Figures by the names of their files."""
RESULTS_FOLDER = "results"

NOTES = f"""\
Means over seeds, with the standard deviation over seeds after the sign; in percent. In brackets:
the difference to the baseline in points, with a 95 % interval of the paired bootstrap over seeds
and test items; where there are several, to the one that ends on the same data. {FLOPS_NOTE}
Training FLOPs are of the whole run, its searches included; those of the learning rate's choice are
not. Wall time is of training, trials and measuring. An arm that ends on less data than the baseline
is not compared with it.
"""
REGRET_NOTE = f"""\
Regret: points by which the best fixed size at each stage's cumulative FLOPs is ahead, the mean over
stages, with its interval; chosen in hindsight on the same seeds, which favours it. {FLOPS_NOTE}
"""


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
    """One row an arm: means and spreads after the last stage and over stages, and differences.

    ``baseline`` is what the arm is compared with. For each metric: its mean after the last stage,
    ``.sd``, ``.chance``; its difference to the baseline with an interval (``.difference``,
    ``.low``, ``.high``); its mean over stages (``.over_time``) with the same three; and what the
    best fixed sizes are ahead (``.regret``, ``.regret.low``, ``.regret.high``) where the comparison
    names some.
    """
    fixed, config = fixed_arms(comparison, arms), comparison.config
    return pd.DataFrame(
        [
            _arm_row(arm, baseline_of(arm, arms, config), fixed, len(config.seeds_of(arm.name)))
            for arm in arms
        ]
    )


def baseline_of(arm: Arm, arms: Sequence[Arm], config: CompareConfig) -> Arm | None:
    """The baseline that ends on an arm's data, else the first; None while that has no run yet."""
    by_name = {each.name: each for each in arms}
    there = [by_name[n] for n in (config.baseline, *config.other_baselines) if n in by_name]
    ends_alike = (each for each in there if each.last_pairs == arm.last_pairs)
    return next(ends_alike, by_name.get(config.baseline))


def fixed_arms(comparison: CompareFolder, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms of fixed size that make the envelope; none while one of them has no run yet."""
    by_name = {arm.name: arm for arm in arms}
    wanted = [name for name in comparison.config.envelope if not comparison.has_failed(name)]
    if not all(name in by_name for name in wanted):
        return ()
    return tuple(by_name[name] for name in wanted)


def _arm_row(
    arm: Arm, baseline: Arm | None, fixed: Sequence[Arm], num_seeds: int
) -> dict[str, Any]:
    last = [run.stages[-1] for run in arm.runs.values()]
    row: dict[str, Any] = {
        "arm": arm.name,
        "baseline": baseline.name if baseline else None,
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
        row |= _compared(metric, arm, baseline, fixed)
    return row


def _compared(
    metric: str, arm: Arm, baseline: Arm | None, fixed: Sequence[Arm]
) -> dict[str, float]:
    """A metric over time, and its differences to the baseline and to the best fixed sizes."""
    over_time, row = f"{metric}.over_time", dict[str, float]()
    try:
        mean = mean_over_stages(metric, arm)
    except LookupError:  # it was not noted item by item
        return {}
    has_as_many = baseline is None or arm.num_stages == baseline.num_stages
    if has_as_many:
        row[over_time] = mean
    if baseline is not None and arm.name != baseline.name and common_seeds(arm, baseline):
        if not arm.ends_before(baseline):
            row |= _interval(f"{metric}.difference", metric, at_end(metric, arm, baseline))
        if has_as_many:
            found = difference_over_stages(metric, arm, baseline)
            row |= _interval(f"{over_time}.difference", over_time, found)
    if fixed:
        try:
            found = regret(metric, arm, fixed)
        except LookupError:  # no seed that all have, or every fixed size spent more
            return row
        row |= _interval(f"{metric}.regret", f"{metric}.regret", found)
        row["regret.runs"] = len(seeds_with_envelope(arm, fixed))
    return row


def at_end(metric: str, arm: Arm, baseline: Arm) -> Difference:
    """The paired difference of two arms after the last stage."""
    seeds = common_seeds(arm, baseline)
    return paired_difference(metric, arm.outcomes(seeds), baseline.outcomes(seeds))


def _interval(name: str, ends: str, found: Difference) -> dict[str, float]:
    return {name: found.mean, f"{ends}.low": found.low, f"{ends}.high": found.high}


def envelope_frame(comparison: CompareFolder, arms: Sequence[Arm]) -> pd.DataFrame:
    """The best fixed size of each stage, for every other arm and metric."""
    fixed, rows = fixed_arms(comparison, arms), list[dict[str, Any]]()
    for arm in arms if fixed else ():
        for metric in METRICS:
            try:
                points = envelope(metric, arm, fixed)
            except LookupError:
                continue
            rows += [
                {
                    "arm": arm.name,
                    "metric": metric,
                    "stage": p.stage,
                    "best": p.arm,
                    "value": p.value,
                }
                for p in points
            ]
    return pd.DataFrame(rows, columns=["arm", "metric", "stage", "best", "value"])


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
        *METRICS.values(),
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


def over_time_table(frame: pd.DataFrame) -> str:
    """Means over stages as Markdown, and the regret where there is an envelope."""
    regrets = [metric for metric in METRICS if f"{metric}.regret" in frame]
    head = (
        "arm",
        *(f"{METRICS[metric]}, mean over stages" for metric in METRICS),
        *(f"{METRICS[metric]}, regret" for metric in regrets),
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in frame.to_dict("records"):
        cells = (
            str(row["arm"]),
            *(_over_time_cell(row, metric) for metric in METRICS),
            *(_bracketed(row, f"{metric}.regret", f"{metric}.regret") for metric in regrets),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + (REGRET_NOTE + _fewer_seeds(frame) if regrets else "")


def _fewer_seeds(frame: pd.DataFrame) -> str:
    """Which arms' regret is of fewer seeds than they have, in words."""
    fewer = frame[frame["regret.runs"] < frame["runs"]]
    counts = (f"{r['arm']} {r['regret.runs']:.0f} of {r['runs']}" for r in fewer.to_dict("records"))
    words = ", ".join(counts)
    return f"Regret is of the seeds that every fixed size has; for {words}.\n" if words else ""


def _metric_cell(row: Mapping[Any, Any], metric: str) -> str:
    text = f"{percent(row[metric], 2)} ± {percent(row[f'{metric}.sd'], 2)}"
    found = _bracketed(row, f"{metric}.difference", metric)
    return f"{text} ({found})" if found else text


def _over_time_cell(row: Mapping[Any, Any], metric: str) -> str:
    over_time = f"{metric}.over_time"
    found = _bracketed(row, f"{over_time}.difference", over_time)
    text = percent(row.get(over_time), 2)
    return f"{text} ({found})" if found else text


def _bracketed(row: Mapping[Any, Any], name: str, ends: str) -> str:
    """A difference in points with its interval; nothing where there is none."""
    difference = row.get(name)
    if difference is None or difference != difference:
        return ""
    low, high = row[f"{ends}.low"], row[f"{ends}.high"]
    return f"{100 * difference:+.2f}: {100 * low:+.2f} to {100 * high:+.2f}"


def write_results(comparison: CompareFolder) -> Path:
    """Write the tables and figures of the runs there are.

    Returns:
        The folder: ``runs.csv``, ``arms.csv``, ``choices.csv``, ``times.csv``, ``arms.md``, and
        ``accuracy_vs_flops`` and ``accuracy_over_time`` as PNG, SVG and PDF; ``envelope.csv``
        where the comparison names fixed sizes. All but the times follow from the seeds alone.
    """
    arms = load_arms(comparison)
    folder = comparison.out / RESULTS_FOLDER
    make_folder(folder)
    table, times = arms_frame(comparison, arms), times_frame(arms)
    fixed = fixed_arms(comparison, arms)
    frames = {
        "runs.csv": runs_frame(arms),
        "arms.csv": table,
        "choices.csv": choices_frame(arms),
        "times.csv": times,
    }
    if fixed:
        frames["envelope.csv"] = envelope_frame(comparison, arms)
    for name, frame in frames.items():
        write_atomically(folder / name, frame.to_csv(index=False, lineterminator="\n").encode())
    text = f"{markdown_table(table, times)}\n{over_time_table(table)}"
    if not comparison.is_finished:
        config = comparison.config
        there = sum(len(arm.runs) for arm in arms)
        wanted = sum(len(config.seeds_of(arm)) for arm in config.arms)
        text += f"\nUnder way: {there} of {wanted} runs are complete.\n"
    for arm in filter(comparison.has_failed, comparison.config.arms):
        text += f"\nArm {arm}: failed at every learning rate; see failure.json of its runs.\n"
    write_atomically(folder / "arms.md", text.encode())
    if arms:
        runs = {arm.name: tuple(arm.runs.values()) for arm in arms}
        for name, draw in FIGURES.items():
            figure = draw(runs, comparison.config.envelope)
            for suffix in FORMATS:
                write_atomically(folder / f"{name}.{suffix}", to_bytes(figure, suffix))
    return folder

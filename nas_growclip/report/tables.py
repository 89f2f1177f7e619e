"""A run's records as tables of short texts, the same for the page and for the terminal.

Accuracies are percent, with the level of a random model in brackets. FLOPs are fvcore FLOPs.
What was not measured, and what is no finite number, is a dash.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nas_growclip.io.formatting import DASH, number, percent, si
from nas_growclip.records.entries import Measure, StageResult, Trial
from nas_growclip.records.frames import Run
from nas_growclip.records.ranking import Mark, mark_of
from nas_growclip.records.words import ACCURACIES, CHANCE_NOTE, FLOPS_NOTE, growth_words
from nas_growclip.search.objective import TERMS


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in rows; ``text_columns`` are read from the left, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[str] = frozenset()
    time_columns: frozenset[str] = frozenset()
    """Columns of times, which never repeat."""
    marks: tuple[Mark, ...] = ()
    """One for each row, or none at all."""
    notes: tuple[str, ...] = ()
    tips: Mapping[str, str] = field(default_factory=dict)
    """What columns mean, under their names."""


def accuracy(metrics: Mapping[str, Measure], name: str) -> str:
    """A metric in percent next to its chance level, as in ``41.2 (12.5)``."""
    if name not in metrics:
        return DASH
    return f"{percent(metrics[name].value)} ({percent(metrics[name].chance)})"


def search_share(stage: StageResult) -> float | None:
    """Part of the stage's training FLOPs that went into trials that were not continued."""
    total = stage.search_flops + stage.train_flops
    return stage.search_flops / total if total else None


def run_search_share(run: Run) -> float | None:
    """The search's part of the training FLOPs of all finished stages."""
    search = sum(stage.search_flops for stage in run.stages)
    total = search + sum(stage.train_flops for stage in run.stages)
    return search / total if total else None


def stage_table(run: Run) -> Table:
    """One row a stage: data, chosen growth, sizes, costs and accuracies."""
    fixed = (
        "stage",
        "pairs",
        "chosen growth",
        "FLOPs a pair, forward",
        "params",
        "pairs seen",
        "search share of FLOPs, %",
        "training FLOPs so far",
    )
    return Table(
        title="Stages",
        columns=fixed + tuple(f"{words}, %" for words in ACCURACIES.values()),
        rows=tuple(
            (
                str(stage.stage),
                si(stage.num_pairs),
                growth_words(stage.chosen),
                si(stage.flops),
                si(stage.params),
                si(stage.pairs_seen),
                percent(search_share(stage)),
                si(stage.cumulative_flops),
                *(accuracy(stage.metrics, name) for name in ACCURACIES),
            )
            for stage in run.stages
        ),
        text_columns=frozenset({"chosen growth"}),
        notes=(FLOPS_NOTE, CHANCE_NOTE),
    )


def summary_table(runs: Sequence[Run]) -> Table:
    """One row a run: where it ended."""
    last = [(run, run.stages[-1] if run.stages else None) for run in runs]
    return Table(
        title="Runs side by side",
        columns=(
            "run",
            "stages finished",
            "FLOPs a pair, forward",
            "params",
            "training FLOPs, search included",
            *(f"{words}, %" for words in ACCURACIES.values()),
        ),
        rows=tuple(
            (
                run.name,
                str(len(run.stages)),
                si(stage.flops if stage else None),
                si(stage.params if stage else None),
                si(stage.cumulative_flops if stage else None),
                *(accuracy(stage.metrics if stage else {}, name) for name in ACCURACIES),
            )
            for run, stage in last
        ),
        text_columns=frozenset({"run"}),
        notes=(FLOPS_NOTE, CHANCE_NOTE),
    )


def task_table(run: Run) -> Table:
    """One row a zero-shot task, one column a stage."""
    prefix = "zero_shot_top1/"
    names = in_order(name for s in run.stages for name in s.metrics if name.startswith(prefix))
    return Table(
        title="Zero-shot top-1 by task, %",
        columns=("task", *(f"stage {stage.stage}" for stage in run.stages)),
        rows=tuple(
            (name.removeprefix(prefix), *(accuracy(s.metrics, name) for s in run.stages))
            for name in names
        ),
        text_columns=frozenset({"task"}),
        notes=(CHANCE_NOTE,),
    )


def retrieval_table(run: Run) -> Table:
    """One row a retrieval set and direction, one column a stage."""
    shown = {"i2t_recall@1": "image to text", "t2i_recall@1": "text to image"}
    names = in_order(
        name
        for stage in run.stages
        for name in stage.metrics
        if name.startswith("retrieval/") and name.rpartition("/")[2] in shown
    )
    return Table(
        title="Retrieval recall@1 by set, %",
        columns=("set", "direction", *(f"stage {stage.stage}" for stage in run.stages)),
        rows=tuple(
            (
                name.removeprefix("retrieval/").rpartition("/")[0],
                shown[name.rpartition("/")[2]],
                *(accuracy(stage.metrics, name) for stage in run.stages),
            )
            for name in names
        ),
        text_columns=frozenset({"set", "direction"}),
        notes=(CHANCE_NOTE,),
    )


def candidate_table(stage: int, trials: Sequence[Trial], chosen: int | None) -> Table:
    """One row a trial of one stage, with the objective's terms."""
    terms = in_order(term for trial in trials for term in trial.terms)
    marks = tuple(mark_of(trial, chosen) for trial in trials)
    return Table(
        title=f"Stage {stage}: candidates",
        columns=(
            "trial",
            "candidate",
            "",
            "score",
            *map(term_words, terms),
            "FLOPs a pair, forward",
            "params",
            "pairs in the budget",
            "training FLOPs of the trial",
        ),
        rows=tuple(
            (
                str(trial.number),
                growth_words(trial.candidate),
                f"{mark}: {trial.message}" if mark in ("failed", "pruned") else mark,
                number(trial.score),
                *(number(trial.terms.get(term)) for term in terms),
                si(trial.flops),
                si(trial.params),
                si(trial.stage_pairs),
                si(trial.train_flops),
            )
            for trial, mark in zip(trials, marks, strict=True)
        ),
        text_columns=frozenset({"candidate", ""}),
        marks=marks,
        notes=(FLOPS_NOTE,),
        tips=term_tips(terms),
    )


def term_table(trials: Sequence[Trial]) -> Table:
    """One row a term of the trials' scores: what it means."""
    terms = in_order(term for trial in trials for term in trial.terms)
    return Table(
        title="Terms of the score",
        columns=("term", "meaning"),
        rows=tuple(term_tips(terms).items()),
        text_columns=frozenset({"term", "meaning"}),
        notes=(FLOPS_NOTE,),
    )


def term_words(term: str) -> str:
    """A term's name in words."""
    return term.replace("_", " ")


def term_tips(terms: Iterable[str]) -> dict[str, str]:
    """What terms mean, under their names in words."""
    return {term_words(term): TERMS[term] for term in terms if term in TERMS}


def skipped_table(run: Run) -> Table:
    """One row a reason for leaving pairs out, one column a stage."""
    reasons = in_order(reason for stage in run.stages for reason in stage.skipped)
    return Table(
        title="Pairs left out, by reason",
        columns=("reason", *(f"stage {stage.stage}" for stage in run.stages)),
        rows=tuple(
            (reason, *(str(stage.skipped.get(reason, 0)) for stage in run.stages))
            for reason in reasons
        ),
        text_columns=frozenset({"reason"}),
    )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repeats, in the order of their first use."""
    return tuple(dict.fromkeys(names))

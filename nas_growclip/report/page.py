"""The report as one HTML page that needs nothing beside it: style and figures are inside.

What the page says is made here, how it looks stands in ``page.html``, a Jinja template beside this
file. Jinja escapes every text, whichever file it came from.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nas_growclip.io.formatting import percent, si
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.records.held_out import set_differences
from nas_growclip.records.ranking import chosen_trials, had_choice, trials_by_stage
from nas_growclip.records.words import ACCURACIES, FLOPS_NOTE
from nas_growclip.report.figures import FIGURES
from nas_growclip.report.provenance import Fact, facts, time_table
from nas_growclip.report.reasons import choice_table, coefficient_words, rollback_lines
from nas_growclip.report.tables import (
    Table,
    candidate_table,
    retrieval_table,
    run_search_share,
    skipped_table,
    stage_table,
    summary_table,
    task_table,
    term_table,
)

TEMPLATE = "page.html"


class Number(NamedTuple):
    """An accuracy on a run's card."""

    label: str
    value: str
    chance: str


class Figure(NamedTuple):
    """A figure and what it shows."""

    caption: str
    files: str
    """Names of its files beside the page."""
    data: str
    """PNG in base64."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table with the text above it."""

    table: Table | None
    reasons: tuple[str, ...] = ()
    """Sentences on why the stage chose what it chose."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """What the page has of one run."""

    name: str
    summary: str
    facts: tuple[Fact, ...]
    numbers: tuple[Number, ...]
    sections: tuple[Section, ...]
    """Tables of the whole run, then those of its stages."""
    config: str
    """The configuration as resolved, as YAML."""


def render_page(
    runs: Sequence[Run], images: Mapping[str, bytes], formats: Sequence[str] = ("png",)
) -> str:
    """The whole page.

    Args:
        runs: What it is about.
        images: PNG bytes under the figures' names.
        formats: Of the figures' files beside the page.
    """
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            title="Growth report: " + ", ".join(run.name for run in runs),
            chapters=[chapter(run) for run in runs],
            side_by_side=summary_table(runs) if len(runs) > 1 else None,
            figures=[
                Figure(
                    FIGURES[name].caption, _files(name, formats), base64.b64encode(image).decode()
                )
                for name, image in images.items()
            ],
            differences=set_differences(runs),
            flops_note=FLOPS_NOTE,
        )
    )


def _files(name: str, formats: Sequence[str]) -> str:
    return ", ".join(f"{name}.{suffix}" for suffix in formats)


def environment() -> Environment:
    """Jinja's settings: every text is escaped, and what a template lacks is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def chapter(run: Run) -> Chapter:
    """What the page says of a run."""
    return Chapter(
        name=run.name,
        summary=_summary(run),
        facts=facts(run),
        numbers=_numbers(run.stages[-1]) if run.stages else (),
        sections=tuple(_sections(run)),
        config=yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
    )


def _summary(run: Run) -> str:
    if not run.stages:
        return f"No stage has finished; {len(run.trials)} trials recorded."
    stage = run.stages[-1]
    grown = sum(1 for result in run.stages if result.chosen.grows)
    return (
        f"{len(run.stages)} stages, growth in {grown} of them. The last model has "
        f"{si(stage.params)} parameters and {si(stage.flops)} FLOPs for a pair, forward; the run "
        f"cost {si(stage.cumulative_flops)} training FLOPs, {percent(run_search_share(run))} % of "
        "them for the search."
    )


def _numbers(stage: StageResult) -> tuple[Number, ...]:
    measured = {name: stage.metrics[name] for name in ACCURACIES if name in stage.metrics}
    return tuple(
        Number(ACCURACIES[name], percent(measure.value), percent(measure.chance))
        for name, measure in measured.items()
    )


def _sections(run: Run) -> Iterator[Section]:
    yield _or_note(stage_table(run), "No stage has finished.")
    yield _or_note(task_table(run), "No zero-shot task was measured.")
    if (retrieval := retrieval_table(run)).rows:
        yield Section(table=retrieval)
    if run.stages:
        yield Section(table=time_table(run))
    yield from _candidates(run)
    yield _or_note(skipped_table(run), "No pair was left out.")


def _candidates(run: Run) -> Iterator[Section]:
    if not run.trials:
        yield Section(table=None, notes=("No trial was recorded.",))
    terms = term_table(run.trials)
    if terms.rows:
        yield Section(table=terms)
    chosen = chosen_trials(run)
    results = {stage.stage: stage for stage in run.stages}
    for stage, trials in trials_by_stage(run).items():
        table = candidate_table(stage, trials, chosen.get(stage))
        if stage in results:
            yield _chosen(run, results[stage], table)
            if had_choice(run, stage):
                yield _choices(run, results[stage])
        else:
            yield Section(table=table, reasons=("This stage has not finished.",))


def _chosen(run: Run, stage: StageResult, table: Table) -> Section:
    reasons = (stage.reason, *rollback_lines(stage))
    return Section(table=table, reasons=reasons, notes=(coefficient_words(run),))


def _choices(run: Run, stage: StageResult) -> Section:
    try:
        return Section(table=choice_table(run, stage))
    except ValueError as error:
        words = f"Stage {stage.stage} cannot be scored for other amounts of data: {error}"
        return Section(table=None, notes=(words,))


def _or_note(table: Table, otherwise: str) -> Section:
    return Section(table=table) if table.rows else Section(table=None, notes=(otherwise,))

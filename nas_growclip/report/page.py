"""The report as one HTML page that needs nothing beside it: style and figures are inside.

Every text that comes from a file is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import yaml

from nas_growclip.io.formatting import percent, si
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.report.reasons import choice_table, coefficient_words, setback_lines
from nas_growclip.report.tables import (
    ACCURACIES,
    FLOPS_NOTE,
    Table,
    candidate_table,
    chosen_trials,
    run_search_share,
    skipped_table,
    stage_table,
    summary_table,
    task_table,
    term_table,
    trials_by_stage,
)

CAPTIONS: Mapping[str, str] = {
    "accuracy_vs_flops": (
        "Accuracy on the test pairs against the training FLOPs spent so far, the search's "
        "included. One marker a stage; the thin dashed line is the level of a random model."
    ),
    "candidates": (
        "What each stage had to choose from. Left: the objective's score of every candidate, "
        "as a gain over the control. Right: the trials' learning curves on the validation pairs."
    ),
    "trajectory": (
        "How the architecture grew: sizes relative to the first stage's parent, of the dimensions "
        "that changed, and FLOPs of the model."
    ),
}


def render_page(runs: Sequence[Run], images: Mapping[str, bytes]) -> str:
    """The whole page; ``images`` are PNG bytes under the figures' names."""
    title = "Growth report: " + ", ".join(run.name for run in runs)
    parts = [f"<h1>{escape(title)}</h1>", _cards(runs)]
    if len(runs) > 1:
        parts.append(_table(summary_table(runs)))
    parts += [_figure(name, image) for name, image in images.items()]
    parts += [_run(run) for run in runs]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _cards(runs: Sequence[Run]) -> str:
    return '<div class="cards">' + "\n".join(_card(run) for run in runs) + "</div>"


def _card(run: Run) -> str:
    head = f'<section class="card"><h2>{escape(run.name)}</h2>'
    if not run.stages:
        return f"{head}<p>No stage has finished; {len(run.trials)} trials recorded.</p></section>"
    stage = run.stages[-1]
    numbers = "".join(
        f"<div><dt>{words}</dt><dd>{percent(stage.metrics[name].value)} %</dd>"
        f"<dd class='chance'>chance {percent(stage.metrics[name].chance)} %</dd></div>"
        for name, words in ACCURACIES.items()
        if name in stage.metrics
    )
    return (
        f"{head}<p>{_stage_words(run, stage)}</p><dl>{numbers}</dl>"
        f'<p class="note">{FLOPS_NOTE}</p></section>'
    )


def _stage_words(run: Run, stage: StageResult) -> str:
    grown = sum(1 for result in run.stages if result.chosen.grows)
    return (
        f"{len(run.stages)} stages, growth in {grown} of them. The last model has "
        f"{si(stage.params)} parameters and {si(stage.flops)} FLOPs for a pair, forward; the run "
        f"cost {si(stage.cumulative_flops)} training FLOPs, {percent(run_search_share(run))} % of "
        "them for the search."
    )


def _figure(name: str, image: bytes) -> str:
    caption = escape(CAPTIONS[name])
    data = base64.b64encode(image).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _run(run: Run) -> str:
    skipped = skipped_table(run)
    tasks = task_table(run)
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    parts = [
        f"<h2>Run {escape(run.name)}</h2>",
        _table(stage_table(run)) if run.stages else "<p>No stage has finished.</p>",
        _table(tasks) if tasks.rows else "<p>No zero-shot task was measured.</p>",
        _candidates(run),
        _table(skipped) if skipped.rows else "<p>No pair was left out.</p>",
        f"<details><summary>Configuration as resolved</summary><pre>{escape(config)}</pre>"
        "</details>",
    ]
    return "<section>" + "\n".join(parts) + "</section>"


def _candidates(run: Run) -> str:
    chosen = chosen_trials(run)
    results = {stage.stage: stage for stage in run.stages}
    terms = term_table(run.trials)
    parts = [_table(terms)] if terms.rows else []
    for stage, trials in trials_by_stage(run).items():
        table = candidate_table(stage, trials, chosen.get(stage))
        if stage in results:
            parts += [_table(table, _reason(run, results[stage])), _choices(run, results[stage])]
        else:
            parts.append(_table(table, '<p class="reason">This stage has not finished.</p>'))
    return "\n".join(parts) or "<p>No trial was recorded.</p>"


def _reason(run: Run, stage: StageResult) -> str:
    lines = (stage.reason, *setback_lines(stage))
    reasons = "".join(f'<p class="reason">{escape(line)}</p>' for line in lines)
    return reasons + f'<p class="note">{escape(coefficient_words(run, stage))}</p>'


def _choices(run: Run, stage: StageResult) -> str:
    try:
        return _table(choice_table(run, stage))
    except ValueError as error:
        words = f"Stage {stage.stage} cannot be scored for other amounts of data: {error}"
        return f'<p class="note">{escape(words)}</p>'


def _table(table: Table, lead: str = "") -> str:
    marks = table.marks or ("",) * len(table.rows)
    sides = ["text" if column in table.text_columns else "number" for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{side}"{_tip(table, column)}>{escape(column)}</th>'
        for side, column in zip(sides, table.columns, strict=True)
    )
    rows = "\n".join(
        f'<tr class="{mark}">'
        + "".join(
            f'<td class="{side}">{escape(cell)}</td>' for side, cell in zip(sides, row, strict=True)
        )
        + "</tr>"
        for row, mark in zip(table.rows, marks, strict=True)
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f"<h3>{escape(table.title)}</h3>{lead}"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n'
        f"</tbody></table></div>{notes}"
    )


def _tip(table: Table, column: str) -> str:
    return f' title="{escape(table.tips[column])}"' if column in table.tips else ""


STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9;
  --card: #f5f6f8; --chosen: #dcebf7; --bad: #a33000; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --ink: #e8e8e8; --soft: #a8a8a8;
  --line: #3a3d42; --card: #202328; --chosen: #1d3a52; --bad: #ff9a70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.5;
  font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 0.4rem; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.card { background: var(--card); border-radius: 8px; padding: 1rem 1.25rem; }
.card h2 { margin: 0 0 0.25rem; } .card p { margin: 0.25rem 0 0.75rem; }
dl { display: flex; flex-wrap: wrap; gap: 0.75rem 1.75rem; margin: 0; }
dt, .chance { color: var(--soft); font-size: 0.8rem; } dd { margin: 0; font-size: 1.5rem; }
dd.chance { font-size: 0.8rem; }
figure { margin: 2rem 0; }
img { display: block; width: 100%; max-width: 52rem; height: auto; margin: 0 auto;
  background: #fff; border-radius: 6px; }
figcaption { color: var(--soft); font-size: 0.9rem; max-width: 52rem; margin: 0.5rem auto 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; min-width: 100%; overflow-wrap: normal; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { vertical-align: bottom; color: var(--soft); font-weight: 600; line-height: 1.25; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; } .text { text-align: left; }
tr.chosen { background: var(--chosen); font-weight: 600; } tr.control td { font-style: italic; }
tr.failed td { color: var(--bad); } tr.pruned td { color: var(--soft); }
th[title] { text-decoration: underline dotted; cursor: help; }
.note, .reason { color: var(--soft); font-size: 0.8rem; margin: 0.35rem 0; }
.reason { color: var(--ink); font-size: 0.9rem; }
details { margin-top: 1.5rem; } summary { cursor: pointer; }
pre { background: var(--card); padding: 1rem; border-radius: 6px; overflow-x: auto;
  font-size: 0.8rem; white-space: pre-wrap; }
"""

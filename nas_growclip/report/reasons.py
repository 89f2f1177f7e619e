"""Why a stage chose what it chose: coefficients, terms, and the choice at other data sizes."""

from collections.abc import Mapping
from typing import Any

from nas_growclip.io.formatting import DASH, number, si
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.records.words import growth_words
from nas_growclip.report.rescoring import Choice, is_reproduced, objective_config, stage_choices
from nas_growclip.report.tables import (
    Table,
    in_order,
    term_tips,
    term_words,
)
from nas_growclip.search.objective import ObjectiveConfig

RATIO_WORDS: Mapping[float, str] = {0.5: "half", 1.0: "as it was", 2.0: "twice"}

RESCORING_NOTE = (
    "The stage's trials scored again without training: pairs and FLOPs budget follow the data; "
    "measured learning curves, parent and coefficients stay."
)
NOT_REPRODUCED_NOTE = (
    "Scored again by the run's own settings, these trials do not get the recorded scores: another "
    "version of the objective, or another machine, wrote them."
)


def choice_table(run: Run, stage: StageResult) -> Table:
    """One row a data size: what the stage would have chosen, and its terms.

    Raises:
        ValueError: If the stage cannot be scored again.
    """
    choices = stage_choices(run, stage.stage)
    terms = in_order(term for choice in choices for term in choice.trial.terms)
    notes = (RESCORING_NOTE,)
    return Table(
        title=f"Stage {stage.stage}: had there been half or twice the data",
        columns=("data", "pairs", "choice", "score", *map(term_words, terms), "next best"),
        rows=tuple(
            (
                _ratio_words(choice.data_ratio),
                si(choice.num_pairs),
                growth_words(choice.trial.candidate) + ("" if choice.is_same else " (differs)"),
                number(choice.trial.score),
                *(number(choice.trial.terms.get(term)) for term in terms),
                _next_words(choice),
            )
            for choice in choices
        ),
        text_columns=frozenset({"data", "choice", "next best"}),
        marks=tuple("chosen" if choice.is_same else "" for choice in choices),
        notes=notes if is_reproduced(run, stage.stage) else (*notes, NOT_REPRODUCED_NOTE),
        tips=term_tips(terms),
    )


def rollback_lines(stage: StageResult) -> tuple[str, ...]:
    """A sentence for each rollback of a stage's training."""
    return tuple(
        f"The training of stage {stage.stage} {rollback} Half the learning rate from there on."
        for rollback in stage.rollbacks
    )


def coefficient_words(run: Run, stage: StageResult) -> str:
    """The objective and its coefficients in a stage; those that were refitted say so."""
    if not stage.coefficients:
        return "Its coefficients were not recorded."
    try:
        config = objective_config(run)
    except ValueError:  # a run of another version, whose settings are not known here
        return f"Coefficients: {_numbers(stage.coefficients, {})}."
    return f"Objective {config.name}: {_numbers(stage.coefficients, vars(config))}."


def changed_words(config: ObjectiveConfig, used: ObjectiveConfig) -> str:
    """The coefficients in use, with what the refitted ones were before."""
    names = [name for name, value in vars(used).items() if isinstance(value, int | float)]
    return _numbers({name: getattr(used, name) for name in names}, vars(config))


def choice_lines(run: Run) -> list[str]:
    """A line a stage: what half and twice the data would have led to."""
    lines = []
    for stage in run.stages:
        try:
            choices = stage_choices(run, stage.stage)
        except ValueError as error:
            lines.append(f"stage {stage.stage}: cannot be scored again: {error}")
        else:
            other = [choice for choice in choices if choice.data_ratio != 1]
            words = "; ".join(map(_words, other))
            is_same = all(choice.is_same for choice in other)
            lines.append(f"stage {stage.stage}: {'the same' if is_same else words}")
    return lines


def _words(choice: Choice) -> str:
    label = "the same" if choice.is_same else choice.trial.candidate.label
    return f"{_ratio_words(choice.data_ratio)} {label}"


def _next_words(choice: Choice) -> str:
    trial = choice.next_best
    return f"{growth_words(trial.candidate)}: {number(trial.score)}" if trial else DASH


def _ratio_words(ratio: float) -> str:
    return RATIO_WORDS.get(ratio, f"{ratio:g} times")


def _numbers(used: Mapping[str, float], configured: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{term_words(name)} {_coefficient(value, configured.get(name, value))}"
        for name, value in used.items()
    )


def _coefficient(used: float, configured: float) -> str:
    shown, before = f"{used:.4g}", f"{configured:.4g}"
    return shown if shown == before else f"{shown} (refitted from {before})"

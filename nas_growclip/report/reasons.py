"""Why a stage chose what it chose: coefficients, terms, and the choice at other data sizes."""

from collections.abc import Mapping, Sequence

from nas_growclip.io.formatting import DASH, number, si, two_digits
from nas_growclip.records.entries import StageResult
from nas_growclip.records.frames import Run
from nas_growclip.records.ranking import had_choice
from nas_growclip.records.words import growth_words
from nas_growclip.report.rescoring import Choice, is_reproduced, objective_config, stage_choices
from nas_growclip.report.tables import (
    Table,
    in_order,
    term_tips,
    term_words,
)
from nas_growclip.search.calibration import Finished, spread_about
from nas_growclip.search.coefficients import ObjectiveConfig

RATIO_WORDS: Mapping[float, str] = {0.5: "half", 1.0: "as it was", 2.0: "twice"}

RESCORING_NOTE = (
    "The stage's trials scored again without training, as if there had been that much data for the "
    "same training FLOPs; measured learning curves, parent and shortlist stay."
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


def coefficient_words(run: Run) -> str:
    """A run's objective and its coefficients."""
    try:
        return f"Objective {objective_words(objective_config(run))}."
    except ValueError:  # a run of another version, whose settings are not known here
        return "Its objective's coefficients are those of another version."


def objective_words(config: ObjectiveConfig) -> str:
    """An objective with its coefficients."""
    named = {name: value for name, value in vars(config).items() if isinstance(value, int | float)}
    gains = ", ".join(f"{name} {gain:.4g}" for name, gain in config.dimension_gains.items())
    numbers = ", ".join(f"{term_words(name)} {value:.4g}" for name, value in named.items())
    return f"{config.name}: {numbers}; dimension gains: {gains or 'none'}"


def calibration_lines(
    finished: Sequence[Finished], before: ObjectiveConfig, after: ObjectiveConfig
) -> tuple[str, ...]:
    """What coefficients were fitted to, and how far they are off the stages they come from."""
    errors = [two_digits(100 * spread_about(finished, config)) for config in (before, after)]
    return (
        f"Fitted to {len(finished)} candidates that finished a stage beside no growth.",
        f"Their gains are off what was expected by {errors[0]} % of the loss with the default "
        f"coefficients, and by {errors[1]} % with these, which have seen them.",
    )


def choice_lines(run: Run) -> list[str]:
    """A line for each stage that had a choice: what half and twice the data would have led to."""
    lines = []
    for stage in run.stages:
        if not had_choice(run, stage.stage):
            continue
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

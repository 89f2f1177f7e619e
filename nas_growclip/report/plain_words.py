"""Why a stage chose what it chose, in sentences for those who do not know the objective's terms."""

import math
from collections.abc import Callable, Mapping, Sequence

from nas_growclip.io.formatting import si
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.frames import Run
from nas_growclip.records.ranking import trials_by_stage
from nas_growclip.records.words import growth_words


def plain_reason(run: Run, stage: StageResult) -> str:
    """What was chosen, out of how many, and what spoke for it; as recorded where none was tried.

    Args:
        run: The run, with the stage's trials.
        stage: A finished stage.
    """
    trials = trials_by_stage(run).get(stage.stage, [])
    best = next((trial for trial in trials if trial.number == stage.chosen_trial), None)
    others = [t for t in trials if t.score is not None and t.number != stage.chosen_trial]
    if best is None or best.score is None or not others:
        return stage.reason
    sentences = _grown(best, others[0], stage) if stage.chosen.grows else _kept(others[0], stage)
    return " ".join([*sentences, *_unfinished(trials)])


def _grown(best: Trial, next_best: Trial, stage: StageResult) -> list[str]:
    words = f"{growth_words(best.candidate)} was chosen, {_total(best)}; no growth has 0."
    rival = growth_words(next_best.candidate)
    return [words, *_account(best, stage), f"The next best was {rival}, {_total(next_best)}."]


def _kept(nearest: Trial, stage: StageResult) -> list[str]:
    words = "Nothing was grown: no candidate did better than training the parent on."
    name = growth_words(nearest.candidate)
    said = f"The best of them was {name}, {_total(nearest)}; no growth has 0."
    return [words, said, *_account(nearest, stage)]


def _account(trial: Trial, stage: StageResult) -> list[str]:
    """A sentence for each term of a score that has one."""
    return [
        words(trial.terms[term], stage)
        for term, words in SENTENCES.items()
        if term in trial.terms and trial.candidate.grows
    ]


def _total(trial: Trial) -> str:
    return f"with a score of {trial.score:+.2g}"


def _unfinished(trials: Sequence[Trial]) -> list[str]:
    states = [trial.state for trial in trials]
    counts = {"stopped early": states.count("pruned"), "failed": states.count("failed")}
    left = [f"{count} {words}" for words, count in counts.items() if count]
    return [f"Of {len(trials)} trials, {' and '.join(left)}."] if left else []


def _advantage(value: float, stage: StageResult) -> str:
    side = "ahead of" if value >= 0 else "behind"
    return f"After equally many pairs its loss was {_short(value)} nats {side} no growth's."


def _pairs_cost(value: float, stage: StageResult) -> str:
    if value >= 0:
        return f"It costs more FLOPs a pair, so it would see fewer, which costs {_short(value)}."
    return f"It costs fewer FLOPs a pair, so it would see more, which is worth {_short(value)}."


def _capacity_price(value: float, stage: StageResult) -> str:
    pairs = si(stage.num_pairs)
    if value >= 0:
        return f"Its size is off what {pairs} pairs support, which costs {_short(value)}."
    return f"Its size suits {pairs} pairs better, which is worth {_short(value)}."


def _observed_gain(value: float, stage: StageResult) -> str:
    side = "below" if value >= 0 else "above"
    return f"At the end of its trial its loss was {_short(value)} nats {side} no growth's."


def _short(value: float) -> str:
    """Two digits of a size, whatever its sign."""
    return f"{abs(value):.2g}"


SENTENCES: Mapping[str, Callable[[float, StageResult], str]] = {
    "advantage": _advantage,
    "pairs_cost": _pairs_cost,
    "capacity_price": _capacity_price,
    "observed_gain": _observed_gain,
    "doublings": lambda value, _: f"The score is that gain by {_short(value)} doublings of FLOPs.",
    "log_flops": lambda value, _: (
        f"A pair costs it {_short(math.exp(value))} times the FLOPs; the choice is the knee of "
        "the front of gain against FLOPs."
    ),
    "relative_time": lambda value, _: f"A pair costs it {_short(value)} times the FLOPs.",
}
"""What a term of a score says; terms that only restate others have no sentence."""

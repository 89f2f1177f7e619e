"""Why a stage chose what it chose, in sentences for those who do not know the objective's terms.

The same sentences stand in the log, in the records, in the report and in optuna-dashboard.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from nas_growclip.growth.candidates import Candidate
from nas_growclip.io.formatting import si, two_digits
from nas_growclip.records.entries import Trial, search_flops
from nas_growclip.records.words import growth_words
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.objective import Objective, choose_growth, is_scored, scored_again

WHAT_IF: Mapping[str, float] = {"half": 0.5, "twice": 2.0}
"""Data sizes at which the choice is looked at again, by the word for them."""
SEARCH_GOAL = 0.1
"""Share of a stage's training FLOPs that a search should take at most."""
SURE = NormalDist().inv_cdf(0.975)
"""Standard deviations on either side that a 95 % interval takes."""
LITTLE = 0.01
"""E-folds of the loss below which what a trial corrects is not worth a number."""


class Choice(NamedTuple):
    """What a choice was made from."""

    trials: Sequence[Trial]
    """The stage's trials, scored."""
    best: Trial
    stage_flops: float | None = None
    """Training FLOPs of the stage's model, the continued trial included."""
    num_expected: int = 0
    """Candidates of the growth space, where only a shortlist of them was tried."""
    other_data: Mapping[str, Candidate] = {}
    """What would have been chosen from half and twice the data, by the words of ``WHAT_IF``."""


def choices_at_other_data(
    trials: Sequence[Trial], num_pairs: int, objective: Objective, coefficients: ObjectiveConfig
) -> Mapping[str, Candidate]:
    """What the same trials would lead to with half and with twice the data, without training.

    Args:
        trials: The stage's trials, the control among them and complete.
        num_pairs: The stage's pairs as they were.
        objective: Chooses.
        coefficients: As the stage had them.

    Raises:
        ValueError: If a trial cannot be scored.
    """
    return {
        words: objective.choose(scored_again(trials, num_pairs, coefficients, ratio)).candidate
        for words, ratio in WHAT_IF.items()
    }


def choice_words(choice: Choice) -> str | None:
    """What was chosen, how sure that is, what it costs, and what would change it.

    None where there was nothing to choose from.
    """
    best = choice.best
    others = [t for t in choice.trials if is_scored(t) and t.number != best.number]
    if not is_scored(best) or not others:
        return None
    tell = _grown if best.candidate.grows else _kept
    sentences = tell(choice, choose_growth(others))
    after = (*_shortlisted(choice), *_cost(choice), *_other_data(choice))
    return " ".join([*sentences, *after, *_unfinished(choice.trials)])


def _grown(choice: Choice, next_best: Trial) -> list[str]:
    best = choice.best
    rival = f"The next best was {growth_words(next_best.candidate)}"
    if next_best.candidate.grows:
        rival += f", {_outlook(next_best)}"
    words = f"{growth_words(best.candidate)}: {_outlook(best)}."
    return [words, *_certainty(best), *_account(best, choice), f"{rival}."]


def _kept(choice: Choice, nearest: Trial) -> list[str]:
    words = "no growth: no candidate promises enough over training the parent on."
    said = f"The best of them was {growth_words(nearest.candidate)}, {_outlook(nearest)}."
    return [words, said, *_certainty(nearest), *_account(nearest, choice)]


def _outlook(trial: Trial) -> str:
    """What is expected of a trial against no growth; a score that is no forecast is just said."""
    gain, deviation = _forecast(trial), trial.terms.get("score_deviation")
    if deviation is None:
        return f"with a score of {trial.score or 0.0:+.2g} (no growth has 0)"
    words = f"expected to end the stage with a loss {_percent(gain)} {_side(gain)} no growth's"
    return f"{words} (95 % interval: {_interval(gain, deviation)})" if deviation else words


def _forecast(trial: Trial) -> float:
    """Gain over no growth that is expected, in e-folds: the score without its caution."""
    return (trial.score or 0.0) + trial.terms.get("caution", 0.0)


def _interval(gain: float, deviation: float) -> str:
    """As in ``1 % above to 3 % below``."""
    low, high = gain - SURE * deviation, gain + SURE * deviation
    if _side(low) == _side(high):
        nearer, farther = sorted((low, high), key=abs)
        return f"{_percent(nearer)} to {_percent(farther)} {_side(high)}"
    return f"{_percent(low)} {_side(low)} to {_percent(high)} {_side(high)}"


def _percent(gain: float) -> str:
    """By how many percent e-folds of a loss change it, whichever way."""
    return f"{two_digits(abs(100 * math.expm1(-gain)))} %"


def _side(gain: float) -> str:
    """Where a loss lies against no growth's, by what is gained."""
    return "below" if gain >= 0 else "above"


def _certainty(trial: Trial) -> list[str]:
    """How likely a trial is better than no growth, and the loss that is expected of it."""
    deviation, sentences = trial.terms.get("score_deviation"), list[str]()
    if deviation:
        better = 1 - NormalDist(_forecast(trial), deviation).cdf(0.0)
        share = f"{100 * min(0.99, max(0.01, better)):.0f} %"
        bound = " more than" if better > 0.99 else " less than" if better < 0.01 else ""
        sentences.append(f"It is better than no growth with a probability of{bound} {share}.")
    if "predicted_loss" in trial.terms:
        loss, spread = trial.terms["predicted_loss"], trial.terms.get("predicted_deviation", 0.0)
        ends = f"{max(0.0, loss - SURE * spread):.3g} to {loss + SURE * spread:.3g}"
        sentences.append(
            f"Its validation loss at the end, before a cool-down, is expected at {loss:.3g} nats "
            f"({ends})."
        )
    return sentences


def _account(trial: Trial, choice: Choice) -> list[str]:
    """A sentence for each term of a score that has one."""
    return [
        words(trial.terms[term])
        for term, words in SENTENCES.items()
        if term in trial.terms and trial.candidate.grows
    ]


def _shortlisted(choice: Choice) -> list[str]:
    """How many growths were tried of those that could have been."""
    growths, tried = choice.num_expected - 1, sum(trial.candidate.grows for trial in choice.trials)
    if growths < 1:
        return []
    return [f"Tried were {tried} of {growths} growths, those of which most was expected."]


def _cost(choice: Choice) -> list[str]:
    """What the trials took that are not continued."""
    search = search_flops(choice.trials, choice.best)
    if not choice.stage_flops or not search:
        return []
    share = 100 * search / (search + choice.stage_flops)
    goal = f"the goal is at most {100 * SEARCH_GOAL:g} %"
    return [f"The other trials took {si(search)} FLOPs, {share:.1f} % of the stage's; {goal}."]


def _other_data(choice: Choice) -> list[str]:
    """What other data sizes would have led to."""
    other = choice.other_data
    if not other:
        return []
    if all(candidate == choice.best.candidate for candidate in other.values()):
        return [f"With {' or '.join(other)} the data the choice would be the same."]
    return [
        f"With {words} the data it would be {growth_words(candidate)}."
        for words, candidate in other.items()
        if candidate != choice.best.candidate
    ]


def _unfinished(trials: Sequence[Trial]) -> list[str]:
    states = [trial.state for trial in trials]
    counts = {"stopped early": states.count("pruned"), "failed": states.count("failed")}
    left = [f"{count} {words}" for words, count in counts.items() if count]
    return [f"Of {len(trials)} trials, {' and '.join(left)}."] if left else []


def _dimension_gain(value: float) -> str:
    return (
        f"Where its dimensions were grown before, the loss ended {_percent(value)} {_side(value)} "
        "no growth's after equally many pairs."
    )


def _trial_gain(value: float) -> str:
    if abs(value) < LITTLE:
        return "Its trial was as trials are, which says little of the stage's end."
    return f"Its trial speaks for a loss {_percent(value)} {_side(value)} what that would give."


def _pairs_cost(value: float) -> str:
    if value >= 0:
        return f"It costs more FLOPs a pair, so it would see fewer, which costs {_percent(-value)}."
    return f"It costs fewer FLOPs a pair, so it would see more, which is worth {_percent(-value)}."


def _caution(value: float) -> str:
    least = f"{_percent(value)} below no growth's" if value else "no growth's"
    why = "since the best of several promises too much"
    return f"To be chosen it had to be expected at {least}, {why}."


def _observed_gain(value: float) -> str:
    return f"At the end of its trial its loss was {_short(value)} nats {_side(value)} no growth's."


def _short(value: float) -> str:
    """Two digits of a size, whatever its sign."""
    return two_digits(abs(value))


SENTENCES: Mapping[str, Callable[[float], str]] = {
    "dimension_gain": _dimension_gain,
    "trial_gain": _trial_gain,
    "pairs_cost": _pairs_cost,
    "caution": _caution,
    "observed_gain": _observed_gain,
    "doublings": lambda value: f"The score is that gain by {_short(value)} doublings of FLOPs.",
    "log_flops": lambda value: (
        f"A pair costs it {_short(math.exp(value))} times the FLOPs; the choice is the knee of "
        "the front of gain against FLOPs."
    ),
    "relative_time": lambda value: f"A pair costs it {_short(value)} times the FLOPs.",
}
"""What a term of a score says; terms that only restate others have no sentence."""

"""The search of one stage: ask, measure, score, tell."""

from collections.abc import Callable
from functools import partial

from nas_growclip.records.entries import Trial
from nas_growclip.search.protocol import Proposal, SearchBackend

Report = Callable[[int, float], bool]
"""(point of the learning curve, loss) -> whether the trial should stop there."""


def search(
    backend: SearchBackend,
    measure: Callable[[Proposal, Report], Trial],
    score: Callable[[Trial], Trial | None],
    after_trial: Callable[[], None] = lambda: None,
) -> None:
    """Measure candidates until there are none left.

    A trial can only be scored once the control is known, which another worker may still be
    training; it is kept until then while the next one runs.

    Args:
        backend: Proposes; its first candidate is the control.
        measure: Tries a candidate; its reports may end it early.
        score: Gives a trial its score; None while the control is not known.
        after_trial: Called after each trial.
    """
    unscored: list[Trial] = []
    while (proposal := backend.ask()) is not None:
        unscored.append(measure(proposal, partial(backend.report, proposal.number)))
        unscored = _tell_scored(backend, unscored, score)
        after_trial()
    _tell_scored(backend, unscored, score)
    after_trial()


def _tell_scored(
    backend: SearchBackend, trials: list[Trial], score: Callable[[Trial], Trial | None]
) -> list[Trial]:
    """Tell the backend of every trial that can be scored; the others are given back."""
    scored = [(trial, score(trial)) for trial in trials]
    for _, result in scored:
        if result is not None:
            backend.tell(result)
    return [trial for trial, result in scored if result is None]

"""The search of one stage: ask, measure, tell."""

from collections.abc import Callable, Sequence

from nas_growclip.growth.space import Candidate
from nas_growclip.records import Trial
from nas_growclip.search.backends import SearchBackend


def search(
    backend: SearchBackend,
    measure: Callable[[int, Candidate], Trial],
    *,
    num_trials: int,
    recorded: Sequence[Trial] = (),
) -> tuple[Trial, ...]:
    """Measure candidates until the number of trials is reached or none is left.

    Args:
        backend: Proposes; its first candidate is the control.
        measure: Trial number and candidate -> a scored record.
        num_trials: Trials in all, the recorded ones included.
        recorded: Trials of this search from before an interruption, in order.

    Raises:
        ValueError: If the backend's proposals do not fit the recorded trials.
    """
    trials = list(recorded)
    for trial in recorded[backend.num_told :]:
        if backend.ask() != trial.candidate:
            raise ValueError(
                f"Trial {trial.number} of stage {trial.stage} is recorded as {trial.label!r}, "
                "which this search would not propose. Was the run's search storage replaced?"
            )
        backend.tell(trial)
    while len(trials) < num_trials and (candidate := backend.ask()) is not None:
        trial = measure(len(trials), candidate)
        backend.tell(trial)
        trials.append(trial)
    return tuple(trials)

"""The search backends by name, and the two baselines that need no library."""

import random
from collections.abc import Callable, Mapping, Sequence

from nas_growclip.growth.candidates import Candidate
from nas_growclip.records.entries import Trial
from nas_growclip.search.optuna.backend import OptunaSearch
from nas_growclip.search.protocol import Proposal, SearchBackend, SearchTask, mixed_seed


class OrderedSearch:
    """Proposes candidates in a fixed order: the baselines, for one worker.

    Raises:
        ValueError: If the recorded trials are not the order's beginning.
    """

    def __init__(self, search: SearchTask, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates[: search.config.num_trials]
        self.num_told = 0
        for trial in search.recorded:
            proposal = self.ask()
            if proposal is None or proposal.candidate != trial.candidate:
                raise ValueError(
                    f"Trial {trial.number} of stage {trial.stage} is recorded as "
                    f"{trial.label!r}, which this search would not propose. Was trials.jsonl "
                    "changed?"
                )
            self.tell(trial)

    def ask(self) -> Proposal | None:
        """The next candidate in order."""
        if self.num_told == len(self.candidates):
            return None
        return Proposal(self.num_told, self.candidates[self.num_told])

    def report(self, number: int, point: int, loss: float) -> bool:
        """Every trial runs to its end."""
        return False

    def tell(self, trial: Trial) -> None:
        """Go on to the next one."""
        self.num_told += 1

    def finished(self) -> tuple[Proposal, ...]:
        """What was told so far."""
        return tuple(Proposal(n, self.candidates[n]) for n in range(self.num_told))

    def close(self) -> None:
        """Nothing is open."""


def exhaustive_search(search: SearchTask) -> SearchBackend:
    """Every candidate, in the order of the growth space."""
    return OrderedSearch(search, search.candidates)


def random_search(search: SearchTask) -> SearchBackend:
    """Candidates in a random order without repeats; the control stays first."""
    control, *rest = search.candidates
    random.Random(mixed_seed(search.seed, search.stage)).shuffle(rest)
    return OrderedSearch(search, (control, *rest))


BACKENDS: Mapping[str, Callable[[SearchTask], SearchBackend]] = {
    "optuna": OptunaSearch,
    "exhaustive": exhaustive_search,
    "random": random_search,
}
"""Search backends by name, by ask and tell in this process."""

EXPERIMENT_BACKENDS = frozenset({"nni"})
"""Backends that start trials as processes of their own."""

"""What one worker of a search does with trials that cannot be scored yet."""

from dataclasses import replace

import pytest

from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.records.entries import Trial
from nas_growclip.search.loop import search
from nas_growclip.search.protocol import Proposal
from tests.search.test_objective import trial


class Proposals:
    """A backend that proposes trials by number and notes what it is told."""

    def __init__(self, numbers: list[int]) -> None:
        self.left, self.told = numbers, list[int]()

    def ask(self) -> Proposal | None:
        return Proposal(self.left.pop(0), NO_GROWTH) if self.left else None

    def report(self, number: int, point: int, loss: float) -> bool:
        return False

    def tell(self, result: Trial) -> None:
        assert result.score == 1.0
        self.told.append(result.number)

    def finished(self) -> tuple[Proposal, ...]:
        return ()

    def close(self) -> None:
        """There is nothing open."""


@pytest.mark.parametrize("known_after", [1, 2, 3, 4])
def test_trials_wait_for_their_control_and_are_then_told_in_order(known_after: int) -> None:
    """Another worker trains the control; it ends after some of this one's trials, or its last."""
    backend, told = Proposals([3, 4, 6]), list[list[int]]()

    def measure(proposal: Proposal, report: object) -> Trial:
        return replace(trial(), number=proposal.number, score=None)

    def score(measured: Trial) -> Trial | None:
        return replace(measured, score=1.0) if len(told) + 1 >= known_after else None

    search(backend, measure, score, lambda: told.append(list(backend.told)))
    whole = [3, 4, 6]
    assert told == [whole[:n] if n >= known_after else [] for n in (1, 2, 3)] + [whole]

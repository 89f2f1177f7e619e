"""Moments of a run at which an observer is called: to log, to export, or to make a fault happen.

An observer is a function of an ``Event``. What it raises is raised where the event occurred, as if
the work itself had failed there; what it changes of a batch or a state is trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nas_growclip.data.encoding import PairBatch
from nas_growclip.training.state import TrainState

Moment = Literal[
    "trial_begins",  # a candidate is about to be grown
    "batch",  # a batch is on its device, not yet used
    "gradients",  # gradients are there, not yet clipped or applied
    "step",  # an optimizer step is done and found finite, where that is looked at
    "state_saved",  # a training state was written
    "trunk_saved",  # the trunk that the next stage goes on from was written
    "trial_measured",  # a trial has ended; its record is not written
    "trial_recorded",  # a trial's own record is written; the search does not know it
    "trial_listed",  # a scored trial is in the run's records
    "chosen",  # a stage has chosen its candidate
    "diverged",  # a stage's training diverged; nothing of it is written
    "rolled_back",  # the rollback is written; training resumes after this
    "model_saved",  # a stage's model is written, its record is not
    "stage_recorded",  # a stage's record is written
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One moment of a run."""

    moment: Moment
    where: str = ""
    """What was under way, as in ``stage 0, training`` or ``stage 0, trial of image.width=64``."""
    state: TrainState | None = None
    """The training state at ``batch``, ``gradients``, ``step`` and when one was saved."""
    batch: PairBatch | None = None
    """The batch at ``batch``; its tensors may be changed in place."""


Observer = Callable[[Event], None]


def no_observer(event: Event) -> None:
    """Nobody looks."""


def at(moment: Moment, do: Callable[[Event], object]) -> Observer:
    """An observer that calls a function at one kind of moment."""

    def observer(event: Event) -> None:
        if event.moment == moment:
            do(event)

    return observer

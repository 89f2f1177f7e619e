"""Faults at named moments of a run: what an observer makes happen, the same on every machine."""

import math
import os
import signal
from collections.abc import Callable

import torch

from nas_growclip.training.events import Event, Moment, Observer, at

Condition = Callable[[Event], bool]


def always(event: Event) -> bool:
    return True


def in_step(number: int, where: str = "") -> Condition:
    """In the step that ends as this one, of trainings whose name holds ``where``."""

    def holds(event: Event) -> bool:
        return event.state is not None and event.state.step == number - 1 and where in event.where

    return holds


def times(count: int, condition: Condition = always) -> Condition:
    """The first so many times that a condition holds."""
    held = 0

    def holds(event: Event) -> bool:
        nonlocal held
        if held < count and condition(event):
            held += 1
            return True
        return False

    return holds


def nth_time(number: int, condition: Condition = always) -> Condition:
    """Only the n-th time that a condition holds."""
    held = 0

    def holds(event: Event) -> bool:
        nonlocal held
        holds_now = condition(event)
        held += holds_now
        return holds_now and held == number

    return holds


def poison_batch(condition: Condition = always) -> Observer:
    """Make the first pixel of a batch not a number: its loss is none either."""

    def poison(event: Event) -> None:
        assert event.batch is not None
        if condition(event):
            event.batch.images[0, 0, 0, 0] = math.nan

    return at("batch", poison)


def poison_gradient(name: str, value: float, condition: Condition = always) -> Observer:
    """Make one parameter's gradient bad; the loss of that step stays what it is."""

    def poison(event: Event) -> None:
        assert event.state is not None
        gradient = event.state.model.get_parameter(name).grad
        assert gradient is not None
        if condition(event):
            gradient.fill_(value)

    return at("gradients", poison)


def fail_at(moment: Moment, fail: Callable[[], object], condition: Condition = always) -> Observer:
    """Do something that raises."""

    def do(event: Event) -> None:
        if condition(event):
            fail()

    return at(moment, do)


def refuse_to_work(event: Event) -> None:
    """Fail whatever is done."""
    raise AssertionError(f"nothing should be done, but {event.moment}")


def use_up_memory() -> None:
    """Ask PyTorch's CPU allocator for more than there is: it raises a plain RuntimeError."""
    torch.empty(1 << 60, dtype=torch.uint8)


def die_at(moment: Moment, call: int, condition: Condition = always) -> Observer:
    """Kill this process the n-th time."""
    made = 0

    def die(event: Event) -> None:
        nonlocal made
        made += condition(event)
        if made == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return at(moment, die)


def both(*observers: Observer) -> Observer:
    """Several observers, one after the other."""

    def observer(event: Event) -> None:
        for each in observers:
            each(event)

    return observer

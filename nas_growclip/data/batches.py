"""Pairs as batches of tensors, in an order that a seed fixes, made here or ahead by processes."""

import functools
import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nas_growclip.data.augment import Draws, draws
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.held import HeldPairs
from nas_growclip.data.pairs import ImageTextPairs


@runtime_checkable
class IndexedPairs(ImageTextPairs, Protocol):
    """Pairs in memory, of which any can be had by its number."""

    @property
    def held(self) -> HeldPairs:
        """The pairs, and more where sets share them: this set's come first."""
        ...

    def order(self, seed: int | None) -> NDArray[np.int64]:
        """Numbers of an epoch's pairs, in the order of ``epoch``."""
        ...


@dataclass(frozen=True)
class BatchShard:
    """A part of every batch, or of every so many batches: what one of several processes makes."""

    index: int = 0
    count: int = 1
    """Parts of a batch."""
    turn: int = 0
    turns: int = 1
    """Of every so many batches, counted from the first one asked for, only that at ``turn``."""

    def places(self, batch_size: int) -> range:
        """Places of a batch that are this shard's."""
        ends = (batch_size * i // self.count for i in (self.index, self.index + 1))
        return range(*ends)


WHOLE = BatchShard()


def training_batches(
    pairs: ImageTextPairs,
    encoder: PairEncoder,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    shard: BatchShard = WHOLE,
) -> Generator[PairBatch]:
    """Endless shuffled batches, epoch after epoch; an epoch's last partial batch is dropped.

    Args:
        pairs: Where they come from.
        encoder: How they become tensors.
        batch_size: Pairs in a whole batch.
        seed: Fixes the order of every epoch.
        start: Batches to leave out, so that an interrupted training resumes where it was.
        shard: The part of each batch to give; only that is decoded.

    Raises:
        ValueError: If there are fewer pairs than one batch holds.
    """
    steps_per_epoch = pairs.num_pairs // batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"train.batch_size must be at most the number of training pairs, but got "
            f"batch_size={batch_size} and {pairs.num_pairs} pairs. Use a smaller batch."
        )
    first_epoch, skip = divmod(start, steps_per_epoch)
    places = shard.places(batch_size)
    for epoch in itertools.count(first_epoch):
        turn = (start + shard.turn - epoch * steps_per_epoch) % shard.turns
        numbers = [n for n in range(skip, steps_per_epoch) if n % shard.turns == turn]
        skip = 0
        drawn = functools.partial(_drawn, encoder, seed, batch_size, places)
        before = epoch * steps_per_epoch
        if isinstance(pairs, IndexedPairs):
            order, held = pairs.order(epoch_seed(seed, epoch)), pairs.held
            for number in numbers:
                first = number * batch_size
                rows = order[first + places.start : first + places.stop]
                yield held.batch(encoder, rows, drawn(before + number))
            continue

        def wanted(place: int, numbers: frozenset[int] = frozenset(numbers)) -> bool:
            number, within = divmod(place, batch_size)
            return within in places and number in numbers

        stream = pairs.epoch(epoch_seed(seed, epoch), wanted)
        for number, batch in zip(numbers, in_batches(stream, len(places)), strict=True):
            yield encoder.batch(batch, drawn(before + number))


def _drawn(
    encoder: PairEncoder, seed: int, batch_size: int, places: range, number: int
) -> Draws | None:
    """What is drawn for the images at some places of a batch; None if none is varied."""
    if not encoder.augment.changes_images:
        return None
    return draws(epoch_seed(seed, number), batch_size)[places.start : places.stop]


def fixed_batches(
    pairs: ImageTextPairs, encoder: PairEncoder, batch_size: int
) -> Iterator[PairBatch]:
    """Every pair once, in stored order; the last batch may be smaller."""
    if isinstance(pairs, IndexedPairs):
        order, held = pairs.order(None), pairs.held
        for first in range(0, pairs.num_pairs, batch_size):
            yield held.batch(encoder, order[first : first + batch_size])
        return
    for batch in in_batches(pairs.epoch(seed=None), batch_size):
        yield encoder.batch(batch)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch: well mixed, the same on every machine."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


T = TypeVar("T")


def in_batches(stream: Iterator[T], batch_size: int) -> Iterator[Iterator[T]]:
    """Batches, each to be taken whole before the next one."""
    for first in stream:
        yield itertools.chain((first,), itertools.islice(stream, batch_size - 1))


BATCHES_AHEAD = 4
"""Batches that each process holds ready."""


@dataclass(frozen=True)
class BatchOrder:
    """Which batches are wanted, of what and from where on."""

    batch_size: int
    seed: int
    start: int = 0
    shard: BatchShard = WHOLE


class _WorkerBatches(IterableDataset[Any]):
    """What one process makes: every so many of the wanted batches, beginning with its own turn."""

    def __init__(self, pairs: ImageTextPairs, encoder: PairEncoder, order: BatchOrder) -> None:
        self.pairs, self.encoder, self.order = pairs, encoder, order

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        turns = {} if worker is None else {"turn": worker.id, "turns": worker.num_workers}
        order = replace(self.order, shard=replace(self.order.shard, **turns))
        try:
            yield from load_batches(self.pairs, self.encoder, order)
        except (ValueError, OSError) as error:
            yield error  # as it is: DataLoader would wrap it in its traceback


def load_batches(
    pairs: ImageTextPairs,
    encoder: PairEncoder,
    order: BatchOrder,
    workers: int = 0,
    *,
    pin_memory: bool = False,
) -> Generator[PairBatch]:
    """Endless training batches, as ``training_batches`` gives them, whoever makes them.

    Args:
        pairs: Where they come from.
        encoder: How they become tensors.
        order: Which are wanted.
        workers: Processes that make them ahead; 0: this one, as they are asked for.
        pin_memory: Whether to put them where a GPU copies from without waiting.

    Raises:
        ValueError: As ``training_batches``.
    """
    if not workers:
        yield from training_batches(
            pairs,
            encoder,
            order.batch_size,
            seed=order.seed,
            start=order.start,
            shard=order.shard,
        )
        return
    loader = DataLoader(
        _WorkerBatches(pairs, encoder, order),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch

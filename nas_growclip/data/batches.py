"""Batches made ahead by processes of their own, in the order that one process would give them."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nas_growclip.data.pairs import (
    WHOLE,
    ImageTextPairs,
    PairBatch,
    PairEncoder,
    Share,
    training_batches,
)

BATCHES_AHEAD = 4
"""Batches that each process holds ready."""


@dataclass(frozen=True)
class BatchOrder:
    """Which batches are wanted, of what and from where on."""

    batch_size: int
    seed: int
    start: int = 0
    share: Share = WHOLE


class _WorkerBatches(IterableDataset[Any]):
    """What one process makes: every so many of the wanted batches, beginning with its own turn."""

    def __init__(self, pairs: ImageTextPairs, encoder: PairEncoder, order: BatchOrder) -> None:
        self.pairs, self.encoder, self.order = pairs, encoder, order

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        turns = {} if worker is None else {"turn": worker.id, "turns": worker.num_workers}
        order = replace(self.order, share=replace(self.order.share, **turns))
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
            share=order.share,
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

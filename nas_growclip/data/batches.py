"""Pairs as batches of tensors, in an order that a seed fixes, made here or ahead by processes."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nas_growclip.data.augment import AugmentConfig, vary
from nas_growclip.data.pairs import ImageTextPairs, Pair
from nas_growclip.data.preprocess import normalise, resize
from nas_growclip.models.arch import ImageArch

Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class PairBatch:
    """Images, normalised as CLIP expects, and tokens of their captions."""

    images: Float[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]
    captions: tuple[str, ...]
    image_ids: Int[Tensor, " batch"] | None = None
    """Equal for equal pictures, always on the CPU; None: no picture repeats."""

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""
        return PairBatch(
            self.images.to(device, non_blocking=True),
            self.tokens.to(device, non_blocking=True),
            self.captions,
            self.image_ids,
        )

    def pin_memory(self) -> "PairBatch":
        """The same batch in memory that a GPU can copy from on its own."""
        images, tokens = self.images.pin_memory(), self.tokens.pin_memory()
        return PairBatch(images, tokens, self.captions, self.image_ids)


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


class PairEncoder(NamedTuple):
    """How pairs become tensors for one architecture."""

    image: ImageArch
    """The image tower: its size, and how images are scaled and normalised."""
    tokenize: Tokenize
    augment: AugmentConfig = AugmentConfig()
    """How training images vary; evaluation takes them as they are."""

    def batch(self, pairs: Iterable[Pair], seeds: Sequence[int] = ()) -> PairBatch:
        """Resize, stack and tokenize pairs; with a seed for each, vary the images first.

        Pairs are taken one by one, so that no two whole images need memory at a time.
        """
        scaled, captions, ids = list[NDArray[np.uint8]](), list[str](), list[bytes]()
        shape, preprocessing = self.image.image_shape, self.image.preprocessing
        for seed, pair in zip(seeds or itertools.repeat(None), pairs, strict=False):
            image = pair.image
            if seed is not None:
                (image,) = vary([image], shape, self.augment, [seed])
            is_last_again = seed is None and pair.image_id and ids[-1:] == [pair.image_id]
            scaled.append(scaled[-1] if is_last_again else resize(image, shape, preprocessing))
            captions.append(pair.caption)
            ids.append(pair.image_id)
        images = normalise(np.stack(scaled), preprocessing)
        return PairBatch(images, self.tokenize(captions), tuple(captions), _as_numbers(ids))


def _as_numbers(image_ids: Sequence[bytes]) -> Int[Tensor, " batch"] | None:
    """64 bits of each digest: of a million pictures two agree by chance once in 10^7 sets."""
    if not all(image_ids):
        return None
    return torch.tensor([int.from_bytes(digest[:8], signed=True) for digest in image_ids])


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

        def wanted(place: int, numbers: frozenset[int] = frozenset(numbers)) -> bool:
            number, within = divmod(place, batch_size)
            return within in places and number in numbers

        stream = pairs.epoch(epoch_seed(seed, epoch), wanted)
        for number, batch in zip(numbers, _batched(stream, len(places)), strict=True):
            first = (epoch * steps_per_epoch + number) * batch_size
            varied = places if encoder.augment.changes_images else ()
            yield encoder.batch(batch, [epoch_seed(seed, first + place) for place in varied])
        skip = 0


def fixed_batches(
    pairs: ImageTextPairs, encoder: PairEncoder, batch_size: int
) -> Iterator[PairBatch]:
    """Every pair once, in stored order; the last batch may be smaller."""
    for batch in _batched(pairs.epoch(seed=None), batch_size):
        yield encoder.batch(batch)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch: well mixed, the same on every machine."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _batched(stream: Iterator[Pair], batch_size: int) -> Iterator[Iterator[Pair]]:
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

"""Image-text pairs and how they become batches.

A source yields ``Pair``s (a decoded image, a caption) one epoch at a time, in an order that
depends on the epoch's seed alone. Everything after that is the same for all sources: resize,
tokenize, stack. So training can be taken up again at any step, and candidates of a search see
the same batches.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor

from nas_growclip.data.augment import AugmentConfig, vary

Tokenize = Callable[[list[str]], Tensor]
IsWanted = Callable[[int], bool]
"""Whether the pair at a place of an epoch's order is wanted."""


def every_pair(place: int) -> bool:
    """Want all of an epoch."""
    return True


class Pair(NamedTuple):
    """One decoded RGB image and its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class PairBatch:
    """Images, normalised as CLIP expects, and tokens of their captions."""

    images: Float[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]
    captions: tuple[str, ...]

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""
        return PairBatch(
            self.images.to(device, non_blocking=True),
            self.tokens.to(device, non_blocking=True),
            self.captions,
        )

    def pin_memory(self) -> "PairBatch":
        """The same batch in memory that a GPU can copy from on its own."""
        return PairBatch(self.images.pin_memory(), self.tokens.pin_memory(), self.captions)


@dataclass(frozen=True)
class ManifestEntry:
    """One file (or rendered range) that pairs came from."""

    name: str
    num_pairs: int
    """Usable pairs in it."""
    sha256: str
    skipped: Mapping[str, int]
    """Pairs left out, by reason."""


@runtime_checkable
class ImageTextPairs(Protocol):
    """A finite set of pairs that can be run through again and again."""

    @property
    def num_pairs(self) -> int:
        """Usable pairs; a whole epoch has exactly as many."""
        ...

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """Where the pairs come from."""
        ...

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every usable pair once; in stored order for None, else shuffled by the seed.

        Only wanted pairs are decoded and given, in the same order.
        """
        ...


@dataclass(frozen=True)
class FirstPairs:
    """The first pairs of a set, in stored order: a fixed sample of it to measure on."""

    pairs: ImageTextPairs
    most: int
    """Pairs to take; all of them where there are fewer."""

    @property
    def num_pairs(self) -> int:
        """Pairs in the sample."""
        return min(self.most, self.pairs.num_pairs)

    @property
    def manifest(self) -> tuple[ManifestEntry, ...]:
        """Where the whole set comes from."""
        return self.pairs.manifest

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """The sample's pairs, in stored order whatever the seed."""
        return self.pairs.epoch(None, lambda place: place < self.num_pairs and wanted(place))


@dataclass(frozen=True)
class Share:
    """A part of every batch, or of every so many batches: what one of several processes makes."""

    index: int = 0
    count: int = 1
    """Parts of a batch."""
    turn: int = 0
    turns: int = 1
    """Of every so many batches, counted from the first one asked for, only that at ``turn``."""

    def places(self, batch_size: int) -> range:
        """Places of a batch that are this share's."""
        ends = (batch_size * i // self.count for i in (self.index, self.index + 1))
        return range(*ends)


WHOLE = Share()


class PairEncoder(NamedTuple):
    """How pairs become tensors for one architecture."""

    image_shape: tuple[int, int]
    """Pixels of an image: (height, width)."""
    tokenize: Tokenize
    augment: AugmentConfig = AugmentConfig()
    """How training images vary; evaluation takes them as they are."""

    def batch(self, pairs: Iterable[Pair], seeds: Sequence[int] = ()) -> PairBatch:
        """Resize, stack and tokenize pairs; with a seed for each, vary the images first.

        Pairs are taken one by one, so that no two whole images need memory at a time.
        """
        pixels, captions = [], []
        for seed, pair in zip(seeds or itertools.repeat(None), pairs, strict=False):
            image = pair.image
            if seed is not None:
                (image,) = vary([image], self.image_shape, self.augment, [seed])
            pixels.append(resize(image, self.image_shape))
            captions.append(pair.caption)
        return PairBatch(normalise(np.stack(pixels)), self.tokenize(captions), tuple(captions))


def resize(image: Image.Image, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an image to cover ``shape`` (bicubic) and crop the centre, as OpenCLIP evaluates.

    Args:
        image: Any image.
        shape: Pixels wanted: (height, width).

    Returns:
        Array of shape (height, width, 3).
    """
    height, width = shape
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (width, height):
        scale = max(width / image.size[0], height / image.size[1])
        wide, high = (
            max(wanted, round(side * scale))
            for wanted, side in zip((width, height), image.size, strict=True)
        )
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image)


def normalise(images: NDArray[np.uint8]) -> Float[Tensor, "batch 3 height width"]:
    """Scale to [0, 1], subtract OpenAI's mean, divide by its standard deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD)[:, None, None]
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return channels_first.float().div_(255).sub_(mean).div_(std)


def training_batches(
    pairs: ImageTextPairs,
    encoder: PairEncoder,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    share: Share = WHOLE,
) -> Generator[PairBatch]:
    """Endless shuffled batches, epoch after epoch; an epoch's last partial batch is dropped.

    Args:
        pairs: Where they come from.
        encoder: How they become tensors.
        batch_size: Pairs in a whole batch.
        seed: Fixes the order of every epoch.
        start: Batches to leave out, so that an interrupted training goes on where it was.
        share: The part of each batch to give; only that is decoded.

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
    places = share.places(batch_size)
    for epoch in itertools.count(first_epoch):
        turn = (start + share.turn - epoch * steps_per_epoch) % share.turns
        numbers = [n for n in range(skip, steps_per_epoch) if n % share.turns == turn]

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

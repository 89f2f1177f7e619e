"""Batches made by other processes are the same ones in the same order; their errors are told."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from nas_growclip.data.augment import AugmentConfig
from nas_growclip.data.batches import BatchOrder, BatchShard, load_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.pairs import ImageTextPairs, IsWanted, Pair, every_pair
from nas_growclip.data.stages import open_stages
from nas_growclip.models.arch import ClipArch

DATA = ScenesConfig(stages=(80,), validation_pairs=8, test_pairs=8)
ENCODER = PairEncoder(
    ClipArch.preset("tiny").image,
    lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64),
    AugmentConfig(flip=0.5),
)


@pytest.fixture(scope="module")
def pairs() -> ImageTextPairs:
    return open_stages(DATA, None)[0].train


@pytest.mark.parametrize("shard", [BatchShard(), BatchShard(1, 2)])
@pytest.mark.parametrize(("workers", "start"), [(1, 0), (2, 0), (2, 3), (2, 9)])
def test_workers_make_the_same_batches(
    pairs: ImageTextPairs, workers: int, start: int, shard: BatchShard
) -> None:
    """Five batches an epoch, so the turns of the workers shift from epoch to epoch."""
    order = BatchOrder(batch_size=16, seed=3, start=start, shard=shard)
    alone = load_batches(pairs, ENCODER, order)
    shared = load_batches(pairs, ENCODER, order, workers)
    for one, other in itertools.islice(zip(alone, shared, strict=True), 13):
        assert one.captions == other.captions
        assert torch.equal(one.images, other.images)
    alone.close()
    shared.close()


def test_order_does_not_depend_on_where_it_was_taken_up(pairs: ImageTextPairs) -> None:
    whole = load_batches(pairs, ENCODER, BatchOrder(16, 0))
    rest = load_batches(pairs, ENCODER, BatchOrder(16, 0, start=6), 2)
    for one, other in zip(itertools.islice(whole, 6, 12), itertools.islice(rest, 6), strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("encoder", [ENCODER, ENCODER._replace(augment=AugmentConfig())])
def test_every_epoch_has_all_pairs_in_another_order(
    pairs: ImageTextPairs, encoder: PairEncoder
) -> None:
    """Whether images are read one by one, to be varied, or held as arrays."""
    batches = load_batches(pairs, encoder, BatchOrder(16, 0))
    first, second = (
        [caption for batch in itertools.islice(batches, 5) for caption in batch.captions]
        for _ in range(2)
    )
    assert first != second
    assert sorted(first) == sorted(second)


class ChangedPairs:
    """A set whose third pair cannot be read any more."""

    num_pairs = 40
    manifest = ()

    def __init__(self, pairs: ImageTextPairs) -> None:
        self.pairs = pairs

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        yield from itertools.islice(self.pairs.epoch(seed, wanted), 2)
        raise ValueError("a shard changed since it was checked. Start again.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_process_is_one_line(pairs: ImageTextPairs, workers: int) -> None:
    batches = load_batches(ChangedPairs(pairs), ENCODER, BatchOrder(8, 0), workers)
    with pytest.raises(ValueError, match=r"^a shard changed since it was checked\. Start again\.$"):
        next(batches)


def test_a_batch_larger_than_the_set_is_refused(pairs: ImageTextPairs) -> None:
    with pytest.raises(ValueError, match=r"batch_size=81 and 80 pairs"):
        next(load_batches(pairs, ENCODER, BatchOrder(81, 0), 1))

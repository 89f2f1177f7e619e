"""Held pairs: the same pairs as the stream's, decoded once, shared by nested stages."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas_growclip.data.augment import AugmentConfig, draws
from nas_growclip.data.batches import BatchShard, fixed_batches, training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.held import HeldPairs
from nas_growclip.data.in_memory import cache_in_memory, cache_nested
from nas_growclip.data.pairs import ImageTextPairs, Pair
from nas_growclip.data.stages import open_stages
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.tokenizers import Tokenizer

SCENES = ScenesConfig(stages=(40, 70), validation_pairs=8, test_pairs=8)


def content(pairs: ImageTextPairs, seed: int | None) -> list[tuple[bytes, str]]:
    return [(np.asarray(pair.image).tobytes(), pair.caption) for pair in pairs.epoch(seed)]


def test_held_pairs_are_the_streams_pairs() -> None:
    streamed, held = open_stages(SCENES, None), open_stages(replace(SCENES, in_memory=True), None)
    for stream, memory in zip(streamed, held, strict=True):
        assert memory.num_pairs == stream.num_pairs
        assert memory.train.manifest == stream.train.manifest
        assert isinstance(memory.train, ImageTextPairs)
        for split in ("train", "validation", "test"):
            assert content(memory.splits[split], None) == content(stream.splits[split], None)


def test_an_epoch_is_a_permutation_that_follows_from_its_seed() -> None:
    pairs = cache_in_memory(open_stages(SCENES, None)[1].train)
    stored, shuffled = content(pairs, None), content(pairs, 3)
    assert shuffled != stored
    assert sorted(shuffled) == sorted(stored)
    assert content(pairs, 3) == shuffled
    assert content(pairs, 4) != shuffled


def test_nested_stages_are_decoded_once() -> None:
    trains = [stage.train for stage in open_stages(SCENES, None)]
    small, large = cache_nested(trains)
    assert content(small, None) == content(large, None)[:40]
    assert next(small.epoch(None)).image is next(large.epoch(None)).image
    assert cache_nested([]) == []


@pytest.mark.parametrize("in_memory", [False, True])
def test_tensors_of_held_pairs_are_those_of_their_encoder(in_memory: bool) -> None:
    """To the bit, in every epoch, from any step on, for models of two resolutions in turn."""
    first, second = (
        stage.train for stage in open_stages(replace(SCENES, in_memory=in_memory), None)
    )
    for size, context in ((32, 16), (24, 8), (32, 16), (16, 16)):
        image = ClipArch.preset("tiny").with_size("image.image_size", size).image
        encoder = PairEncoder(image, Tokenizer(context))
        for pairs in (first, second):
            batches = training_batches(pairs, encoder, 16, seed=5, start=1)
            assert all(len(b.captions) == 16 for b in itertools.islice(batches, 5))
            parts = list(fixed_batches(pairs, encoder, 16))
            whole = encoder.batch(pairs.epoch(None))
            assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
            assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
            assert sum((part.captions for part in parts), ()) == whole.captions


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(crop_scale=0.5, flip=0.5)])
def test_training_batches_are_the_same_held_and_streamed(augment: AugmentConfig) -> None:
    pairs = open_stages(SCENES, None)[1].train
    encoder = PairEncoder(ClipArch.preset("tiny").image, Tokenizer(16), augment)
    shard = BatchShard(1, 2)

    class Streamed:
        num_pairs, manifest, epoch = pairs.num_pairs, pairs.manifest, pairs.epoch

    held, streamed = (
        training_batches(source, encoder, 16, seed=5, start=3, shard=shard)
        for source in (pairs, Streamed())
    )
    for one, other in itertools.islice(zip(held, streamed, strict=True), 9):
        assert torch.equal(one.images, other.images)
        assert one.images.stride() == other.images.stride()  # kernels follow the memory's order
        assert torch.equal(one.tokens, other.tokens)
        assert one.captions == other.captions


def test_repeated_images_are_told_of_held_pairs_too() -> None:
    picture = Image.new("RGB", (8, 8))
    pairs = [Pair(picture, f"caption {n}", bytes([n // 2] * 32)) for n in range(4)]
    held = HeldPairs(4, pairs.__getitem__)
    encoder = PairEncoder(ClipArch.preset("tiny").image, Tokenizer(8))
    batch = held.batch(encoder, np.array([3, 0, 1]))
    expected = encoder.batch(pairs[n] for n in (3, 0, 1)).image_ids
    assert torch.equal(batch.image_ids, expected)
    mirroring = encoder._replace(augment=AugmentConfig(flip=1.0))
    varied = held.batch(mirroring, np.array([3, 0, 1]), draws(0, 3))
    assert torch.equal(varied.image_ids, expected)
    pairs[2] = pairs[2]._replace(image_id=b"")
    assert held.batch(encoder, np.array([2, 3])).image_ids is None

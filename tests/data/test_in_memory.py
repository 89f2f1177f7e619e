"""Held pairs: the same pairs as the stream's, decoded once, shared by nested stages."""

from dataclasses import replace

import numpy as np

from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.in_memory import cache_in_memory, cache_nested
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.stages import open_stages

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

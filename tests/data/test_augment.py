"""Varied training images: repeatable, resumable, within bounds, off by default."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from nas_growclip.data.augment import AugmentConfig, vary
from nas_growclip.data.batches import BatchShard, fixed_batches, training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.stages import open_stages
from nas_growclip.models.arch import ClipArch

CROPS = AugmentConfig(crop_scale=0.4, flip=0.5)
DATA = ScenesConfig(stages=(48,), validation_pairs=8, test_pairs=8)


TINY = ClipArch.preset("tiny").image


def batches(augment: AugmentConfig, count: int, start: int = 0, seed: int = 0) -> list[PairBatch]:
    encoder = PairEncoder(TINY, lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64))
    pairs = open_stages(DATA, None)[0].train
    stream = training_batches(pairs, encoder._replace(augment=augment), 16, seed=seed, start=start)
    return list(itertools.islice(stream, count))


def test_off_by_default() -> None:
    assert not AugmentConfig().changes_images
    plain, same = batches(AugmentConfig(), 3), batches(AugmentConfig(crop_scale=1.0), 3)
    assert all(torch.equal(a.images, b.images) for a, b in zip(plain, same, strict=True))


def test_crops_differ_from_pass_to_pass_and_captions_stay() -> None:
    plain, varied = batches(AugmentConfig(), 6), batches(CROPS, 6)
    assert [batch.captions for batch in plain] == [batch.captions for batch in varied]
    assert not any(torch.equal(a.images, b.images) for a, b in zip(plain, varied, strict=True))
    by_caption = [dict(zip(b.captions, b.images, strict=True)) for b in varied]
    first, second = by_caption[0] | by_caption[1] | by_caption[2], by_caption[3]
    assert not any(torch.equal(first[caption], image) for caption, image in second.items())


def test_taken_up_anywhere_the_batches_are_the_same() -> None:
    whole = batches(CROPS, 8)
    for start in (1, 3, 5):
        rest = batches(CROPS, 8 - start, start=start)
        assert all(
            torch.equal(a.images, b.images) for a, b in zip(whole[start:], rest, strict=True)
        )
    assert not torch.equal(batches(CROPS, 1, seed=1)[0].images, whole[0].images)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_shares_of_a_batch_are_the_batch(count: int) -> None:
    encoder = PairEncoder(TINY, lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64))
    pairs = open_stages(DATA, None)[0].train
    shards = [
        training_batches(
            pairs,
            encoder._replace(augment=CROPS),
            16,
            seed=0,
            start=2,
            shard=BatchShard(index, count),
        )
        for index in range(count)
    ]
    for whole in batches(CROPS, 4, start=2):
        parts = [next(shard) for shard in shards]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert sum((part.captions for part in parts), ()) == whole.captions


def test_evaluation_is_never_varied() -> None:
    encoder = PairEncoder(TINY, lambda texts: torch.zeros(len(texts), 4, dtype=torch.int64))
    pairs = open_stages(DATA, None)[0].train
    plain = next(fixed_batches(pairs, encoder, 16))
    varied = next(fixed_batches(pairs, encoder._replace(augment=CROPS), 16))
    assert torch.equal(plain.images, varied.images)


def test_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    vary([Image.new("RGB", (20, 20))], (8, 8), CROPS, [0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flip_alone_mirrors() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    (mirrored,) = vary([image], (4, 4), AugmentConfig(flip=1.0), [0])
    assert np.array_equal(np.asarray(mirrored), np.asarray(image)[:, ::-1])


def test_crops_keep_their_share_of_the_area() -> None:
    """A ramp from left to right: the range of a crop's values is the width it kept."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    images = [Image.fromarray(ramp)] * 64
    crops = vary(images, (64, 64), AugmentConfig(crop_scale=0.5), range(64))
    kept = [(int(a.max()) - int(a.min())) / 255 for a in map(np.asarray, crops)]
    assert min(kept) >= np.sqrt(0.5 * 3 / 4) - 0.05
    assert len({round(share, 2) for share in kept}) > 10


@pytest.mark.parametrize("bad", [{"crop_scale": 0.0}, {"crop_scale": 1.1}, {"flip": -0.1}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        AugmentConfig(**bad)

"""Varied training images: repeatable, resumable, within bounds, off by default."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from nas_growclip.data.augment import AugmentConfig, crop_box, draws, vary
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
    batches(CROPS, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flip_alone_mirrors() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    mirrored = vary(image, (4, 4), AugmentConfig(flip=1.0), draws(0, 1)[0])
    assert np.array_equal(np.asarray(mirrored), np.asarray(image)[:, ::-1])
    flips = [
        vary(image, (4, 4), AugmentConfig(flip=0.3), drawn) != image for drawn in draws(0, 2000)
    ]
    assert 0.27 < np.mean(flips) < 0.33


@pytest.mark.parametrize("size", [(32, 32), (20, 64), (64, 20), (7, 5), (1, 1)])
@pytest.mark.parametrize("crop_scale", [0.9, 0.3, 0.02])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int], crop_scale: float) -> None:
    """Top, left, height and width: as far apart as two samples of torchvision's may be."""
    ours = np.array([crop_box(size, crop_scale, drawn) for drawn in draws(0, 3000)])
    torch.manual_seed(0)
    image = Image.new("RGB", size[::-1])
    theirs = np.array(
        [
            RandomResizedCrop.get_params(image, [crop_scale, 1.0], [3 / 4, 4 / 3])
            for _ in range(3000)
        ]
    )
    for column, expected in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(column, expected, method="asymp").pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()


@pytest.mark.parametrize("size", [(400, 20), (20, 400)])
def test_of_a_long_image_the_middle_is_kept_where_no_crop_fits(size: tuple[int, int]) -> None:
    boxes = {crop_box(size, 0.9, drawn) for drawn in draws(0, 50)}
    torch.manual_seed(0)
    image = Image.new("RGB", size[::-1])
    assert boxes == {RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])}


def test_crops_keep_their_share_of_the_area() -> None:
    """A ramp from left to right: the range of a crop's values is the width it kept."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    image, config = Image.fromarray(ramp), AugmentConfig(crop_scale=0.5)
    crops = [vary(image, (64, 64), config, drawn) for drawn in draws(0, 64)]
    assert {crop.size for crop in crops} == {(64, 64)}
    kept = [(int(a.max()) - int(a.min())) / 255 for a in map(np.asarray, crops)]
    assert min(kept) >= np.sqrt(0.5 * 3 / 4) - 0.05
    assert len({round(share, 2) for share in kept}) > 10


@pytest.mark.parametrize("bad", [{"crop_scale": 0.0}, {"crop_scale": 1.1}, {"flip": -0.1}])
def test_bad_settings(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        AugmentConfig(**bad)

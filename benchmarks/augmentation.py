"""What do random crops and flips of pairs in memory cost, beside torchvision's own transforms?

Rendered scenes, in batches of 128: ours, as training takes them from memory, against torchvision's
``RandomResizedCrop``, ``RandomHorizontalFlip``, ``ToTensor`` and ``Normalize`` and OpenCLIP's
tokenizer on the same decoded images and captions. Milliseconds a batch, one thread, in turn.

Command: python -m benchmarks.augmentation [--size 32] [--batches 20]
"""

import argparse
import itertools
from collections.abc import Callable
from statistics import median

import open_clip
import torch
from torchvision import transforms

from benchmarks.at_scale import timed
from nas_growclip.data.augment import AugmentConfig
from nas_growclip.data.batches import epoch_seed, training_batches
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.in_memory import cache_in_memory
from nas_growclip.data.stages import open_stages
from nas_growclip.models.arch import ClipArch

BATCH, SEED = 128, 0


def main() -> None:
    """Time both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="pixels of an image")
    parser.add_argument("--batches", type=int, default=20, help="batches that are timed")
    args = parser.parse_args()
    torch.set_num_threads(1)

    config = AugmentConfig(crop_scale=0.3, flip=0.5)
    data = ScenesConfig(stages=(1024,), image_size=args.size, validation_pairs=8, test_pairs=8)
    pairs = cache_in_memory(open_stages(data, None)[0].train)
    image = ClipArch.preset("tiny").with_size("image.image_size", args.size).image
    tokenize = open_clip.SimpleTokenizer(context_length=24)
    ours = training_batches(pairs, PairEncoder(image, tokenize, config), BATCH, seed=SEED)

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                args.size,
                scale=(config.crop_scale, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(config.flip),
            transforms.ToTensor(),
            transforms.Normalize(image.preprocessing.mean, image.preprocessing.std),
        ]
    )
    epochs = (pairs.epoch(epoch_seed(SEED, epoch)) for epoch in itertools.count())
    stream = itertools.chain.from_iterable(epochs)

    def theirs() -> None:
        batch = list(itertools.islice(stream, BATCH))
        torch.stack([transform(pair.image) for pair in batch])
        tokenize([pair.caption for pair in batch])

    seconds = median_seconds([lambda: next(ours), theirs], args.batches)
    print(f"ours {1e3 * seconds[0]:.1f} ms, torchvision {1e3 * seconds[1]:.1f} ms a batch")
    print(f"ratio {seconds[1] / seconds[0]:.1f}")


def median_seconds(steps: list[Callable[[], object]], count: int) -> list[float]:
    """Median seconds of each step, after an epoch of it, taken in turn."""
    for step in steps:
        for _ in range(8):
            step()
    times = [[timed(step)[1] for step in steps] for _ in range(count)]
    return [median(column) for column in zip(*times, strict=True)]


if __name__ == "__main__":
    main()

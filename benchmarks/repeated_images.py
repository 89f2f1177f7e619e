"""What it changes that captions of one image are not each other's negatives, and what it costs.

``effect``: a tiny model is trained on rendered scenes with five captions each, once with
``train.repeated_images: mask`` and once with ``negatives``, on few and on many images, and measured
on scenes that it has not seen (one caption each). ``cost``: the loss and its gradient alone, for
batches without repeats and with them.

Command: python -m benchmarks.repeated_images effect|cost [--seeds 3] [--steps 400]
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal

import numpy as np
import torch
from PIL import Image

from nas_growclip.data.batches import training_batches
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.sources.scene_drawing import draw
from nas_growclip.data.sources.scenes import caption, described_scene, scene_pairs
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import ContrastiveLoss
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training

CAPTIONS, SIZE, BATCH = 5, 32, 128
NUM_IMAGES = (100, 400, 1600)


@dataclass(frozen=True)
class SeveralCaptions:
    """Rendered scenes, each with several captions: as many pairs of one image."""

    num_images: int
    manifest: tuple[ManifestEntry, ...] = ()

    @property
    def num_pairs(self) -> int:
        """Captions of all images."""
        return self.num_images * CAPTIONS

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair) -> Iterator[Pair]:
        """Every wanted pair once; in stored order for None, else shuffled by the seed."""
        order = np.arange(self.num_pairs)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        return (self._pairs[i] for place, i in enumerate(order.tolist()) if wanted(place))

    @cached_property
    def _pairs(self) -> list[Pair]:
        pairs = []
        for index in range(self.num_images):
            scene, _ = described_scene(0, "train", index)
            image = Image.fromarray(draw(scene, SIZE))
            rng = Random(index)
            pairs += [
                Pair(image, caption(rng, scene), str(index).encode()) for _ in range(CAPTIONS)
            ]
        return pairs


def trained(
    pairs: SeveralCaptions, repeated: Literal["mask", "negatives"], seed: int, steps: int
) -> Clip:
    config = TrainConfig(batch_size=BATCH, warmup_steps=20, repeated_images=repeated)
    model = Clip(ClipArch.preset("tiny"), seed=seed)
    encoder = PairEncoder(model.arch.image, model.tokenize)
    batches = training_batches(pairs, encoder, BATCH, seed=seed)
    train(start_training(model, config), batches, config, total_steps=steps, until_step=steps)
    return model


def effect(seeds: int, steps: int) -> None:
    test = scene_pairs("test", 1024, image_size=SIZE)
    print("| images | repeats in a batch | metric | mask | negatives | difference |")
    print("|---|---|---|---|---|---|")
    for num_images in NUM_IMAGES:
        pairs = SeveralCaptions(num_images)
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            masked, plain = (
                evaluate(trained(pairs, r, seed, steps), test, (), ("loss", "retrieval"), BATCH)
                for r in ("mask", "negatives")
            )
            for name in ("loss", "i2t_recall@5", "t2i_recall@5"):
                found.setdefault(name, []).append((masked[name].value, plain[name].value))
        repeats = BATCH * (BATCH - 1) / 2 * (CAPTIONS - 1) / (pairs.num_pairs - 1)
        for name, values in found.items():
            differences = [m - p for m, p in values]
            spread = statistics.stdev(differences) if seeds > 1 else 0.0
            means = [statistics.mean(side) for side in zip(*values, strict=True)]
            print(
                f"| {num_images} | {repeats:.1f} pairs | {name} | {means[0]:.4f} | {means[1]:.4f} "
                f"| {statistics.mean(differences):+.4f} ± {spread:.4f} |",
                flush=True,
            )


def cost() -> None:
    torch.set_num_threads(1)
    print("| batch | width | no ids, ms | ids, no repeat, ms | ids, repeats, ms |")
    print("|---|---|---|---|---|")
    for batch, width in ((128, 64), (1024, 512), (2048, 512)):
        rng = torch.Generator().manual_seed(0)
        sides = [
            torch.nn.functional.normalize(torch.randn(batch, width, generator=rng), dim=1)
            for _ in range(2)
        ]
        settings = {
            "none": None,
            "distinct": torch.randperm(batch, generator=rng),
            "repeats": torch.arange(batch) // 2,
        }
        seconds: dict[str, list[float]] = {name: [] for name in settings}
        for _ in range(7):
            for name, ids in settings.items():
                seconds[name].append(_timed(sides, ids))
        cells = [f"{1e3 * statistics.median(values):.2f}" for values in seconds.values()]
        print(f"| {batch} | {width} | " + " | ".join(cells) + " |", flush=True)


def _timed(sides: list[torch.Tensor], ids: torch.Tensor | None) -> float:
    loss_fn, scale = ContrastiveLoss(has_bias=False), torch.tensor(20.0)
    images, texts = (side.clone().requires_grad_() for side in sides)
    started = time.perf_counter()
    loss_fn(images, texts, scale, image_ids=ids).backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("effect", "cost"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    if options.what == "effect":
        effect(options.seeds, options.steps)
    else:
        cost()


if __name__ == "__main__":
    main()

"""Random crops and flips of training images: what makes a repeated image worth a new one.

What is done to an image is torchvision's; what is drawn is drawn here, for a batch at a time, since
torchvision's own draws of an image of 32 pixels take longer than all else that is done to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pixels

from nas_growclip.io.ranges import check_ranges, within

ATTEMPTS = 10
"""Crops that are drawn for an image; without one that fits it is cropped in the middle."""
DRAWS = 2 * ATTEMPTS + 3
"""Numbers that an image's variation is drawn from."""
RATIOS = (3 / 4, 4 / 3)
"""Bounds of a crop's width over its height."""

Draws = Sequence[Sequence[float]]
"""Uniform numbers in [0, 1) for the variation of some images: ``DRAWS`` for each."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images vary; by default not at all.

    Raises:
        ValueError: If a number is out of range.
    """

    crop_scale: float = 1.0
    """Smallest share of an image's area that a random crop keeps (OpenCLIP's default is 0.9), with
    an aspect ratio of 3/4 to 4/3; 1 crops nothing."""
    flip: float = 0.0
    """Chance of a mirror image; 0 where captions say left and right."""

    def __post_init__(self) -> None:
        check_ranges(self, crop_scale=within(0, 1, "(]"), flip=within(0, 1))

    @property
    def changes_images(self) -> bool:
        """Whether any image is changed."""
        return self.crop_scale < 1 or self.flip > 0


def draws(seed: int, count: int) -> Draws:
    """Draw for some images, as a seed says."""
    drawn: Draws = np.random.default_rng(seed).random((count, DRAWS)).tolist()
    return drawn


def vary(
    image: Image.Image, shape: tuple[int, int], config: AugmentConfig, drawn: Sequence[float]
) -> Image.Image:
    """Crop and flip an image.

    Args:
        image: An RGB image.
        shape: Pixels that a crop is scaled to: (height, width).
        config: How much.
        drawn: What is drawn for the image: ``DRAWS`` uniform numbers.
    """
    if config.crop_scale < 1:
        box = crop_box((image.height, image.width), config.crop_scale, drawn)
        image = pixels.resized_crop(image, *box, list(shape), InterpolationMode.BICUBIC)
    return pixels.hflip(image) if drawn[-1] < config.flip else image


def crop_box(
    size: tuple[int, int], crop_scale: float, drawn: Sequence[float]
) -> tuple[int, int, int, int]:
    """A random crop, distributed as by torchvision's ``RandomResizedCrop.get_params``.

    Its area is uniform between ``crop_scale`` and 1 times the image's, the logarithm of its aspect
    ratio uniform between those of 3/4 and 4/3, its place uniform (Szegedy et al. 2015, section 6).

    Args:
        size: Pixels of the image: (height, width).
        crop_scale: Smallest share of its area.
        drawn: Uniform numbers: two for each attempt, then two for the place.

    Returns:
        Top, left, height, width.
    """
    height, width = size
    log_ratios = [math.log(ratio) for ratio in RATIOS]
    for attempt in range(ATTEMPTS):
        area = height * width * _between((crop_scale, 1.0), drawn[2 * attempt])
        ratio = math.exp(_between(log_ratios, drawn[2 * attempt + 1]))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = drawn[2 * ATTEMPTS : 2 * ATTEMPTS + 2]
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    w = min(width, round(height * RATIOS[1]))
    h = min(height, round(width / RATIOS[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _between(bounds: Sequence[float], share: float) -> float:
    """A point between two bounds."""
    low, high = bounds
    return low + (high - low) * share

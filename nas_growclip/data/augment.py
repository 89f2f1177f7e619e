"""Random crops and flips of training images: what makes a repeated image worth a new one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip, RandomResizedCrop

from nas_growclip.io.ranges import check_ranges, within


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


def vary(
    images: list[Image.Image], shape: tuple[int, int], config: AugmentConfig, seeds: Sequence[int]
) -> list[Image.Image]:
    """Crop and flip images at random, by torchvision's transforms.

    Args:
        images: RGB images.
        shape: Pixels that a crop is scaled to: (height, width).
        config: How much.
        seeds: One an image: fixes what is drawn; the process's random state is left as it was.
    """
    crop = RandomResizedCrop(
        shape, scale=(config.crop_scale, 1.0), interpolation=InterpolationMode.BICUBIC
    )
    flip = RandomHorizontalFlip(config.flip)
    varied = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            cropped = crop(image) if config.crop_scale < 1 else image
            varied.append(flip(cropped) if config.flip else cropped)
    return varied

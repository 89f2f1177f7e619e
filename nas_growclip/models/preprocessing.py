"""How a model's images become its input: part of the model, since its weights depend on it."""

import math
from dataclasses import dataclass
from typing import Literal

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the channels, of pixels in [0, 1], in CLIP's training data (Radford et al., 2021)."""
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviation."""

Channels = tuple[float, float, float]
ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """Scaling and normalisation of images, in OpenCLIP's words; by default OpenAI's.

    Raises:
        ValueError: If a number is out of range.
    """

    resize_mode: ResizeMode = "shortest"
    """``shortest`` scales an image to cover the model's size and crops its centre, ``longest`` to
    fit into it and fills the rest, ``squash`` to the model's size whatever its aspect ratio."""
    interpolation: Interpolation = "bicubic"
    """Filter by which images are scaled."""
    mean: Channels = OPENAI_MEAN
    """Subtracted from each channel, of pixels in [0, 1]."""
    std: Channels = OPENAI_STD
    """What each channel is then divided by."""
    fill_color: int = 0
    """Value, in [0, 255], of what ``longest`` fills."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean must be three finite numbers, but got {self.mean}.")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"std must be three finite numbers above 0, but got {self.std}.")
        if not 0 <= self.fill_color <= 255:
            raise ValueError(f"fill_color must be from 0 to 255, but got {self.fill_color}.")

"""How a model's images become its input: part of the model, since its weights depend on it."""

from dataclasses import dataclass
from typing import Literal

from nas_growclip.io.mappings import read_fields
from nas_growclip.io.ranges import above, check_ranges, within

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
        read_fields(self)
        check_ranges(self, mean=within(0, 1), std=above(0), fill_color=within(0, 255))

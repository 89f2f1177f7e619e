"""Pictures of more than 8 bits as pictures of 8: scaled by what they hold, never cut off.

Scanners, microscopes and satellites write 12 or 16 bits, 32-bit integers, or floats from 0 to 1 or
to 255, and no header says which. So the range follows from the picture: from 0 to the smallest
full scale that holds its largest value, or, where values are negative, from its least to its
largest. What a picture shows in 8 bits out of 16 is not dark then; what is all 0 stays black.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one value a pixel and more than 8 bits."""

FULL_SCALES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31))
"""Largest values that cameras and scanners write."""

MIN_COLOUR_PEAK = 32
"""Pillow keeps the upper 8 of 16 bits of a colour; where its brightest is less, too little is left.

An eighth of the full scale: pictures of 12 bits in 16 come to 15 at most.
"""

STRIP = 256
"""Rows that are scaled at a time, as 32-bit floats."""


def grey_to_rgb(image: Image.Image) -> Image.Image | str:
    """A grey picture of more than 8 bits as RGB; the reason, as text, if it has no such values.

    Args:
        image: One of ``GREY_MODES``.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "image with NaN or infinity"
    low, high = _limits(values)
    grey = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), STRIP):
        rows = slice(first, first + STRIP)
        grey[rows] = np.rint((values[rows].astype(np.float32) - low) * (255 / (high - low)))
    return Image.fromarray(grey).convert("RGB")


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """What becomes black and what becomes white."""
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return (low, high) if high > low else (low, 0.0)
    if high <= 1 and values.dtype.kind == "f":
        return 0.0, 1.0
    scales = (float(scale) for scale in FULL_SCALES if high <= scale)
    return 0.0, next(scales, high)


def loses_depth(image: Image.Image, raw_mode: str) -> bool:
    """Whether a colour picture of 16 bits is so dark in the upper 8 that it is as good as lost.

    Args:
        image: As Pillow decoded it.
        raw_mode: How its pixels are stored, as in ``RGB;16B``.
    """
    if ";16" not in raw_mode or image.mode in GREY_MODES:
        return False
    colours = image.convert("RGB").getextrema()
    peak = max(int(most) for _, most in colours)  # type: ignore[misc]
    return 0 < peak < MIN_COLOUR_PEAK

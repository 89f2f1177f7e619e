"""Images as a GrowClipModel's input, for ``transformers``; to the bit as nas_growclip and OpenCLIP.

``preprocess_cfg`` is OpenCLIP's: ``shortest`` scales an image to cover the size and crops its
centre, ``longest`` to fit into it and fills the rest, ``squash`` to the size whatever its shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import to_pil_image


class GrowClipImageProcessor(BaseImageProcessor):
    """Scales, crops and normalises images one by one."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers' name)

    def __init__(self, preprocess_cfg: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.preprocess_cfg = dict(preprocess_cfg)

    def preprocess(
        self, images: Any, return_tensors: str | None = None, **options: Any
    ) -> BatchFeature:
        """Pixels (batch, 3, height, width) of an image or of several, of Pillow or arrays."""
        given = images if isinstance(images, (list, tuple)) else [images]
        pixels = np.stack([self._pixels(to_pil_image(image)) for image in given])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, image: Image.Image) -> Any:
        config = self.preprocess_cfg
        height, width = config["size"]
        scaled = image.resize(*scaling(image.size, (width, height), config))
        canvas = Image.new("RGB", (width, height), (config.get("fill_color", 0),) * 3)
        corner = offset(scaled.width, width), offset(scaled.height, height)
        canvas.paste(scaled.convert("RGB"), corner)
        mean, std = (np.array(config[key], dtype=np.float32) for key in ("mean", "std"))
        normalised = (np.asarray(canvas, dtype=np.float32) / 255 - mean) / std
        return normalised.transpose(2, 0, 1)


def scaling(
    size: Sequence[int], wanted: Sequence[int], config: Mapping[str, Any]
) -> tuple[tuple[int, int], Image.Resampling]:
    """The size, (width, height), to which an image is scaled, and the filter."""
    resampling = Image.Resampling[config["interpolation"].upper()]
    if config["resize_mode"] == "squash":
        return (wanted[0], wanted[1]), resampling
    is_longest = config["resize_mode"] == "longest"
    if wanted[0] == wanted[1] and not is_longest:
        width, height = (wanted[0] * side // min(size) for side in size)
        return (width, height), resampling
    ratios = [side / full for side, full in zip(size, wanted, strict=True)]
    ratio = max(ratios) if is_longest else min(ratios)
    width, height = (max(1, round(side / ratio)) for side in size)
    return (width, height), resampling if is_longest else Image.Resampling.BICUBIC


def offset(side: int, wanted: int) -> int:
    """Where an image's edge comes to lie so that its centre is in the middle."""
    return -round((side - wanted) / 2) if side > wanted else (wanted - side) // 2

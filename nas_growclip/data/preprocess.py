"""Images as a model's input, to the bit as OpenCLIP evaluates with the same settings."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from open_clip.transform import ResizeKeepRatio, center_crop_or_pad
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pixels

from nas_growclip.models.arch import ImageArch
from nas_growclip.models.preprocessing import Preprocessing

INTERPOLATIONS = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
}


def preprocess(
    images: Iterable[Image.Image], arch: ImageArch
) -> Float[Tensor, "batch 3 height width"]:
    """Scale images as a model's architecture says, and normalise them.

    Images are taken one by one, so that no two whole ones need memory at a time.
    """
    scaled = [resize(image, arch.image_shape, arch.preprocessing) for image in images]
    return normalise(np.stack(scaled), arch.preprocessing)


def resize(
    image: Image.Image, shape: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Bring an image to a shape.

    Args:
        image: Any image; it is made RGB after it was scaled, as by OpenCLIP.
        shape: Pixels wanted: (height, width).
        preprocessing: How.

    Returns:
        Array of shape (height, width, 3).
    """
    interpolation = INTERPOLATIONS[preprocessing.interpolation]
    if preprocessing.resize_mode == "squash":
        scaled = pixels.resize(image, shape, interpolation)
    elif preprocessing.resize_mode == "longest":
        scaled = pixels.resize(image, _kept_ratio(image, shape, longest=1), interpolation)
    elif shape[0] == shape[1]:
        scaled = pixels.resize(image, shape[0], interpolation)
    else:  # OpenCLIP knows bicubic interpolation only where a shape to cover is not square
        scaled = pixels.resize(
            image, _kept_ratio(image, shape, longest=0), INTERPOLATIONS["bicubic"]
        )
    cropped = center_crop_or_pad(scaled, shape, preprocessing.fill_color)
    return np.asarray(cropped.convert("RGB"))


def _kept_ratio(image: Image.Image, shape: tuple[int, int], longest: float) -> list[int]:
    """Height and width that fit into a shape (longest 1) or cover it (0); no side vanishes."""
    return [max(1, side) for side in ResizeKeepRatio.get_params(image, shape, longest)]


def normalise(
    images: NDArray[np.uint8], preprocessing: Preprocessing
) -> Float[Tensor, "batch 3 height width"]:
    """Scale images of shape (batch, height, width, 3) to [0, 1], subtract mean, divide by std."""
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return channels_first.float().div_(255).sub_(mean).div_(std)

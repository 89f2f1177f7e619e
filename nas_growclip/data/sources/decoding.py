"""What sources that read files share: which file a split names, and how bytes become a pair.

Data from the web is never clean. A bad pair is left out and counted by a short reason; it never
stops a run. So the functions here return the reason, as text, in place of what they could not
read.
"""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from nas_growclip.data.config import DataConfig
from nas_growclip.data.pairs import Pair

Split = Literal["train", "validation", "test"]

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow formats that are tried. Some others start programs, which data must not."""

MAX_PIXELS = 2**26
"""Larger images are not decoded: a few bytes can claim to be gigapixels."""

MAX_ASPECT_RATIO = 100
"""Longer side by the shorter one; scaled to cover a square, a line would be gigapixels."""

MAX_CAPTION_BYTES = 2**16
"""Longer texts are no captions: the tokenizer reads all of a text to keep its first 77 tokens."""

_DECODE_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's word for a broken file
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def data_folder(folder: Path | None, source: str) -> Path:
    """The folder that paths of the settings are relative to.

    Raises:
        ValueError: If none was given or it is no folder.
    """
    if folder is None:
        raise ValueError(
            f"data.source {source!r} must know where its files are, but got no data folder. "
            "Pass `--data DIR`."
        )
    if not folder.is_dir():
        raise ValueError(f"--data must be a folder, but got {str(folder)!r}. Check the path.")
    return folder


def split_setting(config: DataConfig, split: Split) -> str:
    """The shards or CSV file that the settings name for a split.

    Raises:
        ValueError: If they name none.
    """
    value = {"train": config.train, "validation": config.validation, "test": config.test}[split]
    if not value:
        raise ValueError(
            f"data.{split} must name the files of source {config.source!r}, but is empty. "
            "Give a path relative to the data folder."
        )
    return value


def pair_limit(config: DataConfig, split: Split) -> int | None:
    """How many usable pairs of a split are used at most; None means all."""
    limits = {"validation": config.validation_pairs, "test": config.test_pairs}
    return limits.get(split) or None


def file_name(path: Path, folder: Path) -> str:
    """Name of a file in a manifest: relative to the data folder where it lies in it."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def decode_pair(image: bytes | None, caption: bytes | None) -> Pair | str:
    """Decode one image and its caption; the reason, as text, if they are no usable pair."""
    if image is None:
        return "missing image"
    if caption is None:
        return "missing caption"
    if len(caption) > MAX_CAPTION_BYTES:
        return "oversized caption"
    text = decode_caption(caption)
    if text is None or not text:
        return "unreadable caption" if text is None else "empty caption"
    picture = decode_image(image)
    return picture if isinstance(picture, str) else Pair(picture, text)


def decode_caption(data: bytes) -> str | None:
    """UTF-8 text without blanks at its ends; None if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None


def decode_image(data: bytes) -> Image.Image | str:
    """Decode an image to RGB, transparent ones on white; the reason, as text, if that fails."""
    try:
        with (
            _without_warnings(),
            Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image,
        ):
            if reason := _size_fault(*image.size):
                return reason
            image.load()
            return _to_rgb(image)
    except Image.DecompressionBombError:
        return "oversized image"
    except _DECODE_ERRORS:
        return "unreadable image"


_decoding: list[AbstractContextManager[object]] = []
_counting = threading.Lock()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hear nothing of what Pillow warns of: large images, which have a limit here, odd metadata.

    Python's filters belong to all threads: the first to come sets them, the last to go puts them
    back.
    """
    with _counting:
        _decoding.append(_decoding[0] if _decoding else warnings.catch_warnings(action="ignore"))
        if len(_decoding) == 1:
            _decoding[0].__enter__()
    try:
        yield
    finally:
        with _counting:
            filters = _decoding.pop()
            if not _decoding:
                filters.__exit__(None, None, None)


def _size_fault(width: int, height: int) -> str:
    if width * height > MAX_PIXELS:
        return "oversized image"
    return "elongated image" if max(width, height) > MAX_ASPECT_RATIO * min(width, height) else ""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey values at 255, which makes most of the image white.
        grey = np.clip(np.asarray(image) // 257, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")

"""How bytes become a pair: what all sources that read files share.

Data from the web is never clean. A bad pair is left out and counted by a short reason; it never
stops a run. So the functions here return the reason, as text, in place of what they could not
read.
"""

import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image

from nas_growclip.data.pairs import Pair
from nas_growclip.data.sources.depth import GREY_MODES, grey_to_rgb, loses_depth

IMAGE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"),
    *("SGI", "ICO", "ICNS", "QOI", "DDS", "PSD"),
)
"""Pillow formats that are tried: all that have a mark at their beginning and only hold pixels.

Some others start programs, which data must not.
"""

IMAGE_SUFFIXES = frozenset(
    suffix.removeprefix(".")
    for suffix, format_ in Image.registered_extensions().items()
    if format_ in IMAGE_FORMATS
)
"""Suffixes, without the dot, that Pillow gives to these formats."""

MAX_PIXELS = 2**26
"""Larger images are not decoded: a few bytes can claim to be gigapixels."""

MAX_ASPECT_RATIO = 100
"""Longer side by the shorter one; scaled to cover a square, a line would be gigapixels."""

MAX_CAPTION_BYTES = 2**16
"""Longer texts are no captions: the tokenizer reads all of a text to keep its first 77 tokens."""

DIGEST_SIZE = 16
"""Bytes of SHA-256 that are kept: two of 10^9 images agree by chance once in 10^20 runs."""

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
    return picture if isinstance(picture, str) else Pair(picture, text, image_digest(image))


def image_digest(data: bytes) -> bytes:
    """What equal image files have in common: 16 bytes of SHA-256."""
    return hashlib.sha256(data).digest()[:DIGEST_SIZE]


def decode_caption(data: bytes) -> str | None:
    """UTF-8 text without blanks at its ends; None if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None


def looks_like_image(data: bytes) -> bool:
    """Whether bytes begin as a file of one of ``IMAGE_FORMATS`` does."""
    accepts = (Image.OPEN[name][1] for name in IMAGE_FORMATS if name in Image.OPEN)
    return any(accept is not None and accept(data[:16]) is True for accept in accepts)


def decode_image(data: bytes) -> Image.Image | str:
    """Decode an image to RGB, transparent ones on white; the reason, as text, if that fails.

    An animation's first frame is taken. An orientation in the EXIF data is not applied, as
    OpenCLIP's loaders do not either: pixels are as they are stored.
    """
    try:
        with (
            _without_warnings(),
            Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image,
        ):
            if reason := _size_fault(*image.size):
                return reason
            raw_mode = _raw_mode(image)
            image.load()
            return _to_rgb(image, raw_mode)
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


def _raw_mode(image: Image.Image) -> str:
    """How an image that is not loaded yet stores its pixels, as in ``RGB;16B``."""
    return " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))


def _to_rgb(image: Image.Image, raw_mode: str) -> Image.Image | str:
    if image.mode in GREY_MODES:
        return grey_to_rgb(image)
    if loses_depth(image, raw_mode):
        return "dark 16-bit colours"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")

"""Pictures of more than 8 bits: as bright as they are meant, never black without a word."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nas_growclip.data.sources.decoding import decode_image

RAMP = np.tile(np.linspace(0, 1, 48), (48, 1))
EXPECTED = np.rint(RAMP * 255)


def stored(values: NDArray[np.generic], kind: str = "TIFF") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def grey(data: bytes) -> NDArray[np.int64]:
    image = decode_image(data)
    assert isinstance(image, Image.Image), image
    pixels = np.asarray(image).astype(int)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_any_depth_is_scaled_by_what_it_holds(kind: str, bits: int) -> None:
    values = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    assert abs(grey(stored(values, kind)) - EXPECTED).max() <= 1


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 255).astype(np.int32),
        (RAMP * (2**31 - 1)).astype(np.int32),
        RAMP.astype(np.float32),
        (RAMP * 255).astype(np.float32),
        (RAMP * 65535).astype(np.float32),
        (RAMP * 2 - 1).astype(np.float32),
        (RAMP * 4095 - 1024).astype(np.int32),
    ],
    ids=["i32 255", "i32 full", "f32 1", "f32 255", "f32 65535", "f32 -1 to 1", "hounsfield"],
)
def test_integers_and_floats_are_scaled_by_what_they_hold(values: NDArray[np.generic]) -> None:
    assert abs(grey(stored(values)) - EXPECTED).max() <= 1


def test_half_of_a_scale_stays_half() -> None:
    """What is dimmer than its full scale is not stretched to it."""
    assert abs(grey(stored(np.rint(RAMP * 40_000).astype(np.uint16))).max() - 156) <= 1
    assert abs(grey(stored((RAMP * 0.5).astype(np.float32))).max() - 128) <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_what_is_black_stays_black(kind: type) -> None:
    assert grey(stored(np.zeros((8, 8), kind))).max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_counted(value: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 4] = value
    assert decode_image(stored(values)) == "image with NaN or infinity"


def colour_png(peak: int) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""
    rows = np.stack([np.rint(RAMP * peak)] * 3, axis=-1).astype(">u2")
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 48, 48, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colours_of_16_bits_are_read_or_counted() -> None:
    assert abs(grey(colour_png(65535)) - EXPECTED).max() <= 1
    assert decode_image(colour_png(4095)) == "dark 16-bit colours"
    assert grey(colour_png(0)).max() == 0


def test_orientation_of_a_photograph_is_not_applied() -> None:
    """As OpenCLIP's loaders: they convert to RGB and never call ``ImageOps.exif_transpose``."""
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    read = decode_image(file.getvalue())
    assert isinstance(read, Image.Image)
    np.testing.assert_array_equal(
        np.asarray(read), np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    )
    assert read.size == (6, 4)

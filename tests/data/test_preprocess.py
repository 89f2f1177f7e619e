"""Images as a model's input, against OpenCLIP's transforms and torchvision's: equal to the bit."""

import dataclasses

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image
from torchvision import transforms

from nas_growclip.data.preprocess import INTERPOLATIONS, normalise, preprocess, resize
from nas_growclip.models.arch import ClipArch, ImageArch
from nas_growclip.models.preprocessing import (
    OPENAI_MEAN,
    OPENAI_STD,
    Interpolation,
    Preprocessing,
    ResizeMode,
)

SHAPES = ((224, 224), (32, 32), (33, 33), (48, 32), (24, 56))
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1")
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def picture(width: int, height: int, seed: int, mode: str = "RGB") -> Image.Image:
    """Noise, in which one pixel's shift is never hidden."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def sizes(count: int, seed: int) -> list[tuple[int, int]]:
    """Widths and heights: small, large and of extreme aspect ratios."""
    rng = np.random.default_rng(seed)
    return [(int(w), int(h)) for w, h in np.exp(rng.uniform(2.1, 6.4, (count, 2)))]


def arch_of(shape: tuple[int, int], preprocessing: Preprocessing) -> ImageArch:
    return ImageArch(
        depth=1,
        width=64,
        mlp_width=64,
        patch_size=1,
        image_size=shape[1],
        image_height=shape[0],
        preprocessing=preprocessing,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_equals_open_clip_to_the_bit_at_random_sizes(
    resize_mode: ResizeMode, interpolation: Interpolation
) -> None:
    ours = Preprocessing(resize_mode=resize_mode, interpolation=interpolation, fill_color=7, **HALF)
    theirs = {
        shape: image_transform(
            shape,
            is_train=False,
            resize_mode=resize_mode,
            interpolation=interpolation,
            fill_color=7,
            **HALF,
        )
        for shape in SHAPES
    }
    for number, (width, height) in enumerate(sizes(150, seed=1)):
        shape = SHAPES[number % len(SHAPES)]
        image = picture(width, height, number)
        found = preprocess([image], arch_of(shape, ours))[0]
        assert torch.equal(found, theirs[shape](image)), (width, height, shape)


@pytest.mark.parametrize("mode", MODES)
def test_any_kind_of_image_is_scaled_before_it_is_made_rgb_as_by_open_clip(mode: str) -> None:
    theirs = image_transform((32, 32), is_train=False)
    for number, (width, height) in enumerate(sizes(10, seed=2)):
        image = picture(width, height, number, mode)
        found = preprocess([image], arch_of((32, 32), Preprocessing()))[0]
        assert torch.equal(found, theirs(image)), (width, height)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_torchvisions_transforms(interpolation: Interpolation) -> None:
    """OpenAI's own recipe, and its squashing sibling, written out."""
    to_input = [transforms.ToTensor(), transforms.Normalize(OPENAI_MEAN, OPENAI_STD)]
    how = INTERPOLATIONS[interpolation]
    recipes = {
        "shortest": [transforms.Resize(63, how), transforms.CenterCrop(63), *to_input],
        "squash": [transforms.Resize((63, 63), how), *to_input],
    }
    for number, (width, height) in enumerate(sizes(40, seed=3)):
        image = picture(width, height, number)
        for resize_mode, recipe in recipes.items():
            ours = Preprocessing(interpolation=interpolation, resize_mode=resize_mode)  # type: ignore[arg-type]
            found = preprocess([image], arch_of((63, 63), ours))[0]
            assert torch.equal(found, transforms.Compose(recipe)(image)), (width, height)


def test_an_image_of_the_models_size_is_only_normalised() -> None:
    image = picture(32, 48, seed=0)
    for resize_mode in ("shortest", "longest", "squash"):
        ours = Preprocessing(resize_mode=resize_mode)  # type: ignore[arg-type]
        assert np.array_equal(resize(image, (48, 32), ours), np.asarray(image))
    flat = np.full((1, 2, 2, 3), 255, np.uint8)
    white = normalise(flat, Preprocessing())[0, :, 0, 0].double()
    expected = (1 - torch.tensor(OPENAI_MEAN).double()) / torch.tensor(OPENAI_STD).double()
    torch.testing.assert_close(white, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_a_line_of_pixels_keeps_a_row(resize_mode: ResizeMode) -> None:
    """OpenCLIP's ``longest`` would scale its height to nothing."""
    found = resize(picture(500, 1, 0), (32, 32), Preprocessing(resize_mode=resize_mode))
    assert found.shape == (32, 32, 3)
    assert found.any()


def test_longest_fills_what_an_image_leaves_free() -> None:
    black = Image.new("RGB", (64, 32))
    found = resize(black, (32, 32), Preprocessing(resize_mode="longest", fill_color=200))
    assert (found[:8] == 200).all()
    assert (found[8:24] == 0).all()
    assert (found[24:] == 200).all()


WRONG = {
    "mean": ({"mean": (0.5, float("nan"), 0.5)}, r"mean: must be in \[0, 1\], but got nan"),
    "std": ({"std": (0.5, 0.0, 0.5)}, r"std: must be above 0, but got 0\.0"),
    "fill_color": ({"fill_color": 256}, r"fill_color: must be in \[0, 255\], but got 256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_numbers_are_refused(name: str) -> None:
    fields, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)  # type: ignore[arg-type]


def test_it_is_part_of_an_architecture_and_written_only_where_it_is_not_openais() -> None:
    plain = ClipArch.preset("tiny")
    assert "preprocessing" not in plain.to_dict()["image"]
    assert plain.image.preprocessing == Preprocessing()
    half = Preprocessing(resize_mode="squash", interpolation="bilinear", **HALF)  # type: ignore[arg-type]
    other = dataclasses.replace(plain, image=dataclasses.replace(plain.image, preprocessing=half))
    assert other.to_dict()["image"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert ClipArch.from_dict(other.to_dict()) == other
    assert other.with_size("image.width", 128).image.preprocessing == half
    with pytest.raises(
        ValueError, match=r"arch: image: preprocessing: resize_mode: must be one of"
    ):
        ClipArch.from_dict(
            plain.to_dict()
            | {"image": plain.to_dict()["image"] | {"preprocessing": {"resize_mode": "tile"}}}
        )

"""Zero-shot classification tasks: images with labels, class names and prompt templates.

Tasks come from folders in the layout that CLIP_benchmark's ``build_wds_dataset`` reads, or from
the handwritten digits that scikit-learn bundles. Images of a folder are checked when the task is
opened and decoded again whenever it is measured, so that a task of any size takes little memory.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from nas_growclip.data.benchmark_folder import (
    CLASSES_FILE,
    TEMPLATES_FILE,
    set_name,
    split_shards,
    text_lines,
)
from nas_growclip.data.config import MAX_BAD_SHARE
from nas_growclip.data.held import HeldImages
from nas_growclip.data.sources.bad_share import SkipCounts, check_bad_share
from nas_growclip.data.sources.decoding import decode_image
from nas_growclip.data.sources.members import DUPLICATE_KEY, Sample, read_samples
from nas_growclip.data.sources.scan_cache import scan_in_order
from nas_growclip.data.sources.webdataset import changed
from nas_growclip.io.progress import track

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_TEMPLATES = (
    "the digit {c}.",
    "the number {c}.",
    "a handwritten {c}.",
    "a photo of the digit {c}.",
    "a white {c} on a black background.",
)
DIGIT_SIZE = 32
"""Pixels on a side; stored are 8, of 17 grey values."""


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order, as often as they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image.Image]: ...


@dataclass(frozen=True)
class ZeroShotTask:
    """A classification set that is solved by class prompts alone.

    Templates hold ``{c}``, which the class name replaces.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    images: ImageSource
    """One for each label; a tuple of images does, too."""
    labels: tuple[int, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Images left out, by reason."""

    @property
    def chance(self) -> float:
        """Expected top-1 of a model that guesses uniformly."""
        return 1 / len(self.class_names)


@functools.cache
def digits_task() -> ZeroShotTask:
    """The 1,797 handwritten digits that scikit-learn bundles, white on black."""
    digits = import_module("sklearn.datasets").load_digits()  # slow: SciPy, pandas
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = (Image.fromarray(image).convert("RGB") for image in grey)
    size = (DIGIT_SIZE, DIGIT_SIZE)
    return ZeroShotTask(
        name="digits",
        class_names=DIGIT_NAMES,
        templates=DIGIT_TEMPLATES,
        images=HeldImages(image.resize(size, Image.Resampling.BICUBIC) for image in images),
        labels=tuple(int(label) for label in digits.target),
    )


def folder_task(path: Path, max_bad_share: float = MAX_BAD_SHARE) -> ZeroShotTask:
    """Read a folder in the CLIP_benchmark WebDataset layout, its test split.

    Args:
        path: The folder.
        max_bad_share: Share of the images, and of the shards, that may be bad.

    Raises:
        ValueError: If a file is missing or malformed, or too few images are usable.
    """
    class_names = text_lines(path / CLASSES_FILE)
    templates = read_templates(path / TEMPLATES_FILE)
    shards = tuple(_check_shards(path, len(class_names)))
    skipped = sum((shard.skipped for shard in shards), Counter[str]())
    labels = tuple(label for shard in shards for label in shard.labels)
    if not labels:
        raise ValueError(
            f"{path} must hold one usable image or more, but has none (skipped: {dict(skipped)}). "
            "Check that its shards hold KEY.cls and KEY.png, KEY.webp or KEY.jpg."
        )
    check_bad_share(str(path), len(labels), SkipCounts(skipped, len(shards)), max_bad_share)
    images = ShardImages(shards)
    return ZeroShotTask(set_name(path), class_names, templates, images, labels, dict(skipped))


def read_templates(path: Path) -> tuple[str, ...]:
    """Prompts, one a line, with ``{c}`` where the class name goes.

    Raises:
        ValueError: If the file cannot be read or a line has no such place.
    """
    templates = text_lines(path)
    for template in templates:
        if "{c}" not in template:
            raise ValueError(
                f"{path}: each line must hold '{{c}}', but got {template!r}. Put it where the "
                "class name goes."
            )
    return templates


class CheckedShard(NamedTuple):
    """What one pass over a shard of labelled images found."""

    path: Path
    labels: tuple[int, ...]
    """Of its usable images, in stored order."""
    unusable: frozenset[int]
    """Positions of the samples to leave out."""
    skipped: Counter[str]


@dataclass(frozen=True)
class ShardImages:
    """The usable images of shards, decoded one by one as they are asked for."""

    shards: tuple[CheckedShard, ...]

    def __len__(self) -> int:
        return sum(len(shard.labels) for shard in self.shards)

    def __iter__(self) -> Iterator[Image.Image]:
        for shard in self.shards:
            count = 0
            for position, sample in enumerate(read_samples(shard.path, text="cls")):
                if position not in shard.unusable:
                    yield _usable_image(sample)
                    count += 1
            if count != len(shard.labels):
                wanted = len(shard.labels)
                raise changed(f"{shard.path} must hold {wanted} images, but got {count}")


def _usable_image(sample: Sample) -> Image.Image:
    image = _image(sample)
    if isinstance(image, str):
        raise changed(f"An image that was usable must stay so, but got {image!r}")
    return image


def _check_shards(path: Path, num_classes: int) -> Iterator[CheckedShard]:
    paths = split_shards(path)
    checked = scan_in_order(paths, partial(_check_shard, num_classes=num_classes))
    return track(checked, total=len(paths), label=f"checking {path.name}")


def _check_shard(path: Path, num_classes: int) -> CheckedShard:
    skipped, unusable = Counter[str](), set[int]()
    labels, keys = list[int](), set[str]()
    for position, sample in enumerate(read_samples(path, text="cls", faults=skipped)):
        label = _checked_label(sample, num_classes)
        if not isinstance(label, str) and sample.key in keys:
            label = DUPLICATE_KEY
        if isinstance(label, str):
            skipped[label] += 1
            unusable.add(position)
        else:
            keys.add(sample.key)
            labels.append(label)
    return CheckedShard(path, tuple(labels), frozenset(unusable), skipped)


def _checked_label(sample: Sample, num_classes: int) -> int | str:
    """The label of a usable image; else the reason, as text."""
    if sample.fault:
        return sample.fault
    label = _label(sample.text, num_classes)
    if isinstance(label, str):
        return label
    image = _image(sample)
    return image if isinstance(image, str) else label


def _image(sample: Sample) -> Image.Image | str:
    return "missing image" if sample.image is None else decode_image(sample.image)


def _label(text: bytes | None, num_classes: int) -> int | str:
    if text is None:
        return "missing label"
    try:
        label = int(text)
    except ValueError:
        return "unreadable label"
    return label if 0 <= label < num_classes else "label out of range"

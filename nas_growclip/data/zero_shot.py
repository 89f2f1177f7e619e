"""Zero-shot classification tasks: images with labels, class names and prompt templates.

Tasks come from folders in the layout that CLIP_benchmark's ``build_wds_dataset`` reads, or from
the handwritten digits that scikit-learn bundles. All images of a task are held in memory.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from nas_growclip.data.config import MAX_BAD_SHARE
from nas_growclip.data.sources.bad_share import SkipCounts, check_bad_share
from nas_growclip.data.sources.decoding import decode_image
from nas_growclip.data.sources.members import DUPLICATE_KEY, Sample, read_samples

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


@dataclass(frozen=True)
class ZeroShotTask:
    """A classification set that is solved by class prompts alone.

    Templates hold ``{c}``, which the class name replaces.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    images: tuple[Image.Image, ...]
    labels: tuple[int, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Images left out, by reason."""

    @property
    def chance(self) -> float:
        """Expected top-1 of a model that guesses uniformly."""
        return 1 / len(self.class_names)


def digits_task() -> ZeroShotTask:
    """The 1,797 handwritten digits that scikit-learn bundles, white on black."""
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = (Image.fromarray(image).convert("RGB") for image in grey)
    size = (DIGIT_SIZE, DIGIT_SIZE)
    return ZeroShotTask(
        name="digits",
        class_names=DIGIT_NAMES,
        templates=DIGIT_TEMPLATES,
        images=tuple(image.resize(size, Image.Resampling.BICUBIC) for image in images),
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
    class_names = read_lines(path / "classnames.txt")
    templates = read_templates(path / "zeroshot_classification_templates.txt")
    skipped = Counter[str]()
    labelled = []
    shards = _test_shards(path)
    for shard in shards:
        labelled += _read_shard(shard, len(class_names), skipped)
    if not labelled:
        raise ValueError(
            f"{path} must hold one usable image or more, but has none (skipped: {dict(skipped)}). "
            "Check that its shards hold KEY.cls and KEY.png, KEY.webp or KEY.jpg."
        )
    check_bad_share(str(path), len(labelled), SkipCounts(skipped, len(shards)), max_bad_share)
    images, labels = zip(*labelled, strict=True)
    name = path.resolve().name.removeprefix("wds_")
    return ZeroShotTask(name, class_names, templates, images, labels, dict(skipped))


def read_templates(path: Path) -> tuple[str, ...]:
    """Prompts, one a line, with ``{c}`` where the class name goes.

    Raises:
        ValueError: If the file cannot be read or a line has no such place.
    """
    templates = read_lines(path)
    for template in templates:
        if "{c}" not in template:
            raise ValueError(
                f"{path}: each line must hold '{{c}}', but got {template!r}. Put it where the "
                "class name goes."
            )
    return templates


def read_lines(path: Path) -> tuple[str, ...]:
    """Lines of a text file; trailing blank ones are dropped, since lines are labels.

    Raises:
        ValueError: If it cannot be read or has empty lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be a text file, but: {error}. Use the layout of CLIP_benchmark."
        ) from None
    lines = tuple(line.strip() for line in text.rstrip().split("\n"))
    if not all(lines):
        raise ValueError(f"{path} must not have empty lines, but has. Fill or remove them.")
    return lines


def _test_shards(path: Path) -> list[Path]:
    counted = path / "test" / "nshards.txt"
    lines = read_lines(counted)
    if len(lines) != 1 or not lines[0].isdecimal() or int(lines[0]) < 1:
        raise ValueError(f"{counted} must hold one count, 1 or more, but got {lines!r}. Mend it.")
    shards = []
    for number in range(int(lines[0])):
        shards.append(path / "test" / f"{number}.tar")
        if not shards[-1].is_file():
            raise ValueError(f"{shards[-1]}: no such file, but {counted} counts it. Restore it.")
    return shards


def _read_shard(
    shard: Path, num_classes: int, skipped: Counter[str]
) -> list[tuple[Image.Image, int]]:
    labelled = []
    keys = set[str]()
    for sample in read_samples(shard, text="cls", faults=skipped):
        found = _labelled_image(sample, num_classes)
        if not isinstance(found, str) and sample.key in keys:
            found = DUPLICATE_KEY
        if isinstance(found, str):
            skipped[found] += 1
        else:
            keys.add(sample.key)
            labelled.append(found)
    return labelled


def _labelled_image(sample: Sample, num_classes: int) -> tuple[Image.Image, int] | str:
    if sample.fault:
        return sample.fault
    label = _label(sample.text, num_classes)
    if isinstance(label, str):
        return label
    image = "missing image" if sample.image is None else decode_image(sample.image)
    return image if isinstance(image, str) else (image, label)


def _label(text: bytes | None, num_classes: int) -> int | str:
    if text is None:
        return "missing label"
    try:
        label = int(text)
    except ValueError:
        return "unreadable label"
    return label if 0 <= label < num_classes else "label out of range"

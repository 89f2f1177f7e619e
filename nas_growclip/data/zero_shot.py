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

from nas_growclip.data.decoding import decode_image
from nas_growclip.data.shards import read_samples, shard_damage

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


def folder_task(path: Path) -> ZeroShotTask:
    """Read a folder in the CLIP_benchmark WebDataset layout, its test split.

    Raises:
        ValueError: If a file is missing or malformed, or no image is usable.
    """
    class_names = _lines(path / "classnames.txt")
    templates = _lines(path / "zeroshot_classification_templates.txt")
    for template in templates:
        if "{c}" not in template:
            raise ValueError(
                f"{path / 'zeroshot_classification_templates.txt'}: each line must hold '{{c}}', "
                f"but got {template!r}. Put it where the class name goes."
            )
    skipped = Counter[str]()
    labelled = []
    for shard in _test_shards(path):
        labelled += _read_shard(shard, len(class_names), skipped)
    if not labelled:
        raise ValueError(
            f"{path} must hold one usable image or more, but has none (skipped: {dict(skipped)}). "
            "Check that its shards hold KEY.cls and KEY.png, KEY.webp or KEY.jpg."
        )
    images, labels = zip(*labelled, strict=True)
    name = path.resolve().name.removeprefix("wds_")
    return ZeroShotTask(name, class_names, templates, images, labels, dict(skipped))


def _lines(path: Path) -> tuple[str, ...]:
    """Lines of a text file; trailing blank ones are dropped, since lines are labels."""
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
    lines = _lines(counted)
    if len(lines) != 1 or not lines[0].isdecimal() or int(lines[0]) < 1:
        raise ValueError(f"{counted} must hold one count, 1 or more, but got {lines!r}. Mend it.")
    shards = [path / "test" / f"{number}.tar" for number in range(int(lines[0]))]
    for shard in shards:
        if not shard.is_file():
            raise ValueError(f"{shard}: no such file, but {counted} counts it. Restore it.")
    return shards


def _read_shard(
    shard: Path, num_classes: int, skipped: Counter[str]
) -> list[tuple[Image.Image, int]]:
    if (damage := shard_damage(shard)) is not None:
        skipped[damage] += 1
    labelled = []
    for data, text, _ in read_samples(shard, text="cls"):
        image = None if data is None else decode_image(data)
        label = _label(text, num_classes)
        if isinstance(label, str):
            skipped[label] += 1
        elif image is None:
            skipped["missing image" if data is None else "unreadable image"] += 1
        else:
            labelled.append((image, label))
    return labelled


def _label(text: bytes | None, num_classes: int) -> int | str:
    if text is None:
        return "missing label"
    try:
        label = int(text)
    except ValueError:
        return "unreadable label"
    return label if 0 <= label < num_classes else "label out of range"

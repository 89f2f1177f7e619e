"""Zero-shot sets as torchvision's ``ImageFolder`` reads them: a folder for each class.

A folder's name is its class's name, with blanks for underscores, unless a file ``classnames.txt``
beside the folders gives one a line, in the folders' order. Templates are optional too.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nas_growclip.data.benchmark_folder import CLASSES_FILE, TEMPLATES_FILE, text_lines
from nas_growclip.data.config import MAX_BAD_SHARE
from nas_growclip.data.sources.bad_share import SkipCounts, check_bad_share
from nas_growclip.data.sources.decoding import IMAGE_SUFFIXES, decode_image
from nas_growclip.data.sources.rows import file_bytes
from nas_growclip.data.zero_shot import ZeroShotTask, folder_task, read_templates

DEFAULT_TEMPLATES = ("a photo of a {c}.",)
"""OpenAI's prompt for classes of any kind (Radford et al., 2021, section 3.1.4)."""


def open_task(path: Path, max_bad_share: float = MAX_BAD_SHARE) -> ZeroShotTask:
    """Read a zero-shot set: a folder of class folders, or in CLIP_benchmark's layout.

    Args:
        path: The folder.
        max_bad_share: Share of the images, and of the shards, that may be bad.

    Raises:
        ValueError: If a file is missing or malformed, or too few images are usable.
    """
    read = class_folder_task if is_class_folders(path) else folder_task
    return read(path, max_bad_share)


def is_class_folders(path: Path) -> bool:
    """Whether a folder holds two folders or more, each with images and neither text nor shards."""
    folders = _class_folders(path)
    return len(folders) > 1 and all(_holds_images_only(folder) for folder in folders)


def class_folder_task(path: Path, max_bad_share: float = MAX_BAD_SHARE) -> ZeroShotTask:
    """Read a folder of class folders.

    Args:
        path: The folder.
        max_bad_share: Share of the images that may be bad.

    Raises:
        ValueError: If names or templates are malformed, or too few images are usable.
    """
    folders = _class_folders(path)
    templates = path / TEMPLATES_FILE
    skipped, labelled = Counter[str](), list[tuple[Path, int]]()
    for label, folder in enumerate(folders):
        for file in _files(folder):
            image = _image(file)
            if isinstance(image, str):
                skipped[image] += 1
            else:
                labelled.append((file, label))
    if not labelled:
        raise ValueError(f"{path} must hold one usable image or more, but has none. Check it.")
    check_bad_share(str(path), len(labelled), SkipCounts(skipped), max_bad_share)
    files, labels = zip(*labelled, strict=True)
    return ZeroShotTask(
        name=path.resolve().name,
        class_names=_class_names(path, folders),
        templates=read_templates(templates) if templates.exists() else DEFAULT_TEMPLATES,
        images=FileImages(files),
        labels=labels,
        skipped=dict(skipped),
    )


@dataclass(frozen=True)
class FileImages:
    """Usable images, each in a file of its own, decoded one by one as they are asked for."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Image.Image]:
        for file in self.files:
            image = _image(file)
            if isinstance(image, str):
                raise ValueError(
                    f"{file} must stay usable, but got {image!r}: it changed since it was "
                    "checked. Start again."
                )
            yield image


def _class_names(path: Path, folders: list[Path]) -> tuple[str, ...]:
    file = path / CLASSES_FILE
    if not file.exists():
        return tuple(folder.name.replace("_", " ") for folder in folders)
    names = text_lines(file)
    if len(names) != len(folders):
        raise ValueError(
            f"{file} must have a line for each of the {len(folders)} folders beside it, in their "
            f"order, but has {len(names)}. Add or remove lines."
        )
    return names


def _class_folders(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _holds_images_only(folder: Path) -> bool:
    """Judged by suffixes, up to the first hundred files."""
    files = [file for file, _ in zip(_files(folder), range(100), strict=False)]
    suffixes = {file.suffix.lower().removeprefix(".") for file in files}
    return bool(suffixes & IMAGE_SUFFIXES) and not suffixes & {"txt", "tar", "json", "csv"}


def _image(file: Path) -> Image.Image | str:
    data = file_bytes(file)
    return data if isinstance(data, str) else decode_image(data)

"""Folders in the layout that CLIP_benchmark's ``build_wds_dataset`` reads, their test split.

``test/nshards.txt`` counts the shards ``test/0.tar`` and so on; ``dataset_type.txt`` says what is
in them: captions where it says ``retrieval``, class labels where there is none.
"""

from pathlib import Path

RETRIEVAL, CLASSIFICATION = "retrieval", "classification"

TYPE_FILE = "dataset_type.txt"
CLASSES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"


def is_benchmark_folder(path: Path) -> bool:
    """Whether a folder says of itself that it is such a set."""
    return (path / CLASSES_FILE).is_file() or (path / TYPE_FILE).is_file()


def is_retrieval_folder(path: Path) -> bool:
    """Whether a folder says that it holds images with captions.

    Raises:
        ValueError: If it says that it holds what is not known here.
    """
    if not (path / TYPE_FILE).is_file():
        return False
    words = text_lines(path / TYPE_FILE)
    kind = words[0].lower() if len(words) == 1 else ""
    if kind not in (RETRIEVAL, CLASSIFICATION):
        raise ValueError(
            f"{path / TYPE_FILE} must say {RETRIEVAL!r} or {CLASSIFICATION!r}, but says "
            f"{', '.join(words)!r}. Sets of other kinds cannot be measured: leave it out."
        )
    return kind == RETRIEVAL


def retrieval_folder(path: Path) -> Path | None:
    """The retrieval set at a path, which may be its test split; None if there is none."""
    places = (path, path.parent) if path.name == "test" else (path,)
    return next((place for place in places if is_retrieval_folder(place)), None)


def set_name(path: Path) -> str:
    """What results call a set: its folder's name without CLIP_benchmark's prefix."""
    return path.resolve().name.removeprefix("wds_")


def split_shards(path: Path) -> list[Path]:
    """The shards of a set's test split, in order.

    Raises:
        ValueError: If they are not counted or one is missing.
    """
    counted = path / "test" / "nshards.txt"
    lines = text_lines(counted)
    if len(lines) != 1 or not lines[0].isdecimal() or int(lines[0]) < 1:
        raise ValueError(f"{counted} must hold one count, 1 or more, but got {lines!r}. Mend it.")
    shards = []
    for number in range(int(lines[0])):
        shards.append(path / "test" / f"{number}.tar")
        if not shards[-1].is_file():
            raise ValueError(f"{shards[-1]}: no such file, but {counted} counts it. Restore it.")
    return shards


def text_lines(path: Path) -> tuple[str, ...]:
    """Lines of a text file; trailing blank ones are dropped, since lines are labels.

    Raises:
        ValueError: If it is no text file or has an empty line.
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

"""Experiments and growth spaces that come with the package, under their names."""

from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files("nas_growclip"))) / "shipped"


def shipped_names(kind: str) -> tuple[str, ...]:
    """Names of the files of a folder, ``experiments`` or ``search_spaces``, without ``.yaml``."""
    return tuple(sorted(path.stem for path in (SHIPPED / kind).glob("*.yaml")))


def file_or_shipped(path: Path, kind: str) -> Path:
    """The file itself; where there is none, what comes with the package under that name.

    Raises:
        ValueError: If it is a bare name and there is neither.
    """
    is_name = path.name == str(path) and not path.suffix
    if path.exists() or not is_name:
        return path
    names = shipped_names(kind)
    if path.name not in names:
        raise ValueError(
            f"{str(path)!r} must be a file, or the name of one of the {kind} that come with the "
            f"package ({', '.join(names)}), but is neither."
        )
    return SHIPPED / kind / f"{path.name}.yaml"

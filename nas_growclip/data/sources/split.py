"""One split: which files it is of, how much of them is wanted, and where their names start."""

from dataclasses import dataclass
from pathlib import Path

from nas_growclip.data.config import MAX_BAD_SHARE, FileData, StagedData

Split = str
"""``train``, ``validation``, ``test``; of sources that read files also ``test_by_stage[0]`` ..."""


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The files of one split, and how much of them is wanted."""

    folder: Path
    """What relative names start from."""
    files: str
    """Shards, a table or a folder, as the source understands it."""
    where: str = "--data"
    """The setting that names them, for messages."""
    size: int | None = None
    """The first so many, in the source's own unit; None means all."""
    limit: int | None = None
    """Usable pairs at most; None means all."""
    max_bad_share: float = MAX_BAD_SHARE
    """Share of the pairs, and of the files, that may be bad."""

    @property
    def shown(self) -> str:
        """What a message calls them."""
        return repr(str(self.folder) if self.files == "." else self.files)


def split_files(
    config: FileData, folder: Path | None, split: Split, size: int | None = None
) -> SplitFiles:
    """The files that the settings name for a split.

    Raises:
        ValueError: If they name none, or there is no data folder.
    """
    where = f"data.{split}"
    folder, files = data_folder(folder, where), config.files_by_split[split]
    if not files:
        raise ValueError(
            f"{where} must name the files of source {config.source!r}, but is empty. "
            "Give a path relative to the data folder."
        )
    limit = None if split == "train" else pair_limit(config, split)
    return SplitFiles(
        folder=folder,
        files=files,
        where=where,
        size=size,
        limit=limit,
        max_bad_share=config.max_bad_share,
    )


def data_folder(folder: Path | None, where: str) -> Path:
    """The folder that paths of the settings are relative to.

    Raises:
        ValueError: If none was given or it is no folder.
    """
    if folder is None:
        raise ValueError(
            f"{where} must know where its files are, but got no data folder. Pass `--data DIR`."
        )
    if not folder.is_dir():
        raise ValueError(f"--data must be a folder, but got {str(folder)!r}. Check the path.")
    return folder


def pair_limit(config: StagedData, split: Split) -> int | None:
    """How many usable pairs of a held-out split are used at most; None means all."""
    return (config.validation_pairs if split == "validation" else config.test_pairs) or None


def file_name(path: Path, folder: Path) -> str:
    """Name of a file in a manifest: relative to the data folder where it lies in it."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

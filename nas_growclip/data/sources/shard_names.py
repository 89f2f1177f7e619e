"""Which files a setting of shards names: a folder, a glob, a brace pattern; no addresses."""

import re
from pathlib import Path

from webdataset.shardlists import expand_urls

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def shard_paths(folder: Path, setting: str, where: str) -> tuple[Path, ...]:
    """Files that a brace pattern, a glob or a folder names, in order, each once.

    Raises:
        ValueError: If the pattern is malformed, an address, names no shard, or one that is not
            there.
    """
    try:
        names = expand_urls(setting)
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"{where} must be a valid brace pattern, but got {setting!r}: {error}. "
            "Write it as in 'train/{00000..00015}.tar'."
        ) from None
    _refuse_addresses(names, where)
    found = [path for name in names for path in _paths_of(folder, name)]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        what = f"no such file: {missing[0]!r}" if missing else "no shard"
        raise ValueError(
            f"{where} must name tar files, but got {setting!r} in {str(folder)!r}: {what}. "
            "Check the data folder and the pattern."
        )
    return tuple(dict.fromkeys(found))


def _refuse_addresses(names: list[str], where: str) -> None:
    for name in names:
        if _is_address(name):
            raise ValueError(
                f"{where} must name files on a disk, but {name!r} is an address: each shard is "
                "read twice and hashed, and the same run must find the same bytes again. Copy the "
                "shards to a disk, or mount the store (as s3fs, gcsfuse or rclone do)."
            )


def _is_address(name: str) -> bool:
    return name.startswith("pipe:") or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name) is not None


def _paths_of(folder: Path, name: str) -> list[Path]:
    path = folder / name
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(SHARD_SUFFIXES))
    if any(letter in name for letter in "*?[") and not path.exists():
        root = Path(path.anchor) if Path(name).is_absolute() else folder
        pattern = str(Path(name).relative_to(root)) if Path(name).is_absolute() else name
        return sorted(file for file in root.glob(pattern) if file.is_file())
    return [path]

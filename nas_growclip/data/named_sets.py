"""Sets that are measured on under a name of their own, whatever kind they are of."""

from pathlib import Path

from nas_growclip.data.benchmark_folder import (
    is_benchmark_folder,
    is_retrieval_folder,
    retrieval_folder,
)
from nas_growclip.data.class_folders import is_class_folders, open_task
from nas_growclip.data.config import MAX_BAD_SHARE
from nas_growclip.data.retrieval_set import RetrievalSet, folder_retrieval_set
from nas_growclip.data.zero_shot import ZeroShotTask

NamedSet = ZeroShotTask | RetrievalSet


def find_named_sets(path: Path) -> tuple[Path, ...]:
    """Folders of the sets at a place: itself, the set whose test split it is, or those in it."""
    if is_benchmark_folder(path) or is_class_folders(path):
        return (path,)
    if place := retrieval_folder(path):
        return (place,)
    return tuple(child for child in sorted(path.iterdir()) if is_benchmark_folder(child))


def open_named_set(path: Path, max_bad_share: float = MAX_BAD_SHARE) -> NamedSet:
    """Open a set in CLIP_benchmark's layout or of class folders: what it is, the folder says.

    Args:
        path: The folder.
        max_bad_share: Share of the images, and of the shards, that may be bad.

    Raises:
        ValueError: If a file is missing or malformed, or too few images are usable.
    """
    if is_retrieval_folder(path):
        return folder_retrieval_set(path, max_bad_share)
    return open_task(path, max_bad_share)

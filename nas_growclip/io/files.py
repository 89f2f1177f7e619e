"""Files that are there whole or not at all, and folders that can be made or say why not."""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

OWNER_FILE = ".owner"
"""In a folder that one process owns: which one; it is locked while that process lives."""

OWNER_DIES_IN_S = 10.0
"""How long a folder's owner that was killed a moment ago may take to be gone, in seconds."""

_owned: set[Path] = set()
"""Notes of the folders that this process owns."""


def make_folder(path: Path) -> None:
    """Make a folder and those above it; one that is there is left alone.

    Raises:
        ValueError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be made: {error.strerror}. Choose another folder."
        ) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it.

    Raises:
        ValueError: If it cannot be written.
    """
    replace_atomically(path, lambda temporary: temporary.write_bytes(data))


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under a temporary name, sync it and rename it.

    Raises:
        ValueError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}{temporary_suffix()}")
    try:
        with writing(path):
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except ValueError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as one ``.npz`` file, whole or not at all; same arrays, same bytes.

    Raises:
        ValueError: If it cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict[str, Any](arrays))

    replace_atomically(path, write)


@contextmanager
def filled_whole(folder: Path) -> Iterator[Path]:
    """Make a folder's files in another place, in here; they are moved into it at the end.

    What is raised in here leaves nothing in the folder, and no folder where none was.

    Raises:
        ValueError: If it cannot be written.
    """
    is_new = not folder.exists()
    make_folder(folder)
    made = folder / f".made{temporary_suffix()}"
    try:
        with writing(folder):
            made.mkdir()
        yield made
        with writing(folder):
            for path in list(made.iterdir()):
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # refused if it was filled


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write a file in here; what the system refuses becomes a clear error.

    Raises:
        ValueError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written: {error.strerror or error}. Free space, allow writing or "
            "choose another folder; then the same command resumes."
        ) from None


def temporary_suffix() -> str:
    """The end of this process's temporary names, which begin with a dot."""
    return f".{socket.gethostname()}.{os.getpid()}.tmp"


def remove_abandoned(folder: Path) -> None:
    """Delete what writers on this machine left under temporary names when they were killed.

    Another machine's are left alone: whether their writers live is not known here.
    """
    for path in folder.rglob(".*.tmp"):
        rest, _, process = path.name.removesuffix(".tmp").rpartition(".")
        is_ours = rest.endswith(f".{socket.gethostname()}") and process.isdigit()
        if is_ours and not _lives(process):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _lives(process: str) -> bool:
    """Whether another process of this number is there."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(process) != os.getpid()


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold a file's lock if nobody else does; whether it is held.

    Raises:
        ValueError: If the file cannot be made.
    """
    with _opened(path) as file:
        yield _lock(file)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file to lock, made if it is not there; errors of the caller's pass as they are."""
    with writing(path):
        file = path.open("a", encoding="utf-8")
    with file:
        yield file


def _lock(file: IO[str], patience_s: float = 0.0) -> bool:
    """Take an open file's lock; False if another holds it still when the time is over."""
    deadline = time.monotonic() + patience_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; its end, however it comes, releases it.

    An owner may lock it again.

    Raises:
        ValueError: If a process of this or another machine has locked it, or it cannot be written.
    """
    note = folder.resolve() / OWNER_FILE
    if note in _owned:
        yield
        return
    with _opened(note) as file:
        if not _lock(file, OWNER_DIES_IN_S):
            owner = note.read_text(encoding="utf-8").strip() or "another process"
            raise ValueError(
                f"{folder}: is locked by {owner}. Wait for it, or stop it; then the same "
                "command resumes."
            )
        with writing(note):
            note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        _owned.add(note)
        try:
            yield
        finally:
            _owned.discard(note)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting until it is released; a process that dies releases it.

    Raises:
        ValueError: If the file cannot be made.
    """
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

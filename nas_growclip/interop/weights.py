"""Read weights that others wrote, without ever running what is in the file.

A file is safetensors or a pickle of tensors. A pickle is read by PyTorch's restricted unpickler,
which knows tensors and plain containers and refuses everything else; there is no way around it
here, so a file cannot make this program run code.
"""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

SAFETENSORS = ".safetensors"

_HOLDERS = ("state_dict", "model", "module")
"""Keys under which training tools put the weights beside other things."""

_READ_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    UnicodeDecodeError,
    AssertionError,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU.

    Args:
        path: A safetensors file, or a state dict saved by ``torch.save``, alone or as
            ``state_dict`` in a checkpoint.

    Raises:
        ValueError: If it is neither, is truncated, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Check the path.")
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a whole safetensors file: {error}.") from None
    return _state_dict(_unpickled(path), path)


def _is_safetensors(path: Path) -> bool:
    """By content: a length of 8 bytes, then JSON; the name alone may be wrong."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == SAFETENSORS or head[8:] == b"{"


def _unpickled(path: Path) -> object:
    if _is_torchscript(path):
        raise ValueError(
            f"{path}: must hold tensors, but is a TorchScript archive, which is a program. Load it "
            "with open_clip once and save its state_dict as safetensors."
        )
    try:
        with warnings.catch_warnings():
            # It says of other tools' files that it may not know everything in them.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise ValueError(
            f"{path}: must hold tensors and nothing else, but cannot be read as that "
            f"({type(error).__name__}: {reason}). Use a whole safetensors file or state dict."
        ) from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _state_dict(data: object, path: Path) -> dict[str, Tensor]:
    for key in _HOLDERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: must hold a state dict, but holds a {type(data).__name__}.")
    tensors: dict[str, Tensor] = {
        name.removeprefix("module."): value
        for name, value in data.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError(f"{path}: must hold tensors by name, but holds none.")
    return tensors

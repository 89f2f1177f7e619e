"""Read weights that others wrote, without ever running what is in the file.

A file is safetensors or a pickle of tensors. A pickle is read by PyTorch's restricted unpickler,
which knows tensors and plain containers and refuses everything else; there is no way around it
here, so a file cannot make this program run code.
"""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nas_growclip.interop.names import bare_names
from nas_growclip.interop.weight_files import refuse_other_kinds, weight_parts

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
    ArithmeticError,
    MemoryError,
    struct.error,
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, under the names that the innermost model gave them.

    Args:
        path: A safetensors file; a state dict saved by ``torch.save``, alone or as ``state_dict``
            in a checkpoint; the index of one in parts (``*.index.json``); or a folder with one of
            these.

    Raises:
        ValueError: If it is none, is truncated, or holds anything but tensors and plain values.
    """
    parts = weight_parts(path)
    tensors: dict[str, Tensor] = {}
    for part, wanted in parts.items():
        held = _read_file(part)
        missing = sorted(wanted - set(held))
        if missing:
            raise ValueError(
                f"{part}: must hold {missing[0]!r}, as {path} says, but does not. "
                "Fetch the parts again."
            )
        tensors |= {name: held[name] for name in wanted} if wanted else held
    return bare_names(tensors, path)


def _read_file(path: Path) -> dict[str, Tensor]:
    refuse_other_kinds(path)
    if not _is_safetensors(path):
        return _state_dict(_unpickled(path), path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}.") from None


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
    """Whether it is a program.

    Raises:
        ValueError: If it is an archive that would unpack to more than it is; PyTorch packs nothing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _READ_ERRORS:  # no archive, or one whose directory is damaged
        return False
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError(f"{path}: must hold tensors as PyTorch writes them, but is compressed.")
    return any(member.filename.endswith("/constants.pkl") for member in members)


def _state_dict(data: object, path: Path) -> dict[str, Tensor]:
    for key in _HOLDERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: must hold a state dict, but holds a {type(data).__name__}.")
    tensors: dict[str, Tensor] = {
        name: value
        for name, value in data.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError(f"{path}: must hold tensors by name, but holds none.")
    for name, value in tensors.items():
        if value.is_meta:
            raise ValueError(
                f"{path}: {name[:60]!r} is on the meta device: it has a shape but no numbers. "
                "Load the weights before saving them."
            )
        if value.numel() * value.element_size() > _stored_bytes(value):
            raise ValueError(f"{path}: {name[:60]!r} must hold all of its {value.numel()} numbers.")
    return tensors


def _stored_bytes(tensor: Tensor) -> int:
    """Bytes behind a tensor; a view may repeat a few of them without end."""
    return tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else 0

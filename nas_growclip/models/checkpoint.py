"""A model on disk: ``model.safetensors`` with its weights, ``arch.json``, another tokenizer."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas_growclip.io.files import make_folder, replace_atomically, write_atomically
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip, empty_model
from nas_growclip.models.gates import folded_state
from nas_growclip.models.tokenizers import TOKENIZER_FOLDER, copy_tokenizer, keep_tokenizer

WEIGHTS_FILE = "model.safetensors"

ARCH_FILE = "arch.json"

WEIGHT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored as."""


def save_model(model: Clip, path: str | Path) -> None:
    """Write a model's weights and architecture into a folder.

    Gates that are still opening are folded into the weights, so the function is the same.

    Raises:
        ValueError: If the folder cannot be written.
    """
    folder = Path(path)
    make_folder(folder)
    write_atomically(folder / ARCH_FILE, (model.arch.to_json() + "\n").encode())
    _write_tensors(folder / WEIGHTS_FILE, folded_state(model), {"arch": model.arch.to_json()})
    if model.arch.text.tokenizer is not None:
        copy_tokenizer(model.arch.text.tokenizer, folder / TOKENIZER_FOLDER)


def load_model(
    path: str | Path, device: str | torch.device = "cpu", *, is_mapped: bool = False
) -> Clip:
    """Read a model that ``save_model`` wrote.

    Args:
        path: The folder.
        device: Where to put it.
        is_mapped: Whether weights on the CPU may stay in the file, which the system reads as they
            are looked at: for models that nobody changes, which several processes then share.

    Raises:
        ValueError: If a file is missing, truncated, or does not fit the architecture.
    """
    folder = Path(path)
    if not (folder / ARCH_FILE).is_file():
        raise ValueError(f"{folder}: not a checkpoint: it has no {ARCH_FILE}. Check the path.")
    arch = ClipArch.load(folder / ARCH_FILE)
    if arch.text.tokenizer is not None:
        keep_tokenizer(arch.text.tokenizer, folder / TOKENIZER_FOLDER)
    tensors, _ = _read_tensors(folder / WEIGHTS_FILE)
    file = folder / WEIGHTS_FILE
    if is_mapped:
        model = _checked_empty(arch, tensors, file)
        model.load_state_dict(tensors, assign=True)
        return model.to(device)
    return filled_model(arch, tensors, file).to(device)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from None

    replace_atomically(path, write)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Check the path.")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a whole safetensors file: {error}. Restore it from a copy."
        ) from None


def filled_model(
    arch: ClipArch, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None = None
) -> Clip:
    """A model with these weights, made only if they are all of it: a file may claim any size.

    Args:
        arch: The architecture.
        tensors: The weights, which are copied.
        path: Where they came from, for messages.
        dtype: The model's; by default that of the weights.

    Raises:
        ValueError: As ``check_weights``.
    """
    model = _checked_empty(arch, tensors, path)
    model = model.to(dtype or next(iter(tensors.values())).dtype).to_empty(device="cpu")
    model.load_state_dict(dict(tensors))
    return model


def _checked_empty(arch: ClipArch, tensors: Mapping[str, Tensor], path: Path) -> Clip:
    model = empty_model(arch)
    check_weights(model, tensors, path)
    return model


def check_weights(model: Clip, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are a model's: every parameter, in its shape, and nothing else.

    Raises:
        ValueError: If one is missing, has another shape or no place, or is no finite fraction;
            ``path`` is named.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(
                f"{path}: must hold {name!r}, which is missing. Is it this architecture's file?"
            )
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{path}: {name!r} must have shape {shape}, but got "
                f"{tuple(tensors[name].shape)}. Is it this architecture's file?"
            )
    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise ValueError(
            f"{path}: holds {extra[0]!r}, which the architecture has no place for. "
            "Is it this architecture's file?"
        )
    check_numbers(tensors, path)


def check_numbers(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are fractions, none of them infinite or not a number.

    Raises:
        ValueError: At the first tensor that is of another type or not finite as fp32.
    """
    for name, value in tensors.items():
        if value.dtype not in WEIGHT_TYPES:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in WEIGHT_TYPES)
            raise ValueError(f"{path}: {name!r} must be one of {kinds}, but is {value.dtype}.")
        wrong = value.numel() - int(torch.isfinite(value.float()).sum())
        if wrong:
            raise ValueError(
                f"{path}: {name!r} must hold finite numbers, but {wrong} of its {value.numel()} "
                "are infinite or not a number. Use a checkpoint from before its training diverged."
            )

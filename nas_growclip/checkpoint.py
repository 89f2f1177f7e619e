"""Models and training states on disk: safetensors, never pickle; whole files or none.

A model is a folder with ``model.safetensors`` and ``arch.json``. A training state is one file
that holds the model, AdamW's moments by parameter name, the step and the learning curve. Files
are written under a temporary name, synced and renamed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nas_growclip.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.train import (
    TrainConfig,
    TrainState,
    optimizer_tensors,
    restore_optimizer,
    start_training,
)

WEIGHTS_FILE = "model.safetensors"
ARCH_FILE = "arch.json"


def save_model(model: Clip, path: str | Path) -> None:
    """Write a model's weights and architecture into a folder.

    Raises:
        ValueError: If the folder cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be made: {error.strerror}. Choose another folder."
        ) from None
    write_atomically(folder / ARCH_FILE, (model.arch.to_json() + "\n").encode())
    _write_tensors(folder / WEIGHTS_FILE, model.state_dict(), {"arch": model.arch.to_json()})


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Clip:
    """Read a model that ``save_model`` wrote.

    Raises:
        ValueError: If a file is missing, truncated, or does not fit the architecture.
    """
    folder = Path(path)
    if not (folder / ARCH_FILE).is_file():
        raise ValueError(f"{folder}: not a checkpoint: it has no {ARCH_FILE}. Check the path.")
    arch = ClipArch.load(folder / ARCH_FILE)
    tensors, _ = _read_tensors(folder / WEIGHTS_FILE)
    return _fill(Clip(arch), tensors, folder / WEIGHTS_FILE).to(device)


def save_state(state: TrainState, path: Path) -> None:
    """Write a training state to one file."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    metadata = {
        "arch": state.model.arch.to_json(),
        "step": str(state.step),
        "curve": json.dumps(state.curve),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_tensors(path, tensors | dict(optimizer_tensors(state)), metadata)


def load_state(path: Path, config: TrainConfig, device: torch.device) -> TrainState:
    """Read a training state that ``save_state`` wrote.

    Raises:
        ValueError: If the file is missing, truncated, or does not fit its own architecture.
    """
    tensors, metadata = _read_tensors(path)
    try:
        arch = ClipArch.from_dict(json.loads(metadata["arch"]), str(path))
        step, curve = int(metadata["step"]), json.loads(metadata["curve"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not a training state: {error}. Delete it to start over."
        ) from None
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    state = start_training(_fill(Clip(arch), weights, path).to(device), config)
    state.step = step
    state.curve = [(int(pairs), float(loss)) for pairs, loss in curve]
    restore_optimizer(state, tensors)
    return state


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        ValueError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"{path}: cannot be written: {error.strerror}. Free space or choose another folder."
        ) from None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, save(contiguous, metadata=dict(metadata)))


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


def _fill(model: Clip, tensors: Mapping[str, Tensor], path: Path) -> Clip:
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
    model = model.to(next(iter(tensors.values())).dtype)
    model.load_state_dict(dict(tensors))
    return model

"""Models and training states on disk: safetensors, never pickle; whole files or none.

A model is a folder with ``model.safetensors`` and ``arch.json``. A training state is one file
that holds the model, AdamW's moments by parameter name, the step and the learning curve. Files
are written under a temporary name, synced and renamed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from nas_growclip.io.files import make_folder
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import (
    _read_tensors,
    _write_tensors,
    check_numbers,
    filled_model,
    load_model,
)
from nas_growclip.models.clip import Clip
from nas_growclip.models.gates import gates_of, install_gates, set_gates
from nas_growclip.records.entries import Rollback
from nas_growclip.records.folder import StageFolder
from nas_growclip.training.grow_state import ParentState
from nas_growclip.training.state import (
    TrainConfig,
    TrainState,
    optimizer_tensors,
    restore_optimizer,
    start_training,
)

MAX_STEPS = 2**48
"""Optimizer steps, at most: beyond it a number is damage."""


def save_state(state: TrainState, path: Path) -> None:
    """Write a training state to one file."""
    make_folder(path.parent)
    _write_tensors(path, *pack_state(state))


def pack_state(state: TrainState) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All of a training state as tensors and texts, as in its file."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    gates = {name: gate.num_steps for name, gate in gates_of(state.model).items()}
    metadata = {
        "arch": state.model.arch.to_json(),
        "step": str(state.step),
        "curve": json.dumps(state.curve),
        "gates": json.dumps(gates),
        "rollbacks": json.dumps(to_mapping(state.rollbacks)),
    }
    tensors |= optimizer_tensors(state)
    tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    return tensors, metadata


def load_parent(folder: Path, device: str | torch.device = "cpu") -> ParentState:
    """Read a stage's model with what its training left behind, as far as that was kept.

    Raises:
        ValueError: If a file is damaged or does not fit the architecture.
    """
    model = load_model(folder, device, is_mapped=True)
    kept = StageFolder(folder).state
    if not kept.is_file():
        return ParentState(model)
    tensors, _ = _read_tensors(kept)
    moments = {n: t for n, t in tensors.items() if not n.startswith(("model.", "ema."))}
    check_numbers(_fractions(tensors), kept)
    return ParentState(model, moments, _with_prefix(tensors, "ema."))


def load_trunk(folder: StageFolder, config: TrainConfig, device: torch.device) -> ParentState:
    """Read the trunk that a stage's model branched off, with its moments and its average.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    state = load_state(folder.state, config, device)
    return ParentState(state.model, optimizer_tensors(state), state.ema)


def load_state(path: Path, config: TrainConfig, device: torch.device) -> TrainState:
    """Read a training state that ``save_state`` wrote.

    Raises:
        ValueError: If the file is missing, truncated, or does not fit its own architecture.
    """
    return unpack_state(*_read_tensors(path), config, path, device)


def unpack_state(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    config: TrainConfig,
    path: Path,
    device: torch.device,
) -> TrainState:
    """The inverse of ``pack_state``; ``path`` is where the state came from, for messages.

    Raises:
        ValueError: If something is missing or does not fit the state's own architecture.
    """
    try:
        arch = ClipArch.from_dict(json.loads(metadata["arch"]), str(path))
        told = {f.name: json.loads(metadata[f.name]) for f in fields(_Progress)}
        progress = from_mapping(_Progress, told, "")
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a training state: {error}. Delete it to start over."
        ) from None
    model = filled_model(arch, _with_prefix(tensors, "model."), path).to(device)
    check_numbers(_fractions(tensors), path)
    state = start_training(model, config)
    blocks = {n.removesuffix(".ls1") for n, _ in model.named_modules() if n.endswith(".ls1")}
    for name, num_steps in progress.gates.items():
        if name not in blocks:
            raise ValueError(f"{path}: gates: {name!r} must be a block of the model, but is none.")
        install_gates(model, [name], num_steps)
    if progress.step:
        set_gates(model, progress.step - 1)
    state.step, state.curve = progress.step, list(progress.curve)
    state.rollbacks = progress.rollbacks
    if state.ema:
        state.ema = _averages(tensors, model, path)
    restore_optimizer(state, tensors)
    return state


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """How far a training is, beside its tensors."""

    step: int
    curve: tuple[tuple[int, float], ...]
    gates: Mapping[str, int]
    """Steps over which each gate opens, by name."""
    rollbacks: tuple[Rollback, ...]
    """Where the training diverged."""

    def __post_init__(self) -> None:
        if not 0 <= self.step <= MAX_STEPS:
            raise ValueError(f"step: must be from 0 to {MAX_STEPS}, but got {self.step:#x}.")
        if any(not 1 <= num_steps <= MAX_STEPS for num_steps in self.gates.values()):
            raise ValueError(f"gates: must be from 1 to {MAX_STEPS} steps.")


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _fractions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a training state, beside the model, must be finite: averages and moments."""
    return {n: t for n, t in tensors.items() if n.startswith(("ema.", "exp_avg"))}


def _averages(tensors: Mapping[str, Tensor], model: Clip, path: Path) -> dict[str, Tensor]:
    averages = _with_prefix(tensors, "ema.")
    for name, parameter in model.named_parameters():
        if name not in averages or averages[name].shape != parameter.shape:
            raise ValueError(
                f"{path}: must hold {'ema.' + name!r} in the shape {tuple(parameter.shape)}. "
                "Set train.ema_decay to 0, or delete the file to start over."
            )
    return {name: averages[name].to(p.device) for name, p in model.named_parameters()}

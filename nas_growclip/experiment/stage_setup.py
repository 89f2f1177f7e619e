"""A stage opened from its run folder: its data, its parent, its device, its plan."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from nas_growclip.data.stages import DataStage, open_stages
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_plan import plan_stage
from nas_growclip.experiment.stage_training import parent_losses
from nas_growclip.interop.importing import open_checkpoint
from nas_growclip.models.checkpoint import WEIGHTS_FILE, load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import StageResult
from nas_growclip.records.folder import (
    RunFolder,
    find_config,
    noted_data_folder,
    read_stages,
)
from nas_growclip.training.checkpoint import load_parent, load_trunk
from nas_growclip.training.grow_state import ParentState
from nas_growclip.training.process_group import current_group
from nas_growclip.training.state import start_training


def open_stage(
    run: Path,
    *,
    stage: int | None = None,
    data_folder: Path | None = None,
    device: str | None = None,
    trials: Path | None = None,
) -> StageContext:
    """A run folder's stage, to take part in its search.

    Args:
        run: The run folder.
        stage: Its number; by default the first unfinished one, the last where all are finished.
        data_folder: Where the data's relative paths start; by default where the run has found it.
        device: A torch device; CUDA where there is one, else the CPU.
        trials: Where the trials' records and states go; in the stage's folder if not given.

    Raises:
        ValueError: If it is no run folder, or has no such stage to search yet.
    """
    config = load_run_config(run)
    finished = read_stages(run)
    last = min(len(finished), len(config.data.stages) - 1)
    index = last if stage is None else stage
    if not 0 <= index <= last:
        raise ValueError(
            f"stage must be between 0 and {last}, the last one that {run} can search, "
            f"but got {index}."
        )
    data_folder = data_folder or noted_data_folder(run)
    data = open_stages(config.data, data_folder)[index]
    made = make_stage(config, run, data, finished[:index], find_device(device))
    return replace(made, data_folder=data_folder, own_trials=trials)


def load_run_config(run: Path) -> ExperimentConfig:
    """The experiment that a run folder was made with.

    Raises:
        ValueError: If it is no run folder.
    """
    return load_config(find_config(run))


def make_stage(
    config: ExperimentConfig,
    run: Path,
    data: DataStage,
    history: Sequence[StageResult],
    device: torch.device,
) -> StageContext:
    """A stage with its plan and its parent: the model of the stage before it, or the first one."""
    parent = load_stage_parent(config, run, history, device)
    group = current_group()
    plan = plan_stage(
        config,
        data.index,
        data.num_pairs,
        parent.model.arch,
        history[-1].num_pairs if history else None,
        partial(parent_losses, parent.model, data, config.train.batch_size, group.device),
    )
    return StageContext(
        config=config,
        plan=plan,
        data=data,
        parent_state=parent,
        history=tuple(history),
        run=run,
        group=group,
    )


def load_stage_parent(
    config: ExperimentConfig, run: Path, finished: Sequence[StageResult], device: torch.device
) -> ParentState:
    """What the stage after the finished ones grows from.

    Raises:
        ValueError: If a checkpoint is damaged or is not what the configuration says.
    """
    if finished and not config.restart:
        folder = RunFolder(run).stage(finished[-1].stage)
        if config.train.schedule == "trunk":
            return load_trunk(folder, config.train, device)
        return load_parent(folder.path, device)
    if config.parent_checkpoint and not finished:
        model = _first_parent(config, run).to(device)
    else:
        arch = finished[-1].arch if finished else config.parent_arch
        model = Clip(arch, seed=config.seed).to(device)
    return ParentState(model, ema=start_training(model, config.train).ema)


def _first_parent(config: ExperimentConfig, run: Path) -> Clip:
    """The checkpoint that the run starts from, as the run folder keeps it.

    Raises:
        ValueError: If it is gone before it was copied, or is not what the configuration says.
    """
    kept = RunFolder(run).parent
    if not (kept / WEIGHTS_FILE).exists():
        save_model(open_checkpoint(config.parent_checkpoint, is_mapped=True), kept)
    model = load_model(kept, is_mapped=True)
    if model.arch != config.parent_arch:
        raise ValueError(
            f"{kept}: must have the architecture that the configuration names, but has another. "
            "Was the parent's checkpoint replaced? Choose another --out."
        )
    return model


def find_device(name: str | None) -> torch.device:
    """A torch device by its name; CUDA where there is one, else the CPU, if none is given.

    Raises:
        ValueError: If nothing can be computed there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}. Try --device cpu.") from None
    return device

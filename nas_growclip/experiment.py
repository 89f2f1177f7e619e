"""A whole experiment: one stage after another in a run folder, which is all the state there is."""

import json
from pathlib import Path

import torch
import yaml

from nas_growclip.checkpoint import STATE_FILE, load_parent, save_model
from nas_growclip.config import ExperimentConfig
from nas_growclip.data.stages import DataStage, open_stages, stage_manifest
from nas_growclip.files import make_folder, write_atomically
from nas_growclip.growing import Parent
from nas_growclip.models.clip import Clip
from nas_growclip.progress import say
from nas_growclip.records import (
    CONFIG_FILE,
    STAGES_FILE,
    TIMINGS_FILE,
    TRIALS_FILE,
    Run,
    StageResult,
    append_line,
    drop_torn_line,
    load_run,
    read_stages,
    to_line,
)
from nas_growclip.report import write_report
from nas_growclip.stage import TRAINING_FILE, StageRun, run_stage, stage_folder, trial_path
from nas_growclip.train import start_training


def run_experiment(
    config: ExperimentConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
) -> Run:
    """Run every stage that the folder does not hold yet, then write the report.

    Args:
        config: The experiment.
        out: The run folder; made if it is not there, taken up again if it is.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.

    Returns:
        The run's records.

    Raises:
        ValueError: If the folder cannot be written or holds another experiment, or data is bad.
    """
    run = Path(out)
    prepare_folder(config, run)
    finished = list(read_stages(run))
    if len(finished) < len(config.data.stages):
        folder = Path(data_folder) if data_folder is not None else None
        _run_stages(config, run, open_stages(config.data, folder), finished, _device(device))
    records = load_run(run)
    write_report([records], run / "report")
    return records


def is_complete(config: ExperimentConfig, run: Path) -> bool:
    """Whether a run folder holds every stage of the experiment."""
    return len(read_stages(run)) == len(config.data.stages)


def prepare_folder(config: ExperimentConfig, run: Path) -> None:
    """Make a run folder, or check that it is this experiment's.

    Raises:
        ValueError: If it cannot be written or is another experiment's.
    """
    path = run / CONFIG_FILE
    if path.exists():
        _check_same_experiment(config, path)
        for file in (TRIALS_FILE, STAGES_FILE, TIMINGS_FILE):
            drop_torn_line(run / file)
        return
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ValueError(
            f"{run}: must be a new or empty folder or a run folder, but is neither. "
            "Choose another --out."
        )
    make_folder(run)
    write_atomically(path, config.to_yaml().encode())


def _check_same_experiment(config: ExperimentConfig, path: Path) -> None:
    wanted = yaml.safe_load(config.to_yaml())
    held = yaml.safe_load(path.read_text(encoding="utf-8"))
    if held == wanted:
        return
    changed = [key for key in wanted if not isinstance(held, dict) or held.get(key) != wanted[key]]
    raise ValueError(
        f"{path.parent}: holds another experiment: it differs in {', '.join(changed) or 'keys'}. "
        "Choose another --out, or run the experiment it was made with."
    )


def _run_stages(
    config: ExperimentConfig,
    run: Path,
    stages: tuple[DataStage, ...],
    finished: list[StageResult],
    device: torch.device,
) -> None:
    for data in stages[len(finished) :]:
        trained = _parent(config, run, finished, device)
        stage = StageRun(
            config=config, data=data, trained=trained, history=tuple(finished), run=run
        )
        say(
            f"stage {data.index}: {data.num_pairs} pairs, "
            f"{stage.budget:.3g} training FLOPs, up to {config.search.num_trials} trials"
        )
        model, result = run_stage(stage)
        finish_stage(stage, model, result)
        finished.append(result)


def finish_stage(stage: StageRun, model: Clip, result: StageResult) -> None:
    """Write the model and the manifest, then the record that makes the stage finished.

    The training state stays where the next growth makes use of it.
    """
    save_model(model, stage.folder)
    training = stage.folder / TRAINING_FILE
    if keeps_state(stage.config):
        source = training if training.exists() else trial_path(stage, result.chosen_trial)
        if source.exists():
            source.replace(stage.folder / STATE_FILE)
    manifest = stage_manifest(stage.data, stage.config.data) | {"pairs_seen": result.pairs_seen}
    write_atomically(
        stage.folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode()
    )
    append_line(stage.run / STAGES_FILE, to_line(result))
    for leftover in (training, *stage.folder.glob("trials/*")):
        leftover.unlink(missing_ok=True)


def keeps_state(config: ExperimentConfig) -> bool:
    """Whether a growth needs the moments or the moving average of the training before it."""
    return config.growth.moments != "reset" or bool(config.train.ema_decay)


def _parent(
    config: ExperimentConfig, run: Path, finished: list[StageResult], device: torch.device
) -> Parent:
    if finished:
        return load_parent(stage_folder(run, finished[-1].stage), device)
    model = Clip(config.parent_arch, seed=config.seed).to(device)
    return Parent(model, ema=start_training(model, config.train).ema)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}. Try --device cpu.") from None
    return device

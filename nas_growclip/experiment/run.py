"""A whole experiment: one stage after another in a run folder, which is all the state there is."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_growclip.data.stages import DataStage, open_stages, stage_manifest
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.experiment.stage import StageFailedError, run_stage
from nas_growclip.experiment.stage_plan import StageRun
from nas_growclip.experiment.stage_setup import _device, make_stage
from nas_growclip.experiment.trial_records import trial_path
from nas_growclip.io.files import (
    OWNER_FILE,
    make_folder,
    owned,
    remove_abandoned,
    write_atomically,
)
from nas_growclip.io.mappings import to_mapping
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import StageResult, to_line
from nas_growclip.records.folder import (
    CONFIG_FILE,
    STAGES_FILE,
    STATE_FILE,
    STOPPED_FILE,
    TIMINGS_FILE,
    TRAINING_FILE,
    TRIALS_FILE,
    note_data_folder,
    read_stages,
    stage_folder,
)
from nas_growclip.records.frames import Run, load_run
from nas_growclip.records.lines import append_line, drop_torn_line
from nas_growclip.report import write_report

_log = logging.getLogger(__name__)

RECOVERY_SETTINGS = frozenset(
    ("learning_rate", "warmup_steps", "max_grad_norm", "micro_batch_size", "divergence_retries")
)
"""Keys of ``train`` that may be changed in a run whose stage failed."""


def run_experiment(
    config: ExperimentConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    stages: Sequence[DataStage] | None = None,
    with_report: bool = True,
) -> Run:
    """Run every stage that the folder does not hold yet, then write the report.

    Args:
        config: The experiment.
        out: The run folder; made if it is not there, taken up again if it is.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
        stages: The data where it is open already, as ``open_stages`` gives it.
        with_report: Whether to write the report at the end.

    Returns:
        The run's records.

    Raises:
        ValueError: If the folder cannot be written, holds another experiment or is worked on by
            another process, data is bad, or a stage's training fails: it goes on from there with
            another ``train.learning_rate``, see ``RECOVERY_SETTINGS``.
    """
    run = Path(out)
    folder = Path(data_folder) if data_folder is not None else None
    _refuse_foreign(run)
    make_folder(run)
    with owned(run):
        prepare_folder(config, run)
        if folder is not None:
            note_data_folder(run, folder)
        finished = list(read_stages(run))
        _clear(run, finished)
        if len(finished) < len(config.data.stages):
            stages = open_stages(config.data, folder) if stages is None else stages
            for data in stages[len(finished) :]:
                stage = make_stage(config, run, data, finished, _device(device))
                finished.append(_run_stage(replace(stage, data_folder=folder)))
        records = load_run(run)
        if with_report:
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
        if not _takes_recovery_setting(config, run):
            _check_same_experiment(config, path)
        for file in (TRIALS_FILE, STAGES_FILE, TIMINGS_FILE):
            drop_torn_line(run / file)
        return
    _refuse_foreign(run)
    make_folder(run)
    write_atomically(path, config.to_yaml().encode())


def _refuse_foreign(run: Path) -> None:
    """Refuse what is neither a run folder nor new nor empty."""
    if not run.exists() or (run / CONFIG_FILE).exists():
        return
    if not run.is_dir() or any(path.name != OWNER_FILE for path in run.iterdir()):
        raise ValueError(
            f"{run}: must be a new or empty folder or a run folder, but is neither. "
            "Choose another --out."
        )


def _takes_recovery_setting(config: ExperimentConfig, run: Path) -> bool:
    """Whether the experiment is a failed run's with another rate or the like; it is kept then."""
    if not (stage_folder(run, len(read_stages(run))) / STOPPED_FILE).exists():
        return False
    held = load_config(run / CONFIG_FILE)
    before, now = to_mapping(held.train), to_mapping(config.train)
    changed = {key for key in now if now[key] != before[key]}
    if not changed or changed - RECOVERY_SETTINGS or replace(held, train=config.train) != config:
        return False
    write_atomically(run / CONFIG_FILE, config.to_yaml().encode())
    words = (f"train.{key} from {before[key]:g} to {now[key]:g}" for key in sorted(changed))
    _log.info(f"{run}: goes on with other settings: {', '.join(words)}")
    return True


def _check_same_experiment(config: ExperimentConfig, path: Path) -> None:
    held_config = load_config(path)
    wanted, held = to_mapping(config), to_mapping(held_config)
    if held == wanted:
        return
    if held_config.data.added and not config.data.added:
        raise ValueError(
            f"{path.parent}: holds {len(held_config.data.added)} stages more than the experiment, "
            f"added since. Go on with `growclip continue {path.parent} --data SHARDS`."
        )
    changed = [key for key in wanted if held[key] != wanted[key]]
    raise ValueError(
        f"{path.parent}: holds another experiment: it differs in {', '.join(changed) or 'keys'}. "
        "Choose another --out, or run the experiment it was made with."
    )


def _run_stage(stage: StageRun) -> StageResult:
    how = _search_words(stage) if stage.scheduled_sizes is None else "scheduled"
    _log.info(
        f"stage {stage.data.index}: {stage.data.num_pairs} pairs, {stage.budget:.3g} training "
        f"FLOPs, {how}"
    )
    try:
        model, result = run_stage(stage)
    except StageFailedError as error:
        reason = json.dumps({"reason": str(error)}) + "\n"
        write_atomically(stage.folder / STOPPED_FILE, reason.encode())
        raise
    finish_stage(stage, model, result)
    return result


def _search_words(stage: StageRun) -> str:
    return f"up to {stage.config.search.num_trials} trials; {stage.trigger.reason}"


def finish_stage(stage: StageRun, model: Clip, result: StageResult) -> None:
    """Write the model and the manifest, then the record that makes the stage finished.

    The training state stays where the next growth makes use of it.
    """
    save_model(model, stage.folder)
    training = stage.folder / TRAINING_FILE
    if keeps_state(stage.config):
        source = training if training.exists() else trial_path(stage, result.chosen)
        if source.exists():
            source.replace(stage.folder / STATE_FILE)
    manifest = stage_manifest(stage.data, stage.config.data) | {"pairs_seen": result.pairs_seen}
    write_atomically(
        stage.folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode()
    )
    append_line(stage.run / STAGES_FILE, to_line(result))
    _clear_stage(stage.run, result)


def _clear(run: Path, finished: Sequence[StageResult]) -> None:
    """Delete what a killed process left: half-written files, a finished stage's trials."""
    remove_abandoned(run)
    for result in finished:
        _clear_stage(run, result)


def _clear_stage(run: Path, result: StageResult) -> None:
    folder = stage_folder(run, result.stage)
    for leftover in (folder / TRAINING_FILE, folder / STOPPED_FILE, *folder.glob("trials/*")):
        leftover.unlink(missing_ok=True)


def keeps_state(config: ExperimentConfig) -> bool:
    """Whether a growth needs the moments or the moving average of the training before it."""
    return config.growth.moments != "reset" or bool(config.train.ema_decay)

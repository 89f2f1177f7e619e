"""A whole experiment: one stage after another in a run folder, which is all the state there is."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nas_growclip.data.stages import DataStage, open_stages, stage_manifest
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.experiment.settings import Change, check_changes
from nas_growclip.experiment.stage import StageFailedError, run_stage
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_setup import find_device, make_stage
from nas_growclip.io.files import (
    OWNER_FILE,
    make_folder,
    owned,
    remove_abandoned,
    write_atomically,
)
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import StageResult, to_line
from nas_growclip.records.folder import (
    RunFolder,
    find_config,
    note_data_folder,
    read_stages,
    write_format,
)
from nas_growclip.records.frames import Run, load_run
from nas_growclip.records.lines import append_line, drop_torn_line
from nas_growclip.report import write_report
from nas_growclip.training.events import Event, Observer, no_observer

_log = logging.getLogger(__name__)


def run_experiment(
    config: ExperimentConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    stages: Sequence[DataStage] | None = None,
    observer: Observer = no_observer,
) -> Run:
    """Run every stage that the folder does not hold yet, then write the report.

    Arguments, result and errors are those of ``run_stages``.
    """
    with _claimed(Path(out)):
        records = run_stages(
            config, out, data_folder=data_folder, device=device, stages=stages, observer=observer
        )
        write_report([records], RunFolder(records.path).report)
    return records


def run_stages(
    config: ExperimentConfig,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    stages: Sequence[DataStage] | None = None,
    observer: Observer = no_observer,
) -> Run:
    """Run every stage that the folder does not hold yet.

    Args:
        config: The experiment.
        out: The run folder; made if it is not there, resumed if it is.
        data_folder: Where the data's relative paths start; scenes need none.
        device: A torch device; CUDA where there is one, else the CPU.
        stages: The data where it is open already, as ``open_stages`` gives it.
        observer: Called at the moments that ``training.events`` lists.

    Returns:
        The run's records.

    Raises:
        ValueError: If the folder cannot be written, holds another experiment or is locked by
            another process, data is bad, or a stage's training fails: it resumes from there with
            another ``train.learning_rate``, see ``settings.RECOVERY_SETTINGS``. A new folder is
            not claimed then, unless a stage was begun.
    """
    run = Path(out)
    folder = Path(data_folder) if data_folder is not None else None
    with _claimed(run):
        if RunFolder(run).config.exists():
            check_experiment(config, run)
        finished = list(read_stages(run))
        is_finished = len(finished) == len(config.data.stages)
        if not is_finished:
            found_device = find_device(device)
            stages = open_stages(config.data, folder) if stages is None else stages
            _check_batches(config, stages)
        prepare_folder(config, run)
        if folder is not None:
            note_data_folder(run, folder)
        _clear(run, finished)
        for data in () if is_finished or stages is None else stages[len(finished) :]:
            stage = make_stage(config, run, data, finished, found_device)
            finished.append(_run_stage(replace(stage, data_folder=folder, observer=observer)))
        return load_run(run)


def is_complete(config: ExperimentConfig, run: Path) -> bool:
    """Whether a run folder holds every stage of the experiment.

    Raises:
        ValueError: If it is another version's.
    """
    if RunFolder(run).config.exists():
        find_config(run)
    return len(read_stages(run)) == len(config.data.stages)


@contextmanager
def _claimed(run: Path) -> Iterator[None]:
    """Lock a run folder; one that is not made into a run's in here is left as it was.

    Raises:
        ValueError: If it cannot be made, is neither a run folder nor new nor empty, or is locked.
    """
    _refuse_foreign(run)
    is_new = not run.exists()
    make_folder(run)
    with owned(run):
        try:
            yield
        finally:
            if is_new and not RunFolder(run).config.exists():
                (run / OWNER_FILE).unlink(missing_ok=True)
                run.rmdir()


def _check_batches(config: ExperimentConfig, stages: Sequence[DataStage]) -> None:
    fewest = min(stage.num_pairs for stage in stages)
    if config.train.batch_size > fewest:
        raise ValueError(
            f"train.batch_size must be at most the number of training pairs of every stage, but "
            f"got {config.train.batch_size} for {fewest} pairs. Lower it, or begin with more data."
        )


def prepare_folder(config: ExperimentConfig, run: Path) -> None:
    """Make a run folder, or check that it is this experiment's and take over what changed.

    Raises:
        ValueError: If it cannot be written or is another experiment's.
    """
    files = RunFolder(run)
    if not files.config.exists():
        _refuse_foreign(run)
        make_folder(run)
        write_format(run)
        write_atomically(files.config, config.to_yaml().encode())
        return
    if changes := check_experiment(config, run):
        write_atomically(files.config, config.to_yaml().encode())
        words = (f"{c.key} from {c.before} to {c.now}" for c in changes)
        _log.info(f"{run}: resumes with other settings: {', '.join(words)}")
    for lines in files.lines:
        drop_torn_line(lines)


def check_experiment(config: ExperimentConfig, run: Path) -> tuple[Change, ...]:
    """Check that a run folder holds this experiment.

    Returns:
        Settings that changed since, as far as they may.

    Raises:
        ValueError: If it is another version's or another experiment's.
    """
    known = load_config(find_config(run))
    stopped = RunFolder(run).stage(len(read_stages(run))).stopped
    return check_changes(run, known, config, has_failed=stopped.exists())


def _refuse_foreign(run: Path) -> None:
    """Refuse what is neither a run folder nor new nor empty."""
    if not run.exists() or RunFolder(run).config.exists():
        return
    if not run.is_dir() or any(path.name != OWNER_FILE for path in run.iterdir()):
        raise ValueError(
            f"{run}: must be a new or empty folder or a run folder, but is neither. "
            "Choose another --out."
        )


def _run_stage(stage: StageContext) -> StageResult:
    _log.info(
        f"stage {stage.index}: {stage.data.num_pairs} pairs, {stage.plan.budget:.3g} training "
        f"FLOPs, {_search_words(stage)}"
    )
    try:
        model, result = run_stage(stage)
    except StageFailedError as error:
        reason = json.dumps({"reason": str(error)}) + "\n"
        write_atomically(stage.files.stopped, reason.encode())
        raise
    finish_stage(stage, model, result)
    return result


def _search_words(stage: StageContext) -> str:
    if stage.plan.decision is None:
        return stage.plan.given
    return f"up to {stage.config.search.num_trials} trials; {stage.plan.decision.reason}"


def finish_stage(stage: StageContext, model: Clip, result: StageResult) -> None:
    """Write the model and the manifest, then the record that makes the stage finished.

    The training state stays where the next growth makes use of it; that of a trunk is there.
    """
    files = stage.files
    save_model(model, files.path)
    stage.observe(Event(moment="model_saved"))
    if keeps_state(stage.config) and stage.config.train.schedule != "trunk":
        trained = files.training
        source = trained if trained.exists() else stage.trials.state(result.chosen.label)
        if source.exists():
            source.replace(files.state)
    manifest = stage_manifest(stage.data, stage.config.data) | {"pairs_seen": result.pairs_seen}
    write_atomically(files.manifest, (json.dumps(manifest, indent=2) + "\n").encode())
    append_line(RunFolder(stage.run).stages, to_line(result))
    stage.observe(Event(moment="stage_recorded"))
    _clear_stage(stage.run, result)


def _clear(run: Path, finished: Sequence[StageResult]) -> None:
    """Delete what a killed process left: half-written files, a finished stage's trials."""
    remove_abandoned(run)
    for result in finished:
        _clear_stage(run, result)


def _clear_stage(run: Path, result: StageResult) -> None:
    files = RunFolder(run).stage(result.stage)
    for leftover in (files.training, files.stopped, *files.trials.path.glob("*")):
        leftover.unlink(missing_ok=True)


def keeps_state(config: ExperimentConfig) -> bool:
    """Whether a growth needs the moments or the moving average of the training before it."""
    return config.growth.moments != "reset" or bool(config.train.ema_decay)

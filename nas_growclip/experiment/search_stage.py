"""The search of one stage: what may be chosen, who tries it, and the records of all trials.

Trial 0 is the control: no growth, same budget. The process that runs the experiment keeps the
records; other workers only try candidates.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import optuna
import torch

from nas_growclip.experiment.trial import (
    StageRun,
    curve_steps,
    held_record,
    measure_candidate,
    planned_trial,
    record_path,
    trial_path,
    write_record,
)
from nas_growclip.growth.space import Candidate, candidate_label
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.io.progress import say
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import (
    TRIALS_FILE,
    StageResult,
    Trial,
    append_line,
    read_trials,
    to_line,
)
from nas_growclip.search.backends import BACKENDS, EXPERIMENT_BACKENDS
from nas_growclip.search.loop import Report, search
from nas_growclip.search.nni.experiment import NniExperiment, NniTrial, run_nni_experiment
from nas_growclip.search.objective import explain
from nas_growclip.search.optuna.backend import study_name
from nas_growclip.search.optuna.dashboard import StageStory, decoration, describe_stage
from nas_growclip.search.optuna.encoding import candidate_from_nni, nni_space
from nas_growclip.search.optuna.storage import open_storage
from nas_growclip.search.protocol import Question, StageSearch
from nas_growclip.search.warm_start import promising

NNI_FOLDER = "nni"
PROPOSED_FILE = "proposed.json"
SPACE_FILE = "search_space.json"
"""The stage's growth space, as NNI takes it."""


def run_search(stage: StageRun) -> tuple[Trial, ...]:
    """Every trial of the stage, control first; trials recorded earlier are not run again.

    Returns:
        The scored trials by number, as recorded in ``trials.jsonl``.
    """
    make_folder(stage.folder)
    space = json.dumps(nni_space(stage.candidates), indent=2) + "\n"
    write_atomically(stage.folder / SPACE_FILE, space.encode())
    if stage.scheduled_sizes is not None:
        follow_schedule(stage)
    elif stage.config.search.backend in EXPERIMENT_BACKENDS:
        search_with_nni(stage)
    else:
        join_search(stage, keeps_records=True)
    return recorded_trials(stage)


def join_search(stage: StageRun, *, keeps_records: bool = False) -> None:
    """Work on the stage's search until none of its trials is left, alone or beside others.

    Args:
        stage: The stage; its backend's storage may be shared.
        keeps_records: Whether this is the one process that writes ``trials.jsonl``.
    """
    made = stage_search(stage)
    backend, recorded = BACKENDS[stage.config.search.backend](made), list(made.recorded)

    def measure(question: Question, report: Report) -> Trial:
        return measure_candidate(stage, question.number, question.candidate, report)

    def score(trial: Trial) -> Trial | None:
        control = held_record(stage, ())
        return scored_trial(stage, control, trial) if control else None

    def record_finished() -> None:
        if keeps_records:
            for question in backend.finished()[len(recorded) :]:
                record_trial(stage, recorded, finished_trial(stage, question.candidate))

    try:
        search(backend, measure, score, record_finished)
    finally:
        backend.close()


def follow_schedule(stage: StageRun) -> None:
    """Train the scheduled growth as the stage's only trial; it is its own control."""
    if not recorded_trials(stage):
        trial = measure_candidate(stage, 0, stage.candidates[0])
        record_trial(stage, [], scored_trial(stage, trial, trial))


def stage_search(stage: StageRun) -> StageSearch:
    """What a search backend needs to know of the stage."""
    candidates, trials = stage.candidates, read_trials(stage.run)
    earlier = [trial for trial in trials if trial.stage < stage.data.index]
    return StageSearch(
        candidates=candidates,
        seed=stage.seed,
        stage=stage.data.index,
        run=stage.run,
        config=stage.config.search,
        recorded=[trial for trial in trials if trial.stage == stage.data.index],
        promising=promising(earlier, candidates),
        facts={
            "pairs": stage.data.num_pairs,
            "parent FLOPs a pair": count_flops(stage.parent.arch),
            "parent parameters": count_params(stage.parent.arch),
            "stage's training FLOPs": stage.budget,
            "FLOPs": "fvcore FLOPs: one multiply-add is one",
            "trigger": stage.trigger.reason,
        },
    )


def describe_choice(
    stage: StageRun,
    trials: Sequence[Trial],
    best: Trial,
    reason: str,
    result: StageResult | None = None,
) -> None:
    """Show a stage's choice, and its result once there is one, in optuna-dashboard."""
    if stage.config.search.backend != "optuna" or stage.scheduled_sizes is not None:
        return
    history = (*stage.history, *([result] if result else []))
    with decoration(f"stage {stage.data.index}, choice"):
        study = optuna.load_study(
            study_name=study_name(stage.run, stage.data.index),
            storage=open_storage(stage.config.search.storage, stage.run, waits=True),
        )
        story = StageStory(trials=trials, best=best, reason=reason, history=history)
        describe_stage(study, story)


def search_with_nni(stage: StageRun) -> None:
    """Search the stage by one NNI experiment, whose trials are processes of their own.

    The control is tried here first; where it fails nothing could be compared, and NNI is not
    started. NNI's tuners may propose a candidate again; it is tried once.
    """
    recorded = list(recorded_trials(stage))
    if not recorded:
        measure_candidate(stage, 0, ())
        record_trial(stage, recorded, finished_trial(stage, ()))
    if recorded[0].state != "complete":
        return
    tried = {trial.candidate for trial in recorded}
    for candidate in proposed_by_nni(stage):
        if candidate not in tried:
            record_trial(stage, recorded, finished_trial(stage, candidate))


def proposed_by_nni(stage: StageRun) -> tuple[Candidate, ...]:
    """What NNI's tuner proposed, each candidate once; all of them have records then.

    The experiment runs once: its proposals are kept in the stage's folder.
    """
    by_label = {candidate_label(c): c for c in stage.candidates[1:]}
    kept = stage.folder / NNI_FOLDER / PROPOSED_FILE
    if not by_label or stage.config.search.num_trials < 2:
        return ()
    if not kept.is_file():
        candidates = tuple(by_label.values())
        ends = run_nni_experiment(nni_experiment(stage, candidates))
        proposed = {candidate_from_nni(end.parameters, candidates): end for end in reversed(ends)}
        for candidate, end in proposed.items():
            if held_record(stage, candidate) is None:
                write_record(stage, unmeasured(stage, candidate, end))
        labels = [candidate_label(candidate) for candidate in reversed(proposed)]
        write_atomically(kept, (json.dumps(labels) + "\n").encode())
    try:
        return tuple(by_label[label] for label in json.loads(kept.read_text(encoding="utf-8")))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{kept}: must list candidates of the stage, but: {error}. Delete it to search anew."
        ) from None


def nni_experiment(stage: StageRun, candidates: Sequence[Candidate]) -> NniExperiment:
    """The stage's search as an NNI experiment over the candidates that grow."""
    config, index = stage.config.search, stage.data.index
    command = [
        sys.executable,
        "-m",
        "nas_growclip.cli.nni_trial",
        "--run",
        str(stage.run.resolve()),
    ]
    command += ["--stage", str(index), "--device", str(stage.parent.logit_scale.device)]
    if stage.data_folder is not None:
        command += ["--data", str(stage.data_folder.resolve())]
    if config.nni_workers > 1:
        threads = max(1, torch.get_num_threads() // config.nni_workers)
        command += ["--threads", str(threads)]
    return NniExperiment(
        name=f"growclip {stage.run.resolve().name}, stage {index}",
        space=nni_space(candidates),
        command=tuple(command),
        folder=stage.folder / NNI_FOLDER,
        num_trials=config.num_trials - 1,
        workers=config.nni_workers,
        tuner=config.nni_tuner,
        assessor=config.nni_assessor,
        seed=stage.seed,
        curve_points=config.curve_points,
    )


def unmeasured(stage: StageRun, candidate: Candidate, end: NniTrial) -> Trial:
    """The record of a trial that NNI ended before it wrote its own."""
    planned = planned_trial(stage, end.number, candidate)
    num_points = stage.config.search.curve_points
    steps = curve_steps(0, stage.trial_steps(planned.arch), num_points)
    losses = [point["loss"] for point in end.curve if "loss" in point]
    pairs = [step * stage.config.train.batch_size for step in steps]
    return replace(
        planned,
        state="pruned" if end.state == "pruned" else "failed",
        curve=tuple(zip(pairs, losses, strict=False)),
        train_flops=round(planned.train_flops * min(1.0, len(losses) / num_points)),
        message=end.message or f"{end.state} by NNI",
    )


def recorded_trials(stage: StageRun) -> tuple[Trial, ...]:
    """The stage's lines of ``trials.jsonl``."""
    return tuple(t for t in read_trials(stage.run) if t.stage == stage.data.index)


def record_trial(stage: StageRun, recorded: list[Trial], trial: Trial) -> None:
    """Append a finished trial to ``trials.jsonl`` and to the stage's records, as the next one."""
    trial = replace(trial, number=len(recorded))
    append_line(stage.run / TRIALS_FILE, to_line(trial))
    recorded.append(trial)
    keep_best_state(stage, recorded)
    score = f"score {trial.score:+.4g}" if trial.score is not None else _unscored(trial)
    say(f"stage {stage.data.index}, trial {trial.number}: {trial.label}: {score}")


def _unscored(trial: Trial) -> str:
    return trial.message or "no score, since the control failed"


def choose_trial(stage: StageRun, trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial that the stage goes on with, and why.

    Without any score nothing can be compared: the stage keeps its parent, or grows as scheduled.
    """
    is_scheduled = stage.scheduled_sizes is not None
    if any(trial.score is not None for trial in trials):
        best = stage.objective.choose(trials)
        if not is_scheduled:
            return best, f"{explain(best, trials)} Searched because {stage.trigger.reason}."
        return best, f"{', '.join(map(str, best.candidate)) or 'no growth'}, as scheduled."
    first = trials[0]
    if is_scheduled:
        what = f"{', '.join(map(str, first.candidate)) or 'no growth'}, as scheduled"
        return first, f"{what}, though its trial failed: {first.message}"
    failed = sum(trial.state == "failed" for trial in trials)
    return first, (
        f"no growth: the parent is kept, since {failed} of {len(trials)} trials failed, the "
        f"control among them: {first.message}"
    )


def finished_trial(stage: StageRun, candidate: Candidate) -> Trial:
    """The scored record of a trial that some worker finished.

    Raises:
        ValueError: If its record is not in the run folder.
    """
    trial, control = held_record(stage, candidate), held_record(stage, ())
    if trial is None or control is None:
        raise ValueError(
            f"{record_path(stage, candidate)}: must hold the record of a finished trial, "
            "but is missing. Do all workers see the same run folder?"
        )
    return scored_trial(stage, control, trial)


def scored_trial(stage: StageRun, control: Trial, trial: Trial) -> Trial:
    """A trial with its score against the control; without one if either did not complete."""
    if trial.state != "complete" or control.state != "complete":
        return trial
    score = stage.objective.score(trial, control, stage.data_size, stage.coefficients)
    return replace(trial, score=score.value, terms=score.terms)


def keep_best_state(stage: StageRun, trials: Sequence[Trial]) -> None:
    """Delete the training states of all trials but those that may still be chosen.

    While no trial has a score there are none.
    """
    has_score = any(trial.score is not None for trial in trials)
    kept = {trial.label for trial in stage.objective.contenders(trials)} if has_score else set()
    for trial in trials:
        if trial.label not in kept:
            trial_path(stage, trial.candidate).unlink(missing_ok=True)

"""A stage's search by an NNI experiment, whose trials are processes of their own."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.trial import measure_candidate, planned_trial
from nas_growclip.experiment.trial_records import (
    finished_trial,
    read_record,
    record_trial,
    recorded_trials,
    write_record,
)
from nas_growclip.growth.candidates import NO_GROWTH, Candidate
from nas_growclip.io.files import write_atomically
from nas_growclip.records.entries import Trial
from nas_growclip.search.nni.experiment import NniExperiment, NniTrial, run_nni_experiment
from nas_growclip.search.nni.space import candidate_from_nni, nni_space


def search_with_nni(stage: StageContext) -> None:
    """Search the stage by one NNI experiment, whose trials are processes of their own.

    The control is tried here first; where it fails nothing could be compared, and NNI is not
    started. NNI's tuners may propose a candidate again; it is tried once.
    """
    recorded = list(recorded_trials(stage))
    if not recorded:
        measure_candidate(stage, 0, NO_GROWTH)
        record_trial(stage, recorded, finished_trial(stage, NO_GROWTH))
    if recorded[0].state != "complete":
        return
    tried = {trial.candidate for trial in recorded}
    for candidate in proposed_by_nni(stage):
        if candidate not in tried:
            record_trial(stage, recorded, finished_trial(stage, candidate))


def proposed_by_nni(stage: StageContext) -> tuple[Candidate, ...]:
    """What NNI's tuner proposed, each candidate once; all of them have records then.

    The experiment runs once: its proposals are kept in the stage's folder.
    """
    by_label = {c.label: c for c in stage.plan.candidates[1:]}
    kept = stage.files.nni_proposals
    if not by_label or stage.config.search.num_trials < 2:
        return ()
    if not kept.is_file():
        candidates = tuple(by_label.values())
        ends = run_nni_experiment(nni_experiment(stage, candidates))
        proposed = {candidate_from_nni(end.parameters, candidates): end for end in reversed(ends)}
        for candidate, end in proposed.items():
            if read_record(stage, candidate) is None:
                write_record(stage, unmeasured(stage, candidate, end))
        labels = [candidate.label for candidate in reversed(proposed)]
        write_atomically(kept, (json.dumps(labels) + "\n").encode())
    try:
        return tuple(by_label[label] for label in json.loads(kept.read_text(encoding="utf-8")))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{kept}: must list candidates of the stage, but: {error}. Delete it to search again."
        ) from None


def nni_experiment(stage: StageContext, candidates: Sequence[Candidate]) -> NniExperiment:
    """The stage's search as an NNI experiment over the candidates that grow."""
    config, index = stage.config.search, stage.index
    command = [
        sys.executable,
        "-m",
        "nas_growclip",
        "nni-trial",
        "--run",
        str(stage.run.resolve()),
    ]
    command += ["--stage", str(index), "--device", str(stage.parent_model.logit_scale.device)]
    if stage.data_folder is not None:
        command += ["--data", str(stage.data_folder.resolve())]
    if config.nni_workers > 1:
        threads = max(1, torch.get_num_threads() // config.nni_workers)
        command += ["--threads", str(threads)]
    return NniExperiment(
        name=f"growclip {stage.run.resolve().name}, stage {index}",
        space=nni_space(candidates),
        command=tuple(command),
        folder=stage.files.nni,
        num_trials=config.num_trials - 1,
        workers=config.nni_workers,
        tuner=config.nni_tuner,
        assessor=config.nni_assessor,
        seed=stage.plan.seed,
        curve_points=config.curve_points,
    )


def unmeasured(stage: StageContext, candidate: Candidate, end: NniTrial) -> Trial:
    """The record of a trial that NNI ended before it wrote its own."""
    planned = planned_trial(stage, end.number, candidate)
    steps = stage.plan.trial_points(planned.arch)
    losses = [point["loss"] for point in end.curve if "loss" in point]
    pairs = [step * stage.config.train.batch_size for step in steps]
    share = min(1.0, len(losses) / stage.config.search.curve_points)
    return replace(
        planned,
        state="pruned" if end.state == "pruned" else "failed",
        curve=tuple(zip(pairs, losses, strict=False)),
        train_flops=round(planned.train_flops * share),
        message=end.message or f"{end.state} by NNI",
    )

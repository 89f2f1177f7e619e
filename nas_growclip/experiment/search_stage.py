"""The search of one stage: what may be chosen, who tries it, and the records of all trials.

Trial 0 is the control: no growth, same budget. The process that runs the experiment keeps the
records; other workers only try candidates.
"""

import csv
import io
import json
from collections.abc import Sequence

import optuna

from nas_growclip.experiment.search_nni import search_with_nni
from nas_growclip.experiment.stage_context import StageContext
from nas_growclip.experiment.stage_plan import StagePlan
from nas_growclip.experiment.trial import measure_candidate
from nas_growclip.experiment.trial_records import (
    finished_trial,
    read_record,
    record_trial,
    recorded_trials,
    scored_trial,
)
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.io.files import make_folder, write_atomically
from nas_growclip.models.flops import count_flops, count_params
from nas_growclip.records.entries import StageResult, Trial
from nas_growclip.records.folder import read_trials, run_name
from nas_growclip.search.backends import BACKENDS, EXPERIMENT_BACKENDS
from nas_growclip.search.loop import Report, search
from nas_growclip.search.nni.space import nni_space
from nas_growclip.search.optuna.backend import study_name
from nas_growclip.search.optuna.dashboard import StageStory, best_effort, describe_stage
from nas_growclip.search.optuna.run_study import RunRecords, study_of_runs
from nas_growclip.search.optuna.storage import open_storage
from nas_growclip.search.plain_words import Choice, choice_words, choices_at_other_data
from nas_growclip.search.protocol import Proposal, SearchTask
from nas_growclip.search.warm_start import warm_start_candidates


def run_search(stage: StageContext) -> tuple[Trial, ...]:
    """Every trial of the stage, control first; trials recorded earlier are not run again.

    Returns:
        The scored trials by number, as recorded in ``trials.jsonl``.
    """
    make_folder(stage.files.path)
    space = json.dumps(nni_space(stage.plan.candidates), indent=2) + "\n"
    write_atomically(stage.files.search_space, space.encode())
    if stage.plan.expected:
        write_atomically(stage.files.candidates, expectation_table(stage.plan).encode())
    if stage.plan.is_given:
        try_given(stage)
    elif stage.config.search.backend in EXPERIMENT_BACKENDS:
        search_with_nni(stage)
    else:
        join_search(stage, keeps_records=True)
    return recorded_trials(stage)


def expectation_table(plan: StagePlan) -> str:
    """The growth space as CSV: what is expected of every candidate, and which may be tried."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("candidate", "flops", "expected_gain", "shortlisted"))
    for candidate, flops, gain in plan.expected:
        writer.writerow((candidate.label, flops, round(gain, 6), candidate in plan.candidates))
    return table.getvalue()


def join_search(stage: StageContext, *, keeps_records: bool = False) -> None:
    """Work on the stage's search until none of its trials is left, alone or beside others.

    Args:
        stage: The stage; its backend's storage may be shared.
        keeps_records: Whether this is the one process that writes ``trials.jsonl``.
    """
    made = search_task(stage)
    backend, recorded = BACKENDS[stage.config.search.backend](made), list(made.recorded)

    def measure(proposal: Proposal, report: Report) -> Trial:
        return measure_candidate(stage, proposal.number, proposal.candidate, report)

    def score(trial: Trial) -> Trial | None:
        control = read_record(stage, NO_GROWTH)
        return scored_trial(stage, control, trial) if control else None

    def record_finished() -> None:
        if keeps_records:
            for proposal in backend.finished()[len(recorded) :]:
                record_trial(stage, recorded, finished_trial(stage, proposal.candidate))

    try:
        search(backend, measure, score, record_finished)
    finally:
        backend.close()


def try_given(stage: StageContext) -> None:
    """Train the growth that is given as the stage's only trial; it is its own control."""
    if not recorded_trials(stage):
        trial = measure_candidate(stage, 0, stage.plan.candidates[0])
        record_trial(stage, [], scored_trial(stage, trial, trial))


def search_task(stage: StageContext) -> SearchTask:
    """What a search backend needs to know of the stage."""
    candidates, trials = stage.plan.candidates, read_trials(stage.run)
    earlier = [trial for trial in trials if trial.stage < stage.index]
    return SearchTask(
        candidates=candidates,
        seed=stage.plan.seed,
        stage=stage.index,
        run=stage.run,
        config=stage.config.search,
        recorded=[trial for trial in trials if trial.stage == stage.index],
        warm_start_candidates=warm_start_candidates(earlier, candidates),
        facts={
            "pairs": stage.data.num_pairs,
            "parent FLOPs a pair": count_flops(stage.parent_model.arch),
            "parent parameters": count_params(stage.parent_model.arch),
            "stage's training FLOPs": stage.plan.budget,
            "FLOPs": "fvcore FLOPs: one multiply-add is one",
            "trigger": _trigger_words(stage),
        },
    )


def _trigger_words(stage: StageContext) -> str:
    return stage.plan.decision.reason if stage.plan.decision else f"it grows {stage.plan.given}"


def describe_choice(
    stage: StageContext,
    trials: Sequence[Trial],
    best: Trial,
    reason: str,
    result: StageResult | None = None,
) -> None:
    """Show a stage's choice, and its result once there is one, in optuna-dashboard."""
    if stage.config.search.backend != "optuna" or stage.plan.is_given:
        return
    history = (*stage.history, *([result] if result else []))
    config = stage.config.search
    with best_effort(f"stage {stage.index}, choice"):
        storage = open_storage(config.storage, stage.run, waits=True)
        own_name = study_name(stage.run, stage.index, config.study_name)
        study = optuna.load_study(study_name=own_name, storage=storage)
        story = StageStory(trials=trials, best=best, reason=reason, history=history)
        describe_stage(study, story)
        if result:
            name = run_name(stage.run)
            study_of_runs(
                f"{config.study_name or f'growclip/{name}'}/whole run",
                storage,
                [RunRecords(name, history, read_trials(stage.run))],
            )


def choose_trial(stage: StageContext, trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial that the stage continues, and why.

    Without any score nothing can be compared: the stage keeps its parent, or grows as given.
    """
    is_given = stage.plan.is_given
    if any(trial.score is not None for trial in trials):
        best = stage.plan.objective.choose(trials)
        if not is_given:
            return best, _reason(stage, trials, best)
        return best, f"{best.candidate}, {stage.plan.given}."
    first = trials[0]
    if is_given:
        failure = f"though its trial failed: {first.message}"
        return first, f"{first.candidate}, {stage.plan.given}, {failure}"
    failed = sum(trial.state == "failed" for trial in trials)
    return first, (
        f"no growth: the parent is kept, since {failed} of {len(trials)} trials failed, the "
        f"control among them: {first.message}"
    )


def _reason(stage: StageContext, trials: Sequence[Trial], best: Trial) -> str:
    """Why the search chose this trial, and why there was a search."""
    decision = stage.plan.decision
    if decision and not decision.should_search:
        return f"no growth: not searched, since {_trigger_words(stage)}."
    said = _said_of_choice(stage, trials, best)
    return f"{said} Searched because {_trigger_words(stage)}."


def _said_of_choice(stage: StageContext, trials: Sequence[Trial], best: Trial) -> str:
    """Why a search chose this trial, or why there was nothing to choose from."""
    plan = stage.plan
    if len(plan.growth_space) == 1:
        reasons = stage.config.space.left_out(stage.parent_model.arch, plan.num_pairs)
        listed = "; ".join(f"{names} ({reason.rstrip('.')})" for names, reason in reasons.items())
        return f"no growth, for the growth space has nothing else now: {listed}."
    words = choice_words(
        Choice(
            trials=trials,
            best=best,
            num_expected=len(plan.expected),
            stage_flops=plan.budget,
            other_data=choices_at_other_data(
                trials, plan.num_pairs, plan.objective, plan.coefficients
            ),
        )
    )
    return words or f"{best.candidate}, the only trial that could be scored."

"""What optuna-dashboard shows of a stage beside its own plots: pictures, notes and figures.

This is best effort: it goes into the study and into ``RUN/artifacts``, never into a record, and
nothing reads it back. It may not cost a trial: whatever goes wrong is said on stderr and passed
over (see ``best_effort``). Pictures need Optuna alone, notes need optuna-dashboard, and figures
plotly too; what is not installed is left out.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study

from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.io.files import temporary_suffix
from nas_growclip.io.formatting import DASH, number, si, whole
from nas_growclip.records.entries import StageResult, Trial, search_flops
from nas_growclip.records.folder import RunFolder, read_stages
from nas_growclip.search.objective import TERMS
from nas_growclip.search.optuna.dashboard_figures import (
    FLOPS_NOTE,
    Curve,
    all_stages,
    end_loss,
    finite_points,
    learning_curves,
    loss_against_flops,
)
from nas_growclip.search.optuna.samplers import experimental

_log = logging.getLogger(__name__)

CURVE_FILE = "learning_curve.png"
DPI = 100
GAP = "\N{NO-BREAK SPACE}" * 3


@dataclass(frozen=True, kw_only=True)
class StageStory:
    """What there is to tell of a stage whose growth is chosen."""

    trials: Sequence[Trial]
    """Scored, by number; the control is the first."""
    best: Trial
    reason: str
    """Why it was chosen."""
    history: Sequence[StageResult] = ()
    """Finished stages; this one is the last of them once it is finished."""

    @property
    def result(self) -> StageResult | None:
        """The stage's own result; None while it still trains."""
        return next((r for r in self.history if r.stage == self.best.stage), None)


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Do without what fails in here, and say so.

    Every error is caught, not only a full disk or a database that is away: a trial may have cost
    days, and no fault in a picture of it is worth losing it.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        _log.warning(f"{what}: not shown in optuna-dashboard: {type(error).__name__}: {reason}")


def describe_trial(study: Study, asked: optuna.Trial, trial: Trial, run: Path | None) -> None:
    """Give a trial of the study its picture and its note, which it takes only until it is told.

    The control also opens the study's own note.

    Args:
        study: The stage's study.
        asked: The trial in the study.
        trial: Its record, scored.
        run: The run folder; None for a study in memory, which nobody can look at.
    """
    if run is None:
        return
    what = f"stage {trial.stage}, trial {trial.number}"
    control: Mapping[str, Any] = {}
    with best_effort(f"{what}, learning curve"):
        control = control_attributes(study)
        if finite_points(trial.curve)[0]:
            upload_curve(asked, trial, control.get("learning curve", ()), RunFolder(run).artifacts)
    with best_effort(f"{what}, note"):
        save_note(asked, trial_note(trial, control))
        if not trial.candidate.grows:
            earlier = [stage for stage in read_stages(run) if stage.stage < trial.stage]
            save_note(study, stage_note(study.user_attrs, trial, earlier))


def describe_stage(study: Study, story: StageStory) -> None:
    """Write the choice into the study's note, and draw its figures; once more at the stage's end.

    Only one process may do so at a time: a note is several attributes.
    """
    stage, facts = story.best.stage, study.user_attrs
    with best_effort(f"stage {stage}, note"):
        earlier = [result for result in story.history if result.stage < stage]
        opening = stage_note(facts, story.trials[0], earlier)
        save_note(study, f"{opening}\n\n{choice_note(facts, story)}")
    with best_effort(f"stage {stage}, figures"):
        for name, figure in stage_figures(story).items():
            save_figure(study, name, figure)


def control_attributes(study: Study) -> Mapping[str, Any]:
    """Attributes of the study's trial that did not grow; none while it is not measured."""
    for trial in study.get_trials(deepcopy=False):
        attributes = trial.user_attrs
        if attributes.get("candidate") == NO_GROWTH.label and "FLOPs a pair" in attributes:
            return attributes
    return {}


def upload_curve(asked: optuna.Trial, trial: Trial, control: Curve, folder: Path) -> None:
    """Draw a trial's learning curve beside the control's and attach it to the trial.

    It is drawn into the artifacts' folder first: on a full disk, or where nothing may be written,
    that fails before Optuna notes an artifact that is not there.

    Raises:
        OSError: If the folder cannot be made or written.
    """
    from nas_growclip.search.optuna.learning_curve import draw_curve

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=temporary_suffix()) as drawn:
        path = Path(drawn) / CURVE_FILE
        draw_curve(trial, control).savefig(path, dpi=DPI, facecolor="white")
        store = FileSystemArtifactStore(folder)
        upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=asked)


def trial_note(trial: Trial, control: Mapping[str, Any]) -> str:
    """Markdown on a trial: what grew, what it costs, how it ended, what its score is made of.

    Args:
        trial: Its record, scored.
        control: The control's attributes in the study; empty where they are not known.
    """
    curve = control.get("learning curve")
    in_budget = control.get("pairs in the stage's budget")
    numbers = [
        *(
            (f"`{step.dimension}`", str(step.old), f"**{step.new}**")
            for step in trial.candidate.steps
        ),
        ("FLOPs a pair, forward", si(control.get("FLOPs a pair")), si(trial.flops)),
        ("parameters", si(control.get("parameters")), si(trial.params)),
        ("pairs in the stage's budget", whole(in_budget), whole(trial.stage_pairs)),
        ("loss at the end", number(curve[-1][1] if curve else None), number(end_loss(trial))),
    ]
    columns: tuple[str, ...] = ("", "no growth", "this trial")
    if not trial.candidate.grows:
        return _joined(
            _title(trial),
            _outcome(trial),
            _table(("", "this trial"), [(name, own) for name, _, own in numbers]),
            _cost(trial),
        )
    return _joined(
        _title(trial), _outcome(trial), _table(columns, numbers), _terms(trial), _cost(trial)
    )


def stage_note(facts: Mapping[str, Any], control: Trial, earlier: Sequence[StageResult]) -> str:
    """Markdown on a stage: its data, its parent, its budget, and why it is searched.

    Args:
        facts: The study's attributes.
        control: The trial that did not grow, which is the parent trained on.
        earlier: Results of the stages before.
    """
    pairs = facts.get("pairs")
    words = whole(pairs)
    if pairs is not None and earlier:
        last = earlier[-1]
        words += f", {pairs / last.num_pairs:.3g} times as many as in stage {last.stage}"
    numbers = [
        ("pairs", words),
        ("parent's FLOPs a pair, forward", si(control.flops)),
        ("parent's parameters", si(control.params)),
        ("stage's training FLOPs", si(facts.get("stage's training FLOPs"))),
    ]
    sizes = (f"`{name}` {size}" for name, size in control.arch.sizes().items())
    return _joined(
        f"# Stage {control.stage}",
        f"Why now: {facts.get('trigger', DASH)}.",
        _table(("", ""), numbers),
        f"FLOPs are {FLOPS_NOTE}.",
        f"Parent's sizes: {', '.join(sizes)}.",
    )


def choice_note(facts: Mapping[str, Any], story: StageStory) -> str:
    """Markdown on a stage's choice, what the search cost, and how good the model became."""
    best, result = story.best, story.result
    search = search_flops(story.trials, best)
    rest = result.train_flops if result else facts.get("stage's training FLOPs", 0)
    states = [trial.state for trial in story.trials]
    counts = [f"{states.count(s)} {s}" for s in ("complete", "pruned", "failed") if s in states]
    return _joined(
        f"## Choice: {f'`{best.label}`' if best.candidate.grows else 'no growth'}",
        story.reason,
        f"Trials: {', '.join(counts)}. Those that were not continued took {si(search)} training "
        f"FLOPs, {search / max(search + rest, 1):.1%} of the stage's ({FLOPS_NOTE}).",
        _measured(result) if result else "The chosen trial is being trained on.",
    )


def stage_figures(story: StageStory) -> dict[str, Any]:
    """Plotly figures of a stage under their names in the dashboard; none without plotly."""
    try:
        from plotly.graph_objects import Figure as PlotlyFigure
    except ImportError:
        return {}
    described = {
        "loss-against-FLOPs": loss_against_flops(story.trials, story.best),
        "learning-curves": learning_curves(story.trials, story.best),
    }
    if story.history:
        described["finished-stages"] = all_stages(story.history)
    return {name: PlotlyFigure(description) for name, description in described.items()}


def save_note(place: Study | optuna.Trial, text: str) -> None:
    """Save a note where optuna-dashboard is installed."""
    try:
        import optuna_dashboard
    except ImportError:
        return
    with experimental():
        optuna_dashboard.save_note(place, text)


def save_figure(study: Study, name: str, figure: Any) -> None:
    """Save a Plotly figure where optuna-dashboard is installed; the name is an HTML id."""
    try:
        import optuna_dashboard
    except ImportError:
        return
    with experimental():
        optuna_dashboard.save_plotly_graph_object(study, figure, graph_object_id=name)


def _title(trial: Trial) -> str:
    return f"## `{trial.label}`" if trial.candidate.grows else "## No growth: the control"


def _outcome(trial: Trial) -> str:
    """How a trial ended; a message is shown as it is, not as Markdown."""
    if trial.state == "complete":
        score = "none" if trial.score is None else f"**{trial.score:+.4g}**"
        return f"Complete. Score {score}: 0 is no growth, higher is better."
    message = trial.message.replace("```", "") or "no reason given"
    return f"**{trial.state.capitalize()}**\n\n```\n{message}\n```"


def _terms(trial: Trial) -> str:
    rows = [(f"`{name}`", number(v), TERMS.get(name, "")) for name, v in trial.terms.items()]
    return _table(("term of the score", "value", "meaning"), rows) if rows else ""


def _cost(trial: Trial) -> str:
    return f"Training this trial took {si(trial.train_flops)} FLOPs ({FLOPS_NOTE})."


def _measured(result: StageResult) -> str:
    rows = [
        (f"`{name}`", number(measure.value), number(measure.chance))
        for name, measure in result.metrics.items()
    ]
    return _table(("measured on `test`", "value", "chance"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the dashboard sets columns without a gap, so that cells bring their own."""
    lines = [f"{GAP} | ".join(line) for line in (columns, *rows)]
    lines.insert(1, " | ".join(["---"] * len(columns)))
    return "\n".join(f"| {line} |" for line in lines)


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)

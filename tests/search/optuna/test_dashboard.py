"""Pictures, notes and figures for optuna-dashboard; the last test looks at them in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.study import Study

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Measure, StageResult, Trial, to_line
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.lines import append_line
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.loop import Report, search
from nas_growclip.search.optuna.backend import OptunaSearch, study_name
from nas_growclip.search.optuna.dashboard import (
    StageStory,
    best_effort,
    describe_stage,
    stage_figures,
)
from nas_growclip.search.protocol import Proposal, SearchTask

pytestmark = pytest.mark.pictures

Capture = pytest.CaptureFixture[str]
CONTROL_LOSS = 3.0 - 0.3 * 5**0.5
"""In stage 0; 0.2 less in each stage after."""
PNG = b"\x89PNG"
PARENT = ClipArch.preset("tiny")


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def candidates(parent: ClipArch) -> tuple[Candidate, ...]:
    """No growth, one that is good, one to be pruned, one that fails, and the best."""
    names = ("image.mlp_width", "text.mlp_width", "embed_dim", "text.depth")
    wide, pruned, failed, deep = (
        GrowthStep(dimension=name, old=parent.size(name), new=parent.size(name) * 3 // 2)
        for name in names
    )
    grown = (wide,), (pruned,), (failed,), (wide, deep)
    return (NO_GROWTH, *(Candidate(steps=steps) for steps in grown))


def search_task(run: Path | None, stage: int = 0, parent: ClipArch = PARENT) -> SearchTask:
    return SearchTask(
        candidates=candidates(parent),
        seed=3,
        stage=stage,
        run=run,
        config=SearchConfig(sampler="random", num_trials=5),
        warm_start_candidates=candidates(parent)[1:],
        facts={
            "pairs": 1000 * 2**stage,
            "stage's training FLOPs": 10**11,
            "trigger": f"the pairs are 2 times the {500 * 2**stage} of the stage before",
        },
    )


def measured(stage: int, parent: ClipArch, proposal: Proposal, report: Report) -> Trial:
    """A made-up trial: larger is better."""
    arch = proposal.candidate.apply(parent)
    sizes = arch.sizes()
    trial = Trial(
        stage=stage,
        number=proposal.number,
        candidate=proposal.candidate,
        arch=arch,
        flops=10**4 * (sum(sizes.values()) - sizes["text.vocab_size"]),
        params=10**3 * (sum(sizes.values()) - sizes["text.vocab_size"]),
        state="complete",
        train_flops=10**9,
        stage_pairs=8000,
    )
    grown = {step.dimension for step in proposal.candidate.steps}
    if "embed_dim" in grown:
        return replace(trial, state="failed", message="DivergedError: loss is nan at step 3")
    curve = [(0, 3.0)]
    for point in range(1, 6):
        fall = 0.3 + 0.05 * len(grown - {"text.mlp_width"})
        curve.append((point * 100, 3.0 - stage * 0.2 - fall * point**0.5))
        report(point, curve[-1][1])
        if "text.mlp_width" in grown and point == 2:
            message = "stopped after 2 of 5 steps"
            return replace(trial, state="pruned", curve=tuple(curve), message=message)
    return replace(trial, curve=tuple(curve), metrics={"loss": curve[-1][1]})


def scored(trial: Trial) -> Trial:
    if trial.state != "complete":
        return trial
    score = CONTROL_LOSS - 0.2 * trial.stage - trial.metrics["loss"]
    terms = {"observed_loss": trial.metrics["loss"], "advantage": score, "pairs_cost": 0.01}
    return replace(trial, score=score, terms=terms)


def searched(made: SearchTask, parent: ClipArch = PARENT) -> list[Trial]:
    """The stage's trials, told to its study."""
    trials: list[Trial] = []

    def score(trial: Trial) -> Trial:
        trials.append(scored(trial))
        return trials[-1]

    backend = OptunaSearch(made)
    try:
        search(backend, lambda q, report: measured(made.stage, parent, q, report), score)
    finally:
        backend.close()
    return trials


def stage_result(stage: int, best: Trial, parent: ClipArch) -> StageResult:
    return StageResult(
        stage=stage,
        num_pairs=1000 * 2**stage,
        skipped={},
        parent=parent,
        arch=best.arch,
        chosen=best.candidate,
        chosen_trial=best.number,
        reason="made up.",
        flops=best.flops,
        flops_by_encoder={},
        params=best.params,
        metrics={"zero_shot_top1": Measure(0.2 + 0.1 * stage, 0.1)},
        validation={"loss": Measure(2.0 - 0.2 * stage, 4.0)},
        curve=(),
        pairs_seen=8000,
        search_flops=4 * 10**9,
        train_flops=10**11,
        cumulative_flops=(stage + 1) * 104 * 10**9,
    )


def open_study(run: Path, stage: int = 0) -> Study:
    return optuna.load_study(study_name=study_name(run, stage), storage=f"sqlite:///{run}/study.db")


def describe(run: Path, trials: list[Trial], history: tuple[StageResult, ...] = ()) -> None:
    best = max(trials, key=lambda trial: trial.score or 0.0)
    story = StageStory(trials=trials, best=best, reason="It won by 0.1.", history=history)
    describe_stage(open_study(run, best.stage), story)


def grown_run(run: Path) -> list[list[Trial]]:
    """A run of three made-up stages, described as a run would."""
    parent, history, stages = PARENT, [], []
    for stage in range(3):
        trials = searched(search_task(run, stage, parent), parent)
        best = max(trials, key=lambda trial: trial.score or 0.0)
        history.append(stage_result(stage, best, parent))
        describe(run, trials, tuple(history))
        append_line(RunFolder(run).stages, to_line(history[-1]))
        parent = best.arch
        stages.append(trials)
    return stages


@pytest.fixture(scope="module")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with three stages."""
    run = tmp_path_factory.mktemp("runs") / "made up"
    run.mkdir()
    grown_run(run)
    return run


@pytest.fixture(scope="module")
def searched_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """A run folder whose first stage has been searched, and the trials; one test describes it."""
    run = tmp_path_factory.mktemp("searched")
    return run, searched(search_task(run))


def notes(run: Path, stage: int = 0) -> dict[int | None, str]:
    """The study's note under None, and its trials' notes by number."""
    dashboard = pytest.importorskip("optuna_dashboard")
    study = open_study(run, stage)
    held = {None: dashboard.get_note(study)}
    return held | {
        t.number: dashboard.get_note(optuna.Trial(study, t._trial_id)) for t in study.trials
    }


def pictures(run: Path, stage: int = 0) -> dict[int, list[bytes]]:
    """Contents of each trial's artifacts."""
    study = open_study(run, stage)
    return {trial.number: list(contents(study, trial, run)) for trial in study.trials}


def contents(study: Study, trial: optuna.trial.FrozenTrial, run: Path) -> Iterator[bytes]:
    store = FileSystemArtifactStore(run / "artifacts")
    for meta in get_all_artifact_meta(study_or_trial=trial, storage=study._storage):
        assert (meta.filename, meta.mimetype) == ("learning_curve.png", "image/png")
        with store.open_reader(meta.artifact_id) as file:
            yield file.read()


def figures(run: Path, stage: int = 0) -> set[str]:
    attributes = open_study(run, stage)._storage.get_study_system_attrs(stage + 1)
    prefix = "dashboard:plot_data:"
    return {key.split(":")[2] for key in attributes if key.startswith(prefix)}


@pytest.mark.parametrize("stage", range(3))
def test_every_trial_with_a_curve_has_its_picture(made_run: Path, stage: int) -> None:
    failed = [t.number for t in open_study(made_run, stage).trials if t.state.name == "FAIL"]
    assert len(failed) == 1
    for number, held in pictures(made_run, stage).items():
        assert [picture[:4] for picture in held] == ([] if number in failed else [PNG])
    left = [path for path in (made_run / "artifacts").iterdir() if path.is_dir()]
    assert not left


def test_trials_notes_say_what_grew_what_it_costs_and_how_it_ended(made_run: Path) -> None:
    held = notes(made_run)
    assert "No growth: the control" in held[0]
    for trial in open_study(made_run).trials:
        note = held[trial.number]
        assert "fvcore FLOPs: one multiply-add is one" in note
        if trial.number:
            assert f"## `{trial.user_attrs['candidate']}`" in note
        if trial.state.name == "COMPLETE":
            assert f"Score **{trial.values[0]:+.4g}**" in note
        else:
            assert trial.user_attrs["message"] in note
    grown = next(n for n in held.values() if n.startswith("## `image.mlp_width=384`"))
    assert "| `image.mlp_width`\u00a0\u00a0\u00a0 | 256\u00a0\u00a0\u00a0 | **384** |" in grown


def test_stages_note_tells_of_the_data_the_choice_and_the_searchs_share(made_run: Path) -> None:
    note = notes(made_run, stage=1)[None]
    for words in (
        "# Stage 1",
        "2,000, 2 times as many as in stage 0",
        "Why now: the pairs are 2 times the 1000",
        "It won by 0.1.",
        "3.8% of the stage's (fvcore FLOPs: one multiply-add is one)",
        "`zero_shot_top1`",
    ):
        assert words in note


def test_stage_is_described_before_and_after_its_training(
    searched_run: tuple[Path, list[Trial]],
) -> None:
    run, trials = searched_run
    before = notes(run)[None]
    assert "# Stage 0" in before
    assert "Choice" not in before
    describe(run, trials)
    assert "The chosen trial is being trained on." in notes(run)[None]
    assert figures(run) == {"loss-against-FLOPs", "learning-curves"}


def test_last_stage_has_a_figure_of_all_stages(made_run: Path) -> None:
    pytest.importorskip("plotly")
    assert figures(made_run, 2) == {"loss-against-FLOPs", "learning-curves", "finished-stages"}


def test_figures_mark_the_chosen_trial_and_the_control(
    searched_run: tuple[Path, list[Trial]],
) -> None:
    pytest.importorskip("plotly")
    _, trials = searched_run
    control_wins = StageStory(trials=trials, best=trials[0], reason="", history=())
    for best in (trials[0], max(trials, key=lambda trial: trial.score or 0)):
        made = stage_figures(replace(control_wins, best=best))
        scatter = {trace.name: trace for trace in made["loss-against-FLOPs"].data}
        assert list(scatter["chosen"].x) == [best.flops]
        assert list(scatter["control (no growth)"].x) == [trials[0].flops]
        names = [trace.name for trace in made["learning-curves"].data]
        assert sum(name.endswith(", chosen") for name in names) == 1
        assert sum(name.startswith("control") for name in names) == 1


@pytest.mark.parametrize("missing", [["optuna_dashboard"], ["plotly"]], ids=str)
def test_search_works_without_the_extra(
    missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with monkeypatch.context() as patch:
        for name in missing:
            patch.setitem(sys.modules, name, None)
            patch.setitem(sys.modules, f"{name}.graph_objects", None)
        trials = searched(search_task(tmp_path))
        describe(tmp_path, trials)
    assert len(trials) == 5
    assert any(pictures(tmp_path).values())
    assert not figures(tmp_path)
    assert "not shown" not in capsys.readouterr().err


def test_no_trial_is_lost_where_no_picture_can_be_written(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "artifacts").write_text("a file, so that no folder can be made")
    trials = searched(search_task(tmp_path))
    assert len(trials) == len(open_study(tmp_path).trials) == 5
    assert not any(pictures(tmp_path).values())
    assert notes(tmp_path)[1]
    said = capsys.readouterr().err
    assert "trial 1, learning curve: not shown in optuna-dashboard: FileExistsError" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_trial_is_lost_with_a_read_only_folder(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "artifacts").mkdir(mode=0o500)
    assert len(searched(search_task(tmp_path))) == 5
    assert "PermissionError" in capsys.readouterr().err


def test_decoration_says_what_failed_and_lets_interrupts_pass(capsys: Capture) -> None:
    with best_effort("a note"):
        raise OSError(28, "No space left on device")
    said = capsys.readouterr().err
    assert said == (
        "a note: not shown in optuna-dashboard: OSError: [Errno 28] No space left on device\n"
    )
    with pytest.raises(KeyboardInterrupt), best_effort("a note"):
        raise KeyboardInterrupt


def test_decoration_changes_neither_trials_nor_their_order(
    searched_run: tuple[Path, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, shown = searched_run
    monkeypatch.setattr("nas_growclip.search.optuna.backend.describe_trial", lambda *given: None)
    assert searched(search_task(make_folder(tmp_path / "other"))) == shown


@contextmanager
def dashboard(run: Path) -> Iterator[str]:
    """optuna-dashboard on a run's storage, on a free port of this machine; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from optuna_dashboard._cli import main; main()"
    options = ["--artifact-dir", str(run / "artifacts"), "--port", str(port), "--quiet"]
    command = [sys.executable, "-c", code, f"sqlite:///{run}/study.db", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(server, port)
        yield f"http://127.0.0.1:{port}/dashboard"
    finally:
        server.kill()
        server.wait()


def wait_until_open(server: subprocess.Popen[bytes], port: int, patience: float = 120) -> None:
    ends = time.monotonic() + patience
    while time.monotonic() < ends and server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"optuna-dashboard did not open port {port}")


class Page(HTMLParser):
    """What a page says after its scripts ran: its text, and its pictures' addresses."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.text, self.images = "", []
        self.feed(dom)

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")


def browse(browser: str, address: str, profile: Path) -> Page:
    """The page after a few seconds of the browser's own time."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking"
    wanted = ["--virtual-time-budget=20000", "--window-size=1400,3000", "--dump-dom", address]
    command = [browser, *flags.split(), f"--user-data-dir={profile}", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return Page(done.stdout)


@pytest.mark.slow
def test_browser_shows_studies_attributes_notes_and_figures(made_run: Path, tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no chromium or google-chrome to open optuna-dashboard in")
    pytest.importorskip("optuna_dashboard", reason="needs the extra [dashboard]")
    pytest.importorskip("plotly", reason="needs the extra [dashboard]")
    with dashboard(made_run) as address:
        pages = [
            browse(browser, address + path, tmp_path / "profile")
            for path in ("/", "/studies/3", "/studies/3/note", "/studies/3/trials?numbers=1")
        ]
        image = address.removesuffix("/dashboard") + pages[3].images[0]
        with urllib.request.urlopen(image) as answer:
            assert answer.read()[:4] == PNG
    study_list, study, note, trial = (page.text for page in pages)
    for stage in range(3):
        assert study_name(made_run, stage) in study_list
    for words in (
        *("History", "Hyperparameter Importance", "Intermediate values", "score over no growth"),
        *("pairs", "4000", "stage's training FLOPs", "the pairs are 2 times the 2000"),
        *("Stage 2: final loss against FLOPs (1 without a loss)", "Stage 2: learning curves"),
        *("Finished stages", "zero-shot top-1 (%)", "control (no growth)"),
    ):
        assert words in study
    for words in ("Stage 2", "It won by 0.1.", "4,000, 2 times as many as in stage 1"):
        assert words in note
    for words in ("FLOPs a pair", "parameters", "pairs in the stage's budget", "no growth"):
        assert words in trial
    assert "learning_curve.png" in trial
    assert f"size: {next(iter(PARENT.sizes()))}" in trial

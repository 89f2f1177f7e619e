import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import yaml
from jinja2 import UndefinedError
from markupsafe import escape

import nas_growclip.report
from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.io.formatting import DASH, duration, number, percent, si
from nas_growclip.models.arch import ClipArch
from nas_growclip.records.entries import Measure, StageResult, Trial, to_line
from nas_growclip.records.folder import RunFolder, Timing, append_timing, write_format
from nas_growclip.records.frames import Run, load_run
from nas_growclip.records.lines import append_line
from nas_growclip.records.words import FLOPS_NOTE
from nas_growclip.report import print_summary, write_report
from nas_growclip.report.page import environment
from nas_growclip.report.reasons import NOT_REPRODUCED_NOTE, RESCORING_NOTE
from nas_growclip.report.tables import accuracy
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.objective import OBJECTIVES, TERMS

pytestmark = pytest.mark.pictures

OPTIONS = (
    {"image.width": 1.5},
    {"image.depth": 1.5},
    {"text.width": 1.5},
    {"text.depth": 1.5},
    {"image.mlp_width": 2.0},
    {"shared.depth": 2.0},
    {"image.width": 1.5, "text.depth": 1.5},
)
STATES: Mapping[int, Literal["pruned", "failed"]] = {5: "failed", 6: "pruned"}
MESSAGES = {
    "failed": "out of memory <script>alert(1)</script>",
    "pruned": "stopped after 4 of 6 steps",
}
TASKS = ("colour", "shape", "count")


def make_candidates(parent: ClipArch) -> list[Candidate]:
    def step(dimension: str, ratio: float) -> GrowthStep:
        unit = 32 if dimension.endswith(".width") else 1
        new = -(-int(parent.size(dimension) * ratio) // unit) * unit
        return GrowthStep(dimension=dimension, old=parent.size(dimension), new=new)

    options = [tuple(step(d, ratio) for d, ratio in option.items()) for option in OPTIONS]
    return [NO_GROWTH, *(Candidate(steps=steps) for steps in options)]


def make_trials(stage: int, parent: ClipArch, speed: float) -> list[Trial]:
    """Trials that are not scored yet; one fails, one is stopped early."""
    trials = []
    for place, candidate in enumerate(make_candidates(parent)):
        gain = 0.08 * math.sin(1.7 * place + stage) * speed if candidate.grows else 0.0
        state = STATES.get(place, "complete")
        steps = {"failed": 2, "pruned": 4}.get(state, 6)
        curve = tuple(
            (512 * k, 3.2 / stage - gain - 0.25 * math.log(k)) for k in range(1, steps + 1)
        )
        trials.append(
            Trial(
                stage=stage,
                number=place,
                candidate=candidate,
                arch=candidate.apply(parent),
                flops=1_234_567 * (place + 12) * stage,
                params=210_000 * (place + 12) * stage,
                state=state,
                metrics={} if state == "failed" else {"loss": curve[-1][1], "zero_shot_top1": 0.3},
                curve=curve,
                train_flops=3 * curve[-1][0] * 1_234_567 * (place + 12) * stage,
                stage_pairs=40_000 * stage * 12 // (place + 12),
                message=MESSAGES.get(state, ""),
            )
        )
    return trials


OBJECTIVE: dict[str, Any] = {
    "dimension_gains": {"text.width": 1.0, "text.depth": 1.14},
    "pairs_exponent": 0.0,
    "size_exponent": 0.0,
    "curve_steepness": 0.9,
    "repetition_constant": 6.0,
}
"""By which the choice depends on the data size."""


def scored(trials: list[Trial], num_pairs: int) -> list[Trial]:
    """The trials as a run scores them."""
    config, control, made = ObjectiveConfig(**OBJECTIVE), trials[0], []
    for trial in trials:
        if trial.state == "complete":
            score = OBJECTIVES[config.name].score(trial, control, num_pairs, config)
            trial = replace(trial, score=score.value, terms=score.terms)
        made.append(trial)
    return made


def num_pairs_of(stage: int) -> int:
    return 10_000 * 4 ** (stage - 1)


def make_stage(stage: int, parent: ClipArch, trials: list[Trial], spent: int) -> StageResult:
    best = max((t for t in trials if t.score is not None), key=lambda t: t.score or 0.0)
    others = sum(trial.train_flops for trial in trials if trial is not best)
    level = 1 - 0.8 / stage**0.7
    metrics = {"loss": Measure(2.0 / stage, 4.0), "zero_shot_top1": Measure(level, 0.125)}
    for place, task in enumerate(TASKS):
        metrics[f"zero_shot_top1/{task}"] = Measure(level - 0.05 * place, 1 / (place + 4))
    for way, offset in (("i2t", 0.1), ("t2i", 0.13)):
        metrics[f"{way}_recall@1"] = Measure(level - offset, 1 / 256)
        metrics[f"{way}_recall@5"] = Measure(level, 5 / 256)
    return StageResult(
        stage=stage,
        num_pairs=num_pairs_of(stage),
        skipped={"unreadable image": stage, "empty text & tags <b>": 2},
        parent=parent,
        arch=best.arch,
        chosen=best.candidate,
        chosen_trial=best.number,
        reason=f"{best.label} has the highest score, {best.score:.3f} <script>x</script>.",
        flops=best.flops,
        flops_by_encoder={"image": best.flops // 2, "text": best.flops - best.flops // 2},
        params=best.params,
        metrics=metrics,
        validation=metrics,
        curve=tuple((4_000 * stage * k, (2.4 - 0.18 * math.log(k)) / stage) for k in range(1, 11)),
        pairs_seen=40_000 * stage,
        search_flops=others,
        train_flops=3 * 40_000 * stage * best.flops,
        cumulative_flops=spent + others + 3 * 40_000 * stage * best.flops,
    )


def write_run(folder: Path, num_stages: int = 3, speed: float = 1.0, trials_after: int = 0) -> Run:
    folder.mkdir(parents=True)
    config = {"seed": 0, "name": "a <i>run</i>", "stages": [10_000], "objective": OBJECTIVE}
    write_format(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    parent, spent = ClipArch.preset("tiny"), 0
    earlier: list[Trial] = []
    results: list[StageResult] = []
    for number_ in range(1, num_stages + 1):
        trials = scored(make_trials(number_, parent, speed), num_pairs_of(number_))
        stage = make_stage(number_, parent, trials, spent)
        results.append(stage)
        earlier += trials
        parent, spent = stage.arch, stage.cumulative_flops
    for trial in [*earlier, *make_trials(num_stages + 1, parent, speed)[:trials_after]]:
        append_line(RunFolder(folder).trials, to_line(trial))
    for result in results:
        append_line(RunFolder(folder).stages, to_line(result))
    return load_run(folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "searched")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables alone, which take no time."""
    monkeypatch.setattr(nas_growclip.report, "FIGURES", {})


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and laid out, but not rendered, which takes longest."""
    monkeypatch.setattr(nas_growclip.report, "to_bytes", lambda figure, file_format: b"IMAGE")


def page_without_images(page: Path) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "IMAGE", page.read_text("utf-8"))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run, and the page of its whole report."""
    folder = tmp_path_factory.mktemp("reported")
    run = write_run(folder / "searched")
    return run, write_report([run], folder / "deep" / "report")


def test_report_writes_tables_figures_and_a_self_contained_page(
    reported: tuple[Run, Path],
) -> None:
    _, page = reported
    out = page.parent
    assert page.name == "index.html"
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy_by_set.png",
        "accuracy_vs_flops.png",
        "candidates.png",
        "fronts.png",
        "index.html",
        "stages.csv",
        "trajectory.png",
        "trials.csv",
    ]
    text = page_without_images(page)
    assert text.count('src="IMAGE"') == 5
    assert not re.search(r"http|<link|<script|src=\"(?!IMAGE)|url\(", text)
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("trajectory.png",))


@pytest.mark.usefixtures("unrendered")
def test_page_escapes_every_text_from_a_file(run: Run, tmp_path: Path) -> None:
    run = replace(run, name="<b>$x_{$ run")
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    assert "empty text &amp; tags &lt;b&gt;" in text
    assert "a &lt;i&gt;run&lt;/i&gt;" in text
    assert "&lt;b&gt;$x_{$ run" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_the_template_escapes_and_refuses_what_is_not_given() -> None:
    template = environment().from_string("{{ word }}")
    assert template.render(word="<b>") == "&lt;b&gt;"
    with pytest.raises(UndefinedError, match="'word' is undefined"):
        template.render()


@pytest.mark.usefixtures("no_figures")
def test_page_shows_numbers_next_to_chance_and_the_flops_note(run: Run, tmp_path: Path) -> None:
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert accuracy(run.stages[-1].metrics, "zero_shot_top1").endswith("(12.5)")
    for metric in ("zero_shot_top1", "i2t_recall@1", "zero_shot_top1/count"):
        assert accuracy(run.stages[-1].metrics, metric) in text
    heads = re.findall(r"<thead>.*?</thead>", re.sub(r' title="[^"]*"', "", text))
    with_flops = sum("FLOPs" in head for head in heads)
    assert with_flops == 1 + len(run.stages)
    assert text.count(FLOPS_NOTE) >= with_flops
    assert "predicted loss" in text


@pytest.mark.usefixtures("no_figures")
def test_page_says_what_half_and_twice_the_data_would_have_led_to(run: Run, tmp_path: Path) -> None:
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert text.count("had there been half or twice the data</h3>") == len(run.stages)
    assert text.count(escape(RESCORING_NOTE)) == len(run.stages)
    assert escape(NOT_REPRODUCED_NOTE) not in text
    assert text.count(" (differs)</td>") == 1


@pytest.mark.usefixtures("no_figures")
def test_page_explains_terms_and_coefficients(run: Run, tmp_path: Path) -> None:
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert "Terms of the score" in text
    for term in run.trials[0].terms:
        assert f'title="{escape(TERMS[term])}"' in text
        assert f">{escape(TERMS[term])}</td>" in text
    assert "Objective data_size_aware: pairs exponent " in text
    assert re.search(r"dimension gains: text.depth 1.14, text.width 1", text)


@pytest.mark.usefixtures("no_figures")
def test_page_marks_pruned_trials(run: Run, tmp_path: Path) -> None:
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert text.count('<tr class="pruned">') == len(run.stages)
    assert "pruned: stopped after 4 of 6 steps" in text


@pytest.mark.usefixtures("no_figures")
def test_page_says_where_recorded_scores_are_not_reproduced(run: Run, tmp_path: Path) -> None:
    trials = tuple(
        replace(t, score=t.score + 0.01) if t.stage == 2 and t.score is not None else t
        for t in run.trials
    )
    text = page_without_images(write_report([replace(run, trials=trials)], tmp_path / "report"))
    assert text.count(escape(NOT_REPRODUCED_NOTE)) == 1


@pytest.mark.usefixtures("no_figures")
def test_run_of_another_version_still_gets_its_report(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = replace(run, config={"objective": {"slope_trust": 0.3}})
    text = page_without_images(write_report([older], tmp_path / "report"))
    assert "Stage 1 cannot be scored for other amounts of data" in text
    assert "slope_trust: unknown key" in text
    assert "coefficients are those of another version" in text
    print_summary(older)
    assert "stage 1: cannot be scored again" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_csv_files_hold_the_frames(run: Run, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report")
    for name, frame in (("stages", run.stages_frame()), ("trials", run.trials_frame())):
        read = pd.read_csv(tmp_path / "report" / f"{name}.csv", keep_default_na=False)
        assert list(read.columns) == list(frame.columns)
        assert len(read) == len(frame)
    stages = pd.read_csv(tmp_path / "report" / "stages.csv")
    assert list(stages["cumulative_flops"]) == [s.cumulative_flops for s in run.stages]
    assert list(stages["metric.zero_shot_top1"]) == [
        s.metrics["zero_shot_top1"].value for s in run.stages
    ]


def test_same_records_give_the_same_bytes(reported: tuple[Run, Path], tmp_path: Path) -> None:
    run, page = reported
    write_report([run], tmp_path)
    for path in page.parent.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_same_records_give_the_same_bytes_in_every_format(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one figure, which stands for all: what differs lies in the format."""
    one_figure = {"trajectory": nas_growclip.report.FIGURES["trajectory"]}
    monkeypatch.setattr(nas_growclip.report, "FIGURES", one_figure)
    for out in ("one", "two"):
        write_report([run], tmp_path / out, ("svg", "pdf"))
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names >= {"trajectory.png", "trajectory.svg", "trajectory.pdf"}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_report_replaces_an_earlier_one(run: Run, tmp_path: Path) -> None:
    write_report([replace(run, stages=())], tmp_path)
    text = page_without_images(write_report([run], tmp_path))
    assert "No stage has finished" not in text


@pytest.mark.usefixtures("unrendered")
def test_runs_side_by_side_keep_their_names_apart(run: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other" / "searched", num_stages=2, speed=-1.0)
    text = page_without_images(write_report([run, other], tmp_path / "report"))
    assert "Runs side by side" in text
    assert "other/searched" in text
    stages = pd.read_csv(tmp_path / "report" / "stages.csv")
    assert list(stages["run"].value_counts()) == [3, 2]


@pytest.mark.usefixtures("no_figures")
def test_the_same_run_twice_is_still_told_apart(run: Run, tmp_path: Path) -> None:
    write_report([run, run], tmp_path / "report")
    assert pd.read_csv(tmp_path / "report" / "stages.csv")["run"].nunique() == 2


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("num_trials", [0, 4])
def test_run_without_a_finished_stage(tmp_path: Path, num_trials: int) -> None:
    run = write_run(tmp_path / "run", num_stages=0, trials_after=num_trials)
    text = page_without_images(write_report([run], tmp_path / "report"))
    assert "No stage has finished" in text
    assert ("This stage has not finished." in text) == bool(num_trials)
    assert pd.read_csv(tmp_path / "report" / "stages.csv").empty
    assert len(pd.read_csv(tmp_path / "report" / "trials.csv")) == num_trials


@pytest.mark.usefixtures("unrendered")
def test_interrupted_run_next_to_an_empty_one(tmp_path: Path) -> None:
    interrupted = write_run(tmp_path / "half", num_stages=1, trials_after=3)
    empty = write_run(tmp_path / "empty", num_stages=0)
    text = page_without_images(write_report([interrupted, empty], tmp_path / "report"))
    assert "This stage has not finished." in text
    assert "No trial was recorded." in text


@pytest.mark.usefixtures("unrendered")
def test_missing_and_infinite_metrics_are_a_dash(run: Run, tmp_path: Path) -> None:
    metrics = {"loss": math.nan, "i2t_recall@1": math.inf}
    measures = {name: Measure(value, value) for name, value in metrics.items()}
    stages = tuple(replace(stage, metrics=measures, skipped={}) for stage in run.stages)
    trials = tuple(replace(trial, metrics=metrics, score=math.nan) for trial in run.trials)
    damaged = replace(run, stages=stages, trials=trials)
    text = page_without_images(write_report([damaged], tmp_path / "report"))
    assert f"{DASH} ({DASH})" in text
    assert "No zero-shot task was measured." in text
    assert "No pair was left out." in text
    assert not re.search(r">(nan|inf|None)", text)


@pytest.mark.usefixtures("unrendered")
def test_unmeasured_stages_of_very_different_flops(run: Run, tmp_path: Path) -> None:
    stages = tuple(
        replace(stage, metrics={}, cumulative_flops=10 ** (8 + stage.stage)) for stage in run.stages
    )
    text = page_without_images(write_report([replace(run, stages=stages)], tmp_path / "report"))
    assert DASH in text


@pytest.mark.usefixtures("unrendered")
def test_trajectory_when_nothing_grew(run: Run, tmp_path: Path) -> None:
    parent = run.stages[0].parent
    stages = tuple(replace(s, parent=parent, arch=parent, chosen=NO_GROWTH) for s in run.stages)
    text = page_without_images(write_report([replace(run, stages=stages)], tmp_path / "report"))
    assert "growth in 0 of them" in text


@pytest.mark.usefixtures("unrendered")
def test_single_stage_and_many_candidates(run: Run, tmp_path: Path) -> None:
    trials = tuple(replace(run.trials[place % 8], number=place) for place in range(40))
    many = replace(run, trials=trials, stages=run.stages[:1])
    write_report([many], tmp_path / "report")
    assert len(pd.read_csv(tmp_path / "report" / "trials.csv")) == 40


@pytest.mark.usefixtures("no_figures")
def test_report_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run, but got none"):
        write_report([], tmp_path)


@pytest.mark.usefixtures("no_figures")
def test_failed_write_leaves_no_temporary_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ValueError, match="cannot be written: disk full"):
        write_report([run], tmp_path / "report")
    assert list((tmp_path / "report").iterdir()) == []


def test_summary_fits_the_terminal_and_explains_flops(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(run)
    text = capsys.readouterr().out
    assert FLOPS_NOTE in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    for stage in run.stages:
        assert accuracy(stage.metrics, "t2i_recall@1") in text
        assert si(stage.cumulative_flops) in text
    choices = text.split("the choice would have been:\n")[1].splitlines()
    assert choices == [
        "  stage 1: half the same; twice text.width=96",
        "  stage 2: the same",
        "  stage 3: the same",
    ]


def test_stages_without_a_choice_say_nothing_of_other_data(
    run: Run, tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """What grew as scheduled or by a rule had one candidate: it would choose that of any data."""
    chosen = {stage.stage: stage.chosen_trial for stage in run.stages}
    few = tuple(t for t in run.trials if t.stage == 1 or t.number == chosen[t.stage])
    print_summary(replace(run, trials=few))
    choices = capsys.readouterr().out.split("the choice would have been:\n")[1].splitlines()
    assert choices == ["  stage 1: half the same; twice text.width=96"]
    print_summary(replace(run, trials=tuple(t for t in few if t.stage > 1)))
    assert "would have been" not in capsys.readouterr().out
    write_report([replace(run, trials=few)], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert re.findall(r"Stage (\d): had there been", page) == ["1"]


def test_summary_of_an_interrupted_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(write_run(tmp_path / "run", num_stages=0, trials_after=2))
    assert "No stage has finished; 2 trials recorded." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (12_345_678, "12.3 M"),
        (999_999, "1.00 M"),
        (123e12, "123 T"),
        (None, DASH),
        (math.nan, DASH),
        (math.inf, DASH),
    ],
)
def test_si_counts_have_three_digits(value: float | None, text: str) -> None:
    assert si(value) == text


def test_numbers_and_percent() -> None:
    assert number(1.23456) == "1.235"
    assert number(2.0) == "2.000"
    assert number(1234.5) == "1234"
    assert number(0.0) == "0"
    assert percent(0.4125) == "41.2"
    assert number(None) == percent(math.nan) == DASH
    assert accuracy({"a": Measure(0.5, 0.1)}, "a") == "50.0 (10.0)"
    assert accuracy({"a": Measure(0.5, math.nan)}, "a") == f"50.0 ({DASH})"
    assert accuracy({}, "a") == DASH


def test_report_needs_neither_torch_nor_pyplot() -> None:
    code = "import sys, json, nas_growclip.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert not modules & {"torch", "timm", "open_clip", "matplotlib.pyplot"}


@pytest.mark.usefixtures("no_figures")
def test_page_begins_with_seed_version_device_and_wall_time(run: Run, tmp_path: Path) -> None:
    for stage in (1, 1, 2):
        timing = Timing(stage=stage, what="trial 0", seconds=40.0, device="cpu, 1 thread")
        append_timing(run.path, timing)
    text = page_without_images(write_report([run], tmp_path / "report"))
    facts = dict(re.findall(r'<dt>([^<]*)</dt><dd class="fact[^"]*">([^<]*)</dd>', text))
    assert facts == {
        "seed": "0",
        "made by": f"nas_growclip {version('nas_growclip')}",
        "device": "cpu, 1 thread",
        "wall time": "2 min 0 s",
    }
    assert '<td class="number time">1 min 20 s</td>' in text.split("Wall time</h3>")[1]


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (0.04, 59.94, 61, 7500)] == [
        "0.0 s",
        "59.9 s",
        "1 min 1 s",
        "2 h 5 min",
    ]


@pytest.mark.usefixtures("no_figures")
def test_other_test_sets_are_said_on_the_page_and_on_stderr(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = {**run.stages[-1].metrics, "zero_shot_top1/shape": Measure(0.5, 0.1)}
    other = replace(
        run, name="other", stages=(*run.stages[:-1], replace(run.stages[-1], metrics=metrics))
    )
    with caplog.at_level("WARNING", logger="nas_growclip"):
        text = page_without_images(write_report([run, other], tmp_path / "report"))
    said = "shape: chance 20.00 % in searched; chance 10.00 % in other"
    assert f"<li>{said}</li>" in text
    assert said in caplog.text

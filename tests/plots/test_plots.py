"""The figures show what the records hold, tell lines apart, and clip no marker."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_growclip import plots
from nas_growclip.io.formatting import si
from nas_growclip.plots.accuracy import CHANCE, set_metrics, set_words
from nas_growclip.plots.candidates import style_of
from nas_growclip.plots.drawing import line_style
from nas_growclip.plots.fronts import front_of
from nas_growclip.plots.saving import FORMATS, to_bytes
from nas_growclip.plots.series import series_of
from nas_growclip.records.entries import Measure, StageResult
from nas_growclip.records.folder import RunFolder
from nas_growclip.records.frames import Run
from nas_growclip.records.held_out import set_differences
from nas_growclip.records.words import ACCURACIES, FLOPS_NOTE
from tests.report.test_report import write_run

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "single")


@pytest.fixture(scope="module")
def seeds(single: Run) -> list[Run]:
    """Runs of one experiment with three seeds, each a little better than the one before."""
    return [
        replace(
            changed(single, lambda name, m, seed=seed: replace(m, value=m.value * (1 + seed / 20))),
            name=f"seed_{seed}",
            path=Path("searched") / f"seed_{seed}",
            config={**single.config, "seed": seed},
        )
        for seed in SEEDS
    ]


def changed(run: Run, change) -> Run:
    def new_metrics(stage: StageResult) -> Mapping[str, Measure]:
        return {name: change(name, measure) for name, measure in stage.metrics.items()}

    return replace(run, stages=tuple(replace(s, metrics=new_metrics(s)) for s in run.stages))


def points_of(panel: Axes, color: str) -> list[tuple[float, float]]:
    """The points of a panel's line of this colour."""
    [line] = [
        line
        for line in panel.get_lines()
        if line.get_color() == color and line.get_marker() not in ("None", ".")
    ]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_accuracy_is_drawn_against_training_flops_and_against_the_models(single: Run) -> None:
    panels = plots.accuracy_vs_flops([single]).axes
    assert len(panels) == 2 * len(ACCURACIES)
    for row, metric in enumerate(ACCURACIES):
        shares = [100 * stage.metrics[metric].value for stage in single.stages]
        for column, costs in enumerate(
            ([s.cumulative_flops for s in single.stages], [s.flops for s in single.stages])
        ):
            drawn = points_of(panels[2 * row + column], line_style(0)[0])
            assert drawn == [pytest.approx(point) for point in zip(costs, shares, strict=True)]
    assert [p.get_xscale() for p in panels[:2]] == ["log", "linear"]  # they span 11 and 3 times


def test_seeds_are_one_line_in_a_band(seeds: list[Run]) -> None:
    [line] = series_of(seeds)
    assert line.label == "searched (3 seeds)"
    values = [run.stages[1].metrics["zero_shot_top1"].value for run in seeds]
    point = line.points("zero_shot_top1", lambda stage: stage.flops)[1]
    assert point.value == pytest.approx(fmean(values))
    assert point.spread == pytest.approx(stdev(values))
    panel = plots.accuracy_vs_flops(seeds).axes[0]
    band = panel.collections[0].get_paths()[0].vertices
    x = fmean(run.stages[1].cumulative_flops for run in seeds)
    edges = {y for at, y in band if at == pytest.approx(x)}
    expected = [100 * (point.value - point.spread), 100 * (point.value + point.spread)]
    assert sorted(edges) == pytest.approx(expected)


def test_runs_that_differ_in_more_than_the_seed_stay_apart(seeds: list[Run]) -> None:
    other = replace(seeds[0], config={**seeds[0].config, "passes": 2}, name="seed_1")
    groups = plots.group_by_seed([*seeds, other, seeds[0]])
    assert [len(group) for group in groups.values()] == [3, 1, 1]
    assert list(groups) == ["searched", "seed_1 (1)", "seed_1 (2)"]  # the same run again, too


def test_groups_may_be_given(seeds: list[Run]) -> None:
    lines = series_of({"ours": seeds[:2], "theirs": seeds[2:]})
    assert [line.label for line in lines] == ["ours (2 seeds)", "theirs"]


def test_an_interrupted_seed_ends_its_groups_line(seeds: list[Run]) -> None:
    [line] = series_of([*seeds[:2], replace(seeds[2], stages=seeds[2].stages[:1])])
    assert [stage[0].stage for stage in line.stages] == [1]


def test_chance_is_drawn_for_each_run_and_set(single: Run) -> None:
    harder = changed(single, lambda name, m: replace(m, chance=m.chance / 2))
    harder = replace(harder, name="harder", config={"seed": 9})
    panel = plots.accuracy_vs_flops([single, harder]).axes[0]
    dashed = {
        line.get_color(): set(line.get_ydata())
        for line in panel.get_lines()
        if line.get_linewidth() == 0.8
    }
    assert dashed == {line_style(0)[0]: {12.5}, line_style(1)[0]: {6.25}}
    sets = plots.accuracy_by_set([single])
    levels = [
        line.get_ydata()[0] / 100
        for panel in sets.axes
        for line in panel.get_lines()
        if line.get_color() == CHANCE
    ]
    assert levels == pytest.approx([1 / 4, 1 / 5, 1 / 6])


def test_sets_have_their_names(single: Run) -> None:
    assert [set_words(name) for name in set_metrics(series_of([single]))] == [
        "colour",
        "shape",
        "count",
    ]
    assert set_words("retrieval/flickr/i2t_recall@1") == "flickr, image to text R@1"
    assert set_words("i2t_recall@1") == ""


def drawn_labels(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def test_markers_have_the_stage_and_the_size(single: Run) -> None:
    figure = plots.accuracy_vs_flops([single])
    for panel in figure.axes:
        assert sorted(drawn_labels(panel)) == ["1: 3.36 M", "2: 6.30 M", "3: 9.45 M"]
    assert FLOPS_NOTE in figure.get_supxlabel()
    assert "2: text.width=96" in figure.get_supxlabel()


def test_labels_cover_neither_each_other_nor_a_marker(seeds: list[Run], single: Run) -> None:
    many = [*seeds, *(replace(single, name=f"r{k}", config={"k": k}) for k in range(4))]
    for panel in plots.accuracy_vs_flops(many, ["zero_shot_top1"]).axes:
        boxes = [text.get_window_extent() for text in panel.texts]
        assert boxes
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:place])


def figures(runs: list[Run]) -> Mapping[str, Figure]:
    return {
        "accuracy": plots.accuracy_vs_flops(runs),
        "sets": plots.accuracy_by_set(runs),
        "scores": plots.candidate_scores(runs),
        "fronts": plots.candidate_fronts(runs),
        "trajectory": plots.trajectory(runs),
    }


def test_no_marker_is_clipped(single: Run) -> None:
    for name, figure in figures([single]).items():
        for panel in figure.axes:
            frame = panel.get_window_extent().padded(-3)  # half a marker
            for line in panel.get_lines():
                if line.get_marker() in ("None", "") or not panel.get_visible():
                    continue
                for x, y in line.get_transform().transform(line.get_xydata()):
                    assert frame.contains(x, y) or not math.isfinite(y), (name, panel.get_title())


def test_every_candidate_has_a_look_of_its_own() -> None:
    looks = {style_of(place, mark)[:2] for place in range(22) for mark in ("",)}
    looks |= {style_of(0, "chosen")[:2], style_of(0, "control")[:2]}
    assert len(looks) == 24


def test_a_candidate_looks_the_same_on_both_sides(single: Run) -> None:
    scores, curves = plots.candidate_scores([single]).axes[:2]
    marked = [line for line in scores.get_lines() if line.get_linestyle() == "None"]
    left = [(line.get_color(), line.get_marker()) for line in marked]
    right = [(line.get_color(), line.get_marker()) for line in curves.get_lines()]
    assert len(left) == 8
    assert [look for look in right if look[1] not in ("x", "|")] == left


def test_the_legend_names_only_what_is_there(single: Run) -> None:
    def words(run: Run) -> str:
        [legend] = plots.candidate_scores([run]).legends
        return " ".join(text.get_text() for text in legend.get_texts())

    assert "failed" in words(single)
    complete = [trial for trial in single.trials if trial.state == "complete"]
    assert "failed" not in words(replace(single, trials=tuple(complete)))


def test_the_front_is_what_no_candidate_beats(single: Run) -> None:
    trials = [trial for trial in single.trials if trial.stage == 1]
    measured = [trial for trial in trials if trial.state == "complete"]
    unbeaten = [
        trial
        for trial in measured
        if not any(
            other.flops <= trial.flops
            and other.metrics["loss"] <= trial.metrics["loss"]
            and other is not trial
            for other in measured
        )
    ]
    front = front_of(trials)
    assert sorted(t.number for t in front) == sorted(t.number for t in unbeaten)
    assert len(front) > 1
    panel = plots.candidate_fronts([single]).axes[0]
    named = {text.get_text().replace("\n", "") for text in panel.texts}
    assert named == {trial.label if trial.candidate.grows else "no growth" for trial in front}


def write_manifest(run: Run, checksum: str, images: int = 100) -> None:
    path = RunFolder(run.path).stage(run.stages[-1].stage).manifest
    path.parent.mkdir(parents=True, exist_ok=True)
    test = {"num_pairs": 64, "entries": [{"sha256": checksum}]}
    tasks = [{"name": "digits", "num_images": images, "num_classes": 10}]
    path.write_text(json.dumps({"test": test, "zero_shot": tasks}))


def test_runs_measured_on_other_files_are_said_to_be(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, num_stages=1) for name in ("a", "b"))
    write_manifest(first, "1")
    write_manifest(second, "1")
    assert set_differences([first, second]) == ()
    write_manifest(second, "2", images=50)
    pairs, digits = set_differences([first, second])
    assert pairs.startswith("test pairs: 64 pairs (checksum ")
    assert pairs.endswith(") in b")
    assert digits == "digits: 100 images of 10 classes in a; 50 images of 10 classes in b"
    figure = plots.accuracy_vs_flops({"one": [first], "other": [second]})
    said = figure.legends[0].get_title().get_text()
    assert said.startswith("Not comparable as they stand")
    assert "digits: 100 images of 10 classes in one" in said


@pytest.mark.parametrize("content", ['{"test": []}', '{"zero_shot": 1}', '{"zero_shot": [2]}'])
def test_a_damaged_manifest_is_refused(content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", num_stages=1)
    write_manifest(run, "1")
    RunFolder(run.path).stage(1).manifest.write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json: must be a stage's manifest, but: "):
        set_differences([run])


def test_without_manifests_sets_are_told_apart_by_their_chance(single: Run) -> None:
    harder = changed(single, lambda n, m: replace(m, chance=m.chance / 2) if "count" in n else m)
    assert set_differences([single, single]) == ()
    assert set_differences([single, replace(harder, name="b")]) == (
        "count: chance 16.67 % in single; chance 8.33 % in b",
    )


def test_nothing_to_draw_is_said(single: Run) -> None:
    def words(figure: Figure) -> str:
        return figure.texts[0].get_text()

    empty = replace(single, stages=(), trials=())
    assert words(plots.accuracy_vs_flops([empty])) == "No stage has finished."
    assert words(plots.accuracy_vs_flops([single], ["mAP"])) == "Not measured: mAP."
    assert "No stage had more than one candidate" in words(plots.candidate_scores([empty]))
    with pytest.raises(ValueError, match="costs: must be one of training, model, but got 'time'"):
        plots.accuracy_vs_flops([single], costs=["time"])


def test_losses_are_drawn_in_nats(single: Run) -> None:
    panel = plots.accuracy_vs_flops([single], ["loss"], ["model"]).axes[0]
    assert panel.get_ylabel() == "loss (nats)"
    assert [y for _, y in points_of(panel, line_style(0)[0])] == [2.0, 1.0, 2.0 / 3]


@pytest.mark.parametrize("suffix", FORMATS)
def test_figures_are_files_of_every_format(suffix: str, single: Run, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{suffix}"
    plots.save_figure(plots.trajectory([single]), path)
    content = path.read_bytes()
    assert content == to_bytes(plots.trajectory([single]), suffix)
    if suffix == "svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix])


def test_a_format_that_is_not_there_is_refused(single: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: must be one of png, svg, pdf, but got 'gif'"):
        plots.save_figure(plots.trajectory([single]), tmp_path / "figure.gif")


def test_plots_need_neither_torch_nor_pyplot() -> None:
    code = "import sys, json, nas_growclip.plots; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {"torch", "timm", "optuna", "matplotlib.pyplot"}


def test_over_time_fixed_sizes_are_thin_and_the_best_of_each_stage_is_drawn(
    single: Run, seeds: list[Run]
) -> None:
    worse = changed(single, lambda name, m: replace(m, value=m.value / 2))
    runs = {"grown": [single], "small": [worse], "large": seeds[:1]}
    figure = plots.accuracy_over_time(runs, fixed=("small", "large"))
    panel = figure.axes[0]
    widths = {line.get_linewidth() for line in panel.lines}
    assert len(widths) == 3  # a fixed size, the envelope, what grew
    (envelope,) = [line for line in panel.lines if line.get_linestyle() == ":"]
    best = [100 * stage.metrics["zero_shot_top1"].value for stage in seeds[0].stages]
    assert list(envelope.get_ydata()) == pytest.approx(best)
    texts = {text.get_text() for text in panel.texts}
    assert {"small", "large"} <= texts
    assert texts & {si(stage.flops) for stage in single.stages}


def test_over_time_a_size_is_written_where_it_changes(single: Run) -> None:
    """Also where the stage that changed it was not measured."""
    first, second = single.stages[:2]
    wider = replace(second, flops=2 * first.flops)
    later = [replace(wider, stage=k, cumulative_flops=k * wider.cumulative_flops) for k in (2, 3)]
    run = replace(single, stages=(first, replace(wider, metrics={}), *later))
    panel = plots.accuracy_over_time({"grown": [run]}).axes[0]
    texts = [text.get_text() for text in panel.texts]
    assert sorted(texts) == sorted([si(first.flops), si(wider.flops)])


def test_over_time_the_envelope_goes_on_where_a_fixed_size_ends(single: Run) -> None:
    early = replace(single, stages=single.stages[:1])
    worse = changed(single, lambda name, m: replace(m, value=m.value / 2))
    figure = plots.accuracy_over_time({"early": [early], "late": [worse]}, ("early", "late"))
    (envelope,) = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    values = [stage.metrics["zero_shot_top1"].value for stage in single.stages]
    best = [100 * values[0], *(50 * value for value in values[1:])]
    assert list(envelope.get_ydata()) == pytest.approx(best)


def test_over_time_without_stages_says_so(single: Run) -> None:
    figure = plots.accuracy_over_time({"grown": [replace(single, stages=())]})
    assert "No stage has finished" in " ".join(text.get_text() for text in figure.texts)

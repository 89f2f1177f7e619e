"""The command line: frozen commands, no torch for help, bad input in one line with exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from nas_growclip import __all__ as public_names
from nas_growclip.cli import choices
from nas_growclip.cli.main import COMMANDS, described, main, make_command
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.depth import DEPTH_OPERATORS
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.pim import PIM_VARIANTS
from nas_growclip.interop.exporting import FORMATS as EXPORTS
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.search.export_space import FORMATS as SPACES
from nas_growclip.search.objective import OBJECTIVES
from tests.support.forked_python import forking_python
from tests.support.runs import SMOKE, smoke_config

SPACE = str(SMOKE.parent.parent / "search_spaces" / "tiny.yaml")
SMALL = ClipArch.load(SMOKE.parent.parent / "tests" / "support" / "small.yaml")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(Clip(SMALL), folder)
    return folder


def options_of(command: Any) -> list[str]:
    """An option by its long name, an argument by its name in the help."""
    return sorted(p.opts[-1] if p.opts[-1].startswith("--") else p.metavar for p in command.params)


def test_commands_and_options_are_frozen() -> None:
    options = {name: options_of(command) for name, command in make_command().commands.items()}
    assert options == {
        "run": ["--data", "--device", "--out", "--seed", "EXPERIMENT.yaml"],
        "continue": ["--data", "--device", "--flops", "--old-data", "RUN"],
        "compare": ["--data", "--device", "--out", "--so-far", "--workers", "COMPARISON.yaml"],
        "worker": ["--data", "--device", "--patience", "RUN"],
        "report": ["--out", "--study", "RUN"],
        "calibrate": ["--json", "RUN"],
        "rescore": ["--data-ratio", "--json", "--objective", "--set", "RUN"],
        "grow": [
            "--depth-operator",
            "--momentum",
            "--norm-pre",
            "--operator",
            "--out",
            "--pim",
            "--placement",
            "--seed",
            "--set",
            "PARENT",
        ],
        "import": ["--out", "--tokenizer", "MODEL_NAME_OR_CONFIG_JSON", "WEIGHTS"],
        "export": ["--format", "--out", "CHECKPOINT"],
        "flops": ["--json", "ARCH_OR_CHECKPOINT"],
        "eval": ["--batch-size", "--data", "--device", "--json", "--out", "CHECKPOINT"],
        "doctor": ["--json", "RUN"],
        "space": ["--format", "--out", "--pairs", "--space", "PARENT"],
        "init": ["--parent", "--source", "EXPERIMENT.yaml"],
        "submit": [
            "--cluster",
            "--data",
            "--out",
            "--processes",
            "--slurm",
            "--workers",
            "EXPERIMENT.yaml",
        ],
        "nni": [
            "--data",
            "--device",
            "--port",
            "--stage",
            "--trials",
            "--workers",
            "RUN",
            "create|status|stop",
        ],
        "nni-trial": [
            "--candidate",
            "--data",
            "--device",
            "--run",
            "--stage",
            "--threads",
            "--trials",
        ],
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_with_options_that_exist(name: str) -> None:
    command = [sys.executable, "-m", "nas_growclip", name, "--help"]
    with forking_python():
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, example = done.stdout.split("Example:\n")
    assert example.split()[:2] == ["growclip", name]
    used = set(re.findall(r"--[a-z-]+", example))
    assert used <= set(re.findall(r"--[a-z-]+", text))
    assert "Raises" not in text


def test_help_lists_the_names_of_every_table() -> None:
    assert tuple(OPERATORS) == choices.OPERATORS
    assert tuple(DEPTH_OPERATORS) == choices.DEPTH_OPERATORS
    assert tuple(PIM_VARIANTS) == choices.PIM_VARIANTS
    assert tuple(OBJECTIVES) == choices.OBJECTIVES
    assert tuple(SPACES) == choices.SPACE_FORMATS
    assert tuple(EXPORTS) == choices.EXPORT_FORMATS
    assert get_args(choices.Placement) == get_args(GrowthConfig.__annotations__["placement"])
    assert get_args(choices.NormPre) == get_args(GrowthConfig.__annotations__["norm_pre"])


def test_an_example_is_taken_from_the_docstring() -> None:
    def command() -> None:
        """Do it.

        Example:
            growclip do it

        Raises:
            ValueError: If not.
        """

    assert described(command) == ("Do it.", "\b\nExample:\n  growclip do it")


def test_public_names_are_frozen() -> None:
    assert set(public_names) == {
        "Candidate",
        "Clip",
        "ClipArch",
        "ExperimentConfig",
        "GrowthConfig",
        "GrowthSpace",
        "GrowthStep",
        "candidate_from_nni",
        "count_flops",
        "grow_optimizer",
        "inherit",
        "load_config",
        "load_model",
        "load_run",
        "load_space",
        "nni_space",
        "preprocess",
        "run_experiment",
        "save_model",
    }


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from nas_growclip.cli.main import main\n"
        "assert main(['--help']) == main(['grow', '--help']) == 0\n"
        "assert not {'torch', 'timm', 'pandas', 'optuna'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flops" in done.stdout


def test_module_and_script_are_the_same() -> None:
    command = [sys.executable, "-m", "nas_growclip", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.2.0"


def test_flops_prints_encoders_and_convention(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flops", str(checkpoint)]) == 0
    table = capsys.readouterr().out
    assert "one multiply-add is one" in table
    assert main(["flops", str(checkpoint), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert set(counts["flops"]) == {"image", "text", "shared"}
    assert sum(counts["params"].values()) == Clip(SMALL).num_params
    assert f"{counts['flops']['image']:,}" in table


def test_grow_writes_a_child_with_the_same_embeddings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "child"
    sizes = ["--set", "image.width=48", "--set", "text.depth=2"]
    assert main(["grow", str(checkpoint), *sizes, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"image\.width 32 -> 48.* exact", printed)
    assert "not exact" not in printed
    parent, child = load_model(checkpoint).eval(), load_model(out).eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(child.encode_image(images), parent.encode_image(images))
    assert child.arch.size("text.depth") == 2


def test_grow_says_what_is_not_exact(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "text.depth=2", "--depth-operator", "stack", "--out", str(tmp_path / "c")]
    assert main(["grow", str(checkpoint), *options]) == 0
    assert re.search(r"text\.depth 1 -> 2.* not exact", capsys.readouterr().out)


def test_eval_prints_every_number_beside_chance(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(checkpoint), "--data", "digits", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["dataset"], record["task"]) == ("digits", "zeroshot_classification")
    assert record["metrics"]["chance_acc1"] == pytest.approx(0.1)
    assert 0 <= record["metrics"]["acc1"] <= 1


def test_eval_reads_pairs_and_zero_shot_sets(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = SMOKE.parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real data pack is not on this machine")
    places = ["--data", str(data / "zeroshot" / "wds_sign_digits"), "--data", "scenes"]
    assert main(["eval", str(checkpoint), *places]) == 0
    printed = capsys.readouterr().out
    assert "zero_shot_top1/sign_digits" in printed
    assert "i2t_recall@1" in printed


def test_space_prints_another_tools_search_space(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--pairs", "20", "--space", SPACE]
    assert main(["space", "tiny", *options, "--format", "nni"]) == 0
    choice = json.loads(capsys.readouterr().out)["grow"]
    assert choice["_type"] == "choice"
    assert {"_name": "none"} in choice["_value"]
    assert main(["space", str(checkpoint), *options, "--format", "optuna"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_pairs"] == 20
    assert document["parent"] == SMALL.sizes()
    assert "image.depth=2" in document["candidates"]


def test_space_of_a_stages_folder_is_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = smoke_config()
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    stage, out = tmp_path / "stage_00", tmp_path / "space.json"
    save_model(Clip(SMALL), stage)
    options = ["--pairs", "30", "--format", "optuna", "--out", str(out)]
    assert main(["space", str(stage), *options]) == 0
    assert str(out) in capsys.readouterr().out
    candidates = config.space.candidates(SMALL, 30)
    assert list(json.loads(out.read_text())["candidates"]) == [c.label for c in candidates]


def test_space_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from nas_growclip.cli.main import main\n"
        f"main(['space', 'tiny', '--pairs', '9', '--format', 'nni', '--space', {SPACE!r}])\n"
        "assert not {'torch', 'timm', 'pandas', 'nni'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flops", "huge"], "'huge' must be a preset (tiny"),
        (["run", "nowhere.yaml", "--out", "{tmp}/r"], "nowhere.yaml: no such file"),
        (["report", "{tmp}"], "not a run folder: it has no config.yaml"),
        (["rescore", "{tmp}"], "not a run folder: it has no config.yaml"),
        (["eval", "{tmp}", "--data", "digits"], "not a checkpoint: it has no arch.json"),
        (["eval", "{model}", "--data", "{tmp}/x"], "'scenes', 'digits', a folder or a CSV file"),
        (["eval", "{model}", "--data", "digits", "--batch-size", "0"], "--batch-size: must be 1"),
        (
            ["grow", "{model}", "--set", "image.width=50", "--out", "{tmp}/c"],
            "image.width must be divisible by image.head_dim, but got width=50",
        ),
        (
            ["grow", "{model}", "--set", "image.width=16", "--out", "{tmp}/c"],
            "The child's image.width must be at least the parent's, but got 32 -> 16",
        ),
        (
            ["grow", "{model}", "--set", "text.depth=2", "--pim", "ema", "--out", "{tmp}/c"],
            "must have the parent's moving average",
        ),
        (["grow", "{model}", "--set", "image.width", "--out", "{tmp}/c"], "must be DIMENSION=SIZE"),
        (["grow", "{model}", "--set", "widht=4", "--out", "{tmp}/c"], "dimension: must be one of"),
        (["grow", "{model}", "--set", "image.depth=2", "--out", "{model}"], "holds something"),
        (
            ["space", "tiny", "--pairs", "9", "--format", "ray", "--space", SPACE],
            "must be one of optuna, nni, but got 'ray'",
        ),
        (
            ["space", "tiny", "--pairs", "0", "--format", "nni", "--space", SPACE],
            "pairs must be 1 or more, but got 0",
        ),
        (
            ["space", "tiny", "--pairs", "9", "--format", "nni", "--space", "{tmp}/s.yaml"],
            "s.yaml: no such file",
        ),
        (
            ["space", "huge", "--pairs", "9", "--format", "nni", "--space", SPACE],
            "'huge' must be a preset (tiny",
        ),
        (["space", "tiny", "--pairs", "9", "--format", "nni"], "--space must be given unless"),
        (["space", "{model}", "--pairs", "9", "--format", "nni"], "--space must be given unless"),
        (["flops", "tiny", "--jsno"], "(Possible options: --json). See growclip flops --help."),
        (["flops"], "Missing argument 'ARCH_OR_CHECKPOINT'"),
        (["flop", "tiny"], "No such command 'flop'. Did you mean 'flops'?"),
        (["run", "a.yaml", "--out", "r", "--seed", "x"], "Invalid value for '--seed'"),
        (
            ["grow", "{model}", "--set", "text.depth=2", "--operator", "exakt", "--out", "{tmp}/c"],
            "--operator: must be one of exact, average",
        ),
        (
            ["grow", "{model}", "--set", "text.depth=2", "--placement", "x", "--out", "{tmp}/c"],
            "'x' is not one of 'spread', 'end'",
        ),
        (["export", "{model}", "--format", "h", "--out", "{tmp}/c"], "Did you mean 'hf'?"),
        (["compare", "a.yaml", "--out", "c", "--workers", "0"], "--workers: must be 1 or more"),
        (["continue", "r", "--data", "d", "--flops", "0"], "--flops: must be above 0, but got 0.0"),
        (
            ["eval", "{model}", "--data", "digits", "--device", "cuda:9"],
            "device 'cuda:9' cannot be",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": str(tmp_path), "model": str(checkpoint)}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("growclip: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_torchrun_starts_nothing_but_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert main(["flops", "tiny"]) == 2
    assert capsys.readouterr().err == (
        "growclip: error: torchrun can start `growclip run` only. Start this command by itself.\n"
    )

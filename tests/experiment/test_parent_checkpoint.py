"""Runs that start from a checkpoint: an imported model grows as any other does."""

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from nas_growclip.cli.main import main
from nas_growclip.data.stages import open_stages
from nas_growclip.evaluation.embeddings import embed_pairs
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.experiment.config import load_config
from nas_growclip.experiment.run import run_experiment, run_stages
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.folder import write_format
from tests.support.models import stock_model, write_config
from tests.support.runs import ROOT, SMOKE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def experiment(folder: Path, parent: str) -> Path:
    data = yaml.safe_load(SMOKE.read_text())
    data |= {"parent": parent, "passes": 1.0}
    data["data"] |= {"stages": [64, 128], "test_pairs": 32, "zero_shot": []}
    data["search"] = {"backend": "exhaustive", "num_trials": 3, "trial_share": 0.25}
    data["space"] = {
        "dimensions": {"image.mlp_width": {"ratios": [1.5]}, "text.depth": {"add": [1]}}
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An OpenCLIP model, imported by the command."""
    config = write_config(tmp_path, "no_ln_pre")
    save_file(stock_model(config).state_dict(), tmp_path / "stock.safetensors")
    folder = tmp_path / "imported"
    arguments = ["import", str(config), str(tmp_path / "stock.safetensors"), "--out", str(folder)]
    assert main(arguments) == 0
    return folder


def test_run_starts_from_the_imported_weights_and_keeps_them(
    tmp_path: Path, checkpoint: Path
) -> None:
    config = load_config(experiment(tmp_path, checkpoint.name))  # relative to the experiment
    assert config.parent_arch == load_model(checkpoint).arch
    run = run_stages(config, tmp_path / "run")
    validation = open_stages(config.data, None)[0].validation
    embedded = embed_pairs(load_model(checkpoint), validation, 32)
    assert run.trials[0].curve[0][1] == pytest.approx(contrastive_loss(embedded, 32).value)
    shutil.rmtree(checkpoint)  # the run folder is all the state there is
    held = load_config(run.path / "config.yaml")
    assert run_stages(held, run.path).stages == run.stages
    for kept in ("config.yaml", "format.json", "parent"):
        (tmp_path / "again").mkdir(exist_ok=True)
        (run.path / kept).rename(tmp_path / "again" / kept)
    again = run_stages(held, tmp_path / "again")
    assert again.stages == run.stages


def test_exported_folders_are_checkpoints_for_every_command(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, child = tmp_path / "exported", tmp_path / "child"
    assert main(["export", str(checkpoint), "--out", str(out)]) == 0
    assert f'"local-dir:{out}"' in capsys.readouterr().out
    assert main(["flops", str(out)]) == 0
    ours = capsys.readouterr().out
    assert main(["flops", str(checkpoint)]) == 0
    assert (
        capsys.readouterr().out.split("total")[0].splitlines()[2:]
        == ours.split("total")[0].splitlines()[2:]
    )
    assert main(["grow", str(out), "--set", "image.mlp_width=300", "--out", str(child)]) == 0
    assert "exact" in capsys.readouterr().out
    assert main(["eval", str(out), "--data", "digits"]) == 0
    space = ["--pairs", "100", "--format", "optuna"]
    space += ["--space", str(ROOT / "search_spaces" / "tiny.yaml")]
    assert main(["space", str(out), *space]) == 0
    config = load_config(experiment(tmp_path, str(out)))
    assert config.parent_checkpoint == str(out)


def test_another_parent_under_the_same_name_is_told(tmp_path: Path, checkpoint: Path) -> None:
    config = load_config(experiment(tmp_path, str(checkpoint)))
    other = config.parent_arch.with_size("text.depth", 5)
    save_model(Clip(other), tmp_path / "run" / "parent")
    write_format(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(config.to_yaml())
    with pytest.raises(ValueError, match="must have the architecture that the configuration names"):
        run_experiment(config, tmp_path / "run")


def test_refused_export_says_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(Clip(load_config(SMOKE).parent_arch.with_size("shared.depth", 2)), tmp_path / "m")
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "has no shared encoder, and without its 2 blocks" in printed
    assert "Export it with --format transformers, onnx or torch." in printed

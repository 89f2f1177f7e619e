"""The recipe of docs/guide/openclip.md, command by command, on a model and data cut down."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from nas_growclip.cli.main import main
from nas_growclip.experiment.config import load_config
from tests.data.sources.test_webdataset import write_tar
from tests.support.models import stock_model, write_config
from tests.support.runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

WORDS = ("cat", "dog", "tree", "boat", "house", "cup")


def png(number: int) -> bytes:
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_pairs(path: Path, start: int, count: int) -> None:
    members = []
    for key in range(start, start + count):
        members.append((f"{key:09d}.json", b"{}"))
        members.append((f"{key:09d}.png", png(key)))
        members.append((f"{key:09d}.txt", f"a photo of a {WORDS[key % 6]} {key}".encode()))
    write_tar(path, members)


def write_task(folder: Path) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(WORDS))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
    (folder / "test" / "nshards.txt").write_text("1")
    members = []
    for number in range(18):
        members.append((f"s{number:07d}.cls", str(number % 6).encode()))
        members.append((f"s{number:07d}.png", png(1000 + number)))
    write_tar(folder / "test" / "0.tar", members)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything the recipe names, cut down."""
    data = tmp_path / "DATA"
    for shard in range(3):
        write_pairs(data / "pairs" / f"{shard:05d}.tar", 100 * shard, 24)
    write_pairs(data / "held_out" / "00000.tar", 5000, 16)
    write_pairs(data / "held_out" / "00001.tar", 6000, 16)
    write_pairs(data / "next_month" / "00000.tar", 7000, 40)
    write_task(data / "wds" / "wds_words")
    config = write_config(tmp_path, "b32", custom_text=False)
    config.rename(tmp_path / "small.json")
    save_file(stock_model(tmp_path / "small.json").state_dict(), tmp_path / "WEIGHTS")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "vit_b_32.yaml").write_text(yaml.safe_dump(cut_down()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut_down() -> dict[str, Any]:
    """The recipe's experiment with small numbers; what it is made of stays."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "vit_b_32.yaml").read_text())
    data["stage_flops"] = [1.5e9]
    data["data"] |= {"stages": [3], "train": "pairs/{00000..00002}.tar", "validation_pairs": 16}
    data["search"] |= {"num_trials": 2, "trial_share": 0.2, "curve_points": 2}
    data["train"] |= {"batch_size": 8, "warmup_steps": 2}
    return data


def commands(heading: str) -> list[list[str]]:
    text = (ROOT / "docs" / "guide" / "openclip.md").read_text().partition(heading)[2]
    block = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)[0]
    found = [shlex.split(line) for line in block.splitlines()]
    return [["small.json" if word == "ViT-B-32" else word for word in line] for line in found]


def test_every_command_of_the_recipe_works(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program, *arguments in commands("## Grow your ViT-B/32"):
        assert program == "growclip"
        code = main(arguments)
        assert code == 0, (arguments, capsys.readouterr().err[-2000:])
    for folder in ("grown", "grown_again"):
        model = open_clip.create_model(f"local-dir:{place / folder}")
        assert model.context_length == 77
    record = json.loads((place / "results/after/words_zeroshot_classification.json").read_text())
    assert 0 <= record["metrics"]["acc1"] <= 1
    assert load_config(place / "runs/vit_b_32/config.yaml").parent_checkpoint


def test_growing_by_hand(place: Path) -> None:
    steps = commands("Without a search, one step of growth by hand")
    assert main(["import", "small.json", "WEIGHTS", "--out", "our_clip"]) == 0
    assert main(["grow", "our_clip", "--set", "image.depth=3", "--out", "bigger"]) == 0
    assert [line[1] for line in steps] == ["grow", "export"]
    assert main(steps[1][1:]) == 0


def test_the_experiment_says_when_the_import_was_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text((ROOT / "experiments" / "vit_b_32.yaml").read_text())
    with pytest.raises(
        ValueError, match=r"experiment\.yaml: parent: 'our_clip' must be .* a checkpoint's folder"
    ):
        load_config(path)

"""Five captions an image, through every door: a perfect model has recalls of one."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from nas_growclip.data.config import CsvConfig, WebdatasetConfig
from nas_growclip.data.named_sets import RetrievalSet
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.table import open_split
from nas_growclip.data.stages import load_tasks, open_stages
from nas_growclip.evaluation.benchmark import benchmark_records
from nas_growclip.evaluation.metrics import PAIR_METRICS, evaluate
from nas_growclip.evaluation.named_sets import evaluate_named_sets
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from tests.data.test_zero_shot import write_shard

NUM_IMAGES = 16
PHRASES = ("a photo of {}", "a drawing of {}", "here we see {}", "there is {}", "picture: {}")
RECALLS = [f"{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5)]
RECALLS += [f"{name}_retrieval_recall@{k}" for name in ("text", "image") for k in (1, 5, 10)]


class LevelOracle(Clip):
    """Knows each plain picture by its level, and each caption by the number in it."""

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        scaled = images.mean(dim=(1, 2, 3))
        level = (scaled * 0.269 + 0.458) * (NUM_IMAGES - 1)
        return torch.nn.functional.one_hot(level.round().long().clamp(0, 15), NUM_IMAGES).float()

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(tokens[:, 0], NUM_IMAGES).float()

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([int(text.split()[-1]) for text in texts])[:, None]


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    level = round(255 * number / (NUM_IMAGES - 1))
    Image.new("RGB", (24, 20), (level, level, level)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def captions(number: int) -> list[str]:
    return [phrase.format(f"number {number}") for phrase in PHRASES]


def write_data(folder: Path) -> None:
    rows, members, sets = ["filepath\ttitle"], [], []
    (folder / "images").mkdir(parents=True)
    (folder / "wds" / "wds_five" / "test").mkdir(parents=True)
    for i in range(NUM_IMAGES):
        (folder / "images" / f"{i}.jpg").write_bytes(jpeg(i))
        sets += [(f"s{i}.jpg", jpeg(i)), (f"s{i}.txt", "\n".join(captions(i)).encode())]
        for k, caption in enumerate(captions(i)):
            rows.append(f"images/{i}.jpg\t{caption}")
            members += [(f"{i:04d}{k}.jpg", jpeg(i)), (f"{i:04d}{k}.txt", caption.encode())]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    write_shard(folder / "pairs.tar", members)
    write_shard(folder / "wds" / "wds_five" / "test" / "0.tar", sets)
    (folder / "wds" / "wds_five" / "test" / "nshards.txt").write_text("1")
    (folder / "wds" / "wds_five" / "dataset_type.txt").write_text("retrieval")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    write_data(folder)
    return folder


def opened(door: str, data: Path) -> ImageTextPairs:
    if door == "csv":
        return open_split(CsvConfig(stages=(1,), test="pairs.csv", test_pairs=0), data, "test")
    if door == "shards":
        config = WebdatasetConfig(stages=(1,), test="pairs.tar", test_pairs=0)
        return open_split(config, data, "test")
    (found,) = load_tasks(WebdatasetConfig(stages=(1,), zero_shot=("wds/wds_*",)), data)
    assert isinstance(found, RetrievalSet)
    return found.pairs


@pytest.mark.parametrize("door", ["shards", "csv", "retrieval set"])
def test_a_perfect_model_is_perfect_through_every_door(
    door: str, data: Path, tiny_arch: ClipArch
) -> None:
    pairs = opened(door, data)
    assert pairs.num_pairs == 5 * NUM_IMAGES
    oracle = LevelOracle(tiny_arch)
    torch.nn.init.constant_(oracle.logit_scale, math.log(100.0))
    values = evaluate(oracle, pairs, (), PAIR_METRICS, 20)
    assert {name: values[name].value for name in RECALLS} == dict.fromkeys(RECALLS, 1.0)
    assert values["loss"].value == pytest.approx(0.0, abs=1e-4)
    assert values["loss"].chance == pytest.approx(math.log(16))
    for name in ("i2t_recall@1", "text_retrieval_recall@1"):
        assert values[name].chance == pytest.approx(5 / 80)
    for name in ("t2i_recall@5", "image_retrieval_recall@5"):
        assert values[name].chance == pytest.approx(5 / 16)


def test_a_set_in_a_folder_of_sets_is_measured_and_not_lost(
    data: Path, tiny_arch: ClipArch
) -> None:
    oracle = LevelOracle(tiny_arch)
    for place in ("wds", "wds/wds_five", "wds/wds_five/test"):
        values = evaluate_named_sets(oracle, [str(data / place)], 16)
        assert values["retrieval/five/i2t_recall@1"].value == 1.0
        assert values["retrieval/five/text_retrieval_recall@1"].value == 1.0
    (record,) = benchmark_records(oracle, [str(data / "wds")], ("m", "p"), 16)
    assert (record["dataset"], record["task"]) == ("five", "zeroshot_retrieval")
    assert record["metrics"]["text_retrieval_recall@5"] == 1.0
    assert record["metrics"]["chance_image_retrieval_recall@1"] == pytest.approx(1 / 16)
    json.dumps(record)


def test_a_run_measures_it_item_by_item(data: Path, tiny_arch: ClipArch) -> None:
    config = WebdatasetConfig(
        stages=(1,),
        train="train.tar",
        validation="validation.tar",
        test="pairs.tar",
        zero_shot=("wds/wds_*",),
    )
    for split in ("train", "validation"):
        members = [(f"{split}.png", png(split)), (f"{split}.txt", b"number 1")]
        write_shard(data / f"{split}.tar", members)
    stage = open_stages(config, data)[0]
    outcomes: dict = {}
    oracle = LevelOracle(tiny_arch)
    values = evaluate(oracle, stage.test, stage.zero_shot, ("zero_shot",), 16, outcomes)
    assert outcomes["retrieval/five/i2t_recall@1"].shape == (16,)
    assert outcomes["retrieval/five/t2i_recall@1"].shape == (80,)
    for name, right in outcomes.items():
        assert right.mean() == values[name].value == 1.0


def png(text: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (len(text), 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_random_model_is_at_chance(data: Path, tiny_arch: ClipArch) -> None:
    values = [
        evaluate(Clip(tiny_arch, seed=seed), opened("csv", data), (), PAIR_METRICS, 16)
        for seed in range(6)
    ]
    for name in ("i2t_recall@5", "t2i_recall@5"):
        mean = sum(v[name].value for v in values) / len(values)
        assert mean == pytest.approx(values[0][name].chance, abs=0.15)

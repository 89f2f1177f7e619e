"""CLIP_benchmark's records: its fields, its metrics, read by what its ``build`` does."""

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from nas_growclip.cli.main import main
from nas_growclip.data.batches import training_batches
from nas_growclip.data.config import WebdatasetConfig
from nas_growclip.data.encoding import PairEncoder
from nas_growclip.data.stages import open_stages
from nas_growclip.data.zero_shot import ZeroShotTask, folder_task
from nas_growclip.evaluation.benchmark import classification_metrics
from nas_growclip.evaluation.zero_shot import class_scores, predict
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.data.sources.test_webdataset import write_shards
from tests.data.test_packs import PACKS, needs_packs


def noise_task(num_classes: int, num_images: int = 60) -> ZeroShotTask:
    rng = np.random.default_rng(0)
    images = tuple(
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        for _ in range(num_images)
    )
    labels = tuple(int(label) for label in rng.integers(0, num_classes, num_images))
    names = tuple(f"thing {number}" for number in range(num_classes))
    return ZeroShotTask("noise", names, ("a {c}.", "the {c}"), images, labels)


def test_metrics_are_sklearns_and_by_hand(tiny_arch: ClipArch) -> None:
    model, task = Clip(tiny_arch), noise_task(7)
    scores = torch.cat(list(class_scores(model, task, 16))).numpy()
    found = classification_metrics(model, task, 16)
    predicted = scores.argmax(axis=1)
    best_five = np.argsort(-scores, axis=1)[:, :5]
    labels = np.array(task.labels)
    assert found["acc1"] == pytest.approx((predicted == labels).mean())
    assert found["acc1"] == pytest.approx(predict(model, task, 7).right.mean())
    assert found["acc5"] == pytest.approx((best_five == labels[:, None]).any(axis=1).mean())
    assert found["mean_per_class_recall"] == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    assert found["chance_acc1"] == pytest.approx(1 / 7)


def test_fewer_than_five_classes_have_no_acc5(tiny_arch: ClipArch) -> None:
    assert math.isnan(classification_metrics(Clip(tiny_arch), noise_task(3), 16)["acc5"])


def build(files: list[Path], output: Path) -> list[dict[str, str]]:
    """What ``clip_benchmark build`` does with result files, as its documentation has it."""
    rows: list[dict[str, Any]] = []
    for path in files:
        data = json.loads(path.read_text())
        row = {**data["metrics"], **data}
        del row["metrics"]
        row["model_fullname"] = row["model"] + " " + row["pretrained"]
        rows.append(row)
    names = sorted({name for row in rows for name in row})
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def test_command_writes_a_file_for_each_set(
    tmp_path: Path, tiny_arch: ClipArch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(Clip(tiny_arch), tmp_path / "model")
    write_shards(tmp_path / "pairs", num_shards=1, per_shard=12)
    places = ["--data", "digits", "--data", str(tmp_path / "pairs")]
    command = ["eval", str(tmp_path / "model"), *places, "--json", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    records = json.loads(capsys.readouterr().out)
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [
        "digits_zeroshot_classification.json",
        "pairs_zeroshot_retrieval.json",
    ]
    assert [json.loads(path.read_text()) for path in files] == records
    rows = build(files, tmp_path / "benchmark.csv")
    assert [row["dataset"] for row in rows] == ["digits", "pairs"]
    assert {row["model"] for row in rows} == {"model"}
    assert 0 <= float(rows[0]["acc1"]) <= 1
    assert 0 <= float(rows[1]["image_retrieval_recall@5"]) <= 1
    assert set(records[0]) == {"dataset", "model", "pretrained", "task", "metrics", "language"}


@torch.no_grad()
def open_clip_top1(folder: Path, task: ZeroShotTask) -> float:
    """Zero-shot top-1 by open_clip's own classifier, preprocessing and tokenizer."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    templates = [lambda c, t=t: t.replace("{c}", c) for t in task.templates]
    classifier = open_clip.build_zero_shot_classifier(
        model.eval(), open_clip.get_tokenizer(name), task.class_names, templates
    )
    images = torch.stack([preprocess(image) for image in task.images])
    predicted = (model.encode_image(images, normalize=True) @ classifier).argmax(dim=1)
    return float((predicted == torch.tensor(task.labels)).double().mean())


def first_images(task: ZeroShotTask) -> ZeroShotTask:
    """The task's first thousand images."""
    images, labels = tuple(itertools.islice(task.images, 1000)), task.labels[:1000]
    return replace(task, images=images, labels=labels)


@needs_packs
@pytest.mark.slow
def test_exported_model_scores_the_same_through_open_clip(tmp_path: Path) -> None:
    """A model trained on the pack, through both libraries' whole evaluation."""

    folder = "research_only/cifar100_label_pairs"
    config = WebdatasetConfig(
        stages=(2,),
        train=f"{folder}/train",
        validation=f"{folder}/val/00000.tar.gz",
        test=f"{folder}/val/00001.tar.gz",
        in_memory=True,
    )
    arch = ClipArch.preset("tiny").with_sizes({"text.context_length": 77})
    plain = ClipArch.from_dict(
        {**arch.to_dict(), "shared": {**arch.to_dict()["shared"], "depth": 0}}
    )
    settings = TrainConfig(batch_size=64, warmup_steps=10)
    state = start_training(Clip(plain), settings)
    encoder = PairEncoder(plain.image, state.model.tokenize)
    pairs = open_stages(config, PACKS)[0].train
    batches = training_batches(pairs, encoder, 64, seed=0)
    train(state, batches, settings, total_steps=60, until_step=60)
    model = state.model.eval()
    export_open_clip(model, tmp_path / "out")
    for name in ("cifar100", "popular_animals"):
        task = first_images(folder_task(PACKS / "research_only" / "zeroshot" / f"wds_{name}"))
        ours = float(predict(model, task, 128).right.mean())
        assert ours > 1.5 * task.chance
        assert open_clip_top1(tmp_path / "out", task) == pytest.approx(ours, abs=1e-9)

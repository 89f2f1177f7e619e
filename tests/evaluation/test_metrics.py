"""Metrics: a perfect model scores 1, a model that knows nothing scores chance."""

import math

import numpy as np
import pytest
import torch
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from PIL import Image

from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import EmbeddedPairs, embed_pairs
from nas_growclip.evaluation.metrics import METRICS, Measured, contrastive_loss, evaluate
from nas_growclip.evaluation.retrieval import best_right_rank, chance_recall, retrieval
from nas_growclip.evaluation.zero_shot import class_embeddings, zero_shot
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Measure

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


class ColourOracle(Clip):
    """Embeds a plain picture and a text that names its colour alike."""

    def __init__(self, arch: ClipArch) -> None:
        super().__init__(arch)
        torch.nn.init.constant_(self.logit_scale, math.log(100.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        seen = images.mean(dim=(2, 3))
        order = [(seen[:, i] > 0.5).float() for i in range(3)]
        black = 1 - sum(order).clamp(max=1)
        return torch.nn.functional.normalize(torch.stack([*order, black], dim=1), dim=1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(tokens[:, 0], 4).float()

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        names = list(COLOURS)
        found = [next(i for i, n in enumerate(names) if n in text) for text in texts]
        return torch.tensor(found)[:, None]


class ColourPairs:
    num_pairs = 8
    manifest = (ManifestEntry("colours", 8, "0", {}),)

    def epoch(self, seed: int | None, wanted: IsWanted = every_pair):
        for name, colour in [*COLOURS.items(), *COLOURS.items()]:
            yield Pair(Image.new("RGB", (20, 16), colour), f"a {name} picture")


def colour_task() -> ZeroShotTask:
    images = tuple(Image.new("RGB", (16, 16), colour) for colour in COLOURS.values())
    return ZeroShotTask("colours", tuple(COLOURS), ("a {c} thing",), images, (0, 1, 2, 3))


@pytest.fixture
def oracle(tiny_arch: ClipArch) -> Clip:
    return ColourOracle(tiny_arch)


def random_embeddings(count: int, captions: tuple[str, ...]) -> EmbeddedPairs:
    rng = torch.Generator().manual_seed(0)
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, 64, generator=rng), dim=1)
        for _ in range(2)
    )
    return EmbeddedPairs(images, texts, captions, (1.0,))


@pytest.mark.parametrize("name", METRICS)
def test_perfect_model_reaches_the_best_value(name: str, oracle: Clip) -> None:
    embedded = embed_pairs(oracle, ColourPairs(), 4)
    values = METRICS[name](Measured(oracle, embedded, (colour_task(),), 4, {}))
    for key, value in values.items():
        assert value.value == pytest.approx(0.0 if key == "loss" else 1.0, abs=1e-4), key


@pytest.mark.parametrize("name", METRICS)
def test_random_model_is_near_chance(name: str, tiny_arch: ClipArch) -> None:
    rng = np.random.default_rng(0)
    images = tuple(
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(400)
    )
    labels = tuple(int(label) for label in rng.integers(0, 4, 400))
    task = ZeroShotTask("noise", ("a", "b", "c", "d"), ("{c}",), images, labels)
    embedded = random_embeddings(512, tuple(f"caption {i % 300}" for i in range(512)))
    values = METRICS[name](Measured(Clip(tiny_arch), embedded, (task,), 128, {}))
    for key, value in values.items():
        assert value.value == pytest.approx(value.chance, abs=0.08), key


def test_identical_captions_all_count_as_right() -> None:
    images = torch.eye(3)
    texts = torch.eye(3)[[1, 0, 2]]  # the first two are swapped
    swapped = retrieval(EmbeddedPairs(images, texts, ("a", "a", "b"), (1.0,)))
    assert swapped["i2t_recall@1"].value == swapped["t2i_recall@1"].value == 1.0
    distinct = retrieval(EmbeddedPairs(images, texts, ("a", "c", "b"), (1.0,)))
    assert distinct["i2t_recall@1"].value == pytest.approx(1 / 3)


def test_collapsed_model_scores_zero_not_one() -> None:
    same = torch.ones(4, 2) / math.sqrt(2)
    values = retrieval(EmbeddedPairs(same, same, tuple("abcd"), (1.0,)))
    assert values["i2t_recall@1"].value == values["t2i_recall@1"].value == 0.0


def test_rank_agrees_with_a_plain_loop() -> None:
    rng = torch.Generator().manual_seed(1)
    scores = torch.randn(20, 30, generator=rng)
    is_right = torch.rand(20, 30, generator=rng) < 0.1
    is_right[:, 0] = True
    ranks = best_right_rank(scores, is_right)
    for row in range(20):
        order = scores[row].argsort(descending=True).tolist()
        assert ranks[row] == next(i for i, item in enumerate(order) if is_right[row, item])


@pytest.mark.parametrize("k", [1, 5])
def test_chance_recall_agrees_with_drawing(k: int) -> None:
    num_right = torch.tensor([1, 2, 3, 3, 3, 1, 1, 1])
    rng = np.random.default_rng(0)
    drawn = [
        np.mean([rng.permutation(8)[:k].min() < right for right in num_right.tolist()])
        for _ in range(4000)
    ]
    assert chance_recall(num_right, k) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_recall(torch.tensor([1]), 5) == 1.0


def test_classifier_agrees_with_open_clip(tiny_parent: Clip) -> None:
    class Adapter:
        def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
            return tiny_parent.encode_text(tokens)

    templates = ("a photo of a {c}.", "the {c}")
    theirs = build_zero_shot_classifier(
        Adapter(),
        tiny_parent.tokenize,
        ["cat", "dog", "tree"],
        [lambda name, t=t: t.replace("{c}", name) for t in templates],
        num_classes_per_batch=None,
    )
    ours = class_embeddings(tiny_parent, ["cat", "dog", "tree"], templates)
    torch.testing.assert_close(ours, theirs.T)


def test_loss_leaves_out_a_partial_batch() -> None:
    embedded = random_embeddings(10, tuple("abcdefghij"))
    whole = EmbeddedPairs(*(side[:8] for side in embedded))
    assert contrastive_loss(embedded, 4) == contrastive_loss(whole, 4)
    assert contrastive_loss(embedded, 64).chance == math.log(10)


def test_without_tasks_there_is_no_zero_shot_metric(tiny_parent: Clip) -> None:
    assert zero_shot(tiny_parent, (), 4) == {}


def test_evaluate_leaves_the_training_mode_alone(tiny_arch: ClipArch) -> None:
    model = Clip(tiny_arch).train()
    values = evaluate(model, ColourPairs(), (colour_task(),), tuple(METRICS), 4)
    assert model.training
    assert {"loss", "i2t_recall@1", "zero_shot_top1/colours"} <= set(values)


def test_outcomes_are_what_the_metrics_are_means_of(tiny_arch: ClipArch) -> None:
    embedded = random_embeddings(60, tuple(f"caption {i % 20}" for i in range(60)))
    measured = Measured(Clip(tiny_arch), embedded, (colour_task(),), 4, {})
    values: dict[str, Measure] = {}
    for metric in METRICS.values():
        values |= metric(measured)
    outcomes = measured.outcomes
    assert set(outcomes) == {"i2t_recall@1", "t2i_recall@1", f"zero_shot_top1/{colour_task().name}"}
    for name, right in outcomes.items():
        assert right.dtype == bool
        assert right.mean() == pytest.approx(values[name].value)

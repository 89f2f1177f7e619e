"""Metrics: a perfect model scores 1, a model that knows nothing scores chance."""

import math

import numpy as np
import pytest
import torch
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from PIL import Image

from nas_growclip.data.pairs import IsWanted, ManifestEntry, Pair, every_pair
from nas_growclip.data.zero_shot import ZeroShotTask
from nas_growclip.evaluation.embeddings import EmbeddedPairs, embed_pairs, one_caption_each
from nas_growclip.evaluation.metrics import METRICS, Measured, contrastive_loss, evaluate
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
            yield Pair(Image.new("RGB", (20, 16), colour), f"a {name} picture", name.encode())


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
    return one_caption_each(images, texts, captions, (1.0,))


@pytest.mark.parametrize("name", METRICS)
def test_perfect_model_reaches_the_best_value(name: str, oracle: Clip) -> None:
    embedded = embed_pairs(oracle, ColourPairs(), 4)
    values = METRICS[name](Measured(oracle, embedded, (colour_task(),), 4, {}))
    for key, measure in values.items():
        assert measure.value == pytest.approx(0.0 if key == "loss" else 1.0, abs=1e-4), key


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
    for key, measure in values.items():
        assert measure.value == pytest.approx(measure.chance, abs=0.08), key


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
    ours = class_embeddings(tiny_parent, ["cat", "dog", "tree"], templates, 4)
    torch.testing.assert_close(ours, theirs.T)


def test_loss_leaves_out_a_partial_batch() -> None:
    embedded = random_embeddings(10, tuple("abcdefghij"))
    whole = one_caption_each(embedded.images[:8], embedded.texts[:8], tuple("abcdefgh"), (1.0,))
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


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_with_one_bad_weight_is_refused(name: str, bad: float, tiny_arch: ClipArch) -> None:
    """It would compare with nothing, and every image would seem to find its text."""
    model = Clip(tiny_arch)
    with torch.no_grad():
        model.image.projection.weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"must be finite numbers, but \d+ of \d+ are not\. The"):
        evaluate(model, ColourPairs(), (colour_task(),), (name,), 4)


def test_captions_of_one_image_are_no_negatives_of_each_other(oracle: Clip) -> None:
    """A batch that holds every picture twice: a perfect model has no loss."""
    measure = contrastive_loss(embed_pairs(oracle, ColourPairs(), 8), 8)
    assert measure.value == pytest.approx(0.0, abs=1e-4)
    assert measure.chance == pytest.approx(math.log(7))


def test_an_image_is_embedded_once(oracle: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = oracle.encode_image
    monkeypatch.setattr(
        oracle, "encode_image", lambda images: seen.append(len(images)) or encode(images)
    )
    embedded = embed_pairs(oracle, ColourPairs(), 3)
    assert seen == [3, 1]
    assert embedded.images.shape == (4, 4)
    assert embedded.texts.shape == (8, 4)
    assert embedded.image_of_text.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]

"""Recall: CLIP_benchmark's to the digit under its names, and ours where captions repeat."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.evaluation import retrieval as module
from nas_growclip.evaluation.embeddings import EmbeddedPairs, one_caption_each
from nas_growclip.evaluation.retrieval import (
    BENCHMARK_RECALL_AT,
    benchmark_recalls,
    chance_recall,
    rank,
    recalls,
)


def unit(count: int, width: int, rng: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, width, generator=rng), dim=1)


def random_set(
    num_images: int, captions_of: list[int], seed: int = 0, num_distinct: int | None = None
) -> EmbeddedPairs:
    """Embeddings that know a little, with so many captions for each image in turn."""
    rng = torch.Generator().manual_seed(seed)
    counts = [captions_of[i % len(captions_of)] for i in range(num_images)]
    of_text = torch.arange(num_images).repeat_interleave(torch.tensor(counts))
    images = unit(num_images, 16, rng)
    noise = unit(len(of_text), 16, rng)
    texts = torch.nn.functional.normalize(images[of_text] + noise, dim=1)
    distinct = num_distinct or len(of_text)
    captions = tuple(f"caption {i % distinct}" for i in range(len(of_text)))
    return EmbeddedPairs(images, texts, captions, of_text, (1.0,))


def definition(embedded: EmbeddedPairs, k: int) -> dict[str, float]:
    """CLIP_benchmark's recall, as its comments have it: is any right item in the top k."""
    scores = embedded.texts.double().numpy() @ embedded.images.double().numpy().T
    owner = embedded.image_of_text.numpy()
    by_text = [owner[t] in np.argsort(-row)[:k] for t, row in enumerate(scores)]
    by_image = [
        any(owner[t] == i for t in np.argsort(-column)[:k]) for i, column in enumerate(scores.T)
    ]
    return {
        f"image_retrieval_recall@{k}": float(np.mean(by_text)),
        f"text_retrieval_recall@{k}": float(np.mean(by_image)),
    }


@pytest.mark.parametrize("captions_of", [[1], [5], [1, 3, 2], [7, 1]])
def test_benchmark_recalls_are_the_definition(captions_of: list[int]) -> None:
    embedded = random_set(60, captions_of)
    found = benchmark_recalls(rank(embedded))
    expected = {k: v for at in BENCHMARK_RECALL_AT for k, v in definition(embedded, at).items()}
    assert {name: measure.value for name, measure in found.items()} == pytest.approx(expected)
    assert 0 < found["image_retrieval_recall@1"].value < 1


def test_both_readings_agree_where_no_caption_repeats() -> None:
    rankings = rank(random_set(50, [5]))
    ours, benchmark = recalls(rankings), benchmark_recalls(rankings)
    for k in (1, 5):
        assert ours[f"i2t_recall@{k}"] == benchmark[f"text_retrieval_recall@{k}"]
        assert ours[f"t2i_recall@{k}"] == benchmark[f"image_retrieval_recall@{k}"]


def test_a_perfect_model_on_five_captions_each_finds_them_all() -> None:
    images = torch.eye(20)
    of_text = torch.arange(20).repeat_interleave(5)
    captions = tuple(f"caption {i}" for i in range(100))
    rankings = rank(EmbeddedPairs(images, images[of_text], captions, of_text, (1.0,)))
    measures = {**recalls(rankings), **benchmark_recalls(rankings)}
    assert {measure.value for measure in measures.values()} == {1.0}
    assert measures["t2i_recall@1"].chance == pytest.approx(1 / 20)
    missed = math.comb(95, 5) / math.comb(100, 5)
    assert measures["i2t_recall@1"].chance == pytest.approx(5 / 100)
    assert measures["i2t_recall@5"].chance == pytest.approx(1 - missed)


def test_a_random_model_on_five_captions_each_is_at_the_chance_that_is_told() -> None:
    rng = torch.Generator().manual_seed(3)
    of_text = torch.arange(400).repeat_interleave(5)
    captions = tuple(f"caption {i}" for i in range(2000))
    embedded = EmbeddedPairs(unit(400, 32, rng), unit(2000, 32, rng), captions, of_text, (1.0,))
    rankings = rank(embedded)
    for name, measure in {**recalls(rankings), **benchmark_recalls(rankings)}.items():
        assert measure.value == pytest.approx(measure.chance, abs=0.012), name


def plain_rank(scores: np.ndarray, right: np.ndarray) -> list[int]:
    return [
        int(sum(row[~is_right] >= row[is_right].max()))
        for row, is_right in zip(scores, right, strict=True)
    ]


@given(
    seed=st.integers(0, 1000),
    captions_of=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    distinct=st.integers(1, 30),
)
def test_ranks_are_those_of_a_plain_loop(seed: int, captions_of: list[int], distinct: int) -> None:
    """Identical captions of other images are right, whichever captions those images have too."""
    embedded = random_set(12, captions_of, seed, distinct)
    i2t, t2i = rank(embedded)
    texts_of = [
        {c for c, o in zip(embedded.captions, embedded.image_of_text, strict=True) if o == i}
        for i in range(12)
    ]
    right = np.array([[caption in texts for caption in embedded.captions] for texts in texts_of])
    scores = (embedded.images @ embedded.texts.T).numpy()
    assert i2t.ranks.tolist() == plain_rank(scores, right)
    assert i2t.num_right.tolist() == right.sum(axis=1).tolist()
    assert t2i.ranks.tolist() == plain_rank((embedded.texts @ embedded.images.T).numpy(), right.T)
    assert t2i.num_right.tolist() == right.sum(axis=0).tolist()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = random_set(40, [1, 4], num_distinct=60)
    whole = rank(embedded)
    monkeypatch.setattr(module, "CHUNK_SCORES", 7 * 40)
    for one, other in zip(whole, rank(embedded), strict=True):
        assert one.name == other.name
        assert all(torch.equal(a, b) for a, b in zip(one[2:], other[2:], strict=True))


def test_identical_captions_of_different_images_part_the_readings() -> None:
    images = torch.eye(3)
    texts = torch.eye(3)[[1, 0, 2]]  # the first two are swapped
    swapped = rank(one_caption_each(images, texts, "aab", (1.0,)))
    assert recalls(swapped)["i2t_recall@1"].value == 1.0
    assert recalls(swapped)["t2i_recall@1"].value == 1.0
    measure = benchmark_recalls(swapped)["text_retrieval_recall@1"]
    assert measure.value == pytest.approx(1 / 3)
    assert measure.chance == pytest.approx(1 / 3)
    distinct = recalls(rank(one_caption_each(images, texts, "acb", (1.0,))))
    assert distinct["i2t_recall@1"].value == pytest.approx(1 / 3)


def test_collapsed_model_scores_zero_not_one() -> None:
    same = torch.ones(4, 2) / math.sqrt(2)
    rankings = rank(one_caption_each(same, same, "abcd", (1.0,)))
    values = recalls(rankings)
    assert values["i2t_recall@1"].value == values["t2i_recall@1"].value == 0.0
    assert benchmark_recalls(rankings)["text_retrieval_recall@1"].value == 0.25


@pytest.mark.parametrize("k", [1, 5])
def test_chance_recall_agrees_with_drawing(k: int) -> None:
    num_right = torch.tensor([1, 2, 3, 3, 3, 1, 1, 1])
    rng = np.random.default_rng(0)
    drawn = [
        np.mean([rng.permutation(8)[:k].min() < right for right in num_right.tolist()])
        for _ in range(4000)
    ]
    assert chance_recall(num_right, 8, k) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_recall(torch.tensor([1]), 1, 5) == 1.0


@pytest.mark.parametrize("side", ["Image", "Text"])
def test_embeddings_that_are_not_finite_are_refused(side: str) -> None:
    sides = {"Image": torch.eye(3), "Text": torch.eye(3)}
    sides[side][1, 1] = math.nan
    embedded = one_caption_each(sides["Image"], sides["Text"], "abc", (1.0,))
    with pytest.raises(ValueError, match=f"{side} embeddings must be finite numbers, but 1 of 3"):
        rank(embedded)

"""Texts cut behind the last token they use have the embeddings of whole ones."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nas_growclip.evaluation.texts import embed_texts, embedded_batches, used_tokens
from nas_growclip.evaluation.zero_shot import class_embeddings
from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip

CONTEXT, PADDING, END = 12, 0, 7
LENGTHS = (5, 12, 2, 3, 9, 3, 12, 4)

CUT: dict[str, dict[str, Any]] = {
    "causal, pooled at the end": {},
    "another tokenizer's end": {"end_token": END},
    "quick_gelu, biased": {"activation": "quick_gelu", "projection_bias": True},
}
WHOLE: dict[str, dict[str, Any]] = {
    "bidirectional": {"is_causal": False},
    "SigLIP's": {"is_causal": False, "pooling": "last", "projection_bias": True},
    "causal, pooled at the last": {"pooling": "last"},
    "bidirectional, pooled at the first": {"is_causal": False, "pooling": "first"},
    "causal, pooled at the first": {"pooling": "first"},
}


def text_model(arch: ClipArch, shared_depth: int, **traits: Any) -> Clip:
    text = replace(arch.text, depth=2, context_length=CONTEXT, **traits)
    shared = replace(arch.shared, depth=shared_depth)
    return perturbed(Clip(replace(arch, text=text, shared=shared), seed=1).double()).eval()


def random_texts(model: Clip) -> Tensor:
    """Texts of several lengths, ended as the model wants it, and one without an end."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 1000, (len(LENGTHS) + 1, CONTEXT), generator=rng)
    for row, length in enumerate(LENGTHS):
        tokens[row, length - 1] = model.arch.text.end_token
        tokens[row, length:] = PADDING
    return tokens


def watched(model: Clip) -> list[int]:
    """Fills with how many tokens of a text the tower is given, batch by batch."""
    given: list[int] = []
    model.text.register_forward_pre_hook(lambda tower, inputs: given.append(inputs[0].shape[1]))
    return given


@pytest.mark.parametrize("shared_depth", [0, 2])
@pytest.mark.parametrize("kind", [*CUT, *WHOLE])
def test_embeddings_are_those_of_whole_texts(
    kind: str, shared_depth: int, tiny_arch: ClipArch
) -> None:
    model = text_model(tiny_arch, shared_depth, **(CUT | WHOLE)[kind])
    tokens = random_texts(model)
    with torch.no_grad():
        expected = model.encode_text(tokens)
    given = watched(model)
    found = torch.empty_like(expected).fill_(torch.nan)
    for places, texts in embedded_batches(model, tokens, 3):
        found[places] = texts
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(embed_texts(model, tokens, 4), expected.float())
    in_threes, in_fours = given[:3], given[3:]
    if kind in CUT:  # lengths in order: 1 (no end), 2, 3, 3, 4, 5, 9, 12, 12
        assert in_threes == [3, 5, 12]
        assert in_fours == [3, 12, 12]
    else:
        assert set(given) == {CONTEXT}


@pytest.mark.parametrize("kind", WHOLE)
def test_the_others_would_change_if_they_were_cut(kind: str, tiny_arch: ClipArch) -> None:
    model = text_model(tiny_arch, 0, **WHOLE[kind])
    tokens = random_texts(model)[:1]
    cut = model.encode_text(tokens[:, : LENGTHS[0]])
    change = float((cut - model.encode_text(tokens)).abs().max().detach())
    assert (change > 1e-4) == (kind != "causal, pooled at the first")


def test_used_tokens_end_where_the_tower_pools(tiny_arch: ClipArch) -> None:
    arch = text_model(tiny_arch, 0).arch.text
    tokens = random_texts(text_model(tiny_arch, 0))
    assert used_tokens(arch, tokens).tolist() == [*LENGTHS, 1]
    tokens[0, 8] = arch.end_token  # a second end is behind the first
    assert used_tokens(arch, tokens)[0] == LENGTHS[0]
    assert used_tokens(replace(arch, is_causal=False), tokens).tolist() == [CONTEXT] * 9


def test_prompts_of_any_lengths_make_the_class_embeddings_of_whole_ones(
    tiny_arch: ClipArch,
) -> None:
    model = text_model(tiny_arch, 1)
    names = ("cat", "a very long name of a dog that is not cut", "cat", "x")
    templates = ("{c}", "a photo of a {c}, seen from above", "the {c}.")
    prompts = [[t.replace("{c}", name) for t in templates] for name in names]
    with torch.no_grad():
        by_hand = torch.stack([model.encode_text(model.tokenize(p)).mean(0) for p in prompts])
    given = watched(model)
    found = class_embeddings(model, names, templates, 5)
    torch.testing.assert_close(found, normalize(by_hand, dim=-1), rtol=0, atol=1e-12)
    assert len(given) == 3
    assert given[0] < given[-1]
    assert given[-1] == CONTEXT

"""Kinds of models that people own, each grown in every dimension that is claimed to be exact."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from nas_growclip.growth.adam_moments import grow_moments
from nas_growclip.growth.claims import is_exact
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.plan import plan_growth
from nas_growclip.growth.verify import perturbed, probe, similarity, similarity_change
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch, TokenizerArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.state import TrainConfig, start_training
from tests.growth.test_adam_moments import as_moments, gradients
from tests.growth.test_special_axes import contrastive_step

TOKENIZER = TokenizerArch(name="some/tokenizer")

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clipa": (
        {"pooling": "average", "norm_after_pooling": True},
        {"pooling": "last", "is_causal": False, "vocab_size": 50, "tokenizer": TOKENIZER},
    ),
    "metaclip2": (
        {"activation": "quick_gelu"},
        {"end_token": 2, "vocab_size": 50, "tokenizer": TOKENIZER},
    ),
    "siglip": (
        {"pooling": "attention", "class_token": False, "activation": "gelu_tanh", "cut_edge": True},
        {
            "pooling": "last",
            "is_causal": False,
            "projection_bias": True,
            "vocab_size": 50,
            "tokenizer": TOKENIZER,
        },
    ),
    "average": (
        {"pooling": "average", "class_token": False, "projection_bias": True},
        {"pooling": "first", "vocab_size": 50, "tokenizer": TOKENIZER},
    ),
}

GROWTHS: dict[str, dict[str, int]] = {
    "widths": {"image.width": 40, "text.width": 24},
    "units": {"image.mlp_width": 31, "text.mlp_width": 17},
    "heads": {"image.heads": 5, "text.heads": 3},
    "head_dim": {"image.head_dim": 11, "text.head_dim": 9},
    "depths": {"image.depth": 3, "text.depth": 4},
    "shared": {"shared.depth": 2},
    "vocabulary": {"text.vocab_size": 60},
    "context": {"text.context_length": 9},
    "embedding": {"embed_dim": 24},
    "all": {
        "image.width": 32,
        "image.mlp_width": 40,
        "image.depth": 3,
        "text.width": 32,
        "text.depth": 3,
        "shared.depth": 1,
        "embed_dim": 40,
    },
}

LOSSY = {
    "clipa": {"context", "embedding"},
    "metaclip2": {"embedding"},
    "siglip": {"context"},
    "average": {"embedding"},
}
"""Growths that are named lossy; all others are exact."""


def arch_of(kind: str) -> ClipArch:
    image, text = KINDS[kind]
    return ClipArch(
        image=ImageArch(
            depth=2,
            width=16,
            mlp_width=20,
            patch_size=4,
            image_size=10 if image.get("cut_edge") else 8,
            head_dim=8,
            **image,
        ),
        text=TextArch(depth=2, width=16, mlp_width=12, context_length=7, head_dim=8, **text),
        shared=SharedArch(depth=0, mlp_width=12, head_dim=8),
        embed_dim=16,
    )


def parent_of(kind: str) -> Clip:
    return perturbed(Clip(arch_of(kind), seed=1).double()).eval()


@pytest.mark.parametrize("operator", ["exact", "average"])
@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_growth_is_exact_unless_it_is_named_lossy(kind: str, growth: str, operator: str) -> None:
    parent, config = parent_of(kind), GrowthConfig(operator=operator)
    target = parent.arch.with_sizes(GROWTHS[growth])
    assert is_exact(parent.arch, target, config) == (growth not in LOSSY[kind])
    change = similarity_change(parent, inherit(parent, target, config, seed=3))
    assert change > 1e-10 if growth in LOSSY[kind] else change < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_matter_to_every_kind(kind: str) -> None:
    """What an exact growth is worth: another image or text has another embedding."""
    parent = parent_of(kind)
    images, tokens = probe(parent.arch)
    similarities = similarity(parent, images.double(), tokens)
    assert similarities.std(dim=0).min() > 1e-4
    assert similarities.std(dim=1).min() > 1e-4


def test_an_embedding_pooled_by_attention_learns_in_its_new_directions() -> None:
    parent = parent_of("siglip")
    child = inherit(parent, parent.arch.with_size("embed_dim", 24))
    rows = {
        "image": child.image.attn_pool.proj.weight,
        "text": child.text.projection.weight,
    }
    spans = {name: torch.linalg.qr(value.detach())[0] for name, value in rows.items()}
    optimizer = torch.optim.SGD(child.parameters(), lr=1.0)
    for _ in range(3):
        contrastive_step(child, optimizer)
    for name, value in rows.items():
        new = value.detach() - spans[name] @ (spans[name].T @ value.detach())
        assert new.norm() > 1e-6, name


def test_a_context_that_is_seen_whole_is_resampled_and_keeps_its_ends() -> None:
    parent = parent_of("siglip")
    child = inherit(parent, parent.arch.with_size("text.context_length", 13))
    old, new = (model.text.pos_embed.detach() for model in (parent, child))
    torch.testing.assert_close(new[::2], old)
    torch.testing.assert_close(new[1::2], (old[:-1] + old[1:]) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_traits_stay_while_growing(kind: str) -> None:
    arch = arch_of(kind)
    assert ClipArch.from_dict(arch.to_dict()) == arch
    for trait in KINDS[kind][1]:
        if trait != "vocab_size":
            with pytest.raises(ValueError, match=rf"text\.{trait} must stay the same"):
                inherit(Clip(arch), replace(arch, text=changed(arch.text, trait)))


def changed(text: TextArch, trait: str) -> TextArch:
    others = {
        "pooling": "last" if text.pooling == "first" else "first",
        "is_causal": not text.is_causal,
        "projection_bias": not text.projection_bias,
        "end_token": 3,
        "tokenizer": TokenizerArch(name="another/tokenizer"),
    }
    return replace(text, **{trait: others[trait]})


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_trained(kind: str) -> None:
    state = start_training(Clip(arch_of(kind)), TrainConfig())
    known = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert known == {id(p) for p in state.model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_moments_grow_as_gradients_do(kind: str) -> None:
    sizes = {"image.mlp_width": 31, "image.head_dim": 11, "image.heads": 4, "text.mlp_width": 17}
    parent, config = parent_of(kind), GrowthConfig(moments="grow")
    target = parent.arch.with_sizes(sizes)
    plan = plan_growth(parent, target, config)
    moments = grow_moments(plan, as_moments(gradients(parent, parent.arch)))
    for name, gradient in gradients(inherit(parent, target, config), parent.arch).items():
        is_old = moments[f"step_count.{name}"].expand(gradient.shape) == 7
        scale = gradient.abs().max() + 1e-12
        assert is_old.any(), name
        difference = (moments[f"exp_avg.{name}"] - gradient)[is_old].abs().max()
        assert difference < 1e-9 * scale, name

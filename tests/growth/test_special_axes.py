"""Dimensions with one way to grow: resolution, vocabulary, context, heads' width, embedding."""

from dataclasses import replace

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.operators import OPERATORS, ones_keeping_isometry
from nas_growclip.growth.verify import perturbed, probe, similarity, similarity_change
from nas_growclip.models.arch import END_OF_TEXT, ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.state import TrainConfig, start_training


def contrastive_step(model: Clip, optimizer: torch.optim.Optimizer) -> None:
    images, tokens = probe(model.arch, seed=5, count=6)
    image, text, scale = model(images.to(model.logit_scale.dtype), tokens)
    loss = torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(6))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_positions_resample_as_timm_does_on_a_grid_that_is_not_square(deep_arch: ClipArch) -> None:
    tall = deep_arch.with_size("image.image_height", 16)
    parent = perturbed(Clip(tall))
    target = tall.with_sizes({"image.image_height": 20, "image.image_size": 12})
    child = inherit(parent, target)
    assert (tall.image.grid, target.image.grid) == ((4, 2), (5, 3))
    expected = resample_abs_pos_embed(parent.image.trunk.pos_embed, [5, 3], [4, 2])
    torch.testing.assert_close(child.image.trunk.pos_embed, expected, rtol=1e-5, atol=1e-6)
    assert similarity_change(parent, child) > 1e-4


def test_grids_of_equal_size_but_other_shape_are_resampled(deep_arch: ClipArch) -> None:
    tall = deep_arch.with_sizes({"image.image_size": 8, "image.image_height": 16})
    parent = perturbed(Clip(tall))
    target = replace(tall, image=replace(tall.image, patch_size=8, image_size=32, image_height=16))
    assert (tall.image.grid, target.image.grid) == ((4, 2), (2, 4))
    assert tall.image.num_tokens == target.image.num_tokens
    child = inherit(parent, target)
    expected = resample_abs_pos_embed(parent.image.trunk.pos_embed, [2, 4], [4, 2])
    torch.testing.assert_close(child.image.trunk.pos_embed, expected, rtol=1e-5, atol=1e-6)


def test_positions_of_equal_grids_stay(deep_arch: ClipArch) -> None:
    wide = deep_arch.with_sizes({"image.image_size": 16, "image.image_height": 8})
    parent = perturbed(Clip(wide))
    target = replace(wide, image=replace(wide.image, image_size=32, image_height=16, patch_size=8))
    same_grid = inherit(parent, target)
    torch.testing.assert_close(same_grid.image.trunk.pos_embed, parent.image.trunk.pos_embed)


def test_patches_resize_as_timm_does(deep_parent: Clip) -> None:
    for patch, size in ((8, 16), (6, 12), (2, 8)):
        target = deep_parent.arch.with_sizes({"image.patch_size": patch, "image.image_size": size})
        child = inherit(deep_parent, target)
        expected = resample_patch_embed(
            deep_parent.image.trunk.patch_embed.proj.weight, [patch, patch], "bilinear", False
        )
        torch.testing.assert_close(
            child.image.trunk.patch_embed.proj.weight, expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("sizes", "is_exact"),
    [
        ({"image.patch_size": 6, "image.image_size": 12}, True),
        ({"image.patch_size": 8, "image.image_size": 16}, True),
        ({"image.patch_size": 2}, False),
        ({"image.patch_size": 8}, False),
    ],
)
def test_larger_patches_are_exact_at_the_same_grid_only(
    sizes: dict[str, int], is_exact: bool, deep_parent: Clip
) -> None:
    child = inherit(deep_parent, deep_parent.arch.with_sizes(sizes))
    change = similarity_change(deep_parent, child)
    assert change < 1e-10 if is_exact else change > 1e-4


def test_new_positions_do_not_touch_texts_that_fit(deep_parent: Clip) -> None:
    child = inherit(deep_parent, deep_parent.arch.with_size("text.context_length", 12))
    assert similarity_change(deep_parent, child) < 1e-12
    _, tokens = probe(child.arch)
    end = child.arch.text.end_token
    tokens[:, :-1][tokens[:, :-1] == end] += 1
    tokens[:, -1] = end
    assert torch.isfinite(child.encode_text(tokens)).all()  # a longer text than the parent takes


def test_new_tokens_leave_old_ones_and_can_be_used(deep_arch: ClipArch) -> None:
    parent = perturbed(Clip(deep_arch, seed=1).double())
    child = inherit(parent, deep_arch.with_size("text.vocab_size", 49500))
    assert similarity_change(parent, child) < 1e-12
    rows = child.text.token_embedding.weight
    torch.testing.assert_close(rows[:49408], parent.text.token_embedding.weight)
    assert (rows[49408:].abs().amax(dim=1) > 0).all()
    with_new = torch.tensor([[5, 49450, END_OF_TEXT, 0, 0, 0, 0, 0]])
    with_old = torch.tensor([[5, 17, END_OF_TEXT, 0, 0, 0, 0, 0]])
    assert (child.encode_text(with_new) - child.encode_text(with_old)).abs().max() > 1e-6


def test_head_dim_keeps_heads_and_scales_queries_by_hand(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_size("image.head_dim", 12)
    assert (target.image.num_heads, target.image.heads) == (2, 2)
    child = inherit(deep_parent, target)
    old, new = (
        m.image.trunk.blocks[0].attn.qkv.weight.reshape(3, 2, -1, 16) for m in (deep_parent, child)
    )
    torch.testing.assert_close(new[0, :, :8], old[0] * (12 / 8) ** 0.5)
    assert new[0, :, 8:].abs().max() == 0
    torch.testing.assert_close(new[1:, :, :8], old[1:])
    assert (new[1:, :, 8:].abs().amax(dim=-1) > 0).all()
    assert similarity_change(deep_parent, child) < 1e-12


def test_heads_can_grow_without_width(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_size("text.heads", 5)
    assert target.text.width == 16
    assert similarity_change(deep_parent, inherit(deep_parent, target)) < 1e-12


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 4), (8, 13), (16, 64)])
def test_isometry_keeps_lengths_and_the_vector_of_ones(old: int, new: int) -> None:
    isometry = ones_keeping_isometry(old, new)
    identity = torch.eye(old, dtype=torch.float64)
    torch.testing.assert_close(isometry.T @ isometry, identity, rtol=0, atol=1e-12)
    ones = torch.full((old,), old**-0.5, dtype=torch.float64)
    expected = torch.full((new,), new**-0.5, dtype=torch.float64)
    torch.testing.assert_close(isometry @ ones, expected, rtol=0, atol=1e-12)


def test_embedding_grows_exactly_with_a_shared_encoder(deep_parent: Clip) -> None:
    for size in (24, 32, 40):
        child = inherit(deep_parent, deep_parent.arch.with_size("embed_dim", size))
        assert similarity_change(deep_parent, child) < 1e-12


def test_zero_padding_the_embedding_is_not_exact_with_a_shared_encoder(deep_parent: Clip) -> None:
    """What a plain CLIP may do: the shared blocks' LayerNorms see the new zeros."""
    child = inherit(deep_parent, deep_parent.arch.with_size("embed_dim", 24))
    with torch.no_grad():
        for tower in ("image", "text"):
            rows = getattr(child, tower).projection.weight
            rows.zero_()
            rows[:16] = getattr(deep_parent, tower).projection.weight
    assert similarity_change(deep_parent, child) > 1e-3


def plain_clip(arch: ClipArch) -> Clip:
    return perturbed(Clip(arch.with_size("shared.depth", 0)).double())


def test_embedding_without_shared_encoder_is_lossy_but_alive(deep_arch: ClipArch) -> None:
    parent = plain_clip(deep_arch)
    child = inherit(parent, parent.arch.with_size("embed_dim", 24))
    assert 1e-10 < similarity_change(parent, child) < 2e-6
    before = child.text.projection.weight.detach().clone()
    assert before[16:].abs().max() == 0
    optimizer = torch.optim.SGD(child.parameters(), lr=1.0)
    contrastive_step(child, optimizer)
    assert (child.text.projection.weight - before)[16:].abs().amax(dim=1).min() > 0
    image_before = child.image.projection.weight.detach().clone()
    contrastive_step(child, optimizer)
    assert (child.image.projection.weight - image_before)[16:].abs().amax(dim=1).min() > 0


def test_zero_rows_on_both_sides_of_the_embedding_never_learn(deep_arch: ClipArch) -> None:
    """Why the image tower's new rows are not zero: both at zero is a saddle."""
    parent = plain_clip(deep_arch)
    child = inherit(parent, parent.arch.with_size("embed_dim", 24))
    with torch.no_grad():
        child.image.projection.weight[16:] = 0
    assert similarity_change(parent, child) < 1e-12
    optimizer = torch.optim.SGD(child.parameters(), lr=1.0)
    for _ in range(5):
        contrastive_step(child, optimizer)
    for tower in (child.image, child.text):
        assert tower.projection.weight[16:].abs().max() == 0


def with_norm_pre(arch: ClipArch) -> Clip:
    arch = replace(arch, image=replace(arch.image, norm_pre=True))
    return perturbed(Clip(arch, seed=2).double())


@pytest.mark.parametrize("name", ["exact", "average", "net2net", "hypercloning"])
@pytest.mark.parametrize("ratio", [2, 3])
def test_norm_pre_parents_grow_exactly_at_integer_ratios(
    name: str, ratio: int, deep_arch: ClipArch
) -> None:
    parent = with_norm_pre(deep_arch)
    child = inherit(
        parent, parent.arch.with_size("image.width", 16 * ratio), GrowthConfig(operator=name)
    )
    assert similarity_change(parent, child) < 1e-12
    deeper = inherit(parent, parent.arch.with_sizes({"image.depth": 4, "image.mlp_width": 31}))
    assert similarity_change(parent, deeper) < 1e-12


@pytest.mark.parametrize("name", ["exact", "average", "net2net", "aki"])
def test_norm_pre_parents_refuse_other_ratios_by_name(name: str, deep_arch: ClipArch) -> None:
    parent = with_norm_pre(deep_arch)
    target = parent.arch.with_size("image.width", 24)
    with pytest.raises(ValueError, match=r"since the parent has norm_pre.* got 16 -> 24\. Choose"):
        inherit(parent, target, GrowthConfig(operator=name))


def test_norm_pre_approximation_is_near_and_named(deep_arch: ClipArch) -> None:
    parent = with_norm_pre(deep_arch)
    target = parent.arch.with_size("image.width", 24)
    near = similarity_change(parent, inherit(parent, target, GrowthConfig(norm_pre="approximate")))
    copies = similarity_change(
        parent, inherit(parent, target, GrowthConfig(operator="net2net", norm_pre="approximate"))
    )
    assert 1e-6 < near < copies
    assert near < 0.05


def test_norm_pre_cannot_come_or_go_by_growing(deep_arch: ClipArch) -> None:
    parent = with_norm_pre(deep_arch)
    with pytest.raises(ValueError, match=r"image\.norm_pre must stay the same while growing"):
        inherit(parent, deep_arch)


@pytest.mark.parametrize("name", [n for n, o in OPERATORS.items() if not o.is_learned])
def test_sizes_of_images_and_texts_grow_under_every_operator(name: str, deep_parent: Clip) -> None:
    target = deep_parent.arch.with_sizes(
        {"image.image_size": 12, "text.context_length": 10, "image.head_dim": 10}
    )
    child = inherit(deep_parent, target, GrowthConfig(operator=name))
    assert torch.isfinite(similarity(child, *_double(probe(target)))).all()


def _double(inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs[0].double(), inputs[1]


def test_optimizer_knows_every_parameter_of_a_norm_pre_model(deep_arch: ClipArch) -> None:
    state = start_training(with_norm_pre(deep_arch), TrainConfig())
    counted = sum(len(group["params"]) for group in state.optimizer.param_groups)
    assert counted == len(list(state.model.parameters()))

"""AdamW's moments grow as gradients do: checked against the child's own gradients."""

from dataclasses import replace

import pytest
import torch

from nas_growclip.growth.adam_moments import grow_moments
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.plan import plan_growth
from nas_growclip.growth.verify import probe
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import Clip
from nas_growclip.training.grow_state import ParentState, grow_training
from nas_growclip.training.state import (
    TrainConfig,
    optimizer_tensors,
    restore_optimizer,
    start_training,
)

GROWN = {
    "image.width": 32,
    "image.head_dim": 10,
    "image.mlp_width": 40,
    "image.depth": 3,
    "text.width": 32,
    "text.context_length": 11,
    "text.vocab_size": 289,
    "shared.mlp_width": 24,
}
GROW = GrowthConfig(moments="grow")


def gradients(model: Clip, arch: ClipArch) -> dict[str, torch.Tensor]:
    """Of a model's parameters on the texts of an architecture that it may have grown from."""
    length = arch.text.context_length
    images, _ = probe(model.arch)
    _, tokens = probe(arch)
    tokens = torch.nn.functional.pad(tokens, (0, model.arch.text.context_length - length))
    model.zero_grad()
    image, text, scale = model(images.double(), tokens)
    torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(4)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def as_moments(gradient: dict[str, torch.Tensor], num_steps: int = 7) -> dict[str, torch.Tensor]:
    return {
        f"{key}.{name}": value
        for name, g in gradient.items()
        for key, value in (
            ("exp_avg", g),
            ("exp_avg_sq", g**2),
            ("step_count", torch.tensor(num_steps)),
        )
    }


def grown_by(parent: Clip, operator: str, sizes: dict[str, int]) -> tuple[Clip, dict]:
    target = parent.arch.with_sizes(sizes)
    config = replace(GROW, operator=operator)
    child = inherit(parent, target, config)
    plan = plan_growth(parent, target, config)
    return child, grow_moments(plan, as_moments(gradients(parent, parent.arch)))


def writes_grown_stream(name: str) -> bool:
    streams = ("image.width", "text.width")
    return any(axis.name in streams and axis.role == "write" for axis in param_axes(name).axes)


@pytest.mark.parametrize("operator", ["exact", "hypercloning"])
def test_grown_moments_are_the_childs_gradients_where_entries_are_old(
    operator: str, deep_parent: Clip
) -> None:
    """hypercloning's shares are even, so copies' gradients are in the readers' shares exactly.

    New coordinates of a stream shift the mean of its gradient, so writers' gradients are compared
    after centring.
    """
    sizes = GROWN if operator == "exact" else GROWN | {"image.head_dim": 8}
    child, moments = grown_by(deep_parent, operator, sizes)
    if operator == "hypercloning":
        child = inherit(deep_parent, child.arch, GrowthConfig(operator=operator, snr_db=400.0))
    actual = gradients(child, deep_parent.arch)
    num_checked = 0
    for name, gradient in actual.items():
        if f"exp_avg.{name}" not in moments:
            continue
        is_old = moments[f"step_count.{name}"].expand(gradient.shape) == 7
        scale = gradient.abs().max() + 1e-12
        if operator == "exact" and writes_grown_stream(name):
            axis = gradient.shape.index(32)
            assert (gradient.narrow(axis, 16, 16) != 0).any()
            gradient = gradient - gradient.narrow(axis, 0, 16).mean(axis, keepdim=True)
        for key, expected in (("exp_avg", gradient), ("exp_avg_sq", gradient**2)):
            difference = (moments[f"{key}.{name}"] - expected)[is_old].abs().max()
            assert difference < 1e-9 * scale, f"{key}.{name}"
        assert moments[f"exp_avg.{name}"][~is_old].abs().sum() == 0
        num_checked += bool(is_old.any())
    assert num_checked > 60


def test_entries_that_are_new_have_had_no_steps(deep_parent: Clip) -> None:
    _, moments = grown_by(deep_parent, "exact", GROWN)
    num_steps = moments["step_count.image.trunk.blocks.0.mlp.fc1.weight"]
    assert (num_steps[:20, :16] == 7).all()
    assert (num_steps[20:] == 0).all()
    assert (num_steps[:, 16:] == 0).all()
    assert moments["step_count.shared.blocks.0.norm1.weight"].item() == 7
    inserted = [name for name in moments if ".image.trunk.blocks.1." in name]
    assert inserted == []


def test_only_unchanged_tensors_are_copied_if_asked(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_size("image.mlp_width", 40)
    plan = plan_growth(deep_parent, target, GrowthConfig(moments="copy"))
    parents = as_moments(gradients(deep_parent, deep_parent.arch))
    copied = grow_moments(plan, parents)
    assert "exp_avg.image.trunk.blocks.0.mlp.fc1.weight" not in copied
    key = "exp_avg.image.trunk.blocks.0.attn.qkv.weight"
    assert torch.equal(copied[key], parents[key])
    assert copied[key] is not parents[key]


def test_tensors_that_mix_entries_start_from_zero(deep_parent: Clip) -> None:
    _, moments = grown_by(deep_parent, "exact", {"embed_dim": 24})
    assert "exp_avg.shared.blocks.0.attn.qkv.weight" not in moments
    assert "exp_avg.text.blocks.0.mlp.fc1.weight" in moments


def test_resampled_positions_start_from_zero_but_for_the_class_tokens(deep_parent: Clip) -> None:
    _, moments = grown_by(deep_parent, "exact", {"image.image_size": 16})
    num_steps = moments["step_count.image.trunk.pos_embed"]
    assert (num_steps[:, 0] == 7).all()
    assert (num_steps[:, 1:] == 0).all()
    assert (moments["exp_avg_sq.image.trunk.pos_embed"][:, 1:] == 0).all()


@pytest.mark.parametrize("policy", ["grow", "copy", "reset"])
@pytest.mark.parametrize("operator", ["exact", "average", "net2net", "aki", "random"])
def test_a_grown_training_state_trains(operator: str, policy: str, deep_parent: Clip) -> None:
    config = TrainConfig(ema_decay=0.9)
    ema = {name: value.detach() * 1.1 for name, value in deep_parent.named_parameters()}
    parent = ParentState(deep_parent, as_moments(gradients(deep_parent, deep_parent.arch)), ema)
    growth = GrowthConfig(operator=operator, moments=policy)
    state = grow_training(parent, deep_parent.arch.with_sizes(GROWN), growth, config, 0)
    held = optimizer_tensors(state)
    assert bool(held) == (policy != "reset" and operator != "random")
    assert {n: v.shape for n, v in state.ema.items()} == {
        n: p.shape for n, p in state.model.named_parameters()
    }
    gradients(state.model, deep_parent.arch)
    state.optimizer.step()
    assert all(torch.isfinite(p).all() for p in state.model.parameters())
    tensors = optimizer_tensors(state)
    assert all(
        (value >= 1).all() for key, value in tensors.items() if key.startswith("step_count.")
    )


def test_moving_average_grows_by_the_same_maps(deep_parent: Clip) -> None:
    ema = {name: value.detach() * 1.1 for name, value in deep_parent.named_parameters()}
    averaged = Clip(deep_parent.arch).double()
    averaged.load_state_dict(ema)
    target = deep_parent.arch.with_sizes(GROWN)
    parent = ParentState(deep_parent, ema=ema)
    growth = GrowthConfig(operator="net2net")
    state = grow_training(parent, target, growth, TrainConfig(ema_decay=0.9), 3)
    expected = inherit(averaged, target, growth, seed=3)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(state.ema[name], value.detach(), rtol=0, atol=0)


def test_no_growth_keeps_moments_whole(deep_parent: Clip) -> None:
    moments = as_moments(gradients(deep_parent, deep_parent.arch))
    parent = ParentState(deep_parent, moments)
    state = grow_training(parent, deep_parent.arch, GROW, TrainConfig(), 0)
    for key, value in optimizer_tensors(state).items():
        torch.testing.assert_close(value, moments[key].to(value.dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"exp_avg.text.norm.weight": torch.zeros(3)}, r"must have the shape of its par"),
        (
            lambda t: {"step_count.text.norm.weight": torch.zeros(3)},
            r"'step_count\.text\.norm\.weight' must have",
        ),
        (lambda t: {"exp_avg.text.nose": torch.zeros(3)}, r"'exp_avg\.text\.nose' must belong to"),
    ],
)
def test_moments_of_another_shape_are_refused_by_name(
    change: object, message: str, deep_parent: Clip
) -> None:
    state = start_training(deep_parent, TrainConfig())
    moments = as_moments({n: torch.zeros_like(p) for n, p in deep_parent.named_parameters()})
    with pytest.raises(ValueError, match=message):
        restore_optimizer(state, moments | change(moments))

"""AdamW grown in a loop of one's own: what is kept, what new entries get, what is refused."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.models.clip import Clip
from nas_growclip.training.grow_optimizer import grow_optimizer
from nas_growclip.training.grow_state import ParentState, grow_training
from nas_growclip.training.optimizer import EntrywiseAdamW
from nas_growclip.training.state import TrainConfig, make_optimizer, moments_of
from tests.growth.test_adam_moments import GROW, GROWN, gradients

FC1 = "image.trunk.blocks.0.mlp.fc1.weight"
OLD = (slice(20), slice(16))
"""Entries of it that the parent has."""
INSERTED = "image.trunk.blocks.1.mlp.fc1.weight"


def train(model: Clip, optimizer: AdamW, num_steps: int = 3) -> None:
    for _ in range(num_steps):
        gradients(model, model.arch.with_size("text.context_length", 8))
        optimizer.step()


def trained(parent: Clip, **options: Any) -> AdamW:
    optimizer = AdamW(parent.parameters(), lr=1e-3, **options)
    train(parent, optimizer)
    return optimizer


def state_of(optimizer: AdamW, model: Clip, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = optimizer.state[model.get_parameter(name)]
    return state


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True, "maximize": True}])
def test_without_growth_training_goes_on_as_if_nothing_had_happened(
    options: dict[str, Any], deep_parent: Clip
) -> None:
    optimizer = trained(deep_parent, **options)
    child = inherit(deep_parent, deep_parent.arch)
    grown = grow_optimizer(optimizer, deep_parent, child)
    train(deep_parent, optimizer)
    train(child, grown)
    for name, parameter in deep_parent.named_parameters():
        assert torch.equal(parameter, child.get_parameter(name)), name


def test_old_entries_keep_what_they_have_and_new_ones_begin_at_their_mean(
    deep_parent: Clip,
) -> None:
    optimizer = trained(deep_parent)
    child = inherit(deep_parent, deep_parent.arch.with_size("image.mlp_width", 40))
    grown = grow_optimizer(optimizer, deep_parent, child)
    before, after = state_of(optimizer, deep_parent, FC1), state_of(grown, child, FC1)
    assert after["step"] == before["step"] == 3
    torch.testing.assert_close(after["exp_avg"][:20], before["exp_avg"], rtol=0, atol=0)
    torch.testing.assert_close(after["exp_avg_sq"][:20], before["exp_avg_sq"], rtol=0, atol=0)
    assert (after["exp_avg"][20:] == 0).all()
    mean = before["exp_avg_sq"].mean().expand(20, 16)
    torch.testing.assert_close(after["exp_avg_sq"][20:], mean)
    train(child, grown)
    assert state_of(grown, child, FC1)["step"] == 6
    assert state_of(optimizer, deep_parent, FC1)["step"] == 3


def test_tensors_without_old_entries_begin_afresh(deep_parent: Clip) -> None:
    optimizer = trained(deep_parent)
    child = inherit(deep_parent, deep_parent.arch.with_sizes(GROWN))
    grown = grow_optimizer(optimizer, deep_parent, child)
    assert child.get_parameter(INSERTED) not in grown.state
    train(child, grown, num_steps=1)
    assert state_of(grown, child, INSERTED)["step"] == 1
    assert state_of(grown, child, FC1)["step"] == 4


def test_first_steps_of_new_entries_are_no_longer_than_the_rate(deep_parent: Clip) -> None:
    """With a second moment of zero they are (1 - beta1) / sqrt(1 - beta2) rates long: 3.2."""
    optimizer = trained(deep_parent, weight_decay=0.0)
    for state in optimizer.state.values():  # settled, of gradients of size one
        state["step"].fill_(10_000)
        state["exp_avg"].zero_()
        state["exp_avg_sq"].fill_(1)
    child = inherit(deep_parent, deep_parent.arch.with_size("image.mlp_width", 40))
    rates = {}
    for name in ("mean", "zero"):
        grown = grow_optimizer(optimizer, deep_parent, child)
        weight = child.get_parameter(FC1)
        if name == "zero":
            grown.state[weight]["exp_avg_sq"][20:] = 0
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        grown.step()
        rates[name] = ((weight.detach() - before)[20:].abs() / 1e-3).median().item()
    assert rates["mean"] == pytest.approx(0.1, rel=1e-2)
    assert rates["zero"] == pytest.approx(3.16, rel=1e-2)


@pytest.mark.parametrize("operator", ["exact", "net2net", "hypercloning", "random"])
def test_entrywise_adamw_grows_as_in_a_run(operator: str, deep_parent: Clip) -> None:
    config = TrainConfig()
    optimizer = make_optimizer(deep_parent, config)
    train(deep_parent, optimizer)
    growth, target = replace(GROW, operator=operator), deep_parent.arch.with_sizes(GROWN)
    parent = ParentState(deep_parent, moments_of(deep_parent, optimizer))
    expected = grow_training(parent, target, growth, config, seed=3)
    child = inherit(deep_parent, target, growth, seed=3)
    grown = grow_optimizer(optimizer, deep_parent, child, growth, seed=3)
    assert type(grown) is EntrywiseAdamW
    train(expected.model, expected.optimizer)
    train(child, grown)
    for name, parameter in expected.model.named_parameters():
        torch.testing.assert_close(child.get_parameter(name), parameter, rtol=0, atol=0)
    counts = [count.max() for key, count in moments_of(child, grown).items() if "count" in key]
    assert max(counts) == (3 if operator == "random" else 6)


def groups_of(optimizer: AdamW, model: Clip) -> dict[str, float]:
    """The rate of every parameter."""
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rate[p] for name, p in model.named_parameters() if p in rate}


def test_each_parameter_stays_in_its_group(deep_parent: Clip) -> None:
    """A rate for each block and one for the rest; the first text block is frozen."""
    named = list(deep_parent.named_parameters())
    blocks = [f"image.trunk.blocks.{number}." for number in (0, 1)]
    members = [[p for n, p in named if n.startswith(block)] for block in blocks]
    others = [p for n, p in named if not n.startswith(("image.trunk.blocks", "text.blocks.0."))]
    optimizer = AdamW(
        [{"params": members[0], "lr": 0.1}, {"params": members[1], "lr": 0.2}, {"params": others}],
        lr=0.3,
        betas=(0.8, 0.9),
    )
    target = deep_parent.arch.with_sizes({"image.depth": 4, "text.depth": 3})
    child = inherit(deep_parent, target)
    rates = groups_of(grow_optimizer(optimizer, deep_parent, child), child)
    found = [rates[f"image.trunk.blocks.{number}.norm1.weight"] for number in range(4)]
    assert found == [0.1, 0.1, 0.2, 0.2]
    assert "text.blocks.0.norm1.weight" not in rates
    assert rates["text.blocks.2.norm1.weight"] == rates["logit_scale"] == 0.3
    grown = grow_optimizer(optimizer, deep_parent, child)
    assert [g["betas"] for g in grown.param_groups] == [(0.8, 0.9)] * 3


def test_blocks_of_an_encoder_that_had_none_join_another_encoders(deep_parent: Clip) -> None:
    parent = Clip(deep_parent.arch.with_size("shared.depth", 0))
    decayed = [p for p in parent.parameters() if p.ndim > 1]
    plain = [p for p in parent.parameters() if p.ndim <= 1]
    optimizer = AdamW([{"params": decayed, "lr": 0.1}, {"params": plain, "lr": 0.2}])
    child = inherit(parent, parent.arch.with_size("shared.depth", 1))
    rates = groups_of(grow_optimizer(optimizer, parent, child), child)
    assert rates["shared.blocks.0.attn.qkv.weight"] == 0.1
    assert rates["shared.blocks.0.attn.qkv.bias"] == 0.2
    assert rates.keys() == dict(child.named_parameters()).keys()


def test_what_is_not_the_parents_goes_along(deep_parent: Clip) -> None:
    head = torch.nn.Parameter(torch.ones(3).double())
    optimizer = AdamW([*deep_parent.parameters(), head])
    head.grad = torch.ones_like(head)
    train(deep_parent, optimizer, num_steps=2)
    child = inherit(deep_parent, deep_parent.arch.with_sizes(GROWN))
    grown = grow_optimizer(optimizer, deep_parent, child)
    assert grown.state[head]["step"] == 2
    assert grown.state[head]["exp_avg"] is not optimizer.state[head]["exp_avg"]
    (group,) = grown.param_groups
    assert set(group["params"]) == {head, *child.parameters()}


def test_the_state_loads_into_a_new_adamw(deep_parent: Clip) -> None:
    optimizer = trained(deep_parent)
    child = inherit(deep_parent, deep_parent.arch.with_sizes(GROWN))
    grown = grow_optimizer(optimizer, deep_parent, child)
    twin = copy.deepcopy(child)
    loaded = AdamW(twin.parameters())
    loaded.load_state_dict(copy.deepcopy(grown.state_dict()))
    train(child, grown)
    train(twin, loaded)
    for name, parameter in twin.named_parameters():
        assert torch.equal(parameter, child.get_parameter(name)), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, lr=0.1), r"must be torch\.optim\.AdamW or .* but got torch\.optim\.sgd"),
        (lambda p: Adam(p, lr=0.1), r"but got torch\.optim\.adam\.Adam\. Make a new one"),
        (lambda p: AdamW(p, amsgrad=True), r"must have amsgrad=False, but has True"),
        (lambda p: AdamW([torch.ones(1)]), r"must train the parent's parameters, but has none"),
    ],
)
def test_what_cannot_grow_is_refused(make: Any, message: str, deep_parent: Clip) -> None:
    child = inherit(deep_parent, deep_parent.arch.with_sizes(GROWN))
    with pytest.raises(ValueError, match=message):
        grow_optimizer(make(deep_parent.parameters()), deep_parent, child)


def test_a_child_of_another_parent_is_refused(deep_parent: Clip) -> None:
    optimizer = trained(deep_parent)
    smaller = Clip(deep_parent.arch.with_size("image.depth", 1))
    with pytest.raises(ValueError, match=r"image\.depth must be at least the parent's"):
        grow_optimizer(optimizer, deep_parent, smaller)


def test_moments_grow_whatever_the_config_says(deep_parent: Clip) -> None:
    optimizer = trained(deep_parent)
    target = deep_parent.arch.with_size("image.mlp_width", 40)
    config = GrowthConfig(moments="reset", pim="ema", momentum=0.5)
    grown = grow_optimizer(optimizer, deep_parent, inherit(deep_parent, target), config)
    assert len(grown.state) == len(list(deep_parent.parameters()))

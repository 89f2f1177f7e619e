"""PIM in its variants: what each blends, what it leaves alone, and which keep the function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.inputs import NO_INPUTS, GrowthInputs
from nas_growclip.growth.pim import PIM_GROUPS, PIM_VARIANTS
from nas_growclip.growth.verify import perturbed, random_pair, similarity_change
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import Clip

GROWN = {"image.width": 32, "image.depth": 3, "text.mlp_width": 24, "shared.mlp_width": 24}


def grown(
    parent: Clip, inputs: GrowthInputs = NO_INPUTS, **settings: object
) -> dict[str, torch.Tensor]:
    target, config = parent.arch.with_sizes(GROWN), GrowthConfig(**settings)
    return dict(inherit(parent, target, config, seed=2, inputs=inputs).named_parameters())


def fresh_of(parent: Clip) -> dict[str, torch.Tensor]:
    return dict(Clip(parent.arch.with_sizes(GROWN), seed=2).double().named_parameters())


def test_convex_pim_is_the_straight_line_between_inherited_and_fresh(deep_parent: Clip) -> None:
    whole, part, fresh = grown(deep_parent), grown(deep_parent, momentum=0.3), fresh_of(deep_parent)
    for name, value in part.items():
        if param_axes(name).is_linear:
            line = 0.3 * whole[name] + 0.7 * fresh[name]
            torch.testing.assert_close(value, line, rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.5, 0.0])
def test_convex_pim_below_one_changes_the_function(momentum: float, deep_parent: Clip) -> None:
    child = inherit(
        deep_parent, deep_parent.arch.with_sizes(GROWN), GrowthConfig(momentum=momentum)
    )
    assert similarity_change(deep_parent, child) > 1e-3


@settings(max_examples=20)
@given(
    seed=st.integers(0, 200),
    m=st.floats(0, 1),
    operator=st.sampled_from(["exact", "average", "net2net"]),
    depth_operator=st.sampled_from(["identity", "cancel", "gated"]),
)
def test_null_space_pim_is_exact_at_every_momentum(
    seed: int, m: float, operator: str, depth_operator: str
) -> None:
    dimensions = ("image.width", "image.mlp_width", "text.heads", "text.depth", "shared.depth")
    parent_arch, child_arch = random_pair(seed, dimensions, integer_ratio=True)
    parent = perturbed(Clip(parent_arch, seed=seed).double(), seed)
    pim = {"pim": "null_space", "momentum": m, "depth_operator": depth_operator}
    child = inherit(parent, child_arch, GrowthConfig(operator=operator, **pim), seed=seed)
    assert similarity_change(parent, child) < 1e-10


def test_null_space_pim_moves_copies_apart_and_inserted_blocks_to_fresh(deep_parent: Clip) -> None:
    fresh = fresh_of(deep_parent)
    inner = "image.trunk.blocks.1.mlp.fc1.weight"  # inserted
    whole, none = (
        grown(deep_parent, operator="net2net", pim="null_space", momentum=m) for m in (1.0, 0.0)
    )
    torch.testing.assert_close(none[inner], fresh[inner], rtol=0, atol=0)
    reader = "text.blocks.0.mlp.fc2.weight"  # reads copied units
    moved = none[reader] - whole[reader]
    assert moved.abs().max() > 1e-3
    unit_sums = torch.zeros(16, 12, dtype=torch.float64)
    sources = torch.cdist(
        none["text.blocks.0.mlp.fc1.weight"], deep_parent.text.blocks[0].mlp.fc1.weight
    ).argmin(dim=1)
    unit_sums.index_add_(1, sources, moved.detach())
    assert unit_sums.abs().max() < 1e-12


def test_budgeted_pim_finds_the_smallest_momentum_within_its_budget(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_sizes(GROWN)

    def loss(model: Clip) -> float:
        return similarity_change(deep_parent, model)

    inputs = GrowthInputs(validation_loss=loss)
    for budget in (0.02, 0.2):
        child = inherit(
            deep_parent, target, GrowthConfig(pim="budgeted", budget=budget), inputs=inputs
        )
        momentum = momentum_of(child, deep_parent)
        assert loss(child) <= budget
        below = inherit(deep_parent, target, GrowthConfig(momentum=momentum - 1 / 64))
        assert loss(below) > budget or momentum == pytest.approx(1 / 64)
    whole = inherit(deep_parent, target, GrowthConfig(pim="budgeted", budget=0.0), inputs=inputs)
    assert momentum_of(whole, deep_parent) == pytest.approx(1.0)


def momentum_of(child: Clip, parent: Clip) -> float:
    name = "text.blocks.0.attn.qkv.weight"
    whole, fresh = (
        inherit(parent, child.arch, GrowthConfig(momentum=m)).state_dict()[name] for m in (1.0, 0.0)
    )
    value = child.state_dict()[name]
    return float(((value - fresh) / (whole - fresh)).median())


def test_ema_variant_inherits_the_moving_average(deep_parent: Clip) -> None:
    ema = {name: 2 * value.detach() for name, value in deep_parent.named_parameters()}
    target = deep_parent.arch.with_sizes(GROWN)
    child = inherit(deep_parent, target, GrowthConfig(pim="ema"), inputs=GrowthInputs(ema=ema))
    doubled = Clip(deep_parent.arch).double()
    doubled.load_state_dict(ema)
    expected = inherit(doubled, target)
    assert all(map(torch.equal, child.parameters(), expected.parameters()))


def test_shrink_and_perturb_by_hand(deep_parent: Clip) -> None:
    whole, fresh = grown(deep_parent), fresh_of(deep_parent)
    shrunk = grown(deep_parent, pim="shrink_perturb", momentum=0.4, perturbation=0.25)
    name = "text.blocks.1.attn.proj.weight"
    expected = 0.4 * whole[name] + 0.25 * fresh[name]
    torch.testing.assert_close(shrunk[name], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(shrunk["logit_scale"], whole["logit_scale"])


@pytest.mark.parametrize("group", PIM_GROUPS)
@pytest.mark.parametrize("pim", ["convex", "shrink_perturb"])
def test_excluded_groups_are_inherited_whole(group: str, pim: str, deep_parent: Clip) -> None:
    whole = grown(deep_parent)
    kept = grown(deep_parent, pim=pim, momentum=0.5, pim_exclude=(group,))
    unequal = {n for n in whole if not torch.equal(whole[n], kept[n])}
    assert unequal
    silent = {f"image.trunk.blocks.1.{end}.weight" for end in ("attn.proj", "mlp.fc2")}
    parts = PIM_GROUPS[group]
    excluded = {n for n in whole if any(part in n for part in parts)} if parts else silent
    assert excluded
    assert not unequal & excluded


def test_every_variant_but_shrinking_is_plain_inheriting_at_momentum_one(
    deep_parent: Clip,
) -> None:
    whole = grown(deep_parent)
    ema = {name: value.detach() for name, value in deep_parent.named_parameters()}
    inputs = GrowthInputs(validation_loss=lambda model: 0.0, ema=ema)
    for name in set(PIM_VARIANTS) - {"shrink_perturb", "budgeted"}:
        same = grown(deep_parent, pim=name, inputs=inputs)
        assert all(torch.equal(whole[n], same[n]) for n in whole), name


def test_excluding_inserted_blocks_keeps_them_the_identity(tiny_arch: ClipArch) -> None:
    parent = perturbed(Clip(tiny_arch))
    target = tiny_arch.with_size("image.depth", 4)
    child = inherit(parent, target, GrowthConfig(momentum=0.5, pim_exclude=("inserted",)))
    assert child.image.trunk.blocks[1].mlp.fc2.weight.abs().max() == 0
    blended = inherit(parent, target, GrowthConfig(momentum=0.5))
    assert blended.image.trunk.blocks[1].mlp.fc2.weight.abs().max() > 0

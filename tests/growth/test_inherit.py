"""Growing keeps the function: exactly where an operator says so, and not where it does not."""

import random
from dataclasses import replace

import pytest
import torch

from nas_growclip.growth import operators
from nas_growclip.growth.claims import claim_of, is_exact
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.exactness import LOSSY
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.maps import AxisMap, AxisStep
from nas_growclip.growth.operators import OPERATORS, GrowthOperator
from nas_growclip.growth.verify import perturbed, random_pair, similarity_change
from nas_growclip.models.arch import DIMENSIONS, ClipArch
from nas_growclip.models.axes import STREAM_AXES
from nas_growclip.models.clip import Clip

EXACT = {torch.float32: 1e-4, torch.float64: 1e-10}
LOSSY_ABOVE = 1e-8

DATA_FREE = [name for name, operator in OPERATORS.items() if not operator.is_learned]
NOT_DEPTH = [d for d in DIMENSIONS if not d.endswith("depth")]

GROWN = {
    "image.depth": 3,
    "image.width": 32,
    "image.mlp_width": 40,
    "text.depth": 3,
    "text.width": 32,
    "text.mlp_width": 36,
    "shared.depth": 3,
    "shared.mlp_width": 24,
    "embed_dim": 32,
}


def child_sizes(arch: ClipArch, dimension: str, *, ratio: float) -> dict[str, int]:
    if dimension == "text.vocab_size":
        return {dimension: arch.text.vocab_size + 7}
    if dimension == "image.patch_size":  # at the same grid
        return {d: round(arch.size(d) * ratio) for d in (dimension, "image.image_size")}
    return {dimension: round(arch.size(dimension) * ratio)}


@pytest.mark.parametrize("ratio", [1.5, 2.0])
@pytest.mark.parametrize("dimension", NOT_DEPTH)
@pytest.mark.parametrize("name", DATA_FREE)
def test_operator_is_exact_where_it_claims_and_nowhere_else(
    name: str, dimension: str, ratio: float, deep_parent: Clip
) -> None:
    arch = deep_parent.arch.with_sizes(child_sizes(deep_parent.arch, dimension, ratio=ratio))
    if name == "hypercloning" and ratio == 1.5 and not _is_special(dimension):
        with pytest.raises(ValueError, match="must be a multiple of the old one"):
            inherit(deep_parent, arch, GrowthConfig(operator=name))
        return
    change = similarity_change(deep_parent, inherit(deep_parent, arch, GrowthConfig(operator=name)))
    if is_exact(deep_parent.arch, arch, GrowthConfig(operator=name)):
        assert change < EXACT[torch.float64]
    else:
        assert change > LOSSY_ABOVE


def _is_special(dimension: str) -> bool:
    own_way = ("image_size", "image_height", "head_dim", "patch_size", "length", "vocab_size")
    return dimension.endswith(own_way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_composed_growth_of_random_pairs_is_exact(dtype: torch.dtype) -> None:
    for seed in range(16):
        parent_arch, child_arch = random_pair(seed)
        parent = perturbed(Clip(parent_arch, seed=seed).to(dtype), seed)
        config = GrowthConfig(operator="exact" if seed % 2 else "average")
        if is_exact(parent_arch, child_arch, config):
            child = inherit(parent, child_arch, config, seed=seed)
            assert similarity_change(parent, child) < EXACT[dtype], f"seed {seed}"


def test_random_pairs_are_mostly_claimed_exact() -> None:
    """Otherwise the test above would test nothing."""
    claimed = [is_exact(*random_pair(seed), GrowthConfig()) for seed in range(40)]
    assert sum(claimed) > 25


def unscaled(step: AxisStep) -> AxisMap:
    """Exact growth without the scaling of stream and gain: what LayerNorm does not forgive."""
    maps = operators.exact_axis(step)
    if step.axis not in STREAM_AXES:
        return maps
    keep = torch.eye(step.new, step.old, dtype=torch.float64)
    return replace(
        maps, write=replace(maps.write, matrix=keep), gain=replace(maps.gain, matrix=keep)
    )


def uncentred(step: AxisStep) -> AxisMap:
    """Exact growth without the centring of what writes the stream."""
    maps = operators.exact_axis(step)
    return replace(maps, write=replace(maps.write, is_centred=False))


@pytest.mark.parametrize("axis", [unscaled, uncentred])
def test_exact_growth_needs_each_of_its_parts(
    axis: operators.AxisOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "broken", GrowthOperator(axis, {}))
    changes = []
    for seed in range(8):
        parent_arch, child_arch = random_pair(seed, ["image.width"])
        parent = perturbed(Clip(parent_arch, seed=seed).double(), seed)
        child = inherit(parent, child_arch, GrowthConfig(operator="broken"), seed=seed)
        changes.append(similarity_change(parent, child))
    assert min(changes) > 1e-6
    assert max(changes) > 1e-3


@pytest.mark.parametrize("name", DATA_FREE)
def test_parent_is_never_changed(name: str, deep_parent: Clip) -> None:
    before = {key: value.clone() for key, value in deep_parent.state_dict().items()}
    inherit(
        deep_parent, deep_parent.arch.with_sizes(GROWN), GrowthConfig(operator=name, momentum=0.5)
    )
    for key, value in deep_parent.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{"momentum": 0.5}, {"operator": "random"}, {"operator": "ligo"}, {"pim": "shrink_perturb"}],
)
def test_no_growth_is_a_copy_under_every_operator_and_momentum(
    settings: dict[str, object], deep_parent: Clip
) -> None:
    """Or the control, which gives every gain its zero, would be another model than the parent."""
    child = inherit(deep_parent, deep_parent.arch, GrowthConfig(**settings))
    assert all(map(torch.equal, child.parameters(), deep_parent.parameters()))
    assert child is not deep_parent


def test_child_shares_no_memory_with_its_parent(tiny_parent: Clip, tiny_arch: ClipArch) -> None:
    child = inherit(tiny_parent, tiny_arch)
    before = {key: value.clone() for key, value in tiny_parent.state_dict().items()}
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    for key, value in tiny_parent.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", DATA_FREE)
def test_same_seed_gives_the_same_child(name: str, deep_parent: Clip) -> None:
    target = deep_parent.arch.with_sizes(GROWN)
    one, two, other = (
        inherit(deep_parent, target, GrowthConfig(operator=name), seed=s) for s in (3, 3, 4)
    )
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("name", [n for n in DATA_FREE if n not in ("aki", "random")])
def test_two_steps_keep_the_function_as_one_does(name: str, deep_parent: Clip) -> None:
    target = deep_parent.arch.with_sizes(GROWN)
    half_way = deep_parent.arch.with_sizes({"image.width": 32, "text.mlp_width": 36})
    twice = inherit(
        inherit(deep_parent, half_way, GrowthConfig(operator=name)),
        target,
        GrowthConfig(operator=name),
    )
    once = inherit(deep_parent, target, GrowthConfig(operator=name))
    if is_exact(deep_parent.arch, target, GrowthConfig(operator=name)):
        assert similarity_change(once, twice) < EXACT[torch.float64]
    else:
        assert similarity_change(once, twice) > LOSSY_ABOVE


def test_two_exact_steps_leave_inherited_weights_as_one_step_does(deep_parent: Clip) -> None:
    """Scales multiply: c(16 -> 24) c(24 -> 40) = c(16 -> 40), and centring twice is centring."""
    arch = deep_parent.arch
    target = arch.with_size("image.width", 40)
    once = inherit(deep_parent, target).state_dict()
    between = inherit(deep_parent, arch.with_size("image.width", 24))
    twice = inherit(between, target).state_dict()
    for key, rows in (
        ("image.trunk.blocks.0.mlp.fc2.weight", slice(None)),
        ("image.trunk.blocks.1.norm1.weight", slice(16)),
        ("image.trunk.patch_embed.proj.weight", slice(None)),
    ):
        torch.testing.assert_close(once[key][rows], twice[key][rows], rtol=0, atol=1e-12)


def test_order_of_composition_does_not_matter_to_the_function(deep_parent: Clip) -> None:
    steps = list(GROWN.items())
    for seed in range(3):
        order = random.Random(seed).sample(steps, len(steps))
        child, arch = deep_parent, deep_parent.arch
        for dimension, size in order:
            arch = arch.with_size(dimension, size)
            child = inherit(child, arch, seed=seed)
        assert similarity_change(deep_parent, child) < EXACT[torch.float64], order


def test_first_shared_block_is_inserted_without_a_change(tiny_arch: ClipArch) -> None:
    parent = perturbed(Clip(tiny_arch.with_size("shared.depth", 0)).double())
    for sizes in ({}, {"embed_dim": 48}):
        child = inherit(parent, tiny_arch.with_sizes(sizes))
        assert similarity_change(parent, child) < EXACT[torch.float64]


def test_width_growth_of_one_linear_agrees_with_growing_it_by_hand(tiny_parent: Clip) -> None:
    child = inherit(tiny_parent, tiny_parent.arch.with_size("image.width", 48))
    old = tiny_parent.image.trunk.blocks[0].mlp.fc2
    new = child.image.trunk.blocks[0].mlp.fc2
    scale = (48 / 32) ** 0.5
    centred = scale * (old.weight - old.weight.mean(dim=0, keepdim=True))
    torch.testing.assert_close(new.weight[:32], centred, rtol=1e-5, atol=1e-6)
    assert new.weight[32:].abs().max() == 0
    gain = child.image.trunk.blocks[0].norm2.weight
    torch.testing.assert_close(gain[:32], tiny_parent.image.trunk.blocks[0].norm2.weight / scale)
    assert (gain[32:] != 0).all()


def test_net2net_copies_units_and_splits_fan_out_by_hand(deep_parent: Clip) -> None:
    child = inherit(
        deep_parent,
        deep_parent.arch.with_size("image.mlp_width", 30),
        GrowthConfig(operator="net2net"),
    )
    old, new = (m.image.trunk.blocks[0].mlp for m in (deep_parent, child))
    torch.testing.assert_close(new.fc1.weight[:20], old.fc1.weight, rtol=0, atol=0)
    sums = torch.zeros_like(old.fc2.weight)
    for unit, row in enumerate(new.fc1.weight):
        source = int((old.fc1.weight - row).abs().sum(dim=1).argmin())
        torch.testing.assert_close(row, old.fc1.weight[source], rtol=0, atol=0)
        sums[:, source] += new.fc2.weight[:, unit]
    torch.testing.assert_close(sums, old.fc2.weight, rtol=0, atol=1e-12)


def test_hypercloning_noise_has_the_asked_ratio_and_cancels(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_size("image.mlp_width", 40)
    quiet = inherit(deep_parent, target, GrowthConfig(operator="hypercloning", snr_db=300.0))
    noisy = inherit(deep_parent, target, GrowthConfig(operator="hypercloning", snr_db=10.0))
    clean, with_noise = (m.image.trunk.blocks[1].mlp.fc2.weight for m in (quiet, noisy))
    noise = with_noise - clean
    ratio = 10 * torch.log10(clean.square().sum() / noise.square().sum())
    assert ratio.item() == pytest.approx(10.0, abs=1e-6)
    torch.testing.assert_close(noise[:, :20], -noise[:, 20:], rtol=0, atol=1e-12)


def test_aki_takes_new_rows_from_the_block_above(deep_parent: Clip) -> None:
    child = inherit(
        deep_parent, deep_parent.arch.with_size("image.mlp_width", 25), GrowthConfig(operator="aki")
    )
    below, above = (deep_parent.image.trunk.blocks[i].mlp.fc1.weight for i in (0, 1))
    grown = child.image.trunk.blocks[0].mlp.fc1.weight
    torch.testing.assert_close(grown[:20], below, rtol=0, atol=0)
    for row in grown[20:]:
        assert (above - row).abs().sum(dim=1).min() == 0


def test_random_is_a_fresh_model(deep_parent: Clip) -> None:
    target = deep_parent.arch.with_sizes(GROWN)
    child = inherit(deep_parent, target, GrowthConfig(operator="random"), seed=5)
    fresh = Clip(target, seed=5).double()
    assert all(map(torch.equal, child.parameters(), fresh.parameters()))


def test_every_operator_claims_something_for_every_dimension() -> None:
    for name in OPERATORS:
        for dimension in DIMENSIONS:
            claim_of(dimension, GrowthConfig(operator=name))
    assert claim_of("image.depth", GrowthConfig(depth_operator="stack")) is LOSSY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image.width": 16}, r"image\.width must be at least the parent's, but got 32 -> 16"),
        ({"text.depth": 3, "image.depth": 1}, r"image\.depth must be at least the parent's"),
    ],
)
def test_impossible_growth_is_refused(
    change: dict[str, int], message: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    with pytest.raises(ValueError, match=message):
        inherit(tiny_parent, tiny_arch.with_sizes(change))


def test_growth_of_an_encoder_that_is_not_there_is_refused(tiny_arch: ClipArch) -> None:
    arch = tiny_arch.with_size("shared.depth", 0)
    with pytest.raises(ValueError, match=r"shared\.mlp_width has nothing to grow while shared\."):
        inherit(Clip(arch), arch.with_size("shared.mlp_width", 40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.5}, r"momentum: must be in \[0, 1\], but got 1.5"),
        ({"operator": "exakt"}, "operator: must be one of exact"),
        ({"depth_operator": "sideways"}, "depth_operator: must be one of identity"),
        ({"pim": "vague"}, "pim: must be one of convex, null_space"),
        ({"pim_exclude": ("noses",)}, "pim_exclude: must be one of token_embedding"),
        ({"learn_rate": 0.0}, r"learn_rate: must be above 0, but got 0\.0"),
        ({"gate_steps": 0}, "gate_steps: must be 1 or more, but got 0"),
        ({"operator": "ligo"}, "ligo operator must have batches to train on"),
        ({"pim": "ema"}, "pim 'ema' must have the parent's moving average"),
        ({"pim": "budgeted"}, "pim 'budgeted' must have a validation loss"),
    ],
)
def test_bad_arguments_are_refused(
    settings: dict[str, object], message: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    target = tiny_arch.with_size("image.depth", 3)
    with pytest.raises(ValueError, match=message):
        inherit(tiny_parent, target, GrowthConfig(**settings))

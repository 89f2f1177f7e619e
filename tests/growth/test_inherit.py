"""Growing keeps the function: exactly where an operator says so, and not where it does not."""

import random
from collections.abc import Mapping

import pytest
import torch

from nas_growclip.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.growth import operators
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.operators import OPERATORS, AxisMap, Expansion, GrowthOperator
from nas_growclip.growth.space import GROWABLE
from nas_growclip.models.clip import Clip
from nas_growclip.models.towers import END_OF_TEXT
from tests.conftest import perturb

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def similarity(model: Clip, seed: int = 0) -> torch.Tensor:
    """Similarity matrix of random images and texts, the same for every model of one input size."""
    rng = torch.Generator().manual_seed(seed)
    size, context = model.arch.image.image_size, model.arch.text.context_length
    images = torch.randn(4, 3, size, size, generator=rng).to(model.logit_scale.dtype)
    tokens = torch.randint(1, 49000, (4, context), generator=rng)
    for row, end in enumerate(torch.randint(1, context, (4,), generator=rng).tolist()):
        tokens[row, end] = END_OF_TEXT
        tokens[row, end + 1 :] = 0
    with torch.no_grad():
        return model.encode_image(images) @ model.encode_text(tokens).T


def random_archs(seed: int) -> tuple[ClipArch, ClipArch]:
    """A random parent and a random child of it that grows at least one dimension."""
    draw = random.Random(seed)
    image_head, text_head, shared_head = (draw.choice([8, 16]) for _ in range(3))
    parent = ClipArch(
        image=ImageArch(
            depth=draw.randint(1, 3),
            width=image_head * draw.randint(1, 3),
            mlp_width=draw.randint(8, 40),
            patch_size=8,
            image_size=draw.choice([16, 24]),
            head_dim=image_head,
        ),
        text=TextArch(
            depth=draw.randint(1, 3),
            width=text_head * draw.randint(1, 3),
            mlp_width=draw.randint(8, 40),
            context_length=draw.randint(4, 9),
            head_dim=text_head,
        ),
        shared=SharedArch(
            depth=draw.randint(0, 2), mlp_width=draw.randint(8, 40), head_dim=shared_head
        ),
        embed_dim=shared_head * draw.randint(1, 3),
    )
    units = {"image.width": image_head, "text.width": text_head}
    chosen = draw.sample(GROWABLE, draw.randint(1, len(GROWABLE)))
    sizes = {
        d: parent.size(d) + units.get(d, 1) * draw.randint(1, 3 if "depth" in d else 4)
        for d in chosen
    }
    return parent, parent.with_sizes(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_growth_keeps_similarities_of_100_random_pairs(dtype: torch.dtype) -> None:
    for seed in range(100):
        parent_arch, child_arch = random_archs(seed)
        parent = perturb(Clip(parent_arch, seed=seed).to(dtype), seed).eval()
        expected = similarity(parent)
        settings = {"momentum": 1.0} if seed % 2 else {"momentum": seed / 100, "pim": "null_space"}
        child = inherit(parent, child_arch, seed=seed, **settings)
        torch.testing.assert_close(
            similarity(child), expected, rtol=0, atol=TOLERANCE[dtype], msg=f"seed {seed}"
        )


def unscaled(axis: str, old: int, new: int, rng: torch.Generator) -> AxisMap:
    """Exact growth without the scaling of stream and gain: what LayerNorm does not forgive."""
    maps = operators.exact_axis(axis, old, new, rng)
    keep = torch.eye(new, old, dtype=torch.float64)
    centred = keep - keep.sum(dim=1, keepdim=True) / old
    return AxisMap(
        write=Expansion(centred if axis in operators.STREAM_AXES else keep, *_rest(maps.write)),
        read=maps.read,
        gain=Expansion(keep, *_rest(maps.gain)),
        shift=maps.shift,
    )


def _rest(expansion: Expansion) -> tuple[torch.Tensor, bool]:
    return expansion.is_new, expansion.is_free


def test_growth_without_norm_scaling_is_not_exact() -> None:
    broken = GrowthOperator(unscaled, operators.identity_insert, frozenset())
    errors = []
    for seed in range(20):
        parent_arch, child_arch = random_archs(seed)
        if parent_arch.image.width == child_arch.image.width:
            continue
        parent = perturb(Clip(parent_arch, seed=seed).double(), seed).eval()
        child = inherit(parent, child_arch, broken, seed=seed)
        errors.append((similarity(child) - similarity(parent)).abs().max().item())
    assert min(errors) > 1e-6
    assert max(errors) > 1e-3


@pytest.mark.parametrize("dimension", GROWABLE)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_preserves_exactly_what_it_claims(
    name: str, dimension: str, tiny_parent: Clip
) -> None:
    parent = tiny_parent.double()
    grow = 32 if dimension.endswith(".width") else 3
    child_arch = parent.arch.with_size(dimension, parent.arch.size(dimension) + grow)
    child = inherit(parent, child_arch, name)
    error = (similarity(child) - similarity(parent)).abs().max().item()
    if dimension in OPERATORS[name].preserves:
        assert error < 1e-10
    else:
        assert error > 1e-4


@pytest.mark.parametrize("name", OPERATORS)
def test_parent_is_never_changed(name: str, tiny_parent: Clip, tiny_arch: ClipArch) -> None:
    before = {key: value.clone() for key, value in tiny_parent.state_dict().items()}
    inherit(tiny_parent, _grown(tiny_arch), name, momentum=0.5)
    for key, value in tiny_parent.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_child_shares_no_memory_with_its_parent(tiny_parent: Clip, tiny_arch: ClipArch) -> None:
    child = inherit(tiny_parent, tiny_arch)
    expected = similarity(tiny_parent)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.zero_()
    torch.testing.assert_close(similarity(tiny_parent), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_same_seed_gives_the_same_child(name: str, tiny_parent: Clip, tiny_arch: ClipArch) -> None:
    one, two, other = (inherit(tiny_parent, _grown(tiny_arch), name, seed=s) for s in (3, 3, 4))
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not all(
        torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_every_new_unit_learns_within_two_steps(
    name: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    """No dead and no twin units: after two steps every row of every matrix moved, all apart."""
    child = inherit(tiny_parent, _grown(tiny_arch), name).train()
    start = {key: value.detach().clone() for key, value in child.named_parameters()}
    optimizer = torch.optim.AdamW(child.parameters(), lr=1e-3, weight_decay=0.0)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    tokens = child.tokenize([f"number {i} of {i * 7}" for i in range(6)])
    for _ in range(2):
        image, text, scale = child(images, tokens)
        loss = torch.nn.functional.cross_entropy(scale * image @ text.T, torch.arange(6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for key, value in child.named_parameters():
        if value.ndim != 2 or "embedding" in key or "pos_embed" in key:
            continue
        moved = (value - start[key]).abs().amax(dim=1) > 0
        assert moved.all(), f"{key}: rows that did not move: {(~moved).nonzero().ravel().tolist()}"
        distances = torch.cdist(value, value) + torch.eye(len(value))
        assert distances.min() > 1e-6, f"{key}: two rows are twins"


def test_growing_in_two_steps_keeps_the_function_of_growing_at_once(
    tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    parent = tiny_parent.double()
    half_way = tiny_arch.with_sizes({"image.width": 48, "text.mlp_width": 50})
    twice = inherit(inherit(parent, half_way), _grown(tiny_arch))
    once = inherit(parent, _grown(tiny_arch))
    torch.testing.assert_close(similarity(twice), similarity(once), rtol=0, atol=1e-10)


def test_first_shared_block_is_inserted_without_a_change(tiny_arch: ClipArch) -> None:
    parent = perturb(Clip(tiny_arch.with_size("shared.depth", 0))).double().eval()
    child = inherit(parent, tiny_arch)
    torch.testing.assert_close(similarity(child), similarity(parent), rtol=0, atol=1e-10)


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


@pytest.mark.parametrize(("momentum", "pim"), [(0.5, "convex"), (0.0, "convex")])
def test_convex_pim_below_one_changes_the_function(
    momentum: float, pim: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    child = inherit(tiny_parent, tiny_arch, momentum=momentum, pim=pim)
    assert (similarity(child) - similarity(tiny_parent)).abs().max() > 1e-3


def test_convex_pim_is_the_straight_line_between_inherited_and_fresh(
    tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    target = _grown(tiny_arch)
    ends: Mapping[float, dict[str, torch.Tensor]] = {
        m: inherit(tiny_parent, target, momentum=m, seed=2).state_dict() for m in (0.0, 0.3, 1.0)
    }
    fresh = Clip(target, seed=2).state_dict()
    for key in fresh:
        line = 0.3 * ends[1.0][key] + 0.7 * ends[0.0][key]
        torch.testing.assert_close(ends[0.3][key], line, rtol=1e-5, atol=1e-6)
    key = "image.trunk.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(ends[0.0][key], fresh[key])
    for kept in ("logit_scale", "image.trunk.norm.weight", "text.pos_embed"):
        torch.testing.assert_close(ends[0.0][kept], ends[1.0][kept], rtol=0, atol=0)


def test_null_space_pim_moves_inserted_blocks_from_copies_to_fresh(
    tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    target = tiny_arch.with_size("image.depth", 4)
    key = "image.trunk.blocks.1.mlp.fc1.weight"
    copied, fresh = (
        inherit(tiny_parent, target, momentum=m, seed=2, pim="null_space").state_dict()[key]
        for m in (1.0, 0.0)
    )
    torch.testing.assert_close(copied, tiny_parent.image.trunk.blocks[0].mlp.fc1.weight)
    torch.testing.assert_close(fresh, Clip(target, seed=2).state_dict()[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image.width": 16}, r"image\.width must be at least the parent's, but got 32 -> 16"),
        ({"embed_dim": 64}, r"embed_dim cannot grow, but got 32 -> 64"),
        ({"image.patch_size": 16}, r"image\.patch_size cannot grow"),
    ],
)
def test_impossible_growth_is_refused(
    change: dict[str, int], message: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    with pytest.raises(ValueError, match=message):
        inherit(tiny_parent, tiny_arch.with_sizes(change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.5}, "momentum must be between 0 and 1, but got 1.5"),
        ({"operator": "exakt"}, "operator must be one of exact"),
        ({"pim": "vague"}, "pim must be one of convex, null_space"),
    ],
)
def test_bad_arguments_are_refused(
    settings: dict[str, object], message: str, tiny_parent: Clip, tiny_arch: ClipArch
) -> None:
    with pytest.raises(ValueError, match=message):
        inherit(tiny_parent, tiny_arch, **settings)


def _grown(arch: ClipArch) -> ClipArch:
    return arch.with_sizes(
        {
            "image.depth": 3,
            "image.width": 80,
            "image.mlp_width": 100,
            "text.depth": 2,
            "text.width": 48,
            "text.mlp_width": 64,
            "shared.depth": 2,
            "shared.mlp_width": 40,
        }
    )

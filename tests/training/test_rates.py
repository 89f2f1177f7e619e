"""The width rule: each parameter's rate from its row, and what that does to activations."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nas_growclip.data.encoding import PairBatch
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.rates import WIDTHS, base_sizes, rate_multiplier
from nas_growclip.training.state import TrainConfig, make_optimizer, start_training
from tests.support.runs import smoke_config
from tests.support.words import with_words


def arch_of(width: int) -> ClipArch:
    """A model all of whose widths are multiples of one, with heads of 8."""
    image = ImageArch(
        depth=2, width=width, mlp_width=4 * width, patch_size=8, image_size=16, head_dim=8
    )
    text = TextArch(depth=2, width=width, mlp_width=4 * width, context_length=8, head_dim=8)
    shared = SharedArch(depth=1, mlp_width=4 * width, head_dim=8)
    return with_words(ClipArch(image=image, text=text, shared=shared, embed_dim=width))


BASE = arch_of(16)


def multipliers(arch: ClipArch, base: dict[str, int]) -> dict[str, float]:
    return {name: rate_multiplier(name, arch, base) for name, _ in Clip(arch).named_parameters()}


def test_multipliers_are_those_of_the_papers_table() -> None:
    """Table 8: matrices that read a width, 1 / width; inputs, norms, biases, scalars, 1."""
    found = multipliers(arch_of(64), base_sizes(BASE, {}))
    ones = ("bias", "norm", "pos_embed", "cls_token", "token_embedding", "patch_embed", "logit")
    for name, multiplier in found.items():
        assert multiplier == (1.0 if any(part in name for part in ones) else 0.25), name


@pytest.mark.parametrize(
    ("sizes", "slowed"),
    [
        ({"image.mlp_width": 192}, {"image.trunk.blocks.0.mlp.fc2.weight": 1 / 3}),
        ({"text.head_dim": 16}, {"text.blocks.0.attn.proj.weight": 1 / 2}),
        (
            {"image.heads": 6},
            {"image.trunk.blocks.0.attn.proj.weight": 1 / 3},
        ),
        ({"image.patch_size": 16}, {}),
        ({"text.vocab_size": 60_000, "text.context_length": 12, "text.depth": 5}, {}),
        (
            {"embed_dim": 32},
            {
                "shared.blocks.0.attn.qkv.weight": 1 / 2,
                "shared.blocks.0.attn.proj.weight": 1 / 2,
                "shared.blocks.0.mlp.fc1.weight": 1 / 2,
            },
        ),
    ],
)
def test_each_dimension_slows_what_reads_it(
    sizes: dict[str, int], slowed: dict[str, float]
) -> None:
    arch = BASE.with_sizes(sizes)
    for name, multiplier in multipliers(arch, base_sizes(BASE, {})).items():
        first = name.replace("blocks.1.", "blocks.0.")
        assert multiplier == pytest.approx(slowed.get(first, 1.0)), name


def test_a_step_takes_as_much_off_weights_at_every_width() -> None:
    config = TrainConfig(
        weight_decay=0.3, rate_rule="width", rate_base=base_sizes(BASE, {}), learning_rate=0.01
    )
    for width in (16, 64):
        model = Clip(arch_of(width))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in make_optimizer(model, config).param_groups:
            decay = group["rate_multiplier"] * group["weight_decay"]
            for parameter in group["params"]:
                is_linear = param_axes(names[id(parameter)]).is_linear
                assert decay == pytest.approx(0.3 if is_linear else 0.0)


def batches(model: Clip) -> Iterator[PairBatch]:
    captions = tuple(f"picture number {number}" for number in range(16))
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    while True:
        yield PairBatch(images, model.tokenize(list(captions)), captions)


def moved(width: int, rule: str) -> float:
    """How far five steps move the streams before the read-outs, in root mean square."""
    base = base_sizes(BASE, {}) if rule == "width" else {}
    config = TrainConfig(
        learning_rate=3e-3, warmup_steps=0, weight_decay=0.0, rate_rule=rule, rate_base=base
    )
    distances = []
    for seed in range(3):
        state = start_training(Clip(arch_of(width), seed=seed), config)
        batch = next(batches(state.model))
        before = streams(state.model, batch)
        train(state, batches(state.model), config, total_steps=1000, until_step=5)
        after = streams(state.model, batch)
        distances += [(a - b).square().mean().sqrt() for a, b in zip(after, before, strict=True)]
    return torch.stack(distances).mean().item()


@torch.no_grad()
def streams(model: Clip, batch: PairBatch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hooks = [
        blocks[-1].register_forward_hook(lambda module, given, output: found.append(output))
        for blocks in (model.image.trunk.blocks, model.text.blocks)
    ]
    model(batch.images, batch.tokens)
    for hook in hooks:
        hook.remove()
    return found


def test_coordinate_check() -> None:
    """Activations move as far in a step at every width by the rule, and ever further without.

    As mup's coord_check (Tensor Programs V, appendix D.1); between widths of 16 and 256 they would
    move 16 times as far if every entry of a matrix pulled the same way.
    """
    slopes = {}
    for rule in ("width", "none"):
        near, far = moved(16, rule), moved(256, rule)
        slopes[rule] = torch.tensor(far / near).log2().item() / 4
    assert abs(slopes["width"]) < 0.15, slopes
    assert slopes["none"] > 0.4, slopes


def test_an_experiment_fills_the_base_from_its_first_parent() -> None:
    config = smoke_config()
    ruled = from_mapping(
        ExperimentConfig,
        to_mapping(config) | {"train": {"rate_rule": "width", "rate_base": {"image.width": 64}}},
        "",
    )
    assert set(ruled.train.rate_base) == set(WIDTHS)
    assert ruled.train.rate_base["image.width"] == 64
    assert ruled.train.rate_base["image.heads"] == 2  # tied to the width, in heads of 32
    assert ruled.train.rate_base["text.width"] == config.parent_arch.text.width
    again = from_mapping(ExperimentConfig, to_mapping(ruled), "")
    assert again == ruled


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"rate_base": {"image.width": 64}}, "rate_base: must be given with rate_rule: width"),
        (
            {"rate_rule": "width", "rate_base": {"image.depth": 1}},
            r"train\.rate_base: must be one of image\.width, .* but got 'image\.depth'",
        ),
        (
            {"rate_rule": "width", "rate_base": {"image.width": 0}},
            r"rate_base\.image\.width: must be 1 or more, but got 0",
        ),
        (
            {"rate_rule": "width", "rate_base": {"image.width": 33}},
            r"train\.rate_base: .*33",
        ),
        ({"rate_rule": "depth"}, "rate_rule"),
    ],
)
def test_bad_bases_are_refused(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(ExperimentConfig, to_mapping(smoke_config()) | {"train": train}, "")


def test_the_rule_leaves_growth_exact() -> None:
    """Rates are no part of a model: a child of a parent trained by the rule computes as it does."""
    config = TrainConfig(rate_rule="width", rate_base=base_sizes(BASE, {}), warmup_steps=0)
    state = start_training(Clip(BASE), config)
    train(state, batches(state.model), config, total_steps=9, until_step=3)
    parent = state.model.double()
    child = inherit(parent, arch_of(40))
    batch = next(batches(parent))
    images = batch.images.double()
    for ours, theirs in zip(
        child(images, batch.tokens)[:2], parent(images, batch.tokens)[:2], strict=True
    ):
        difference = ours @ ours.T - theirs @ theirs.T
        assert difference.abs().max() < 1e-10

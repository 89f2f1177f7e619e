"""Losses by hand, and gradients that are the whole batch's however it is taken apart."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nas_growclip.evaluation.embeddings import one_caption_each
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import perturbed
from nas_growclip.models.arch import ClipArch, dimension_steps
from nas_growclip.models.clip import Clip
from nas_growclip.models.losses import ContrastiveLoss, chance_loss
from nas_growclip.training.backpropagation import Backpropagation
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.support import masked_losses
from tests.support.masked_losses import SCALES, loss_and_gradients, whole_batch
from tests.support.processes import in_two_processes
from tests.training.test_loop import same_batch

BATCH = 7


def batch_of(model: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *model.arch.image.image_shape, generator=generator)
    tokens = model.tokenize([f"picture number {i}" for i in range(BATCH)])
    return images.to(model.logit_scale.dtype), tokens


def backpropagate(
    model: Clip,
    images: torch.Tensor,
    tokens: torch.Tensor,
    part: int = 0,
    image_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    loss_fn = ContrastiveLoss(model.logit_bias is not None)
    return Backpropagation(model, loss_fn, part)(images, tokens, image_ids)


@pytest.fixture(params=[False, True], ids=["clip", "siglip"])
def model(request: pytest.FixtureRequest, tiny_arch: ClipArch) -> Clip:
    return perturbed(Clip(replace(tiny_arch, logit_bias=request.param)).double())


@pytest.mark.parametrize("image_ids", [None, torch.tensor([1, 2, 1, 3, 4, 2, 1])])
@pytest.mark.parametrize("part", [1, 2, 3, 6])
def test_gradient_in_parts_is_the_whole_batchs(
    model: Clip, part: int, image_ids: torch.Tensor | None
) -> None:
    images, tokens = batch_of(model)
    whole_loss = backpropagate(model, images, tokens, image_ids=image_ids)
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = backpropagate(model, images, tokens, part, image_ids)
    assert loss.item() == pytest.approx(whole_loss.item(), rel=1e-12)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == whole.keys() == dict(model.named_parameters()).keys()
    for name, gradient in whole.items():
        scale = gradient.abs().max().clamp(min=1e-12)
        assert (grads[name] - gradient).abs().max() / scale < 1e-6, name


def test_only_one_part_holds_a_graph(model: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = model.encode_image

    def noted(images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(images))
        return encode(images)

    monkeypatch.setattr(model, "encode_image", noted)
    backpropagate(model, *batch_of(model), part=3)
    assert sizes == [3, 3, 1]


def test_losses_are_their_formulas(model: Clip) -> None:
    images, tokens = batch_of(model)
    image, text, *rest = model(images, tokens)
    logits = rest[0] * image @ text.T
    if model.logit_bias is None:
        rows, columns = (functional.log_softmax(side, dim=1).diag() for side in (logits, logits.T))
        expected = -(rows + columns).mean() / 2
    else:
        signs = 2 * torch.eye(BATCH, dtype=logits.dtype) - 1
        expected = -functional.logsigmoid(signs * (logits + rest[1])).sum() / BATCH
    assert backpropagate(model, images, tokens).item() == pytest.approx(expected.item())
    values = tuple(value.item() for value in model.scale_and_bias())
    embedded = one_caption_each(image.detach(), text.detach(), ("",) * BATCH, values)
    measured = contrastive_loss(embedded, BATCH)
    assert measured.value == pytest.approx(expected.item(), rel=1e-5)


def test_guesses_are_the_best_that_know_nothing() -> None:
    logits = torch.linspace(-8, 2, 10_001, dtype=torch.float64)
    each = -functional.logsigmoid(logits) - 15 * functional.logsigmoid(-logits)
    assert chance_loss(has_bias=True, num_pairs=16) == pytest.approx(each.min().item(), rel=1e-6)
    assert chance_loss(has_bias=False, num_pairs=16) == pytest.approx(math.log(16))
    assert chance_loss(has_bias=True, num_pairs=1) == 0.0


def test_a_model_with_a_bias_learns_and_its_child_inherits_it(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5, micro_batch_size=4)
    state = start_training(Clip(replace(tiny_arch, logit_bias=True)), config)
    assert state.model.logit_bias is not None
    assert [v.item() for v in state.model.scale_and_bias()] == pytest.approx([10.0, -10.0])
    train(state, same_batch(state.model), config, total_steps=80, until_step=80)
    batch = next(same_batch(state.model))
    image, text, *_ = state.model(batch.images, batch.tokens)
    assert (image @ text.T).argmax(dim=1).tolist() == list(range(6))
    assert state.model.logit_bias.item() != -10.0
    child = inherit(state.model, state.model.arch.with_size("image.depth", 3))
    assert child.logit_bias is not None
    assert child.logit_bias.item() == state.model.logit_bias.item()


def test_a_bias_is_no_growth(tiny_arch: ClipArch) -> None:
    with pytest.raises(ValueError, match="logit_bias must stay the same while growing"):
        dimension_steps(tiny_arch, replace(tiny_arch, logit_bias=True))


def masked_by_hand(kind: str) -> float:
    """The loss of ``whole_batch``, pair by pair over the candidates of other images."""
    images, texts, ids = whole_batch()
    scale, *bias = SCALES[kind]
    logits = scale * images @ texts.T + (bias[0] if bias else 0.0)
    total = 0.0
    for i in range(len(ids)):
        others = [j for j in range(len(ids)) if j == i or ids[j] != ids[i]]
        if kind == "clip":
            row, column = (torch.logsumexp(side[i, others], 0) for side in (logits, logits.T))
            total += (row + column - 2 * logits[i, i]).item() / 2
        else:
            signs = torch.tensor([1.0 if j == i else -1.0 for j in others])
            total -= functional.logsigmoid(signs * logits[i, others]).sum().item()
    return total / len(ids)


@pytest.mark.parametrize("kind", SCALES)
def test_pairs_of_one_image_are_left_out_of_each_others_candidates(kind: str) -> None:
    assert loss_and_gradients(kind, 0, 1)["loss"] == pytest.approx(masked_by_hand(kind))


@pytest.mark.parametrize("kind", SCALES)
def test_without_repeats_the_loss_is_open_clips_to_the_bit(kind: str) -> None:
    images, texts, _ = whole_batch()
    loss_fn = ContrastiveLoss(kind == "siglip")
    scales = [torch.tensor(value) for value in SCALES[kind]]
    plain = loss_fn(images, texts, *scales)
    assert torch.equal(loss_fn(images, texts, *scales, image_ids=torch.arange(8)), plain)
    assert not torch.equal(loss_fn(images, texts, *scales, image_ids=torch.zeros(8).long()), plain)


def test_two_processes_mask_what_one_masks(tmp_path: Path) -> None:
    """Repeats are in one half and across the halves; losses and gradients are the whole batch's."""
    codes = in_two_processes(lambda: masked_losses.main(tmp_path), tmp_path)
    assert codes == [0, 0], (tmp_path / "0.log").read_text()
    halves = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for kind in SCALES:
        whole = loss_and_gradients(kind, 0, 1)
        mean = sum(half[kind]["loss"] for half in halves) / 2
        assert mean == pytest.approx(whole["loss"]), kind
        summed = [value for half in halves for value in half[kind]["gradients"]]
        assert [value / 2 for value in summed] == pytest.approx(whole["gradients"]), kind

"""One process of two that share a batch in which images repeat, within a half and across."""

import json
from pathlib import Path

import torch

from nas_growclip.models.losses import ContrastiveLoss
from nas_growclip.training.process_group import join_group

IMAGE_IDS = (3, 1, 3, 4, 5, 1, 1, 8)
SCALES = {"clip": (7.0,), "siglip": (7.0, -3.0)}


def whole_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(2, len(IMAGE_IDS), 6, generator=generator, dtype=torch.float64)
    images, texts = torch.nn.functional.normalize(sides, dim=-1)
    return images, texts, torch.tensor(IMAGE_IDS)


def loss_and_gradients(kind: str, rank: int, size: int) -> dict[str, list[float] | float]:
    """Of this process's rows; gradients are summed over the processes."""
    images, texts, ids = whole_batch()
    rows = slice(rank * len(ids) // size, (rank + 1) * len(ids) // size)
    sides = [side[rows].clone().requires_grad_() for side in (images, texts)]
    scales = [torch.tensor(value, dtype=torch.float64) for value in SCALES[kind]]
    loss_fn = ContrastiveLoss(kind == "siglip", rank, size)
    loss = loss_fn(*sides, *scales, image_ids=ids[rows])
    loss.backward()
    gradients = [side.grad for side in sides if side.grad is not None]
    return {"loss": loss.item(), "gradients": torch.cat(gradients, dim=1).flatten().tolist()}


def main(out: Path) -> None:
    group = join_group("cpu")
    results = {kind: loss_and_gradients(kind, group.rank, group.size) for kind in SCALES}
    (out / f"{group.rank}.json").write_text(json.dumps(results))
    if not group.is_leader:
        group.receive()
    group.leave()

"""What the recovery benchmark compares: sizes, data, growths, and the ways to make a child.

To add a way to grow, write one line in ``ARMS``; ``start_arm`` is the only place that makes a
child.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_growclip.data.batches import epoch_seed, fixed_batches
from nas_growclip.data.config import DataConfig, ScenesConfig, WebdatasetConfig
from nas_growclip.data.encoding import PairBatch, PairEncoder
from nas_growclip.data.pairs import ImageTextPairs
from nas_growclip.data.sources.table import open_split
from nas_growclip.evaluation.embeddings import one_caption_each
from nas_growclip.evaluation.metrics import contrastive_loss
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import BISECTIONS
from nas_growclip.growth.inputs import GrowthInputs
from nas_growclip.models.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.grow_state import ParentState, grow_training
from nas_growclip.training.state import TrainConfig, TrainState, start_training

PARENT = ClipArch(
    image=ImageArch(depth=2, width=24, mlp_width=48, patch_size=8, image_size=32, head_dim=24),
    text=TextArch(depth=1, width=24, mlp_width=48, context_length=24, head_dim=24),
    shared=SharedArch(depth=0, mlp_width=48, head_dim=24),
    embed_dim=32,
)
"""As small as it is so that hundreds of runs fit into an hour on two cores."""

WIDER = {"image.width": 2, "image.mlp_width": 2, "text.width": 2, "text.mlp_width": 2}
DEEPER = {"image.depth": 2, "text.depth": 2}
GROWTHS: Mapping[str, Mapping[str, int]] = {
    "width": WIDER,
    "depth": DEEPER,
    "both": WIDER | DEEPER,
}
"""Factors by which the dimensions of both towers grow."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One source of pairs; the parent sees the first half of the training pairs."""

    config: DataConfig
    context_length: int
    """Long enough for nearly all captions."""


def _scenes() -> DataSet:
    config = ScenesConfig(stages=(8000,), validation_pairs=256)
    return DataSet(config=config, context_length=20)


def _pack(folder: str, train: str, val: str, context_length: int) -> DataSet:
    config = WebdatasetConfig(
        stages=(8,),
        train=f"{folder}/{train}",
        validation=f"{folder}/{val}",
        validation_pairs=256,
    )
    return DataSet(config=config, context_length=context_length)


DATA_SETS: Mapping[str, DataSet] = {
    "scenes": _scenes(),
    "fashion_pairs": _pack("research_only/fashion_pairs", "train", "val/00000.tar.gz", 16),
}
"""Rendered scenes, and product photos with their names; folders are relative to ``--data``."""


WIDTH_ONLY = ("width", "both")
DEPTH_ONLY = ("depth", "both")


class Arm(NamedTuple):
    """One way to make a child."""

    growth: GrowthConfig | None
    """None starts from scratch, without the parent."""
    growths: tuple[str, ...] = tuple(GROWTHS)
    """Where it differs from other arms."""

    def extra_steps(self, batch_size: int, validation_pairs: int) -> float:
        """Training steps whose FLOPs making the child costs (forward alone is a third of one)."""
        if self.growth is None:
            return 0.0
        if self.growth.operator == "ligo":
            return self.growth.learn_steps
        measured = BISECTIONS * validation_pairs / (3 * batch_size)
        return measured if self.growth.pim == "budgeted" else 0.0


def _arm(growths: tuple[str, ...] = tuple(GROWTHS), **settings: Any) -> Arm:
    return Arm(GrowthConfig(**settings), growths)


ARMS: Mapping[str, Arm] = {
    "scratch": Arm(None),
    "exact": _arm(),
    "average": _arm(WIDTH_ONLY, operator="average"),
    "net2net": _arm(WIDTH_ONLY, operator="net2net"),
    "hypercloning": _arm(WIDTH_ONLY, operator="hypercloning"),
    "aki": _arm(WIDTH_ONLY, operator="aki"),
    "ligo": _arm(operator="ligo"),
    "cancel": _arm(DEPTH_ONLY, depth_operator="cancel"),
    "gated": _arm(DEPTH_ONLY, depth_operator="gated"),
    "interleave": _arm(DEPTH_ONLY, depth_operator="interleave"),
    "stack": _arm(DEPTH_ONLY, depth_operator="stack"),
    "interpolate": _arm(DEPTH_ONLY, depth_operator="interpolate"),
    "random insert": _arm(DEPTH_ONLY, depth_operator="random"),
    "convex .99": _arm(momentum=0.99),
    "convex .95": _arm(momentum=0.95),
    "convex .9": _arm(momentum=0.9),
    "convex .5": _arm(momentum=0.5),
    "null_space .5": _arm(DEPTH_ONLY, pim="null_space", momentum=0.5),
    "null_space 0": _arm(DEPTH_ONLY, pim="null_space", momentum=0.0),
    "average, null_space 0": _arm(WIDTH_ONLY, operator="average", pim="null_space", momentum=0.0),
    "budgeted": _arm(pim="budgeted"),
    "ema": _arm(pim="ema"),
    "shrink_perturb": _arm(pim="shrink_perturb", momentum=0.6),
    "moments grow": _arm(moments="grow"),
}
"""Arms by name. What is not named is the default: operator ``exact``, depth operator ``identity``,
m = 1, AdamW's moments afresh."""


def start_arm(
    arm: Arm,
    parent_state: ParentState,
    child_arch: ClipArch,
    config: TrainConfig,
    seed: int,
    data: "Encoded",
) -> TrainState:
    """Make a child, ready to train; the parent is left as it is."""
    if arm.growth is None:
        return start_training(Clip(child_arch, seed=seed), config)
    inputs = GrowthInputs(
        validation_loss=lambda model: validation_loss(model, data.validation, config.batch_size),
        batches=lambda _: (
            (batch.images, batch.tokens)
            for batch in draw_batches(data.train, config.batch_size, seed + 1000)
        ),
    )
    return grow_training(parent_state, child_arch, arm.growth, config, seed, inputs)


@torch.no_grad()
def validation_loss(model: Clip, pairs: PairBatch, batch_size: int) -> float:
    """Contrastive loss over batches of the training size."""
    was_training = model.training
    model.eval()
    images, texts = model.encode_image(pairs.images), model.encode_text(pairs.tokens)
    model.train(was_training)
    embedded = one_caption_each(images, texts, pairs.captions, (model.logit_scale.exp().item(),))
    return contrastive_loss(embedded, batch_size).value


def parent_arch(data_set: str) -> ClipArch:
    """The parent for one data set."""
    return PARENT.with_size("text.context_length", DATA_SETS[data_set].context_length)


def child_arch(data_set: str, growth: str) -> ClipArch:
    """What the parent grows into."""
    parent = parent_arch(data_set)
    return parent.with_sizes({d: n * parent.size(d) for d, n in GROWTHS[growth].items()})


class Encoded(NamedTuple):
    """A data set as tensors: decoding again for each of hundreds of runs would dominate."""

    train: PairBatch
    validation: PairBatch

    @property
    def used_tokens(self) -> Tensor:
        """Every token that occurs, in rising order."""
        return torch.cat([self.train.tokens, self.validation.tokens]).unique()


def encode_data(data_set: str, folder: Path | None) -> Encoded:
    """Decode, resize and tokenize every pair once."""
    config = DATA_SETS[data_set].config
    arch = parent_arch(data_set)
    encoder = PairEncoder(arch.image, Clip(arch).tokenize)
    size = config.stages[-1]
    train = open_split(config, folder, "train", size)
    validation = open_split(config, folder, "validation")
    return Encoded(_encode(train, encoder), _encode(validation, encoder))


def _encode(pairs: ImageTextPairs, encoder: PairEncoder) -> PairBatch:
    (batch,) = fixed_batches(pairs, encoder, pairs.num_pairs)
    return batch


def draw_batches(train: PairBatch, batch_size: int, seed: int) -> Iterator[PairBatch]:
    """Endless shuffled batches; an epoch's last partial batch is dropped."""
    for epoch in itertools.count():
        order = np.random.default_rng(epoch_seed(seed, epoch)).permutation(len(train.images))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            pick = torch.from_numpy(order[first : first + batch_size])
            yield PairBatch(train.images[pick], train.tokens[pick], ())


class UsedTokens(nn.Module):
    """A token embedding without the rows of tokens that never occur.

    Those rows get no gradient and are never read, so training is the same; but AdamW and gradient
    clipping over all 49,408 rows would take longer than the rest of the step.
    """

    def __init__(self, weight: Tensor, used: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach()[used].clone())
        rows = torch.full((len(weight),), -1)
        rows[used] = torch.arange(len(used))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens, which keep their numbers; an unused one is an error."""
        return functional.embedding(self.rows[tokens], self.weight)


def drop_unused_tokens(state: TrainState, used: Tensor) -> None:
    """Shorten the token embedding, and its moments, in place."""
    whole = state.model.text.token_embedding.weight
    short = UsedTokens(whole, used)
    state.model.text.token_embedding = short
    for group in state.optimizer.param_groups:
        group["params"] = [short.weight if p is whole else p for p in group["params"]]
    if whole in state.optimizer.state:
        moments = state.optimizer.state.pop(whole)
        state.optimizer.state[short.weight] = {
            name: value[used].clone() if value.shape == whole.shape else value
            for name, value in moments.items()
        }

"""``Clip``: image tower, text tower, shared encoder and temperature.

With ``shared.depth`` 0 it is a plain CLIP (Radford et al., 2021). Embeddings have unit length, so
a matrix product of them holds cosine similarities.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from nas_growclip.models.arch import ClipArch
from nas_growclip.models.meta import on_meta
from nas_growclip.models.tokenizers import Tokenizer
from nas_growclip.models.towers import AttentionPool, ImageTower, SharedEncoder, TextTower

CLIP_SCALE = 1 / 0.07
"""Initial scale of the logits (Radford et al., 2021, section 2.5)."""
SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0
"""Initial scale and bias of SigLIP's logits (Zhai et al., 2023, section 3.2)."""

MAX_LOGIT_SCALE = math.log(100)
"""CLIP clamps the logit scale here while training."""


class Clip(nn.Module):
    """A contrastive image-text model built from a ``ClipArch``, freshly initialised.

    Args:
        arch: The architecture.
        seed: Fixes the initial weights; PyTorch's global random state is left as it was.
    """

    def __init__(self, arch: ClipArch, seed: int = 0) -> None:
        super().__init__()
        self.arch = arch
        self.logit_bias: nn.Parameter | None
        pool_first = arch.shared.depth == 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image = ImageTower(arch.image, arch.embed_dim, pool_first=pool_first)
            self.text = TextTower(arch.text, arch.embed_dim, pool_first=pool_first)
            self.shared = SharedEncoder(arch.shared, arch.embed_dim, arch.shared_heads)
            scale = SIGLIP_SCALE if arch.logit_bias else CLIP_SCALE
            self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
            bias = nn.Parameter(torch.tensor(SIGLIP_BIAS)) if arch.logit_bias else None
            self.register_parameter("logit_bias", bias)
            init_weights(self)

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """Unit-length image embeddings."""
        tokens = self.shared(self.image(images), is_causal=False)
        return functional.normalize(self.image.pool(tokens), dim=-1)

    def encode_text(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch embed_dim"]:
        """Unit-length text embeddings of tokens that hold an end-of-text token each."""
        encoded = self.shared(self.text(tokens), is_causal=self.arch.text.is_causal)
        return functional.normalize(self.text.pool(encoded, tokens), dim=-1)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], tokens: Int[Tensor, "batch context"]
    ) -> tuple[Tensor, ...]:
        """Image and text embeddings, each (batch, embed_dim), and ``scale_and_bias``."""
        return self.encode_image(images), self.encode_text(tokens), *self.scale_and_bias()

    def scale_and_bias(self) -> tuple[Tensor, ...]:
        """The scale of the logits and, where the architecture has one, their bias."""
        scale = self.logit_scale.exp()
        return (scale,) if self.logit_bias is None else (scale, self.logit_bias)

    def scalars(self) -> list[nn.Parameter]:
        """The parameters that are one number: the temperature and, where there is one, the bias."""
        return [p for p in (self.logit_scale, self.logit_bias) if p is not None]

    @property
    def tokenize(self) -> Tokenizer:
        """Makes tokens of texts, cut or padded to the context length."""
        return Tokenizer(self.arch.text.context_length, self.arch.text.tokenizer)

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def empty_model(arch: ClipArch) -> Clip:
    """A model on the meta device: shapes without numbers, which take neither time nor memory."""
    with on_meta():
        return Clip(arch)


@contextmanager
def placed(model: Clip, device: str | None) -> Iterator[None]:
    """Have a model on a device, None being where it is; afterwards it is where it was."""
    home = model.logit_scale.device
    model.to(device or home)
    try:
        yield
    finally:
        model.to(home)


@torch.no_grad()
def init_weights(model: Clip) -> None:
    """Draw CLIP's initial weights (Radford et al., 2021, code): scales follow width and depth."""
    arch = model.arch
    trunk = model.image.trunk
    patch_inputs = 3 * arch.image.patch_size**2
    nn.init.normal_(trunk.patch_embed.proj.weight, std=patch_inputs**-0.5)
    if trunk.patch_embed.proj.bias is not None:
        nn.init.zeros_(trunk.patch_embed.proj.bias)
    if trunk.cls_token is not None:
        nn.init.normal_(trunk.cls_token, std=arch.image.width**-0.5)
    nn.init.normal_(trunk.pos_embed, std=arch.image.width**-0.5)
    nn.init.normal_(model.text.token_embedding.weight, std=0.02)
    nn.init.normal_(model.text.pos_embed, std=0.01)
    if arch.image.pooling == "attention":
        _init_attention_pool(model.image.attn_pool)
    else:
        _init_projection(model.image.projection)
    _init_projection(model.text.projection)
    for blocks in (trunk.blocks, model.text.blocks, model.shared.blocks):
        _init_blocks(list(blocks))


def _init_projection(projection: nn.Linear) -> None:
    nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)


def _init_attention_pool(pool: AttentionPool) -> None:
    """Queries of the size of the keys; the rest as in a block."""
    nn.init.normal_(pool.query)
    for linear in (pool.kv, pool.proj, pool.mlp.fc1, pool.mlp.fc2):
        _init_projection(linear)


def _init_blocks(blocks: Sequence[Block]) -> None:
    for block in blocks:
        width = block.attn.qkv.in_features
        residual_std = width**-0.5 * (2 * len(blocks)) ** -0.5
        stds = {
            block.attn.qkv: width**-0.5,
            block.attn.proj: residual_std,
            block.mlp.fc1: (2 * width) ** -0.5,
            block.mlp.fc2: residual_std,
        }
        for linear, std in stds.items():
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

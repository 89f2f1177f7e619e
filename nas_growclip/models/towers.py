"""The three encoders, from timm's parts, so that one set of growth operators serves them all.

Shapes: tokens are (batch, tokens, width). Each tower projects its tokens to ``embed_dim``, the
width of the shared encoder. Without a shared encoder a tower pools before it projects, which
gives the same embedding for less work. Pooling by attention and a norm behind the pooling come
first in any case: then the shared encoder has one token of each image.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers import Attention, LayerNorm, Mlp, get_act_layer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from nas_growclip.models.arch import ImageArch, SharedArch, TextArch


@functools.cache
def mlp_of_width(mlp_width: int) -> Callable[..., nn.Module]:
    """A timm MLP layer whose hidden width is a whole number rather than a ratio."""

    def build(in_features: int, hidden_features: int, **options: object) -> nn.Module:
        mlp: nn.Module = Mlp(in_features, mlp_width, **options)
        return mlp

    return build


@functools.cache
def attention_of_head_dim(head_dim: int) -> type[nn.Module]:
    """A timm attention layer whose head_dim does not follow from the width."""

    class HeadDimAttention(Attention):  # type: ignore[misc]
        def __init__(self, dim: int, num_heads: int, **options: object) -> None:
            super().__init__(dim, num_heads, attn_head_dim=head_dim, **options)

    return HeadDimAttention


class BlockSizes(NamedTuple):
    """What a transformer block is made of."""

    width: int
    mlp_width: int
    num_heads: int
    head_dim: int
    norm_eps: float = 1e-6
    activation: str = "gelu"

    @property
    def norm_layer(self) -> Callable[..., nn.Module]:
        """A LayerNorm with this epsilon."""
        return functools.partial(LayerNorm, eps=self.norm_eps)

    def layers(self) -> dict[str, object]:
        """The parts as timm's blocks and towers take them."""
        return {
            "norm_layer": self.norm_layer,
            "act_layer": get_act_layer(self.activation),
            "mlp_layer": mlp_of_width(self.mlp_width),
            "attn_layer": attention_of_head_dim(self.head_dim),
        }


def make_blocks(depth: int, sizes: BlockSizes) -> nn.ModuleList:
    """Pre-norm transformer blocks: attention, then MLP, each on the residual stream."""
    return nn.ModuleList(
        Block(sizes.width, sizes.num_heads, qkv_bias=True, **sizes.layers()) for _ in range(depth)
    )


def tower_sizes(arch: ImageArch | TextArch) -> BlockSizes:
    """What a tower's blocks are made of."""
    return BlockSizes(
        arch.width, arch.mlp_width, arch.num_heads, arch.head_dim, arch.norm_eps, arch.activation
    )


class ImageTower(nn.Module):
    """timm's ``VisionTransformer``, pooled and projected to ``embed_dim``."""

    def __init__(self, arch: ImageArch, embed_dim: int, *, pool_first: bool) -> None:
        super().__init__()
        self.arch, self.pool_first = arch, pool_first
        self.trunk = VisionTransformer(
            img_size=arch.image_shape,
            patch_size=arch.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=arch.width,
            depth=arch.depth,
            num_heads=arch.num_heads,
            class_token=arch.class_token,
            pre_norm=arch.norm_pre,
            final_norm=not arch.norm_after_pooling,
            weight_init="skip",
            **tower_sizes(arch).layers(),
        )
        if arch.norm_after_pooling:
            self.norm = LayerNorm(arch.width, eps=arch.norm_eps)
        if arch.pooling == "attention":
            self.attn_pool = AttentionPool(arch, embed_dim)
        else:
            self.projection = nn.Linear(arch.width, embed_dim, bias=arch.projection_bias)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens embed_dim"]:
        """Projected tokens, the class token first; only a pooled one where pooling comes first."""
        tokens = self.trunk(images)
        if self.arch.pooling == "attention":
            pooled: Tensor = self.attn_pool(tokens)[:, None]
            return pooled
        if self.arch.norm_after_pooling:
            tokens = self.norm(self._pooled(tokens)[:, None])
        elif self.pool_first:
            tokens = self._pooled(tokens)[:, None]
        projected: Tensor = self.projection(tokens)
        return projected

    def pool(
        self, tokens: Float[Tensor, "batch tokens embed_dim"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """One vector an image, of what ``forward`` gave, behind the shared encoder."""
        is_pooled = self.pool_first or self.arch.norm_after_pooling
        if is_pooled or self.arch.pooling == "attention":
            return tokens[:, 0]
        return self._pooled(tokens)

    def _pooled(self, tokens: Tensor) -> Tensor:
        if self.arch.pooling == "token":
            return tokens[:, 0]
        return tokens[:, int(self.arch.class_token) :].mean(dim=1)


class AttentionPool(nn.Module):
    """One learned query attends to all tokens, then an MLP: SigLIP's head, its own projection.

    Where others keep a latent vector and a matrix that makes the query of it, here is the query:
    no input changes it.
    """

    def __init__(self, arch: ImageArch, embed_dim: int) -> None:
        super().__init__()
        inner = arch.num_heads * arch.head_dim
        self.num_heads = arch.num_heads
        self.query = nn.Parameter(torch.empty(inner))
        self.kv = nn.Linear(arch.width, 2 * inner)
        self.proj = nn.Linear(inner, embed_dim)
        self.norm = LayerNorm(embed_dim, eps=arch.norm_eps)
        self.mlp = Mlp(embed_dim, arch.mlp_width, act_layer=get_act_layer(arch.activation))

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """The pooled and projected tokens."""
        batch = tokens.shape[0]
        key, value = (
            part.reshape(batch, part.shape[1], self.num_heads, -1).transpose(1, 2)
            for part in self.kv(tokens).chunk(2, dim=-1)
        )
        query = self.query.reshape(1, self.num_heads, 1, -1).expand(batch, -1, -1, -1)
        attended = functional.scaled_dot_product_attention(query, key, value)
        pooled = self.proj(attended.flatten(1))
        projected: Tensor = pooled + self.mlp(self.norm(pooled))
        return projected


class TextTower(nn.Module):
    """A transformer over tokens, pooled and projected to ``embed_dim``."""

    def __init__(self, arch: TextArch, embed_dim: int, *, pool_first: bool) -> None:
        super().__init__()
        self.arch, self.pool_first = arch, pool_first
        self.token_embedding = nn.Embedding(arch.vocab_size, arch.width)
        self.pos_embed = nn.Parameter(torch.empty(arch.context_length, arch.width))
        self.blocks = make_blocks(arch.depth, tower_sizes(arch))
        self.norm = nn.LayerNorm(arch.width, eps=arch.norm_eps)
        self.projection = nn.Linear(arch.width, embed_dim, bias=arch.projection_bias)

    def forward(
        self, tokens: Int[Tensor, "batch context"]
    ) -> Float[Tensor, "batch tokens embed_dim"]:
        """Projected tokens, of the first positions; only the pooled one if nothing is shared."""
        stream = self.token_embedding(tokens) + self.pos_embed[: tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream, is_causal=self.arch.is_causal)
        if self.pool_first:
            stream = self._pooled(stream, tokens)[:, None]
        projected: Tensor = self.projection(self.norm(stream))
        return projected

    def pool(
        self, encoded: Float[Tensor, "batch tokens embed_dim"], tokens: Int[Tensor, "batch context"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """One vector a text, of what ``forward`` gave, behind the shared encoder."""
        return encoded[:, 0] if self.pool_first else self._pooled(encoded, tokens)

    def _pooled(self, stream: Tensor, tokens: Tensor) -> Tensor:
        if self.arch.pooling == "end":
            index = tokens.eq(self.arch.end_token).int().argmax(dim=-1)
            return stream[torch.arange(stream.shape[0], device=stream.device), index]
        return stream[:, 0 if self.arch.pooling == "first" else -1]


class SharedEncoder(nn.Module):
    """Blocks on the projected tokens of either modality; with no block it is the identity.

    There is no norm behind the blocks: embeddings are scaled to unit length anyway, and so the
    first block can be inserted without changing the function.
    """

    def __init__(self, arch: SharedArch, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        sizes = BlockSizes(embed_dim, arch.mlp_width, num_heads, arch.head_dim)
        self.blocks = make_blocks(arch.depth, sizes)

    def forward(
        self, tokens: Float[Tensor, "batch tokens embed_dim"], is_causal: bool
    ) -> Float[Tensor, "batch tokens embed_dim"]:
        """A causal text stays so here too, so that padding never reaches the pooled token."""
        for block in self.blocks:
            tokens = block(tokens, is_causal=is_causal)
        return tokens

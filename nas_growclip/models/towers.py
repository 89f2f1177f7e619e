"""The three encoders, from timm's parts, so that one set of growth operators serves them all.

Shapes: tokens are (batch, tokens, width). Each tower projects its tokens to ``embed_dim``, the
width of the shared encoder. Without a shared encoder a tower pools before it projects, which
gives the same embedding for less work.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers import Attention, LayerNorm, Mlp, get_act_layer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from nas_growclip.models.arch import TOKENIZER_VOCAB_SIZE, ImageArch, SharedArch, TextArch

END_OF_TEXT = TOKENIZER_VOCAB_SIZE - 1
"""Token at which text is pooled; compared by value, so later ids never move the pooling."""


def mlp_of_width(mlp_width: int) -> Callable[..., nn.Module]:
    """A timm MLP layer whose hidden width is a whole number rather than a ratio."""

    def build(in_features: int, hidden_features: int, **options: object) -> nn.Module:
        mlp: nn.Module = Mlp(in_features, mlp_width, **options)
        return mlp

    return build


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
    """timm's ``VisionTransformer`` with a class token, then a projection to ``embed_dim``."""

    def __init__(self, arch: ImageArch, embed_dim: int, *, pool_first: bool) -> None:
        super().__init__()
        self.pool_first = pool_first
        self.trunk = VisionTransformer(
            img_size=arch.image_shape,
            patch_size=arch.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=arch.width,
            depth=arch.depth,
            num_heads=arch.num_heads,
            pre_norm=arch.norm_pre,
            weight_init="skip",
            **tower_sizes(arch).layers(),
        )
        self.projection = nn.Linear(arch.width, embed_dim, bias=False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens embed_dim"]:
        """Projected tokens, the class token first; only that one if there is nothing to share."""
        tokens = self.trunk(images)
        projected: Tensor = self.projection(tokens[:, :1] if self.pool_first else tokens)
        return projected


class TextTower(nn.Module):
    """A causal transformer over tokens, then a projection to ``embed_dim``."""

    def __init__(self, arch: TextArch, embed_dim: int, *, pool_first: bool) -> None:
        super().__init__()
        self.pool_first = pool_first
        self.token_embedding = nn.Embedding(arch.vocab_size, arch.width)
        self.pos_embed = nn.Parameter(torch.empty(arch.context_length, arch.width))
        self.blocks = make_blocks(arch.depth, tower_sizes(arch))
        self.norm = nn.LayerNorm(arch.width, eps=arch.norm_eps)
        self.projection = nn.Linear(arch.width, embed_dim, bias=False)

    def forward(
        self, tokens: Int[Tensor, "batch context"]
    ) -> Float[Tensor, "batch tokens embed_dim"]:
        """Projected tokens; only the end-of-text one if there is nothing to share."""
        stream = self.token_embedding(tokens) + self.pos_embed
        for block in self.blocks:
            stream = block(stream, is_causal=True)
        if self.pool_first:
            stream = pool_text(stream, tokens)[:, None]
        projected: Tensor = self.projection(self.norm(stream))
        return projected


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
        """Text stays causal here too, so that padding never reaches the pooled token."""
        for block in self.blocks:
            tokens = block(tokens, is_causal=is_causal)
        return tokens


def pool_text(
    stream: Float[Tensor, "batch context width"], tokens: Int[Tensor, "batch context"]
) -> Float[Tensor, "batch width"]:
    """The stream at each text's first end-of-text token."""
    index = tokens.eq(END_OF_TEXT).int().argmax(dim=-1)
    return stream[torch.arange(stream.shape[0], device=stream.device), index]

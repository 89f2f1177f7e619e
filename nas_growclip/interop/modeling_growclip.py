"""A CLIP model with a shared encoder, for ``transformers``; needs torch and transformers alone.

Loaded by ``AutoModel.from_pretrained(FOLDER, trust_remote_code=True)``. Two towers project their
tokens to one width; the blocks of the shared encoder, if there are any, run on the tokens of
either. The class token stands for an image, the first end-of-text token for a text. Texts are
causal throughout, so nothing behind their end is ever read and they need no mask. ``config.arch``
holds the architecture under nas_growclip's own names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

END_OF_TEXT = 49407
SHARED_ENCODER = {"norm_eps": 1e-6, "activation": "gelu"}


class GrowClipConfig(PretrainedConfig):
    """The architecture."""

    model_type = "growclip"

    def __init__(self, arch: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.arch = arch or {}


@dataclass
class GrowClipOutput(ModelOutput):
    """Embeddings of unit length, and the logits of every image and every text."""

    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class GrowClipModel(PreTrainedModel):
    """Image tower, text tower, shared encoder and temperature."""

    config_class = GrowClipConfig
    main_input_name = "pixel_values"

    def __init__(self, config: GrowClipConfig) -> None:
        super().__init__(config)
        arch = config.arch
        embed_dim = arch["embed_dim"]
        self.image = ImageTower(arch["image"], embed_dim)
        self.text = TextTower(arch["text"], embed_dim)
        self.shared = SharedEncoder(arch["shared"], embed_dim)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        if arch["logit_bias"]:
            self.logit_bias = nn.Parameter(torch.zeros(()))
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embeddings of unit length of images (batch, 3, height, width)."""
        tokens = self.shared(self.image(pixel_values), is_causal=False)
        return functional.normalize(tokens[:, 0], dim=-1)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings of unit length of token numbers (batch, length); the mask is not needed."""
        tokens = self.shared(self.text(input_ids), is_causal=True)
        end = input_ids.eq(END_OF_TEXT).int().argmax(dim=-1)
        rows = torch.arange(input_ids.shape[0], device=end.device)
        return functional.normalize(tokens[rows, end], dim=-1)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> GrowClipOutput:
        """Embeddings and logits; a softmax over ``logits_per_image`` classifies images."""
        images, texts = self.get_image_features(pixel_values), self.get_text_features(input_ids)
        logits = self.logit_scale.exp() * images @ texts.T
        if self.config.arch["logit_bias"]:
            logits = logits + self.logit_bias
        return GrowClipOutput(logits, logits.T, images, texts)


class ImageTower(nn.Module):
    """A vision transformer with a class token, then a projection of every token."""

    def __init__(self, arch: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.trunk = VisionTransformer(arch)
        self.projection = nn.Linear(arch["width"], embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (batch, 1 + patches, embed_dim)."""
        return self.projection(self.trunk(images))


class VisionTransformer(nn.Module):
    """Patches, class token, positions, blocks and a norm."""

    def __init__(self, arch: Mapping[str, Any]) -> None:
        super().__init__()
        width, size, patch = arch["width"], arch["image_size"], arch["patch_size"]
        patches = (arch["image_height"] or size) // patch * (size // patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.patch_embed = PatchEmbed(width, patch, bias=not arch["norm_pre"])
        self.norm_pre = nn.LayerNorm(width, arch["norm_eps"]) if arch["norm_pre"] else nn.Identity()
        self.blocks = make_blocks(arch, width)
        self.norm = nn.LayerNorm(width, arch["norm_eps"])

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (batch, 1 + patches, width), the class token first."""
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        tokens = self.norm_pre(tokens + self.pos_embed)
        for block in self.blocks:
            tokens = block(tokens, is_causal=False)
        return self.norm(tokens)


class PatchEmbed(nn.Module):
    """One convolution whose stride is its size."""

    def __init__(self, width: int, patch_size: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Patches (batch, patches, width), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class TextTower(nn.Module):
    """A causal transformer, then a projection of every token."""

    def __init__(self, arch: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        width = arch["width"]
        self.token_embedding = nn.Embedding(arch["vocab_size"], width)
        self.pos_embed = nn.Parameter(torch.zeros(arch["context_length"], width))
        self.blocks = make_blocks(arch, width)
        self.norm = nn.LayerNorm(width, arch["norm_eps"])
        self.projection = nn.Linear(width, embed_dim, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Tokens (batch, length, embed_dim) of texts up to the context length."""
        tokens = self.token_embedding(input_ids) + self.pos_embed[: input_ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, is_causal=True)
        return self.projection(self.norm(tokens))


class SharedEncoder(nn.Module):
    """Blocks on the projected tokens of either tower; without a block, nothing."""

    def __init__(self, arch: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.blocks = make_blocks({**arch, **SHARED_ENCODER}, width)

    def forward(self, tokens: Tensor, is_causal: bool) -> Tensor:
        """Tokens in their own shape."""
        for block in self.blocks:
            tokens = block(tokens, is_causal=is_causal)
        return tokens


def make_blocks(arch: Mapping[str, Any], width: int) -> nn.ModuleList:
    """The blocks of a tower or of the shared encoder."""
    return nn.ModuleList(Block(arch, width) for _ in range(arch["depth"]))


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and on the residual stream."""

    def __init__(self, arch: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, arch["norm_eps"])
        self.attn = Attention(width, arch["heads"] or width // arch["head_dim"], arch["head_dim"])
        self.norm2 = nn.LayerNorm(width, arch["norm_eps"])
        self.mlp = Mlp(width, arch["mlp_width"], arch["activation"])

    def forward(self, tokens: Tensor, is_causal: bool) -> Tensor:
        """Tokens in their own shape."""
        tokens = tokens + self.attn(self.norm1(tokens), is_causal)
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Self-attention whose heads need not add up to the width."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, width)

    def forward(self, tokens: Tensor, is_causal: bool) -> Tensor:
        """Tokens in their own shape."""
        batch, length, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers."""

    def __init__(self, width: int, mlp_width: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.act = nn.GELU() if activation == "gelu" else QuickGelu()
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens in their own shape."""
        return self.fc2(self.act(self.fc1(tokens)))


class QuickGelu(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens in their own shape."""
        return tokens * torch.sigmoid(1.702 * tokens)

"""Image towers of timm, as OpenCLIP's configurations name them, read into our architecture."""

from typing import Any

import timm
import torch
from open_clip.model import CLIPVisionCfg
from timm.layers import PatchEmbed
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from nas_growclip.interop.foreign import refuse
from nas_growclip.models.arch import ImageArch


def timm_arch(vision: CLIPVisionCfg, where: str) -> ImageArch:
    """An image tower; its trunk is built without memory, to be asked what it is.

    Raises:
        ValueError: If timm has no such model, or it is no plain vision transformer.
    """
    name = vision.timm_model_name
    pooling = {"timm_pool": vision.timm_pool or "token", "timm_proj_bias": vision.timm_proj_bias}
    refuse(where, pooling, {"timm_pool": "token"})
    if vision.timm_proj != "linear":
        raise ValueError(
            f"{where}: timm_proj={vision.timm_proj!r} cannot be represented: the projection of an "
            "image tower here is linear, without a bias. Import a model with timm_proj 'linear'."
        )
    trunk = _trunk(name, where)
    _check_trunk(trunk, f"{where}: timm's {name}")
    block, (height, width) = trunk.blocks[0], trunk.patch_embed.img_size
    return ImageArch(
        depth=len(trunk.blocks),
        width=trunk.embed_dim,
        mlp_width=block.mlp.fc1.out_features,
        patch_size=trunk.patch_embed.patch_size[0],
        image_size=width,
        image_height=None if height == width else height,
        head_dim=block.attn.head_dim,
        norm_pre=not isinstance(trunk.norm_pre, nn.Identity),
        norm_eps=float(trunk.norm.eps),
        activation="quick_gelu" if isinstance(block.mlp.act, QuickGELU) else "gelu",
    )


def _trunk(name: object, where: str) -> Any:
    """Of timm's own table: its other names, of folders and of the hub, are not followed."""
    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(
            f"{where}: timm cannot make {str(name)[:60]!r}: it must be one of timm.list_models()."
        )
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=0)
    except RuntimeError as error:
        raise ValueError(f"{where}: timm cannot make {name!r}: {error}.") from None


def _check_trunk(trunk: Any, where: str) -> None:
    if type(trunk) is not VisionTransformer:
        raise ValueError(
            f"{where} is a {type(trunk).__name__}, which cannot be represented; only timm's plain "
            "VisionTransformer can."
        )
    if type(trunk.patch_embed) is not PatchEmbed:
        raise ValueError(
            f"{where} is a hybrid: its patches come from a {type(trunk.patch_embed).__name__}, "
            "which cannot be represented; only one convolution can."
        )
    has = {
        "no class token": trunk.cls_token is None,
        "register tokens": trunk.num_reg_tokens > 0,
        f"pooling {trunk.global_pool!r}": trunk.global_pool != "token",
        "attention pooling": trunk.attn_pool is not None,
        "a position for patches only": trunk.no_embed_class,
        "norms of query and key": not isinstance(trunk.blocks[0].attn.q_norm, nn.Identity),
        "no bias of query, key and value": trunk.blocks[0].attn.qkv.bias is None,
        f"activation {type(trunk.blocks[0].mlp.act).__name__}": not isinstance(
            trunk.blocks[0].mlp.act, (nn.GELU, QuickGELU)
        ),
        "no norm at its end": not isinstance(trunk.norm, nn.LayerNorm),
    }
    for what, is_so in has.items():
        if is_so:
            raise ValueError(f"{where} has {what}, which cannot be represented.")

"""Image towers of timm, as OpenCLIP's configurations name them, read into our architecture."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
from open_clip.model import CLIPVisionCfg
from open_clip.timm_model import TimmModel
from timm.layers import AttentionPoolLatent, Mlp, PatchEmbed
from timm.layers.activations import GELU, GELUTanh, QuickGELU
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from nas_growclip.interop.foreign import read_json
from nas_growclip.models.arch import Activation, ImageArch
from nas_growclip.models.meta import on_meta

LOCAL = "local-dir:"
IMAGE_TOWER = "image_tower"
"""Folder beside an exported configuration that holds a grown image tower's, for timm."""
EXPORTED = "vit_base_patch16_224"
EXPORTED_SIZES = frozenset(
    ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token",
     "global_pool", "fc_norm", "pre_norm", "act_layer")
)  # fmt: skip
"""What such a folder's configuration states: another model of timm's, in every size that it has."""

QKV_BIAS = frozenset({"image.trunk.blocks.#.attn.qkv.bias"})

_POOLINGS: Mapping[str, Literal["token", "average", "attention"]] = {
    "token": "token",
    "avg": "average",
    "map": "attention",
}
_ACTIVATIONS: tuple[tuple[type[nn.Module], Activation], ...] = (
    (nn.GELU, "gelu"),
    (GELU, "gelu"),
    (QuickGELU, "quick_gelu"),
    (GELUTanh, "gelu_tanh"),
)


class TimmTower(NamedTuple):
    """An image tower of timm."""

    arch: ImageArch
    absent: frozenset[str]
    """As ``ForeignConfig.absent``."""
    is_changed: bool
    """Whether its blocks have LayerScale, or EVA's biases, which are changed on import."""

    @property
    def is_like_ours(self) -> bool:
        """Whether weights of ours fill it as they are."""
        return not self.absent and not self.is_changed


def timm_tower(
    vision: CLIPVisionCfg, embed_dim: int, where: str, folder: Path | None = None
) -> TimmTower:
    """An image tower, as OpenCLIP builds it; it is built without memory, to be asked what it is.

    Args:
        vision: The configuration.
        embed_dim: Width of the joint embedding.
        where: Its place, for messages.
        folder: Where the configuration lies; a tower's own may be in it.

    Raises:
        ValueError: If timm has no such model, or it is no plain vision transformer.
    """
    name = _known_name(vision.timm_model_name, where, folder)
    options = (vision.timm_pool, vision.timm_proj, vision.timm_proj_bias)
    is_file = name.startswith(LOCAL)  # which may be another one next time
    read = _read_tower.__wrapped__ if is_file else _read_tower
    try:
        return read(name, embed_dim, *options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=256)
def _read_tower(name: str, embed_dim: int, pool: Any, proj: Any, proj_bias: Any) -> TimmTower:
    tower, place = _made_tower(name, embed_dim, pool, proj, proj_bias), f"timm's {name}"
    trunk = tower.trunk
    _check_trunk(trunk, place)
    block, (height, width) = trunk.blocks[0], trunk.patch_embed.img_size
    patch = trunk.patch_embed.patch_size[0]
    arch = ImageArch(
        depth=len(trunk.blocks),
        width=trunk.embed_dim,
        mlp_width=block.mlp.fc1.out_features,
        patch_size=patch,
        image_size=width,
        image_height=None if height == width else height,
        head_dim=block.attn.head_dim,
        norm_pre=not isinstance(trunk.norm_pre, nn.Identity),
        norm_eps=float((trunk.norm if isinstance(trunk.norm, nn.LayerNorm) else trunk.fc_norm).eps),
        activation=_activation(block.mlp.act, place),
        class_token=trunk.cls_token is not None,
        pooling=_POOLINGS[trunk.global_pool],
        norm_after_pooling=isinstance(trunk.fc_norm, nn.LayerNorm),
        projection_bias=_has_projection_bias(tower, embed_dim, place),
        cut_edge=bool(height % patch or width % patch),
    )
    has_bias = block.attn.qkv.bias is not None or type(block) is EvaBlock
    is_scaled = not isinstance(getattr(block, "ls1", None), nn.Identity)
    return TimmTower(arch, frozenset() if has_bias else QKV_BIAS, is_scaled)


def _known_name(name: object, where: str, folder: Path | None) -> str:
    """Of timm's table, or of an exported tower beside the configuration; no other is followed."""
    is_local = isinstance(name, str) and name.startswith(LOCAL) and Path(name).name == IMAGE_TOWER
    if folder and is_local:
        place = folder / IMAGE_TOWER
        _check_exported(read_json(place / "config.json"), f"{place}")
        return f"{LOCAL}{place}"
    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(
            f"{where}: timm cannot make {str(name)[:60]!r}: it must be one of timm.list_models()."
        )
    return name


def _check_exported(config: Mapping[str, Any], place: str) -> None:
    known = config.get("architecture") == EXPORTED and isinstance(config.get("model_args"), Mapping)
    if not known or not set(config["model_args"]) <= EXPORTED_SIZES:
        raise ValueError(
            f"{place}: must be an image tower as `growclip export` writes it, but is not."
        )


def _made_tower(name: str, embed_dim: int, pool: Any, proj: Any, proj_bias: Any) -> Any:
    try:
        with on_meta():
            return TimmModel(name, embed_dim, pool=pool, proj=proj, proj_bias=proj_bias)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        with on_meta():
            _check_kind(timm.create_model(name), f"timm's {name}")
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"open_clip cannot make timm's {name!r}: {reason}.") from None


def _activation(layer: nn.Module, place: str) -> Activation:
    for kind, name in _ACTIVATIONS:
        if type(layer) is kind and getattr(layer, "approximate", "none") == "none":
            return name
    raise ValueError(f"{place} has activation {type(layer).__name__}, which cannot be represented.")


def _has_projection_bias(tower: Any, embed_dim: int, place: str) -> bool:
    """Whether the linear projection, OpenCLIP's or the trunk's own head, has a bias.

    Raises:
        ValueError: If there is no such projection; pooling by attention must have none.
    """
    trunk, layers = tower.trunk, dict(tower.head.named_children())
    layers.pop("drop", None)
    if isinstance(trunk.head, nn.Linear):
        layers["head"] = trunk.head
    linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    if trunk.global_pool == "map":
        if layers or trunk.embed_dim != embed_dim:
            raise ValueError(
                f"{place} pools by attention and is projected to {embed_dim} then, which cannot be "
                "represented: such a pooling is the projection here. Import a model with timm_proj "
                "'none' whose width is its embed_dim."
            )
        return False
    if len(layers) != 1 or len(linear) != 1:
        names = ", ".join(layers) or "none"
        raise ValueError(
            f"{place} is projected by {names}, which cannot be represented: the projection of an "
            "image tower here is linear. Import a model with timm_proj 'linear'."
        )
    return linear[0].bias is not None


def _check_kind(trunk: Any, place: str) -> None:
    is_plain_eva = type(trunk) is Eva and trunk.rope is None
    if type(trunk) is not VisionTransformer and not is_plain_eva:
        raise ValueError(
            f"{place} is a {type(trunk).__name__}, which cannot be represented; only timm's plain "
            "VisionTransformer, and EVA without rotary positions, can."
        )
    if type(trunk.patch_embed) is not PatchEmbed:
        raise ValueError(
            f"{place} is a hybrid: its patches come from a {type(trunk.patch_embed).__name__}, "
            "which cannot be represented; only one convolution can."
        )


def _check_trunk(trunk: Any, place: str) -> None:
    _check_kind(trunk, place)
    for what, is_so in {**_differences(trunk), **_differences_of_block(trunk.blocks[0])}.items():
        if is_so:
            raise ValueError(f"{place} has {what}, which cannot be represented.")


def _differences(trunk: Any) -> dict[str, bool]:
    norms = [isinstance(norm, nn.LayerNorm) for norm in (trunk.norm, trunk.fc_norm)]
    is_map = type(trunk.attn_pool) is AttentionPoolLatent
    patch_height, patch_width = trunk.patch_embed.patch_size
    return {
        "register tokens": trunk.reg_token is not None,
        f"pooling {trunk.global_pool!r}": trunk.global_pool not in _POOLINGS,
        "another attention pooling": trunk.attn_pool is not None and not is_map,
        "pooling of the class token with the others": getattr(trunk, "pool_include_prefix", False),
        "a position for patches only": trunk.no_embed_class and trunk.cls_token is not None,
        "no positions": trunk.pos_embed is None,
        "no norm at its end, or two": sum(norms) != 1,
        "a norm behind its class token": norms[1] and trunk.global_pool == "token",
        "patches that are not square": patch_height != patch_width,
        "a norm of its patches": not isinstance(trunk.patch_embed.norm, nn.Identity),
    }


def _differences_of_block(block: Any) -> dict[str, bool]:
    if type(block) not in (Block, EvaBlock) or type(block.mlp) is not Mlp:
        kind = f"{type(block).__name__} with {type(block.mlp).__name__}"
        return {f"blocks of another kind, {kind}": True}
    attention = block.attn
    norms = (attention.q_norm, attention.k_norm, attention.norm, block.mlp.norm)
    return {
        "norms within its blocks": not all(isinstance(n, nn.Identity) for n in norms),
        "projections without a bias": attention.proj.bias is None or block.mlp.fc2.bias is None,
        "query, key and value apart": attention.qkv is None,
        "scales of its blocks": getattr(block, "gamma_1", None) is not None,
        "gated attention": getattr(attention, "gate", None) is not None,
    }

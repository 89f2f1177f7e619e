"""Image towers that only timm has, named so that OpenCLIP makes them: those of SigLIP above all.

OpenCLIP's own image tower always has a class token and no pooling by attention. Others are made by
timm, by the name of one of its models; one that has grown is none of them, so its sizes are
written into a folder of its own, which timm reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from open_clip.model import CLIPVisionCfg

from nas_growclip.interop.timm_towers import EXPORTED, IMAGE_TOWER, LOCAL, timm_tower
from nas_growclip.models.arch import ClipArch, ImageArch
from nas_growclip.models.preprocessing import Preprocessing

TIMM_EPS = 1e-6
_POOLS = {"token": "token", "average": "avg", "attention": "map"}


def needs_timm(image: ImageArch) -> bool:
    """Whether OpenCLIP's own image tower cannot be this one."""
    is_own = image.class_token and image.pooling != "attention" and not image.projection_bias
    return not is_own


def timm_vision_cfg(arch: ClipArch, out: Path) -> dict[str, Any]:
    """The image tower for ``vision_cfg``: by timm's name for it, or by a folder within ``out``.

    Raises:
        ValueError: If timm has no such tower.
    """
    image = arch.image
    _check_width(arch)
    config = {
        "image_size": list(image.image_shape),
        "timm_model_pretrained": False,
        "timm_pool": _POOLS[image.pooling],
        "timm_proj": "none" if image.pooling == "attention" else "linear",
        "timm_proj_bias": image.projection_bias,
    }
    plain = replace(image, preprocessing=Preprocessing())
    kind = "siglip*" if image.pooling == "attention" else "*"
    for name in timm.list_models(f"vit_*_patch{image.patch_size}_{kind}_{image.image_size}"):
        named = config | {"timm_model_name": name}
        if _made(named, arch.embed_dim) == plain:
            return named
    _check_norms(image)
    return config | {"timm_model_name": f"{LOCAL}{(out / IMAGE_TOWER).absolute()}"}


def timm_tower_config(image: ImageArch) -> dict[str, Any]:
    """An image tower as timm's ``config.json``."""
    height, width = image.image_shape
    return {
        "architecture": EXPORTED,
        "num_features": image.width,
        "model_args": {
            "img_size": [height, width],
            "patch_size": image.patch_size,
            "embed_dim": image.width,
            "depth": image.depth,
            "num_heads": image.num_heads,
            "mlp_ratio": mlp_ratio(image.mlp_width, image.width),
            "class_token": image.class_token,
            "global_pool": _POOLS[image.pooling],
            "fc_norm": image.norm_after_pooling,
            "pre_norm": image.norm_pre,
            "act_layer": image.activation,
        },
        "pretrained_cfg": {"input_size": [3, height, width]},
    }


def mlp_ratio(mlp_width: int, width: int) -> float:
    """The ratio that others multiply and cut to exactly this width."""
    ratio = mlp_width / width
    while int(width * ratio) < mlp_width:
        ratio = ratio * (1 + 1e-15)
    return ratio


def _made(config: Mapping[str, Any], embed_dim: int) -> ImageArch | None:
    try:
        tower = timm_tower(CLIPVisionCfg(**config), embed_dim, "timm")
    except ValueError:  # not a plain vision transformer
        return None
    return tower.arch if tower.is_like_ours else None


def _check_width(arch: ClipArch) -> None:
    image = arch.image
    if image.pooling == "attention" and image.width != arch.embed_dim:
        raise ValueError(
            "Pooling by attention has the image tower's width for others, but image.width is "
            f"{image.width} and embed_dim is {arch.embed_dim}. Grow them to the same size, or use "
            "the checkpoint as it is, by load_model."
        )


def _check_norms(image: ImageArch) -> None:
    if image.norm_eps != TIMM_EPS:
        raise ValueError(
            f"OpenCLIP makes this image tower by timm, whose norms have epsilon {TIMM_EPS}, but "
            f"image.norm_eps is {image.norm_eps}. Use the checkpoint as it is, by load_model."
        )

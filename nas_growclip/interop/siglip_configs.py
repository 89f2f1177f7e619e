"""Configurations of Hugging Face's ``SiglipModel`` and ``Siglip2Model``, read and written.

``Siglip2Model`` takes patches of images of any shape; here it has the one resolution at which its
positions are not resampled.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_growclip.interop.foreign import ForeignConfig, Layout, refuse
from nas_growclip.interop.hub import HUB
from nas_growclip.interop.limits import check_exportable
from nas_growclip.models.arch import (
    Activation,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
    TokenizerArch,
)
from nas_growclip.models.preprocessing import Preprocessing

CLASSES: Mapping[str, str] = {"siglip": "SiglipModel", "siglip2": "Siglip2Model"}
"""Models by the ``model_type`` of their configurations."""

PIXELS = Preprocessing(resize_mode="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What their image processors do where nothing is stated."""

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_TOWER: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_TEXT_DEFAULTS = {**_TOWER, "vocab_size": 32000, "max_position_embeddings": 64}
_VISION_DEFAULTS = {
    **_TOWER,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
    "num_patches": 256,
}
"""What a config leaves out when it is the default."""


def read_siglip(data: Mapping[str, Any], where: str) -> ForeignConfig:
    """A model of a ``config.json`` whose ``model_type`` is ``siglip`` or ``siglip2``.

    Raises:
        ValueError: If it cannot be represented; the message names what cannot.
    """
    kind = data["model_type"]
    if data.get("architectures") not in (None, [CLASSES[kind]]):
        refuse(where, {"architectures": data["architectures"]}, {})
    for name in ("auto_map", "quantization_config"):
        refuse(where, {name: data.get(name)}, {})
    text = {**_TEXT_DEFAULTS, **(data.get("text_config") or {})}
    vision = {**_VISION_DEFAULTS, **(data.get("vision_config") or {})}
    embed_dim = int(text.get("projection_size") or text["hidden_size"])
    _check_vision(vision, embed_dim, where)
    arch = ClipArch(
        image=ImageArch(
            patch_size=vision["patch_size"],
            image_size=_image_size(vision, kind, where),
            class_token=False,
            pooling="attention",
            preprocessing=PIXELS,
            cut_edge=kind == "siglip" and bool(vision["image_size"] % vision["patch_size"]),
            **_tower(vision, where),
        ),
        text=TextArch(
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
            is_causal=False,
            pooling="last",
            projection_bias=True,
            tokenizer=TokenizerArch(name=_name(where)),
            **_tower(text, where),
        ),
        shared=SharedArch(depth=0, mlp_width=4 * embed_dim),
        embed_dim=embed_dim,
        logit_bias=True,
    )
    layout: Layout = "siglip2" if kind == "siglip2" else "siglip"
    return ForeignConfig(arch, layout, where, preprocessing_from="the default of its processor")


def _check_vision(vision: Mapping[str, Any], embed_dim: int, where: str) -> None:
    refuse(where, {"num_channels": vision["num_channels"]}, {"num_channels": 3})
    if not vision["vision_use_head"]:
        raise ValueError(
            f"{where}: vision_use_head=False cannot be represented: without its head an image has "
            "no embedding. Import a model with one."
        )
    for name in ("image_size", "patch_size", "num_patches"):
        if not isinstance(vision[name], int):
            refuse(where, {name: vision[name]}, {})
    if vision["hidden_size"] != embed_dim:
        raise ValueError(
            f"{where}: the image tower's hidden_size and the text's projection_size must be equal, "
            f"but are {vision['hidden_size']} and {embed_dim}: they meet in a product."
        )


def _image_size(vision: Mapping[str, Any], kind: str, where: str) -> int:
    """Pixels of a side; of ``Siglip2Model`` those of its square of positions."""
    if kind == "siglip":
        return int(vision["image_size"])
    side = math.isqrt(vision["num_patches"])
    if side**2 != vision["num_patches"]:
        refuse(where, {"num_patches": vision["num_patches"]}, {})
    return side * int(vision["patch_size"])


def _tower(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part["hidden_act"] not in _ACTIVATIONS:
        refuse(where, {"hidden_act": part["hidden_act"]}, {})
    return {
        "depth": part["num_hidden_layers"],
        "width": part["hidden_size"],
        "mlp_width": part["intermediate_size"],
        "head_dim": part["hidden_size"] // part["num_attention_heads"],
        "norm_eps": part["layer_norm_eps"],
        "activation": _ACTIVATIONS[part["hidden_act"]],
    }


def _name(where: str) -> str:
    """What the model's tokenizer is called: its repository, or its folder."""
    if where.startswith(HUB):
        return where.removeprefix(HUB).partition(": ")[0]
    return Path(where).absolute().parent.name or where


def is_siglip(arch: ClipArch) -> bool:
    """Whether a model is of the kind that ``SiglipModel`` is, rather than ``CLIPModel``."""
    return arch.image.pooling == "attention"


def siglip_config(arch: ClipArch, kind: str) -> dict[str, Any]:
    """An architecture as ``config.json`` of a ``SiglipModel`` or ``Siglip2Model``.

    Raises:
        ValueError: If there is no such model; the message names what it lacks.
    """
    _check(arch, kind)
    image, text = arch.image, arch.text
    positions = {"image_size": image.image_size}
    if kind == "siglip2":
        positions = {"num_patches": math.prod(image.grid)}
    return {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "text_config": {
            "model_type": f"{kind}_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_size": arch.embed_dim,
            **_tower_config(text),
        },
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            "patch_size": image.patch_size,
            **positions,
            **_tower_config(image),
        },
    }


def _tower_config(tower: ImageArch | TextArch) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }


def _check(arch: ClipArch, kind: str) -> None:
    tool, image, text = f"Hugging Face's {CLASSES[kind]}", arch.image, arch.text
    check_exportable(arch, tool)
    height, width = image.image_shape
    wanted = (
        ("image.pooling", image.pooling, "attention"),
        ("image.width", image.width, arch.embed_dim),
        ("image.norm_pre", image.norm_pre, False),
        ("image.image_height", height, width),
        ("text.is_causal", text.is_causal, False),
        ("text.pooling", text.pooling, "last"),
        ("logit_bias", arch.logit_bias, True),
        *((("image.cut_edge", image.cut_edge, False),) if kind == "siglip2" else ()),
    )
    for name, value, required in wanted:
        if value != required:
            raise ValueError(
                f"{tool} has {name} {required!r} only, but this model has {value!r}. Export it "
                "with --format open_clip."
            )

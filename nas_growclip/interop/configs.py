"""Model configurations of OpenCLIP and Hugging Face, read into our architecture and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from timm.layers.activations import QuickGELU as TimmQuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from nas_growclip.io.choices import did_you_mean
from nas_growclip.io.formatting import brief
from nas_growclip.io.mappings import read_mapping
from nas_growclip.models.arch import TOKENIZER_VOCAB_SIZE, ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import SIGLIP_BIAS, SIGLIP_SCALE
from nas_growclip.models.towers import END_OF_TEXT

OPEN_CLIP_CONFIG = "open_clip_config.json"
HF_CONFIG = "config.json"
OPEN_CLIP_EPS = 1e-5
HUB = "hf-hub:"

Layout = Literal["open_clip", "timm", "hf"]


@dataclass(frozen=True)
class ForeignConfig:
    """What another tool's configuration says of a model."""

    arch: ClipArch
    layout: Layout
    """Whose names its image tower's weights have."""
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN
    """Of the images' channels, in [0, 1], as the model was trained with."""
    std: tuple[float, ...] = OPENAI_DATASET_STD


def read_config(name: str) -> ForeignConfig:
    """Read a configuration.

    Args:
        name: A model name that open_clip knows, ``hf-hub:OWNER/NAME`` (needs a network), or a JSON
            file: OpenCLIP's model config, its ``open_clip_config.json``, or a Hugging Face
            ``config.json`` of a ``CLIPModel``; of a folder, the one in it.

    Raises:
        ValueError: If it is none of them, or describes something that cannot be represented; the
            message names it.
    """
    path = Path(name)
    if path.is_dir():
        path = next((path / n for n in (OPEN_CLIP_CONFIG, HF_CONFIG) if (path / n).exists()), path)
    if path.is_file():
        data = read_mapping(path)
        try:
            return _parsed(data, str(path))
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{path}: must be a CLIP model's config, but: {error}.") from None
    if name.startswith(HUB):
        return _parsed({"model_cfg": open_clip.get_model_config(name)}, name)
    known = open_clip.list_models()
    if name not in known:
        raise ValueError(
            f"{brief(name)!r} must be a model that open_clip knows or a JSON file, but is neither. "
            f"{did_you_mean(name, known)}".rstrip()
        )
    return _parsed(open_clip.get_model_config(name), name)


def _parsed(data: Mapping[str, Any], where: str) -> ForeignConfig:
    if data.get("model_type") == "clip":
        return ForeignConfig(_hf_arch(data, where), "hf")
    config = data.get("model_cfg", data)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise ValueError(f"{where}: must be a CLIP model's config, but has no {key!r}.")
    _refuse(where, {"multimodal_cfg": config.get("multimodal_cfg")}, {})
    try:
        vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    except TypeError as error:
        raise ValueError(f"{where}: open_clip does not take this config: {error}.") from None
    is_quick = bool(config.get("quick_gelu"))
    image = _timm_arch(vision, where) if vision.timm_model_name else _image_arch(vision, where)
    if is_quick and not vision.timm_model_name:
        image = _with(image, activation="quick_gelu")
    arch = ClipArch(
        image=image,
        text=_with(_text_arch(text, where), activation="quick_gelu" if is_quick else "gelu"),
        shared=SharedArch(depth=0, mlp_width=4 * int(config["embed_dim"])),
        embed_dim=int(config["embed_dim"]),
        logit_bias=config.get("init_logit_bias") is not None,
    )
    preprocess = data.get("preprocess_cfg", {})
    return ForeignConfig(
        arch,
        "timm" if vision.timm_model_name else "open_clip",
        tuple(preprocess.get("mean") or OPENAI_DATASET_MEAN),
        tuple(preprocess.get("std") or OPENAI_DATASET_STD),
    )


def _with(arch: Any, **changes: Any) -> Any:
    return type(arch)(**({n: getattr(arch, n) for n in arch.__dataclass_fields__} | changes))


def _refuse(where: str, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse settings that are neither unset nor what is wanted."""
    for name, value in got.items():
        if value not in (None, False, {}, wanted.get(name)):
            raise ValueError(
                f"{where}: {name}={value!r} cannot be represented: a model here has plain ViT "
                "towers, a class token and a causal text transformer. Import another model."
            )


def _image_arch(vision: CLIPVisionCfg, where: str) -> ImageArch:
    if isinstance(vision.layers, (list, tuple)):
        raise ValueError(
            f"{where}: a ResNet image tower (layers={list(vision.layers)}) cannot be represented; "
            "only plain ViT towers can. Import a ViT model."
        )
    names = ("attentional_pool", "pool_type", "pos_embed_type", *_BLOCK_EXTRAS)
    _refuse(where, {n: getattr(vision, n) for n in names}, _PLAIN)
    _refuse(where, {"act_kwargs": vision.act_kwargs}, {})
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return ImageArch(
        depth=vision.layers,
        width=vision.width,
        mlp_width=int(vision.width * vision.mlp_ratio),
        patch_size=vision.patch_size,
        image_size=width,
        image_height=None if height == width else height,
        head_dim=vision.head_width,
        norm_pre=not vision.no_ln_pre,
        norm_eps=_eps(vision.norm_kwargs, where),
    )


def _text_arch(text: CLIPTextCfg, where: str) -> TextArch:
    if text.hf_model_name:
        raise ValueError(
            f"{where}: a Hugging Face text tower ({text.hf_model_name}) cannot be represented; "
            "only open_clip's own text transformer can. Import a model with one."
        )
    names = ("embed_cls", "no_causal_mask", "pool_type", "proj_type", "proj_bias", *_BLOCK_EXTRAS)
    wanted = dict(_PLAIN) | {"pool_type": "argmax"}
    if text.pool_type == "eos" and text.eos_id == END_OF_TEXT:
        wanted["pool_type"] = "eos"
    _refuse(where, {n: getattr(text, n) for n in names}, wanted)
    others = ("hf_tokenizer_name", "tokenizer_kwargs", "act_kwargs")
    _refuse(where, {n: getattr(text, n) for n in others}, {})
    if text.vocab_size != TOKENIZER_VOCAB_SIZE:
        raise ValueError(
            f"{where}: vocab_size={text.vocab_size} cannot be represented: texts are tokenized by "
            f"CLIP's own tokenizer of {TOKENIZER_VOCAB_SIZE} tokens."
        )
    return TextArch(
        depth=text.layers,
        width=text.width,
        mlp_width=int(text.width * text.mlp_ratio),
        context_length=text.context_length,
        head_dim=text.width // text.heads,
        norm_eps=_eps(text.norm_kwargs, where),
    )


def _timm_arch(vision: CLIPVisionCfg, where: str) -> ImageArch:
    """The trunk is built without memory, to be asked what it is."""
    name = vision.timm_model_name
    _refuse(
        where,
        {"timm_pool": vision.timm_pool or "token", "timm_proj_bias": vision.timm_proj_bias},
        {"timm_pool": "token"},
    )
    if vision.timm_proj != "linear":
        raise ValueError(
            f"{where}: timm_proj={vision.timm_proj!r} cannot be represented: the projection of an "
            "image tower here is linear, without a bias. Import a model with timm_proj 'linear'."
        )
    try:
        with torch.device("meta"):
            trunk = timm.create_model(name, num_classes=0)
    except RuntimeError as error:
        raise ValueError(f"{where}: timm cannot make {name!r}: {error}.") from None
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
        activation="quick_gelu" if isinstance(block.mlp.act, TimmQuickGELU) else "gelu",
    )


def _check_trunk(trunk: Any, where: str) -> None:
    if type(trunk) is not VisionTransformer:
        raise ValueError(
            f"{where} is a {type(trunk).__name__}, which cannot be represented; only timm's plain "
            "VisionTransformer can."
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
            trunk.blocks[0].mlp.act, (nn.GELU, TimmQuickGELU)
        ),
        "no norm at its end": not isinstance(trunk.norm, nn.LayerNorm),
    }
    for what, is_so in has.items():
        if is_so:
            raise ValueError(f"{where} has {what}, which cannot be represented.")


_BLOCK_EXTRAS = (
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
_PLAIN: Mapping[str, Any] = {
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "proj_type": "linear",
    "block_type": "default",
}


def _eps(norm_kwargs: Mapping[str, Any] | None, where: str) -> float:
    options = dict(norm_kwargs or {})
    eps = float(options.pop("eps", OPEN_CLIP_EPS))
    _refuse(where, {"norm_kwargs": options}, {})
    return eps


def _hf_arch(data: Mapping[str, Any], where: str) -> ClipArch:
    text = {**_HF_TEXT, **(data.get("text_config") or {})}
    vision = {**_HF_VISION, **(data.get("vision_config") or {})}
    for part in (text, vision):
        if part["hidden_act"] not in ("gelu", "quick_gelu"):
            _refuse(where, {"hidden_act": part["hidden_act"]}, {})
    if text["vocab_size"] != TOKENIZER_VOCAB_SIZE:
        _refuse(where, {"vocab_size": text["vocab_size"]}, {})
    embed_dim = int(data.get("projection_dim", 512))
    image = ImageArch(
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
        norm_pre=True,
        **_hf_tower(vision),
    )
    return ClipArch(
        image=image,
        text=TextArch(context_length=text["max_position_embeddings"], **_hf_tower(text)),
        shared=SharedArch(depth=0, mlp_width=4 * embed_dim),
        embed_dim=embed_dim,
    )


def _hf_tower(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "depth": part["num_hidden_layers"],
        "width": part["hidden_size"],
        "mlp_width": part["intermediate_size"],
        "head_dim": part["hidden_size"] // part["num_attention_heads"],
        "norm_eps": part["layer_norm_eps"],
        "activation": part["hidden_act"],
    }


_HF_TEXT: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""What a Hugging Face config leaves out when it is the default."""
_HF_VISION: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def open_clip_config(arch: ClipArch) -> dict[str, Any]:
    """An architecture as OpenCLIP's ``open_clip_config.json``.

    Raises:
        ValueError: If OpenCLIP has no such model; the message names what it lacks.
    """
    _check_exportable(arch, "OpenCLIP")
    image, text = arch.image, arch.text
    if image.activation != text.activation:
        raise ValueError(
            f"OpenCLIP's towers share one activation, but image.activation is {image.activation} "
            f"and text.activation is {text.activation}. Use it here, by load_model."
        )
    height, width = image.image_shape
    vision_cfg: dict[str, Any] = {
        "image_size": width if height == width else [height, width],
        "layers": image.depth,
        "width": image.width,
        "head_width": image.head_dim,
        "patch_size": image.patch_size,
        "mlp_ratio": _ratio(image.mlp_width, image.width),
        "no_ln_pre": not image.norm_pre,
    }
    text_cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": _ratio(text.mlp_width, text.width),
    }
    for tower, cfg in ((image, vision_cfg), (text, text_cfg)):
        if tower.norm_eps != OPEN_CLIP_EPS:
            cfg["norm_kwargs"] = {"eps": tower.norm_eps}
    model: dict[str, Any] = {"embed_dim": arch.embed_dim}
    if arch.logit_bias:
        model |= {"init_logit_scale": math.log(SIGLIP_SCALE), "init_logit_bias": SIGLIP_BIAS}
    if image.activation == "quick_gelu":
        model["quick_gelu"] = True
    return {
        "model_cfg": model | {"vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": {
            "mean": list(OPENAI_DATASET_MEAN),
            "std": list(OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def hf_config(arch: ClipArch) -> dict[str, Any]:
    """An architecture as a Hugging Face ``CLIPModel``'s ``config.json``.

    Raises:
        ValueError: If ``CLIPModel`` has no such model; the message names what it lacks.
    """
    _check_exportable(arch, "Hugging Face's CLIPModel")
    if not arch.image.norm_pre:
        raise ValueError(
            "Hugging Face's CLIPModel always has a LayerNorm before its image blocks, which this "
            "model has not (image.norm_pre is false). Export it with --format open_clip."
        )
    if arch.image.image_height is not None:
        raise ValueError(
            "Hugging Face's CLIPModel has square images only, but this model's are "
            f"{arch.image.image_shape}. Export it with --format open_clip."
        )
    if arch.logit_bias:
        raise ValueError(
            "Hugging Face's CLIPModel has no logit_bias, which this model has. "
            "Export it with --format open_clip."
        )
    image, text = arch.image, arch.text
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": arch.embed_dim,
        "logit_scale_init_value": 2.6592,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_dim": arch.embed_dim,
            "bos_token_id": END_OF_TEXT - 1,
            "eos_token_id": END_OF_TEXT,
            "pad_token_id": END_OF_TEXT,
            **_hf_part(text),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "projection_dim": arch.embed_dim,
            **_hf_part(image),
        },
    }


def _hf_part(tower: ImageArch | TextArch) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.norm_eps,
    }


def _check_exportable(arch: ClipArch, tool: str) -> None:
    if arch.shared.depth:
        raise ValueError(
            f"{tool} has no shared encoder, and without its {arch.shared.depth} blocks the model "
            "would compute something else: nothing of it can be left out. Use the checkpoint as it "
            "is: `nas_growclip.load_model(FOLDER)` has encode_image, encode_text and tokenize."
        )
    for name, tower in (("image", arch.image), ("text", arch.text)):
        if tower.num_heads * tower.head_dim != tower.width:
            raise ValueError(
                f"{tool} takes {name} heads whose dimensions add up to the width, but here "
                f"{tower.num_heads} heads of {tower.head_dim} stand in a width of {tower.width}. "
                "Use the checkpoint as it is, by nas_growclip.load_model(FOLDER)."
            )
    if arch.text.vocab_size != TOKENIZER_VOCAB_SIZE:
        raise ValueError(
            f"{tool} with CLIP's tokenizer has {TOKENIZER_VOCAB_SIZE} tokens, but this model has "
            f"{arch.text.vocab_size}. Use the checkpoint as it is, by load_model."
        )


def _ratio(mlp_width: int, width: int) -> float:
    """The ratio that open_clip multiplies and cuts to exactly this width."""
    ratio = mlp_width / width
    while int(width * ratio) < mlp_width:
        ratio = ratio * (1 + 1e-15)
    return ratio

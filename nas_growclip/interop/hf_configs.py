"""Configurations of Hugging Face's ``CLIPModel``, read into our architecture and back."""

from collections.abc import Mapping
from typing import Any

from nas_growclip.interop.foreign import ForeignConfig, refuse
from nas_growclip.interop.limits import check_exportable
from nas_growclip.models.arch import (
    END_OF_TEXT,
    TOKENIZER_VOCAB_SIZE,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
)

LEGACY_EOS = 2
"""An ``eos_token_id`` that older configs give: then the highest token is pooled, CLIP's end."""

_TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": TOKENIZER_VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": END_OF_TEXT,
}
"""What a config leaves out when it is the default."""
_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def read_hugging_face(data: Mapping[str, Any], where: str) -> ForeignConfig:
    """A model of a ``config.json``; ``text_config_dict`` and its like win, as in transformers.

    Raises:
        ValueError: If it cannot be represented; the message names what cannot.
    """
    _check_kind(data, where)
    text = _part(data, "text_config", _TEXT_DEFAULTS)
    vision = _part(data, "vision_config", _VISION_DEFAULTS)
    for part in (text, vision):
        if part["hidden_act"] not in ("gelu", "quick_gelu"):
            refuse(where, {"hidden_act": part["hidden_act"]}, {})
    _check_text(text, where)
    refuse(where, {"num_channels": vision["num_channels"]}, {"num_channels": 3})
    for name in ("image_size", "patch_size"):
        if not isinstance(vision[name], int):
            refuse(where, {name: vision[name]}, {})
    embed_dim = int(data.get("projection_dim", 512))
    image = ImageArch(
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
        norm_pre=True,
        **_tower(vision),
    )
    arch = ClipArch(
        image=image,
        text=TextArch(context_length=text["max_position_embeddings"], **_tower(text)),
        shared=SharedArch(depth=0, mlp_width=4 * embed_dim),
        embed_dim=embed_dim,
    )
    return ForeignConfig(arch, "hf", where)


def _check_kind(data: Mapping[str, Any], where: str) -> None:
    classes = data.get("architectures") or ["CLIPModel"]
    if classes != ["CLIPModel"]:
        raise ValueError(
            f"{where}: architectures={repr(classes)[:100]} cannot be represented: only CLIPModel "
            "can. Save the model as one."
        )
    for name in ("auto_map", "quantization_config"):
        refuse(where, {name: data.get(name)}, {})


def _part(data: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's settings, by the rules of transformers' ``CLIPConfig``."""
    older = data.get(f"{name}_dict")
    given = older if older is not None else data.get(name) or {}
    return {**defaults, **given}


def _check_text(text: Mapping[str, Any], where: str) -> None:
    refuse(where, {"vocab_size": text["vocab_size"]}, {"vocab_size": TOKENIZER_VOCAB_SIZE})
    end = text["eos_token_id"]
    if end not in (END_OF_TEXT, LEGACY_EOS):
        raise ValueError(
            f"{where}: eos_token_id={repr(end)[:60]} cannot be represented: texts are pooled at "
            f"CLIP's end of text, {END_OF_TEXT}, which older configs call {LEGACY_EOS}."
        )


def _tower(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "depth": part["num_hidden_layers"],
        "width": part["hidden_size"],
        "mlp_width": part["intermediate_size"],
        "head_dim": part["hidden_size"] // part["num_attention_heads"],
        "norm_eps": part["layer_norm_eps"],
        "activation": part["hidden_act"],
    }


def hf_config(arch: ClipArch) -> dict[str, Any]:
    """An architecture as a ``CLIPModel``'s ``config.json``.

    Raises:
        ValueError: If ``CLIPModel`` has no such model; the message names what it lacks.
    """
    _check_clip_model(arch)
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
            **_tower_config(text),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "projection_dim": arch.embed_dim,
            **_tower_config(image),
        },
    }


def _check_clip_model(arch: ClipArch) -> None:
    check_exportable(arch, "Hugging Face's CLIPModel")
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
    for name, value, wanted in _clip_traits(arch):
        if value != wanted:
            raise ValueError(
                f"Hugging Face's CLIPModel has {name} {wanted!r} only, but this model has "
                f"{repr(value)[:60]}. Export it with --format open_clip."
            )


def _clip_traits(arch: ClipArch) -> tuple[tuple[str, object, object], ...]:
    """Traits of a model, with what ``CLIPModel`` has."""
    image, text = arch.image, arch.text
    return (
        ("logit_bias", arch.logit_bias, False),
        ("image.pooling", image.pooling, "token"),
        ("image.projection_bias", image.projection_bias, False),
        ("image.cut_edge", image.cut_edge, False),
        ("image.activation", image.activation.replace("quick_gelu", "gelu"), "gelu"),
        ("text.activation", text.activation.replace("quick_gelu", "gelu"), "gelu"),
        ("text.is_causal", text.is_causal, True),
        ("text.pooling", text.pooling, "end"),
        ("text.end_token", text.end_token, END_OF_TEXT),
        ("text.projection_bias", text.projection_bias, False),
        ("text.tokenizer", text.tokenizer, None),
    )


def _tower_config(tower: ImageArch | TextArch) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.norm_eps,
    }

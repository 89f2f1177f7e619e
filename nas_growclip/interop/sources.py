"""Where a model comes from: a name that OpenCLIP knows, the hub, a folder or a file.

A pretrained model is read as it was trained: its activation and its preprocessing come from where
its weights come from. A plain model name only says which towers it has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip

from nas_growclip.interop.foreign import (
    HF_CONFIG,
    HF_PROCESSOR,
    OPEN_CLIP_CONFIG,
    ForeignConfig,
    read_json,
)
from nas_growclip.interop.hf_configs import read_hugging_face
from nas_growclip.interop.hub import HUB, download_error, hub_file, is_repository
from nas_growclip.interop.open_clip_configs import read_open_clip
from nas_growclip.interop.processors import read_image_processor, read_preprocess_cfg
from nas_growclip.interop.siglip_configs import CLASSES, read_siglip
from nas_growclip.interop.weight_files import PREFERRED, refuse_adapter_folder, weights_in
from nas_growclip.io.choices import did_you_mean
from nas_growclip.io.formatting import brief

CONFIGS = (OPEN_CLIP_CONFIG, HF_CONFIG)
PROCESSORS = (HF_PROCESSOR, "processor_config.json")
"""Newer transformers write all of a model's processors into the second one."""
_KIND_KEYS = ("model_type", "architecture", "_class_name", "architectures")
"""By which other kinds of models than CLIP name themselves."""


class Source(NamedTuple):
    """A model to import."""

    config: ForeignConfig
    weights: Path
    """A file, an index of files, or a folder with one of them."""


def find_source(name: str, weights: str | None = None) -> Source:
    """Find a model and its weights; a pretrained tag's and the hub's are downloaded.

    Args:
        name: As for ``read_config``.
        weights: A file, a folder, a pretrained tag, or None for what lies beside the configuration.

    Raises:
        ValueError: As ``read_config``, and if there are no such weights.
    """
    config = read_config(name, weights)
    if weights is not None and Path(weights).exists():
        return Source(config, Path(weights))
    if weights is None and Path(name).exists():
        return Source(config, weights_in(Path(name) if Path(name).is_dir() else Path(name).parent))
    if name.startswith(HUB) and weights is None:
        found = hub_file(name, *(file for file in PREFERRED if not file.endswith(".json")))
        if found is None:
            raise ValueError(f"{name}: must hold a weights file in one part, but holds none.")
        return Source(config, found)
    tag = _tag(name, weights)
    if tag is None:
        known = open_clip.list_pretrained_tags_by_model(_model_name(name))
        hint = f"Did you mean {HUB}{weights} alone? " if is_repository(weights or "") else ""
        raise ValueError(
            f"{weights!r} must be a weights file or a pretrained tag of {name}, but is neither. "
            f"{hint}Its tags: {', '.join(known) or 'none'}."
        )
    try:
        return Source(config, Path(open_clip.download_pretrained(tag)))
    except (OSError, RuntimeError) as error:
        raise download_error(f"{name}'s {weights}", error) from None


def read_config(name: str, weights: str | None = None) -> ForeignConfig:
    """Read a configuration, and what the weights' own source says of activation and pixels.

    Args:
        name: A model name that open_clip knows, ``hf-hub:OWNER/NAME`` (needs a network), or a JSON
            file: OpenCLIP's model config, its ``open_clip_config.json``, or a Hugging Face
            ``config.json`` of a ``CLIPModel``; of a folder, the one in it.
        weights: Of a model that is only named: a pretrained tag, or a file or folder whose
            ``open_clip_config.json`` says how the weights were trained.

    Raises:
        ValueError: If it is none of them, or describes something that cannot be represented; the
            message names it.
    """
    if Path(name).exists():
        return _as_trained(_read_path(Path(name)), name, weights)
    if name.startswith(HUB):
        return _read_hub(name)
    known = open_clip.list_models()
    if _model_name(name) not in known:
        hint = f"Did you mean {HUB}{name}?" if is_repository(name) else did_you_mean(name, known)
        raise ValueError(
            f"{brief(name)!r} must be a model that open_clip knows or a JSON file, but is neither. "
            f"{hint}".rstrip()
        )
    config = _parsed(open_clip.get_model_config(_model_name(name)), _model_name(name))
    return _as_trained(config, name, weights)


def _model_name(name: str) -> str:
    """As OpenCLIP's table has it: OpenAI's ``ViT-B/32`` is ``ViT-B-32`` there."""
    return name.replace("/", "-")


def _tag(name: str, weights: str | None) -> Mapping[str, Any] | None:
    return open_clip.get_pretrained_cfg(_model_name(name), weights) or None if weights else None


def _as_trained(config: ForeignConfig, name: str, weights: str | None) -> ForeignConfig:
    """What the weights' source says wins over what a model's name or plain config says."""
    if (
        weights is None
        or config.layout not in ("open_clip", "timm")
        or config.preprocessing_from is not None
    ):
        return config
    place = Path(weights)
    if place.exists():
        beside = (place if place.is_dir() else place.parent) / OPEN_CLIP_CONFIG
        return _as_stated(config, beside) if beside.is_file() else config
    tag = _tag(name, weights)
    if tag is None:
        return config
    source = f"the pretrained tag {weights!r}"
    config = config.with_quick_gelu(bool(tag.get("quick_gelu")), source)
    return config.with_preprocessing(read_preprocess_cfg(tag, source), source)


def _as_stated(config: ForeignConfig, path: Path) -> ForeignConfig:
    """With activation and preprocessing of the ``open_clip_config.json`` beside the weights."""
    stated = _parsed(read_json(path), str(path), folder=path.parent)
    config = config.with_activation(
        stated.arch.text.activation, str(path), stated.arch.image.activation
    )
    return config.with_preprocessing(stated.arch.image.preprocessing, str(path))


def _read_path(path: Path) -> ForeignConfig:
    if path.is_dir():
        refuse_adapter_folder(path)
        found = next((path / name for name in CONFIGS if (path / name).exists()), None)
        if found is None:
            raise ValueError(
                f"{path}: must hold {' or '.join(CONFIGS)}, but holds neither.{_inner_hint(path)}"
            )
        path = found
    beside = (path.parent / name for name in PROCESSORS)
    processor = next((p for p in beside if p.is_file()), None)
    return _parsed(read_json(path), str(path), processor, path.parent)


def _inner_hint(folder: Path) -> str:
    """Sentence Transformers keep a CLIP model in a folder of their own."""
    inner = next((p.parent for p in sorted(folder.glob(f"*/{HF_CONFIG}"))), None)
    return f" Did you mean {inner}?" if inner else ""


def _read_hub(name: str) -> ForeignConfig:
    path = hub_file(name, *CONFIGS)
    if path is None:
        raise ValueError(f"{name}: must hold {' or '.join(CONFIGS)}, but holds neither.")
    processor = hub_file(name, *PROCESSORS) if path.name == HF_CONFIG else None
    return _parsed(read_json(path), f"{name}: {path.name}", processor)


def _parsed(
    data: Mapping[str, Any],
    where: str,
    processor: Path | None = None,
    folder: Path | None = None,
) -> ForeignConfig:
    """A configuration of either tool; the processor's file counts for Hugging Face's only."""
    try:
        kind = data.get("model_type")
        if kind != "clip" and kind not in CLASSES:
            _check_is_clip(data, where)
            return read_open_clip(data, where, folder)
        read_model = read_hugging_face if kind == "clip" else read_siglip
        config = read_model(data, where)
        if processor is None:
            return config
        settings = read_json(processor)
        settings = settings.get("image_processor", settings)
        read = read_image_processor(settings, config.arch.image, str(processor))
        return config.with_preprocessing(read, str(processor))
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{where}: must be a CLIP model's config, but: {error}.") from None


def _check_is_clip(data: Mapping[str, Any], where: str) -> None:
    """Refuse other kinds of models by the name that they give themselves."""
    if "model_cfg" in data or "vision_cfg" in data:
        return
    for key in _KIND_KEYS:
        if data.get(key):
            raise ValueError(
                f"{where}: {key}={repr(data[key])[:100]} cannot be represented: only OpenCLIP's "
                "ViT models and Hugging Face's 'clip', 'siglip' and 'siglip2' can. Import another."
            )

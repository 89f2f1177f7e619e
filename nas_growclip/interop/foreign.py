"""What another tool's configuration says of a model, and how it is refused."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas_growclip.io.mappings import read_mapping
from nas_growclip.models.arch import Activation, ClipArch
from nas_growclip.models.preprocessing import Preprocessing

OPEN_CLIP_CONFIG = "open_clip_config.json"
HF_CONFIG = "config.json"
HF_PROCESSOR = "preprocessor_config.json"
MAX_CONFIG_BYTES = 2**22
"""Largest configuration, or index of weights, that is read."""

Layout = Literal["open_clip", "timm", "hf", "siglip", "siglip2"]


@dataclass(frozen=True)
class ForeignConfig:
    """A model of another tool."""

    arch: ClipArch
    layout: Layout
    """Whose names its image tower's weights have."""
    activation_from: str
    """Where its activation was taken from, as told to the user."""
    preprocessing_from: str | None = None
    """Where its preprocessing was taken from; None where nothing says, and it is OpenAI's."""
    tokenizer_from: str | None = None
    """Where another tokenizer than CLIP's was taken from; None where it is CLIP's, or not looked
    for."""
    absent: frozenset[str] = frozenset()
    """Parameters of ours that it has not: a bias is 0 then, a projection the identity. ``#`` stands
    for a block's number."""

    def with_activation(
        self, activation: Activation, source: str, of_images: Activation | None = None
    ) -> "ForeignConfig":
        """The same with another activation in every tower of OpenCLIP's own."""
        image, text = self.arch.image, self.arch.text
        if self.layout != "timm":  # whose towers have their own, whatever OpenCLIP's config says
            image = dataclasses.replace(image, activation=of_images or activation)
        told = source
        if text.activation != activation:
            told += f", against {self.activation_from}, which says {text.activation}"
        text = dataclasses.replace(text, activation=activation)
        arch = dataclasses.replace(self.arch, image=image, text=text)
        return dataclasses.replace(self, arch=arch, activation_from=told)

    def with_quick_gelu(self, is_quick: bool, source: str) -> "ForeignConfig":
        """The same with quick GELU in every tower of OpenCLIP's own, or with none of it."""
        if is_quick:
            return self.with_activation("quick_gelu", source)
        image, text = (_plain(t.activation) for t in (self.arch.image, self.arch.text))
        return self.with_activation(text, source, image)

    def with_preprocessing(self, preprocessing: Preprocessing, source: str) -> "ForeignConfig":
        """The same with other preprocessing."""
        image = dataclasses.replace(self.arch.image, preprocessing=preprocessing)
        arch = dataclasses.replace(self.arch, image=image)
        return dataclasses.replace(self, arch=arch, preprocessing_from=source)

    def provenance(self) -> tuple[str, ...]:
        """What was taken from where, a line each."""
        image, text = self.arch.image, self.arch.text
        both = f"{image.activation} (images), {text.activation} (texts)"
        names = image.activation if image.activation == text.activation else both
        pixels = self.preprocessing_from
        source = f"from {pixels}" if pixels else "OpenAI's, since nothing says otherwise"
        lines = (
            f"activation: {names}, from {self.activation_from}",
            f"preprocessing: {described(image.preprocessing)}, {source}",
        )
        if text.tokenizer is None or self.tokenizer_from is None:
            return lines
        return (*lines, f"tokenizer: {text.tokenizer.name}, {self.tokenizer_from}")


def _plain(activation: Activation) -> Activation:
    return "gelu" if activation == "quick_gelu" else activation


def described(preprocessing: Preprocessing) -> str:
    """Preprocessing in one line."""
    mean, std = (" ".join(f"{v:.4g}" for v in p) for p in (preprocessing.mean, preprocessing.std))
    how = f"{preprocessing.resize_mode}, {preprocessing.interpolation}"
    return f"{how}, mean {mean}, std {std}"


def read_json(path: Path) -> Mapping[str, Any]:
    """A configuration of at most ``MAX_CONFIG_BYTES``.

    Raises:
        ValueError: If it is no mapping in JSON, gives a key twice, or is larger.
    """
    return read_mapping(path, max_bytes=MAX_CONFIG_BYTES)


def refuse(where: str, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse settings that are neither unset nor what is wanted.

    Raises:
        ValueError: At the first one.
    """
    for name, value in got.items():
        if value not in (None, False, {}, wanted.get(name)):
            raise ValueError(
                f"{where}: {name}={repr(value)[:100]} cannot be represented: a model here has "
                "plain ViT towers and OpenCLIP's own text transformer. Import another model."
            )

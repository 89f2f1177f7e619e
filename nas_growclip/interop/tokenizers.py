"""Where the tokenizer of an imported model comes from, and whether it can be the model's."""

import dataclasses
from pathlib import Path

from nas_growclip.interop.foreign import ForeignConfig
from nas_growclip.models.tokenizers import identified

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
)
"""By which a folder is known to hold a tokenizer; CLIP's own needs none."""


def with_tokenizer(
    config: ForeignConfig, name: str, folder: Path | None = None, *, may_download: bool = False
) -> ForeignConfig:
    """A model whose tokenizer, if it is one of Hugging Face's, is known by what it does.

    Args:
        config: The model.
        name: As for ``sources.read_config``; a folder may hold the tokenizer too.
        folder: Where the tokenizer's files are, if not there and not on the hub.
        may_download: Whether the hub may be asked for it.

    Returns:
        The same model, if its tokenizer is neither here nor given by the hub.

    Raises:
        ValueError: If the folder holds none, or one that cannot be the model's.
    """
    kind = config.arch.text.tokenizer
    if kind is None:
        if folder is not None:
            raise ValueError(f"{folder}: must not be given: the model has CLIP's own tokenizer.")
        return config
    folder = folder or _beside(Path(name))
    try:
        text = identified(config.arch.text, folder, may_download=may_download)
    except ValueError as error:
        if folder is not None:
            raise
        return dataclasses.replace(config, tokenizer_from=f"not known yet: {error}")
    arch = dataclasses.replace(config.arch, text=text)
    place = str(folder or "the hub")
    return dataclasses.replace(config, arch=arch, tokenizer_from=f"from {place}")


def _beside(path: Path) -> Path | None:
    """The folder of a configuration, if it holds a tokenizer too."""
    place = path if path.is_dir() else path.parent
    holds = path.exists() and any((place / file).is_file() for file in FILES)
    return place if holds else None

"""Texts as tokens: CLIP's byte-pair encoding, or one of Hugging Face's tokenizers.

Which tokenizer a model was trained with is part of its architecture, with a digest of what the
tokenizer does; another one of the same name is refused. Files of Hugging Face's tokenizers are kept
under that digest in the user's cache, and lie in checkpoints.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from nas_growclip.io.files import make_folder, replace_atomically
from nas_growclip.models.arch import TextArch, TokenizerArch

CACHED_TEXTS = 2**16
"""Texts whose tokens are kept: those of a small training set are needed again in each pass."""

TOKENIZER_FOLDER = "tokenizer"
"""Folder within a checkpoint that holds the files of another tokenizer than CLIP's."""

_PROBES = ("a photo of a cat", "Grüße aus 北京! 😀", "THE  quick\tbrown-fox: 3.14", "x" * 40, "")
_PROBE_LENGTH = 24

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """Tokens of one context length; two of the same length and kind are equal."""

    context_length: int
    kind: TokenizerArch | None = None
    """One of Hugging Face's; None: CLIP's."""

    def __call__(self, texts: list[str]) -> Int[Tensor, "batch context"]:
        """Tokens, cut or padded.

        Raises:
            ValueError: If one of Hugging Face's tokenizers is not to be had, or is another one.
        """
        return tokenized(texts, self.context_length, self.kind)


def tokenized(
    texts: list[str], context_length: int, kind: TokenizerArch | None = None
) -> Int[Tensor, "batch context"]:
    """Tokens of texts, CLIP's unless another kind is given, cut or padded to a context length."""
    return torch.stack([_tokens(text, context_length, kind) for text in texts])


@functools.lru_cache(maxsize=CACHED_TEXTS)
def _tokens(text: str, context_length: int, kind: TokenizerArch | None) -> Int[Tensor, " context"]:
    tokens: Tensor = _tokenizer(kind)([text], context_length=context_length)
    return tokens[0].clone()


@functools.cache
def _tokenizer(kind: TokenizerArch | None) -> Callable[..., Tensor]:
    if kind is None:
        clip: Callable[..., Tensor] = SimpleTokenizer()
        return clip
    kept = kept_tokenizer(kind)
    tokenizer: Callable[..., Tensor] = load_tokenizer(kind, kept)
    return tokenizer


def load_tokenizer(
    kind: TokenizerArch, folder: Path | None = None, *, may_download: bool = False
) -> Any:
    """One of Hugging Face's tokenizers, as OpenCLIP uses it.

    Args:
        kind: Which one; if it has a digest, no other is taken.
        folder: Where its files are; None: on the hub, under its name.
        may_download: Whether the hub may be asked for files that it has not given before.

    Raises:
        ValueError: If it is not to be had, or another one than was asked for.
    """
    place = str(folder or kind.name)
    try:
        tokenizer = HFTokenizer(
            place,
            context_length=None,
            clean=kind.clean,
            strip_sep_token=kind.strip_sep_token,
            local_files_only=not may_download,
        )
    except ImportError:
        raise ValueError(
            f"text.tokenizer: {kind.name} needs transformers, which is not installed. Install "
            "nas_growclip[tokenizers]."
        ) from None
    except Exception as error:  # of whatever kind transformers gives for files it cannot read
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"text.tokenizer: {place} cannot be loaded: {type(error).__name__}: {reason}. Import "
            "the model with --tokenizer FOLDER, a folder with the tokenizer's files."
        ) from None
    found = digest_of(tokenizer)
    if kind.digest and found != kind.digest:
        raise ValueError(
            f"text.tokenizer: {place} must be the tokenizer that the model was trained with "
            f"(digest {kind.digest[:12]}), but is another one ({found[:12]}). Use the files that "
            "came with the model."
        )
    return tokenizer


def digest_of(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary and of what it makes of some texts."""
    vocabulary = sorted(tokenizer.tokenizer.get_vocab().items())
    probes = tokenizer(list(_PROBES), context_length=_PROBE_LENGTH).tolist()
    return hashlib.sha256(json.dumps([vocabulary, probes]).encode()).hexdigest()


def identified(
    text: TextArch, folder: Path | None = None, *, may_download: bool = False
) -> TextArch:
    """A text tower whose tokenizer has its digest; its files are kept.

    Args:
        text: Whose tokenizer is one of Hugging Face's.
        folder: Where the tokenizer's files are; None: on the hub.
        may_download: As for ``load_tokenizer``.

    Raises:
        ValueError: If it is not to be had, has more tokens than the tower, or ends texts otherwise.
    """
    assert text.tokenizer is not None
    tokenizer = load_tokenizer(text.tokenizer, folder, may_download=may_download)
    place, size = folder or text.tokenizer.name, max(tokenizer.tokenizer.get_vocab().values()) + 1
    if size > text.vocab_size:
        raise ValueError(
            f"{place}: must have at most the text tower's {text.vocab_size} tokens, but has "
            f"{size}. Use the files that came with the model."
        )
    probes = tokenizer(list(_PROBES), context_length=_PROBE_LENGTH)
    if text.pooling == "end" and not bool((probes == text.end_token).any(dim=1).all()):
        raise ValueError(
            f"{place}: must end texts with token {text.end_token}, at which the text tower is "
            "pooled, but does not. Use the files that came with the model."
        )
    kind = replace(text.tokenizer, digest=digest_of(tokenizer))
    _keep(kind, lambda target: tokenizer.save_pretrained(str(target)))
    return replace(text, tokenizer=kind)


def kept_tokenizer(kind: TokenizerArch) -> Path | None:
    """Where the files of a tokenizer are kept; None if they are not."""
    place = _cache() / kind.digest
    return place if kind.digest and place.is_dir() else None


def copy_tokenizer(kind: TokenizerArch, folder: Path) -> None:
    """Write a tokenizer's files into a folder; if they are not kept, a warning says so.

    Raises:
        ValueError: If the folder cannot be written.
    """
    kept = kept_tokenizer(kind)
    if kept is None:
        _LOG.warning("%s: without the files of the tokenizer %s.", folder, kind.name)
        return
    make_folder(folder)
    _copy_files(kept, folder)


def keep_tokenizer(kind: TokenizerArch, folder: Path) -> None:
    """Keep a checkpoint's tokenizer, unless it is kept already or the checkpoint has none."""
    if kind.digest and folder.is_dir():
        _keep(kind, lambda target: _copy_files(folder, target))


def _copy_files(source: Path, target: Path) -> None:
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        replace_atomically(target / file.name, functools.partial(shutil.copyfile, file))


def _keep(kind: TokenizerArch, write: Callable[[Path], object]) -> None:
    place = _cache() / kind.digest
    if place.is_dir():
        return
    temporary = place.with_name(f"{kind.digest}.{os.getpid()}")
    make_folder(temporary)
    write(temporary)
    try:
        temporary.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(temporary, ignore_errors=True)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nas_growclip" / "tokenizers"

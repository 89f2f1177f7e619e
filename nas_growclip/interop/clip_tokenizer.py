"""CLIP's tokenizer as files for other tools, made of the vocabulary that open_clip brings along."""

import functools
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip

from nas_growclip.interop.writing import write_json
from nas_growclip.io.files import write_atomically
from nas_growclip.models.arch import END_OF_TEXT

MERGES = END_OF_TEXT - 1 - 512
"""Merges of CLIP's tokenizer: tokens but for 256 bytes, those at a word's end, and two marks."""
START, END = "<|startoftext|>", "<|endoftext|>"
"""The marks of a text, as Hugging Face spells them."""
PAD = 0
"""What stands behind a text's end, where nothing is read."""
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Vocabulary(NamedTuple):
    """Tokens with their numbers, and which two become one, the first pair first."""

    tokens: Mapping[str, int]
    merges: tuple[str, ...]


@functools.cache
def vocabulary() -> Vocabulary:
    """CLIP's, under Hugging Face's names of the marks."""
    names = {"<start_of_text>": START, "<end_of_text>": END}
    encoder = open_clip.tokenizer.SimpleTokenizer().encoder
    with gzip.open(open_clip.tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGES + 1]
    tokens = {names.get(token, token): number for token, number in encoder.items()}
    return Vocabulary(tokens, tuple(merges))


def write_hf_tokenizer(out: Path, context_length: int) -> None:
    """Write the files of transformers' ``CLIPTokenizer``.

    Raises:
        ValueError: If a file cannot be written.
    """
    tokens, merges = vocabulary()
    write_json(out / "vocab.json", tokens)
    text = "\n".join(["#version: 0.2", *merges]) + "\n"
    write_atomically(out / "merges.txt", text.encode("utf-8"))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length}
    write_json(out / "tokenizer_config.json", settings | special | {"do_lower_case": True})
    write_json(out / "special_tokens_map.json", special)


def tokenizer_json(context_length: int) -> dict[str, Any]:
    """CLIP's tokenizer for the ``tokenizers`` library; cuts and pads to a context length."""
    tokens, merges = vocabulary()
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": context_length,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": context_length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": PAD,
            "pad_type_id": 0,
            "pad_token": next(token for token, number in tokens.items() if number == PAD),
        },
        "added_tokens": [_mark(token, tokens[token]) for token in (START, END)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": _WORDS},
                    "behavior": "Removed",
                    "invert": True,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, tokens[END]],
            "cls": [START, tokens[START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(tokens),
            "merges": list(merges),
        },
    }


def _mark(token: str, number: int) -> dict[str, Any]:
    switches = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **switches, "special": True}

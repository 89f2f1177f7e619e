"""A tokenizer of a few hundred tokens, for models whose vocabulary is not what is tested.

CLIP's has 49,408: in models this small their embedding is nearly all there is to draw, to clip, to
step and to save, and took half of the time of every small run.
"""

import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nas_growclip.io.mappings import to_mapping
from nas_growclip.models.arch import ClipArch, TokenizerArch
from nas_growclip.models.tokenizers import keep_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SCENES = """
above against along an and are around arrow arrows at background beige below beneath beside
between big black blue bottom brown by centre checkered circle circles column corner cream crescent
crescents cross crosses dark diagonal diamond diamonds digit disc discs donut donuts dotted drawing
eight ellipse ellipses five four from gray green grey handwritten heart hearts hexagon hexagons
hollow image in inside is large lavender left light little lower medium middle moon moons navy next
nine number of on one orange other out outlined oval ovals over pale photo picture pink plain plus
purple red rhombus rhombuses right ring rings row seven shape shapes side sign signs six sized small
solid spotted spread square squares star stars striped surrounding teal the there three tiny to top
triangle triangles turquoise two under upper violet white within yellow zero
"""
"""Words of rendered scenes and of the digits' prompts; others are spelled."""
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
TOKENS = [*SPECIAL, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *SCENES.split()]
WORDS = TokenizerArch(
    name="words", digest="23de1db5ce24e4a26c42b4de4af1a79f60a9d5d21914289f69cfb684a10d6243"
)
"""Its kind, as models name it."""
TRAITS: Mapping[str, Any] = {
    "vocab_size": len(TOKENS),
    "end_token": TOKENS.index("[SEP]"),
    "tokenizer": WORDS,
}
"""What a text tower with this tokenizer has."""
IN_YAML = to_mapping(TRAITS)
"""The same as experiments are written."""


def with_words(arch: ClipArch) -> ClipArch:
    """An architecture with this tokenizer; the session's cache has its files."""
    return replace(arch, text=replace(arch.text, **TRAITS))


def keep_words(folder: Path) -> None:
    """Put its files where every process of this session finds them.

    Args:
        folder: An empty one, to write them to.
    """
    word_pieces().save_pretrained(str(folder))
    keep_tokenizer(WORDS, folder)


def word_pieces() -> PreTrainedTokenizerFast:
    """The tokenizer: words in lower case between [CLS] and [SEP]."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return like_berts(tokenizer)


def like_berts(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that has the special tokens, with texts between [CLS] and [SEP]."""
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)

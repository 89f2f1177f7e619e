"""Other tokenizers than CLIP's: OpenCLIP's tokens, kept in checkpoints, known by what they do."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nas_growclip.growth.inherit import inherit
from nas_growclip.interop.exporting import export_open_clip
from nas_growclip.interop.importing import checkpoint_arch, import_with_provenance, open_checkpoint
from nas_growclip.models import tokenizers
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from tests.support.models import CONFIGS, stock_model, write_config
from tests.support.words import SPECIAL, like_berts

TEXTS = [
    "A photo of a cat",
    "  two RED circles,\tabove a blue square!",
    "",
    "Grüße 北京",
    "x " * 99,
]

CORPUS = ["a photo of a cat", "two red circles above a blue square", "x-ray of the quick brown fox"]


def unigram() -> PreTrainedTokenizerFast:
    """As SigLIP's and XLM-V's: sentence pieces, texts ended by ``</s>``."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's, which CLIPA uses: texts between ``[CLS]`` and ``[SEP]``."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = list(SPECIAL)
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return like_berts(tokenizer)


KINDS = {"metaclip2": unigram, "clipa": word_pieces, "timm_siglip2": unigram}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(tmp_path / "cache", monkeypatch)


def forget(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    tokenizers._tokenizer.cache_clear()
    tokenizers._tokens.cache_clear()


def published(folder: Path, name: str, **text: Any) -> Path:
    """A folder as OpenCLIP publishes it, with its tokenizer."""
    stock = stock_model(write_config(folder, name))
    model = CONFIGS[name] | {"text_cfg": CONFIGS[name]["text_cfg"] | text}
    (folder / "hub").mkdir()
    config = {"model_cfg": model, "preprocess_cfg": {}}
    (folder / "hub" / "open_clip_config.json").write_text(json.dumps(config))
    save_file(stock.state_dict(), folder / "hub" / "open_clip_model.safetensors")
    KINDS[name]().save_pretrained(folder / "hub")
    return folder / "hub"


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_open_clips_after_growing_moving_and_exporting(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(tmp_path, name)
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    model = open_checkpoint(folder)
    assert checkpoint_arch(folder) == model.arch
    assert torch.equal(model.tokenize(TEXTS), theirs)
    assert theirs.unique(dim=0).shape[0] == len(TEXTS)
    child = inherit(model, model.arch.with_size("text.depth", 3))
    save_model(child, tmp_path / "ours")
    shutil.rmtree(folder)
    forget(tmp_path / "other", monkeypatch)
    loaded = load_model(tmp_path / "ours")
    assert torch.equal(loaded.tokenize(TEXTS), theirs)
    export_open_clip(loaded, tmp_path / "out")
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(TEXTS), theirs)
    assert checkpoint_arch(tmp_path / "out").text.tokenizer == model.arch.text.tokenizer


def test_another_tokenizer_under_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_checkpoint(published(tmp_path, "metaclip2"))
    save_model(model, tmp_path / "ours")
    CORPUS.append("a sentence more")
    try:
        unigram().save_pretrained(tmp_path / "ours" / "tokenizer")
    finally:
        CORPUS.pop()
    forget(tmp_path / "other", monkeypatch)
    with pytest.raises(ValueError, match=r"must be the tokenizer .* trained with .* another one"):
        load_model(tmp_path / "ours").tokenize(["a"])


def test_a_child_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    model = open_checkpoint(published(tmp_path, "metaclip2"))
    data = model.arch.to_dict()
    data["text"]["tokenizer"]["digest"] = "0" * 64
    with pytest.raises(ValueError, match=r"text\.tokenizer must stay the same"):
        inherit(model, type(model.arch).from_dict(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"eos_id": 5}, "must end texts with token 5, at which the text tower is pooled"),
        ({"vocab_size": 20}, r"must have at most the text tower's 20 tokens, but has \d+"),
    ],
)
def test_a_tokenizer_that_cannot_be_the_models_is_refused(
    tmp_path: Path, text: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_checkpoint(published(tmp_path, "metaclip2", **text))


def test_a_tokenizer_may_lie_elsewhere_or_be_missing(tmp_path: Path) -> None:
    folder = published(tmp_path, "clipa")
    word_pieces().save_pretrained(tmp_path / "files")
    for file in folder.glob("*token*"):
        file.unlink()
    model, lines = import_with_provenance(str(folder))
    assert "tokenizer: bert-base-uncased, not known yet: " in lines[-1]
    with pytest.raises(ValueError, match=r"cannot be loaded: .* --tokenizer FOLDER"):
        model.tokenize(["a"])
    model, lines = import_with_provenance(str(folder), None, tmp_path / "files")
    assert lines[-1] == f"tokenizer: bert-base-uncased, from {tmp_path / 'files'}"
    assert model.tokenize(["a photo"]).shape == (1, 16)
    with pytest.raises(ValueError, match="cannot be loaded"):
        import_with_provenance(str(folder), None, tmp_path / "nowhere")


def test_a_digest_cannot_be_a_path(tmp_path: Path) -> None:
    model = open_checkpoint(published(tmp_path, "metaclip2"))
    data = model.arch.to_dict()
    data["text"]["tokenizer"]["digest"] = "../../somewhere"
    with pytest.raises(ValueError, match="digest: must be a SHA-256 of 64 digits"):
        type(model.arch).from_dict(data)


def test_clips_own_tokenizer_takes_no_files(tmp_path: Path, tiny_parent: Clip) -> None:
    config = write_config(tmp_path, "b32")
    save_file(stock_model(config).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="the model has CLIP's own tokenizer"):
        import_with_provenance(str(config), str(tmp_path / "w.safetensors"), tmp_path)
    save_model(tiny_parent, tmp_path / "ours")
    assert not (tmp_path / "ours" / "tokenizer").exists()

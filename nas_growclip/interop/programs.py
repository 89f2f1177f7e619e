"""Both encoders of a model as programs that run without this package, for batches of any size.

A folder of programs holds ``image_encoder`` and ``text_encoder``, which compute unit-length
embeddings in float32; ``inference.json``, which says how images and texts become their inputs and
their outputs logits; and ``tokenizer.json``, or the files of another tokenizer than CLIP's in
``tokenizer``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nas_growclip.growth.verify import probe
from nas_growclip.interop.clip_tokenizer import END, PAD, START, tokenizer_json, vocabulary
from nas_growclip.interop.processors import sized_preprocess_cfg
from nas_growclip.interop.writing import write_json
from nas_growclip.io.files import filled_whole, writing
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip, empty_model
from nas_growclip.models.gates import folded_state
from nas_growclip.models.tokenizers import TOKENIZER_FOLDER, copy_tokenizer

DESCRIPTION = "inference.json"
TOKENIZER = "tokenizer.json"

TOLERANCE = 1e-5
"""Largest difference from an entry of the model's own embedding, which has length 1."""
TRACED_BATCH = 2
CHECKED_BATCHES = (1, 5)
"""Batches that are compared: others than the one that a program was traced with."""

Encode = Callable[[Tensor], Tensor]


class Encoder(NamedTuple):
    """One of a model's two encoders; its input and output have transformers' names."""

    name: str
    method: str
    other_tower: str
    """The part of the model that it does without."""
    input: str
    output: str


ENCODERS = (
    Encoder("image_encoder", "encode_image", "text", "pixel_values", "image_embeds"),
    Encoder("text_encoder", "encode_text", "image", "input_ids", "text_embeds"),
)


class ProgramFiles(NamedTuple):
    """How an encoder is kept in a file."""

    suffix: str
    write: Callable[[ExportedProgram, Encoder, Path], None]
    read: Callable[[Path, Encoder], Encode]


def export_programs(model: Clip, out: Path, files: ProgramFiles) -> None:
    """Write both encoders, compare what was written with the model, and describe them.

    Raises:
        ValueError: If a program computes something else than the model, or the folder cannot be
            written; a new folder is not there then.
    """
    plain = plain_copy(model)
    with filled_whole(out) as folder:
        for encoder in ENCODERS:
            path = folder / f"{encoder.name}{files.suffix}"
            with writing(out / path.name):
                files.write(_program(plain, encoder), encoder, path)
            check_encoder(plain, encoder, files.read(path, encoder), str(out / path.name))
        write_json(folder / DESCRIPTION, description(plain, files.suffix))
        if plain.arch.text.tokenizer is None:
            write_json(folder / TOKENIZER, tokenizer_json(plain.arch.text.context_length))
        else:
            copy_tokenizer(plain.arch.text.tokenizer, folder / TOKENIZER_FOLDER)


def plain_copy(model: Clip) -> Clip:
    """The same function in float32 on the CPU, without gates and without gradients."""
    copy = empty_model(model.arch)
    state = {name: value.detach().float().cpu() for name, value in folded_state(model).items()}
    copy.load_state_dict(state, assign=True)
    return copy.eval().requires_grad_(False)


def check_encoder(model: Clip, encoder: Encoder, encode: Encode, where: str) -> None:
    """Compare an exported encoder with the model's own on random inputs.

    Raises:
        ValueError: If an embedding differs by more than ``TOLERANCE``.
    """
    for size in CHECKED_BATCHES:
        batch = _random_batch(model.arch, encoder, size)
        difference = float((encode(batch) - getattr(model, encoder.method)(batch)).abs().max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{where}: must give the model's own {encoder.output} to {TOLERANCE:g}, but "
                f"differs by {difference:.1e} on {size} random inputs. Use the checkpoint as it "
                "is, by nas_growclip.load_model(FOLDER)."
            )


def _random_batch(arch: ClipArch, encoder: Encoder, size: int) -> Tensor:
    return probe(arch, seed=size, count=size)[encoder.input == "input_ids"]


class _Encode(nn.Module):
    """An encoder that holds no weights but its own."""

    def __init__(self, model: Clip, encoder: Encoder) -> None:
        super().__init__()
        self.model = plain_copy(model)
        delattr(self.model, encoder.other_tower)
        self.method = encoder.method

    def forward(self, batch: Tensor) -> Tensor:
        embeddings: Tensor = getattr(self.model, self.method)(batch)
        return embeddings


def _program(model: Clip, encoder: Encoder) -> ExportedProgram:
    batch = _random_batch(model.arch, encoder, TRACED_BATCH)
    shapes = ({0: Dim("batch", min=1)},)
    program = torch.export.export(_Encode(model, encoder), (batch,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return program


def description(model: Clip, suffix: str) -> dict[str, Any]:
    """What a program needs around it: pixels, tokens, temperature.

    ``preprocess_cfg`` is OpenCLIP's; ``logit_scale`` is the factor, no logarithm.
    """
    arch = model.arch
    scale, *bias = (float(value) for value in model.scale_and_bias())
    encoders = {e.name: {"file": e.name + suffix, "input": e.input, "output": e.output}
                for e in ENCODERS}  # fmt: skip
    return {
        **encoders,
        "embed_dim": arch.embed_dim,
        "normalized": True,
        "logit_scale": scale,
        "logit_bias": bias[0] if bias else None,
        "preprocess_cfg": sized_preprocess_cfg(arch.image),
        "tokenizer": _tokenizer_description(arch),
    }


def _tokenizer_description(arch: ClipArch) -> dict[str, Any]:
    kind, tokens = arch.text.tokenizer, vocabulary().tokens
    if kind is not None:
        return {
            "kind": "of transformers.AutoTokenizer",
            "folder": TOKENIZER_FOLDER,
            "name": kind.name,
            "clean": kind.clean,
            "strip_sep_token": kind.strip_sep_token,
            "context_length": arch.text.context_length,
        }
    return {
        "kind": "CLIP byte-pair encoding",
        "file": TOKENIZER,
        "context_length": arch.text.context_length,
        "start_of_text": {"token": START, "id": tokens[START]},
        "end_of_text": {"token": END, "id": tokens[END]},
        "pad_id": PAD,
    }


def _write_pt2(program: ExportedProgram, encoder: Encoder, path: Path) -> None:
    torch.export.save(program, path)


def _read_pt2(path: Path, encoder: Encoder) -> Encode:
    module: Encode = torch.export.load(path).module()
    return module


def export_torch(model: Clip, out: Path) -> None:
    """Write both encoders as programs for ``torch.export.load``.

    Raises:
        ValueError: As ``export_programs``.
    """
    export_programs(model, out, ProgramFiles(".pt2", _write_pt2, _read_pt2))

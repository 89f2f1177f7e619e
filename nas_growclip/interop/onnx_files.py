"""Both encoders as ONNX graphs, checked with onnxruntime; needs the extra ``[onnx]``."""

from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from nas_growclip.interop.extras import require_packages
from nas_growclip.interop.programs import Encode, Encoder, ProgramFiles, export_programs
from nas_growclip.models.clip import Clip

OPSET = 18
"""Version of the operators in the graphs; onnxruntime has them all from 1.14 on."""
MAX_GRAPH_BYTES = 2**31 - 2**20
"""Weights that a graph holds; its format ends at 2 GiB, and more lie in a file beside it."""


def export_onnx(model: Clip, out: Path) -> None:
    """Write both encoders as ONNX graphs.

    Raises:
        ValueError: As ``export_programs``, and if a package of the extra is missing.
    """
    require_packages(("onnx", "onnxscript", "onnxruntime"), "--format onnx", "onnx")
    export_programs(model, out, ProgramFiles(".onnx", _write, _read))


def _write(program: ExportedProgram, encoder: Encoder, path: Path) -> None:
    size = sum(value.nbytes for value in program.state_dict.values())
    torch.onnx.export(
        program,
        f=path,
        input_names=[encoder.input],
        output_names=[encoder.output],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        external_data=size > MAX_GRAPH_BYTES,
        verbose=False,
    )


def _read(path: Path, encoder: Encoder) -> Encode:
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def encode(batch: Tensor) -> Tensor:
        (embeddings,) = session.run([encoder.output], {encoder.input: batch.numpy()})
        return torch.from_numpy(embeddings)

    return encode

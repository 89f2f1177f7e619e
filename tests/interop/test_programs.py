"""Both encoders as ONNX graphs and as programs of torch.export: the model's own embeddings."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from nas_growclip.cli.main import main
from nas_growclip.data.preprocess import preprocess
from nas_growclip.growth.verify import perturbed
from nas_growclip.interop import onnx_files, programs
from nas_growclip.interop.onnx_files import export_onnx
from nas_growclip.interop.processors import read_preprocess_cfg
from nas_growclip.interop.programs import export_torch
from nas_growclip.models.checkpoint import save_model
from nas_growclip.models.clip import Clip
from tests.growth.test_traits import KINDS, arch_of
from tests.support.exported import MODELS, SHARED, TEXTS, batches, largest_difference
from tests.support.runs import ROOT

pytestmark = pytest.mark.slow

SMALL = SHARED.with_sizes({"image.depth": 1, "shared.depth": 0})
"""For what has nothing to do with the parts of a model."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Clip:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def graphs(model: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ONNX graphs."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    export_onnx(model, folder)
    return folder


@pytest.fixture(scope="module")
def archives(model: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of programs of torch.export."""
    folder = tmp_path_factory.mktemp("torch") / "out"
    export_torch(model, folder)
    return folder


def run_onnx(folder: Path, encoder: str, batch: Tensor) -> Tensor:
    about = json.loads((folder / "inference.json").read_text())[encoder]
    session = onnxruntime.InferenceSession(folder / about["file"])
    (embeddings,) = session.run([about["output"]], {about["input"]: batch.numpy()})
    return torch.from_numpy(embeddings)


def shallow(kind: str) -> Clip:
    """A model with one block in each tower."""
    arch = arch_of(kind).with_sizes({"image.depth": 1, "text.depth": 1})
    return perturbed(Clip(arch, seed=1).double()).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tower_is_a_program(kind: str, tmp_path: Path) -> None:
    model = shallow(kind)
    export_torch(model, tmp_path / "out")  # which compares both encoders with the model's
    about = json.loads((tmp_path / "out" / "inference.json").read_text())["tokenizer"]
    assert ("file" in about) == (model.arch.text.tokenizer is None)
    assert ("name" in about) == (model.arch.text.tokenizer is not None)


def test_an_attention_pooled_model_is_a_graph(tmp_path: Path) -> None:
    export_onnx(shallow("siglip"), tmp_path / "out")


@pytest.mark.parametrize("size", [1, 5])
def test_onnx_graphs_give_the_models_embeddings(model: Clip, graphs: Path, size: int) -> None:
    images, tokens = batches(model, size)
    given = run_onnx(graphs, "image_encoder", images), run_onnx(graphs, "text_encoder", tokens)
    assert [tuple(g.shape) for g in given] == [(size, model.arch.embed_dim)] * 2
    assert largest_difference(model, images, tokens, given) < 1e-5


def test_onnx_graphs_are_whole_and_hold_no_other_weights(model: Clip, graphs: Path) -> None:
    arch = model.arch
    assert {path.name for path in graphs.iterdir()} == {
        "image_encoder.onnx",
        "text_encoder.onnx",
        "inference.json",
        "tokenizer.json",
    }
    shapes = {
        "image_encoder": (3, *arch.image.image_shape),
        "text_encoder": (arch.text.context_length,),
    }
    for encoder, shape in shapes.items():
        graph = onnx.load(graphs / f"{encoder}.onnx")
        onnx.checker.check_model(graph)
        (given,) = graph.graph.input
        axes = [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]
        assert axes == ["batch", *shape]
    largest = max(
        np.prod(weight.dims)
        for weight in onnx.load(graphs / "image_encoder.onnx").graph.initializer
    )
    assert largest < arch.text.vocab_size


def test_the_description_reads_back(model: Clip, graphs: Path) -> None:
    about = json.loads((graphs / "inference.json").read_text())
    image = model.arch.image
    assert read_preprocess_cfg(about["preprocess_cfg"], "test") == image.preprocessing
    assert about["preprocess_cfg"]["size"] == list(image.image_shape)
    scale, *bias = (value.tolist() for value in model.scale_and_bias())
    assert about["logit_scale"] == pytest.approx(scale)
    assert about["logit_bias"] == (pytest.approx(bias[0]) if bias else None)
    assert about["tokenizer"]["context_length"] == model.arch.text.context_length


def test_open_clip_scales_images_by_the_description_as_we_do(model: Clip, graphs: Path) -> None:
    about = json.loads((graphs / "inference.json").read_text())
    transform = image_transform_v2(PreprocessCfg(**about["preprocess_cfg"]), is_train=False)
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (50, 71, 3), dtype=np.uint8))
    assert torch.equal(transform(picture)[None], preprocess([picture], model.arch.image))


def test_the_tokenizer_file_makes_the_models_tokens(model: Clip, graphs: Path) -> None:
    about = json.loads((graphs / "inference.json").read_text())["tokenizer"]
    tokenizer = Tokenizer.from_file(str(graphs / about["file"]))
    given = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(TEXTS)])
    assert torch.equal(given, model.tokenize(TEXTS))
    for mark in ("start_of_text", "end_of_text"):
        assert tokenizer.token_to_id(about[mark]["token"]) == about[mark]["id"]
        assert (given == about[mark]["id"]).any(dim=1).all()
    assert given[1, 2:].unique().tolist() == [about["pad_id"]]


def test_programs_of_torch_give_the_models_embeddings(model: Clip, archives: Path) -> None:
    encoders = [
        torch.export.load(archives / f"{encoder}_encoder.pt2").module()
        for encoder in ("image", "text")
    ]
    for size in (1, 5):
        images, tokens = batches(model, size)
        given = encoders[0](images), encoders[1](tokens)
        assert largest_difference(model, images, tokens, given) < 1e-5
    about = json.loads((archives / "inference.json").read_text())
    assert about["image_encoder"]["file"] == "image_encoder.pt2"


def test_no_file_names_a_place_of_this_machine(graphs: Path, archives: Path) -> None:
    for path in (*graphs.iterdir(), *archives.iterdir()):
        data = path.read_bytes()
        assert str(ROOT).encode() not in data, path
        assert sys.prefix.encode() not in data, path


def test_weights_beyond_the_formats_limit_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "MAX_GRAPH_BYTES", 50_000)
    model = perturbed(Clip(SMALL)).eval()
    export_onnx(model, tmp_path / "out")
    token_bytes = 4 * model.arch.text.vocab_size * model.arch.text.width
    assert (tmp_path / "out" / "text_encoder.onnx").stat().st_size < token_bytes / 4
    assert (tmp_path / "out" / "text_encoder.onnx.data").stat().st_size > token_bytes
    _, tokens = batches(model, 3)
    given = run_onnx(tmp_path / "out", "text_encoder", tokens)
    with torch.no_grad():
        assert float((given - model.encode_text(tokens)).abs().max()) < 1e-5


def shifted(read: Callable[..., programs.Encode], by: float) -> Callable[..., programs.Encode]:
    """A reader whose encoders are a little off."""
    return lambda *arguments: lambda batch: read(*arguments)(batch) + by


@pytest.mark.parametrize("by", [2e-5, float("nan")])
def test_a_program_that_computes_something_else_is_an_error_and_leaves_no_folder(
    by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_read_pt2", shifted(programs._read_pt2, by))
    with pytest.raises(
        ValueError, match=r"out/image_encoder\.pt2: must give the model's own image_embeds to 1e-05"
    ):
        export_torch(Clip(SMALL), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model(Clip(SHARED), tmp_path / "model")
    monkeypatch.setitem(sys.modules, package, None)
    given = ["export", str(tmp_path / "model"), "--format", "onnx", "--out", str(tmp_path / "out")]
    assert main(given) == 2
    assert capsys.readouterr().err == (
        f"growclip: error: --format onnx needs onnx, onnxscript, onnxruntime, but '{package}' is "
        "missing. Run: pip install 'nas_growclip[onnx]'.\n"
    )
    assert not (tmp_path / "out").exists()

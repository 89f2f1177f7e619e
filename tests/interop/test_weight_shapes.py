"""Weights in the shapes that trainers leave behind, and the kinds that are refused by name."""

import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas_growclip.interop.importing import import_model
from nas_growclip.interop.weights import read_weights
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from tests.support.models import inputs, largest_difference, stock_model, write_config

Weights = Mapping[str, Tensor]


def prefixed(prefix: str) -> Callable[[Weights], dict[str, Any]]:
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


def towers_compiled(weights: Weights) -> dict[str, Tensor]:
    """As after ``model.visual.compile()`` of a wrapped tower."""
    return {n.replace("visual.", "visual._orig_mod.", 1): t for n, t in weights.items()}


def averaged(weights: Weights) -> dict[str, Tensor]:
    """As ``torch.optim.swa_utils.AveragedModel`` saves."""
    return prefixed("module.")(weights) | {"n_averaged": torch.tensor(7)}


SHAPES: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "compiled": prefixed("_orig_mod."),
    "compiled_ddp": prefixed("module._orig_mod."),
    "ddp_compiled": prefixed("_orig_mod.module."),
    "lightning": prefixed("model."),
    "lightning_compiled": prefixed("model._orig_mod."),
    "held": prefixed("learner.clip."),
    "fsdp": prefixed("_fsdp_wrapped_module.model._checkpoint_wrapped_module."),
    "towers_compiled": towers_compiled,
    "averaged": averaged,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], Any]:
    """A configuration, its stock model's weights and that model."""
    config = write_config(tmp_path_factory.mktemp("plain"), "b32")
    stock = stock_model(config)
    return config, {n: t.contiguous() for n, t in stock.state_dict().items()}, stock


@pytest.fixture(scope="module")
def plainly_imported(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Our weights of the plain ones."""
    config, weights, _ = plain
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    save_file(weights, path)
    return dict(import_model(str(config), str(path)).state_dict())


@pytest.mark.parametrize("holder", ["alone", "state_dict", "lightning"])
@pytest.mark.parametrize("name", SHAPES)
def test_wrapped_weights_are_the_plain_ones(
    tmp_path: Path, plain: Any, plainly_imported: dict[str, Tensor], name: str, holder: str
) -> None:
    config, weights, _ = plain
    saved: dict[str, Any] = SHAPES[name](weights)
    if holder != "alone":
        saved = {"epoch": 3, "state_dict": saved, "optimizer_states": [{"state": {}}]}
    if holder == "lightning":
        saved |= {"pytorch-lightning_version": "2.5.0", "callbacks": {}, "loops": {"fit_loop": {}}}
    torch.save(saved, tmp_path / "last.ckpt")
    found = import_model(str(config), str(tmp_path / "last.ckpt")).state_dict()
    assert found.keys() == plainly_imported.keys()
    assert all(torch.equal(found[n], plainly_imported[n]) for n in found)


def test_weights_that_would_take_each_others_place_are_refused(tmp_path: Path, plain: Any) -> None:
    _, weights, _ = plain
    torch.save({**weights, **prefixed("module.")(weights)}, tmp_path / "both.pt")
    with pytest.raises(ValueError, match=r"holds '.*' twice, under different prefixes"):
        read_weights(tmp_path / "both.pt")


def write_parts(folder: Path, weights: Weights, name: str = "model", suffix: str = "") -> Path:
    """Two parts and their index, which is returned."""
    folder.mkdir(exist_ok=True)
    names, suffix = sorted(weights), suffix or ".safetensors"
    parts = {f"{name}-0000{i + 1}-of-00002{suffix}": names[i::2] for i in range(2)}
    for part, members in parts.items():
        held = {n: weights[n] for n in members}
        save_file(held, folder / part) if suffix == ".safetensors" else torch.save(
            held, folder / part
        )
    index = folder / f"{name}{suffix}.index.json"
    places = {n: part for part, members in parts.items() for n in members}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize(("name", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin")])
def test_parts_are_joined_by_their_index_or_folder(
    tmp_path: Path, plain: Any, name: str, suffix: str
) -> None:
    config, weights, stock = plain
    index = write_parts(tmp_path / "parts", weights, name, suffix)
    for named in (index, index.parent):
        model = import_model(str(config), str(named))
        assert largest_difference(model, stock, *inputs(model)) < 1e-5
    (tmp_path / "parts" / "open_clip_config.json").write_text(config.read_text())
    model = import_model(str(tmp_path / "parts"))
    assert largest_difference(model, stock, *inputs(model)) < 1e-5


def test_one_part_alone_names_the_index(tmp_path: Path, plain: Any) -> None:
    config, weights, _ = plain
    index = write_parts(tmp_path / "parts", weights)
    part = index.parent / "model-00001-of-00002.safetensors"
    with pytest.raises(ValueError, match=r"one of 2 parts .*model\.safetensors\.index\.json, or"):
        import_model(str(config), str(part))
    index.unlink()
    with pytest.raises(ValueError, match=r"only parts \(model-00001-of-.*\) without an index"):
        import_model(str(config), str(part.parent))


def broken_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(index: Path) -> None:
        data = json.loads(index.read_text())
        change(data)
        index.write_text(json.dumps(data))

    return write


def _leave_folder(data: dict[str, Any]) -> None:
    data["weight_map"]["logit_scale"] = "../model-00001-of-00002.safetensors"


def _swap(data: dict[str, Any]) -> None:
    parts = sorted(set(data["weight_map"].values()))
    place = data["weight_map"]["logit_scale"]
    data["weight_map"]["logit_scale"] = parts[1 - parts.index(place)]


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "leaves": (broken_index(_leave_folder), r"'logit_scale' must be in a file beside the index"),
    "swapped": (broken_index(_swap), r"must hold 'logit_scale', as .* says, but does not"),
    "empty": (broken_index(lambda d: d["weight_map"].clear()), "weight_map must say where each"),
    "no_part": (
        lambda index: (index.parent / "model-00002-of-00002.safetensors").unlink(),
        r"model-00002-of-00002\.safetensors: no such file of weights, but",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_indices_are_told(tmp_path: Path, plain: Any, name: str) -> None:
    breaking, message = BROKEN[name]
    index = write_parts(tmp_path / "parts", plain[1])
    breaking(index)
    with pytest.raises(ValueError, match=message):
        read_weights(index)


def _adapter_folder(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text("{}")
    return folder


def _adapter_file(folder: Path) -> Path:
    name = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(2)}, folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def _meta(folder: Path) -> Path:
    torch.save({"logit_scale": torch.empty(3, device="meta")}, folder / "w.pt")
    return folder / "w.pt"


def _several(folder: Path) -> Path:
    for epoch in (1, 2):
        torch.save({"a": torch.ones(1)}, folder / f"epoch_{epoch}.pt")
    return folder


def _named(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(b"GGUF")
        return folder / name

    return write


def _flax_folder(folder: Path) -> Path:
    _named("flax_model.msgpack")(folder)
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "adapter_folder": (_adapter_folder, r"holds an adapter .*Merge the adapter first"),
    "adapter_file": (_adapter_file, r"a part of an adapter, not of a model\. Merge the adapter"),
    "meta": (_meta, "'logit_scale' is on the meta device: it has a shape but no numbers"),
    "several": (_several, r"holds 2 weights files \(epoch_1\.pt, epoch_2\.pt\)\. Name one"),
    "empty": (lambda folder: folder, "must hold a weights file, but holds none"),
    "onnx": (_named("clip.onnx"), "is an ONNX graph, which cannot be imported"),
    "gguf": (_named("clip.gguf"), "is a GGUF file, which cannot be imported"),
    "flax": (_flax_folder, r"flax_model\.msgpack: is Flax weights, which cannot be imported"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_are_refused_by_their_own_name(tmp_path: Path, name: str) -> None:
    write, message = KINDS[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(write(tmp_path))
    assert "\n" not in str(caught.value)


NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda t: t.index_fill(0, torch.tensor([0]), torch.nan), "must hold finite numbers, b"),
    "inf": (lambda t: t.index_fill(0, torch.tensor([0]), torch.inf), ".*but 1 of its .* are infin"),
    "too_large": (lambda t: t.double() + 1e300, "must hold finite numbers, but"),
    "complex": (lambda t: t.to(torch.complex64), r"must be one of .*, but is torch\.complex64"),
    "integer": (lambda t: t.to(torch.int32), r"must be one of .*, but is torch\.int32"),
    "boolean": (lambda t: t > 0, r"must be one of .*, but is torch\.bool"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_imports_name_the_first_weight_that_is_no_finite_fraction(
    tmp_path: Path, plain: Any, name: str
) -> None:
    config, weights, _ = plain
    change, message = NUMBERS[name]
    save_file(weights | {"ln_final.bias": change(weights["ln_final.bias"])}, tmp_path / "w.st")
    with pytest.raises(ValueError, match=rf"w\.st: 'ln_final\.bias' {message}"):
        import_model(str(config), str(tmp_path / "w.st"))


@pytest.mark.parametrize("name", NUMBERS)
def test_checkpoints_name_the_first_weight_that_is_no_finite_fraction(
    tmp_path: Path, tiny_parent: Clip, name: str
) -> None:
    change, message = NUMBERS[name]
    save_model(tiny_parent, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["text.norm.bias"] = change(tensors["text.norm.bias"])
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors: 'text\.norm\.bias' {message}"):
        load_model(tmp_path)


DOUBLED = '{"embed_dim": 48, "embed_dim": 64, "vision_cfg": {}, "text_cfg": {}}'


@pytest.mark.parametrize("name", ["arch.json", "open_clip_config.json", "config.json"])
def test_keys_given_twice_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(DOUBLED)
    read = load_model if name == "arch.json" else lambda folder: import_model(str(folder))
    with pytest.raises(ValueError, match=rf"{name}: not valid json: the key 'embed_dim' stands tw"):
        read(tmp_path)


@pytest.mark.parametrize("filling", ['{"a": "%s"}', '{"image": [%s]}'])
def test_a_huge_architecture_is_refused_unread(tmp_path: Path, filling: str) -> None:
    (tmp_path / "arch.json").write_text(filling % ("1," * 2**25))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"arch\.json: must have at most 1048576 bytes"):
        ClipArch.load(tmp_path / "arch.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20

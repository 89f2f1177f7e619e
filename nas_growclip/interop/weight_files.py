"""Which files a model's weights are in: one, the parts of an index, or those of a folder."""

import re
from collections.abc import Mapping
from pathlib import Path

from nas_growclip.interop.foreign import read_json

INDEX = ".index.json"
ADAPTER_CONFIG = "adapter_config.json"
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weights in a folder, the first one that is there first: OpenCLIP's order, with
indices."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", INDEX)
OTHER_KINDS: Mapping[str, str] = {
    ".onnx": "an ONNX graph",
    ".gguf": "a GGUF file",
    ".msgpack": "Flax weights",
    ".h5": "TensorFlow weights",
    ".npz": "NumPy arrays, as big_vision writes them",
    ".npy": "a NumPy array",
    ".tflite": "a TensorFlow Lite model",
    ".pt2": "an exported program",
    ".engine": "a TensorRT engine",
}
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")


def weight_parts(path: Path) -> dict[Path, frozenset[str]]:
    """Files that hold a model's weights, and which tensors of each are meant; none named: all.

    Raises:
        ValueError: If there is no such file, or it is one part of several.
    """
    if path.is_dir():
        path = weights_in(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Check the path.")
    if path.name.endswith(INDEX):
        return _indexed(path)
    if match := _PART.fullmatch(path.name):
        index = f"{match[1]}{match[3]}{INDEX}"
        raise ValueError(
            f"{path}: is one of {int(match[2])} parts of a model. Name their index, {index}, or "
            "their folder."
        )
    return {path: frozenset()}


def weights_in(folder: Path) -> Path:
    """The file of a folder that holds a model's weights, or its index.

    Raises:
        ValueError: If there is none, more than one, or an adapter.
    """
    refuse_adapter_folder(folder)
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    files = sorted(p for p in folder.iterdir() if p.is_file())
    found = [p for p in files if p.name.endswith(SUFFIXES) and not _PART.fullmatch(p.name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found[:5])
        raise ValueError(f"{folder}: holds {len(found)} weights files ({names}). Name one.")
    for path in files:
        refuse_other_kinds(path)
    parts = [p for p in files if _PART.fullmatch(p.name)]
    what = f"but only parts ({parts[0].name}) without an index" if parts else "but holds none"
    raise ValueError(f"{folder}: must hold a weights file, {what}. Name it.")


def refuse_adapter_folder(folder: Path) -> None:
    """Refuse a folder that PEFT wrote.

    Raises:
        ValueError: If it is one.
    """
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(
            f"{folder}: holds an adapter ({ADAPTER_CONFIG}), not a model. Merge the adapter first "
            "(PEFT: model.merge_and_unload()) and save the whole model."
        )


def refuse_other_kinds(path: Path) -> None:
    """Refuse files of other frameworks by their own name.

    Raises:
        ValueError: If it is one.
    """
    kind = OTHER_KINDS.get(path.suffix.lower())
    if kind is not None:
        raise ValueError(
            f"{path}: is {kind}, which cannot be imported. Save the model as safetensors from "
            "PyTorch."
        )


def _indexed(path: Path) -> dict[Path, frozenset[str]]:
    """Parts of an index; each must be a file beside it."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise ValueError(f"{path}: weight_map must say where each weight is, but says nothing.")
    parts: dict[Path, frozenset[str]] = {}
    for weight, name in places.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ValueError(
                f"{path}: {weight[:60]!r} must be in a file beside the index, but is in "
                f"{str(name)[:100]!r}."
            )
        parts[path.parent / name] = parts.get(path.parent / name, frozenset()) | {weight}
    for part in parts:
        if not part.is_file() or part.name.endswith(INDEX):
            raise ValueError(
                f"{part}: no such file of weights, but {path.name} names it. Fetch it."
            )
    return parts

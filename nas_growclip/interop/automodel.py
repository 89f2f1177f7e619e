"""A folder that ``transformers.AutoModel`` loads, shared encoder included, by code of its own.

Its code, ``modeling_growclip.py`` and ``image_processing_growclip.py``, lies beside this file and
is copied into the folder; it needs transformers and what that needs. The folder is a checkpoint of
ours as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas_growclip.interop.clip_tokenizer import write_hf_tokenizer
from nas_growclip.interop.extras import require_packages
from nas_growclip.interop.foreign import HF_CONFIG, HF_PROCESSOR
from nas_growclip.interop.processors import sized_preprocess_cfg
from nas_growclip.interop.programs import ENCODERS, check_encoder, plain_copy
from nas_growclip.interop.writing import write_json, write_weights
from nas_growclip.io.files import filled_whole, write_atomically
from nas_growclip.io.mappings import OMITTED_AT_DEFAULT
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import ARCH_FILE, WEIGHTS_FILE
from nas_growclip.models.clip import Clip

MODULE = "modeling_growclip"
PROCESSOR_MODULE = "image_processing_growclip"
KNOWN = ("preprocessing",)
"""What is written only where it is not the default, and the folder's code knows nevertheless."""
ACTIVATIONS = ("gelu", "quick_gelu")
AUTO_CLASSES = ("AutoModel", "AutoModelForZeroShotImageClassification")


def export_auto_model(model: Clip, out: Path) -> None:
    """Write a folder for ``AutoModel.from_pretrained(OUT, trust_remote_code=True)``, in float32.

    Needs no network; the tokenizer is transformers' own of CLIP.

    Raises:
        ValueError: If the model has traits of other kinds than CLIP, transformers is missing, the
            folder computes something else than the model or cannot be written; a new folder is not
            there then.
    """
    _refuse_traits(model.arch)
    require_packages(("transformers",), "--format transformers", "transformers")
    plain = plain_copy(model)
    with filled_whole(out) as folder:
        write_json(folder / HF_CONFIG, _config(plain.arch))
        write_atomically(folder / ARCH_FILE, (plain.arch.to_json() + "\n").encode())
        for module in (MODULE, PROCESSOR_MODULE):
            code = files(__package__).joinpath(f"{module}.py").read_bytes()
            write_atomically(folder / f"{module}.py", code)
        write_weights(folder / WEIGHTS_FILE, plain.state_dict())
        write_json(folder / HF_PROCESSOR, _processor_config(plain.arch))
        write_hf_tokenizer(folder, plain.arch.text.context_length)
        _check(plain, folder, out)


def _refuse_traits(arch: ClipArch) -> None:
    """Refuse what the code that is copied into the folder has not.

    Raises:
        ValueError: If a tower has a trait that none of CLIP's own has.
    """
    others = {
        f"{name}.{field.name}": getattr(tower, field.name)
        for name, tower in (("image", arch.image), ("text", arch.text))
        for field in fields(tower)
        if field.metadata == OMITTED_AT_DEFAULT
        and field.name not in KNOWN
        and getattr(tower, field.name) != field.default
    }
    for name in ("image", "text"):
        activation = getattr(arch, name).activation
        if activation not in ACTIVATIONS:
            others[f"{name}.activation"] = activation
    if others:
        traits = ", ".join(f"{name} {value!r}" for name, value in others.items())
        raise ValueError(
            "AutoModel's code has CLIP's towers and a shared encoder, but this model has "
            f"{traits}. Export it with --format onnx or torch, or, without a shared encoder, "
            "open_clip or hf."
        )


def _config(arch: ClipArch) -> dict[str, Any]:
    classes = dict.fromkeys(AUTO_CLASSES, f"{MODULE}.GrowClipModel")
    return {
        "model_type": "growclip",
        "architectures": ["GrowClipModel"],
        "auto_map": {"AutoConfig": f"{MODULE}.GrowClipConfig"} | classes,
        "dtype": "float32",
        "arch": arch.to_dict(),
    }


def _processor_config(arch: ClipArch) -> dict[str, Any]:
    name = "GrowClipImageProcessor"
    return {
        "image_processor_type": name,
        "processor_class": "CLIPProcessor",
        "auto_map": {"AutoImageProcessor": f"{PROCESSOR_MODULE}.{name}"},
        "preprocess_cfg": sized_preprocess_cfg(arch.image),
    }


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    logging = import_module("transformers.utils.logging")
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _check(model: Clip, folder: Path, out: Path) -> None:
    with _no_progress_bar():
        model_class = import_module(f"{__package__}.{MODULE}").GrowClipModel
        loaded = model_class.from_pretrained(folder).eval().requires_grad_(False)
    encodes = (loaded.get_image_features, loaded.get_text_features)
    for encoder, encode in zip(ENCODERS, encodes, strict=True):
        check_encoder(model, encoder, encode, str(out))

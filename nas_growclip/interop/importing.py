"""Bring a CLIP model of another tool in: OpenCLIP (native or timm towers), OpenAI, Hugging Face."""

from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from nas_growclip.interop.configs import (
    HF_CONFIG,
    HUB,
    OPEN_CLIP_CONFIG,
    ForeignConfig,
    read_config,
)
from nas_growclip.interop.layouts import (
    HUGGING_FACE,
    OPEN_CLIP_IMAGE,
    OPEN_CLIP_TEXT,
    TIMM_IMAGE,
    join_attention,
    to_ours,
)
from nas_growclip.interop.weights import read_weights
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import ARCH_FILE, fill_model, load_model
from nas_growclip.models.clip import Clip

LAYOUTS = {
    "open_clip": (*OPEN_CLIP_IMAGE, *OPEN_CLIP_TEXT),
    "timm": (*TIMM_IMAGE, *OPEN_CLIP_TEXT),
    "hf": HUGGING_FACE,
}
NO_WEIGHTS = frozenset(
    {"input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask"}
)
"""Entries of state dicts that are no weights."""
PATCH_BIAS = "image.trunk.patch_embed.proj.bias"


def import_model(name: str, weights: str | None = None) -> Clip:
    """Make a model of another tool's configuration and weights.

    Args:
        name: As for ``read_config``.
        weights: A safetensors file or state dict, a pretrained tag of the model (needs a network),
            or None for the weights beside a configuration in a folder or on the hub.

    Returns:
        The model in fp32. Its embeddings are the other tool's, of images that are normalised by
        OpenAI's mean and deviation: other ones are folded into the patch embedding.

    Raises:
        ValueError: If the model cannot be represented, or a file is not what it must be.
    """
    config = read_config(name)
    path = _weights_path(name, weights)
    tensors = {n: t for n, t in read_weights(path).items() if n not in NO_WEIGHTS}
    tensors = {n: t for n, t in tensors.items() if not n.endswith(".position_ids")}
    tensors = _folded_scales(_unprefixed(join_attention(tensors)))
    ours = {
        n: t.float().contiguous()
        for n, t in to_ours(tensors, LAYOUTS[config.layout], str(path)).items()
    }
    if not config.arch.image.norm_pre:
        ours.setdefault(PATCH_BIAS, torch.zeros(config.arch.image.width))
    with torch.device("meta"):
        model = Clip(config.arch)
    model = fill_model(model.to_empty(device="cpu"), ours, path)
    return _fold_normalisation(model, config).eval()


def open_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Clip:
    """Read any checkpoint folder: one of ours, or one that OpenCLIP or Hugging Face can read.

    Raises:
        ValueError: If the folder is none, or a file in it is damaged.
    """
    folder = Path(path)
    if is_foreign(folder):
        return import_model(str(folder)).to(device)
    return load_model(folder, device)


def checkpoint_arch(path: str | Path) -> ClipArch:
    """The architecture of any checkpoint folder, without its weights.

    Raises:
        ValueError: As ``open_checkpoint``.
    """
    folder = Path(path)
    return (
        read_config(str(folder)).arch if is_foreign(folder) else ClipArch.load(folder / ARCH_FILE)
    )


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds another tool's checkpoint and none of ours."""
    configs = (folder / OPEN_CLIP_CONFIG, folder / HF_CONFIG)
    return not (folder / ARCH_FILE).exists() and any(path.exists() for path in configs)


def _weights_path(name: str, weights: str | None) -> Path:
    if weights is not None and Path(weights).exists():
        return Path(weights)
    if weights is None and Path(name).is_dir():
        found = open_clip.factory._find_checkpoint_in_dir(Path(name))
        if found is None:
            raise ValueError(f"{name}: must hold a weights file, but holds none. Name it.")
        return Path(found)
    if weights is None and name.startswith(HUB):
        return Path(open_clip.pretrained.download_pretrained_from_hf(name.removeprefix(HUB)))
    tag = open_clip.get_pretrained_cfg(name, weights) if weights else {}
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(name)
        raise ValueError(
            f"{weights!r} must be a weights file or a pretrained tag of {name}, but is neither. "
            f"Its tags: {', '.join(known) or 'none'}."
        )
    return Path(open_clip.download_pretrained(tag))


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's ``CustomTextCLIP`` keeps its text tower under ``text.``."""
    renamed = {n.removeprefix("text."): t for n, t in tensors.items()}
    if "text_projection.weight" in renamed and "visual_projection.weight" not in renamed:
        renamed["text_projection"] = renamed.pop("text_projection.weight").T
    return renamed


def _folded_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LayerScale multiplies what a branch writes, so it can be part of that matrix and bias."""
    writers = {
        "ls_1.gamma": "attn.out_proj",
        "ls_2.gamma": "mlp.c_proj",
        "ls1.gamma": "attn.proj",
        "ls2.gamma": "mlp.fc2",
    }
    folded = dict(tensors)
    for name, gamma in tensors.items():
        scale = next((s for s in writers if name.endswith(f".{s}")), None)
        if scale is None:
            continue
        writer = name.removesuffix(scale) + writers[scale]
        for part in (f"{writer}.weight", f"{writer}.bias"):
            if part in folded:
                value = folded[part].float()
                folded[part] = value * (
                    gamma.float()[:, None] if value.ndim == 2 else gamma.float()
                )
        del folded[name]
    return folded


@torch.no_grad()
def _fold_normalisation(model: Clip, config: ForeignConfig) -> Clip:
    """Let the patch embedding undo OpenAI's normalisation and do the model's own.

    With x = (p - m) / s the model's own input is x s / s' + (m - m') / s': a factor for each
    channel, and a constant for each patch, which is part of the bias or of the positions.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.mean, config.std))
    usual_mean, usual_std = (
        torch.tensor(v, dtype=torch.float64) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    if torch.equal(mean, usual_mean) and torch.equal(std, usual_std):
        return model
    trunk = model.image.trunk
    weight = trunk.patch_embed.proj.weight
    old = weight.double()
    constant = torch.einsum("ocij,c->o", old, (usual_mean - mean) / std).float()
    weight.copy_((old * (usual_std / std)[None, :, None, None]).float())
    if trunk.patch_embed.proj.bias is not None:
        trunk.patch_embed.proj.bias += constant
    else:
        trunk.pos_embed[:, 1:] += constant
    return model

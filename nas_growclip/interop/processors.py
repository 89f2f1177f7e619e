"""Preprocessing of images as other tools write it down: OpenCLIP's, Hugging Face's, both ways."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from nas_growclip.interop.foreign import refuse
from nas_growclip.io.mappings import from_mapping
from nas_growclip.models.arch import ImageArch
from nas_growclip.models.preprocessing import Preprocessing

_OPEN_CLIP_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
_HF_TYPES = (
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "CLIPImageProcessorPil",
    "CLIPFeatureExtractor",
)
_SIGLIP_TYPES = tuple(
    f"Siglip{number}ImageProcessor{kind}" for number in ("", "2") for kind in ("", "Fast", "Pil")
)
_RESAMPLING = {
    Image.Resampling.BICUBIC.value: "bicubic",
    Image.Resampling.BILINEAR.value: "bilinear",
}
_HF_SWITCHES = ("do_resize", "do_rescale", "do_convert_rgb")


def read_preprocess_cfg(config: Mapping[str, Any], where: str) -> Preprocessing:
    """OpenCLIP's ``preprocess_cfg``, or the entry of a pretrained tag, which has the same keys.

    What is not set is OpenCLIP's default; its ``size`` is the image tower's, whatever stands here.

    Raises:
        ValueError: If a value is none that OpenCLIP knows.
    """
    refuse(where, {"mode": config.get("mode")}, {"mode": "RGB"})
    given = {key: config[key] for key in _OPEN_CLIP_KEYS if config.get(key) is not None}
    for key in ("mean", "std"):
        if isinstance(given.get(key), (int, float)):
            given[key] = (given[key],) * 3
    if given.get("interpolation") == "random":  # of training only: OpenCLIP evaluates bicubic
        given["interpolation"] = "bicubic"
    return from_mapping(Preprocessing, given, where)


def open_clip_preprocess_cfg(preprocessing: Preprocessing) -> dict[str, Any]:
    """The inverse of ``read_preprocess_cfg``."""
    config = {
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "resize_mode": preprocessing.resize_mode,
    }
    return config | ({"fill_color": preprocessing.fill_color} if preprocessing.fill_color else {})


def sized_preprocess_cfg(image: ImageArch) -> dict[str, Any]:
    """OpenCLIP's ``preprocess_cfg`` with the size, (height, width), for whoever has no tower."""
    size = {"size": list(image.image_shape), "mode": "RGB"}
    return size | open_clip_preprocess_cfg(image.preprocessing)


def read_image_processor(config: Mapping[str, Any], image: ImageArch, where: str) -> Preprocessing:
    """Hugging Face's ``preprocessor_config.json`` of a ``CLIPImageProcessor``.

    Raises:
        ValueError: If it does what cannot be represented; the message names the setting.
    """
    kinds = {k: config.get(k) for k in ("image_processor_type", "feature_extractor_type")}
    if str(kinds["image_processor_type"]).startswith("Siglip"):
        return _read_siglip_processor(config, image, where)
    refuse(where, {k: v for k, v in kinds.items() if v not in _HF_TYPES}, {})
    for name in _HF_SWITCHES:
        _require(config.get(name, True), True, name, where)
    _require(round(1 / config.get("rescale_factor", 1 / 255), 3), 255, "1 / rescale_factor", where)
    resample = config.get("resample", Image.Resampling.BICUBIC.value)
    if resample not in _RESAMPLING:
        _require(resample, "3 (bicubic) or 2 (bilinear)", "resample", where)
    given: dict[str, Any] = {
        "resize_mode": _resize_mode(config, image, where),
        "interpolation": _RESAMPLING[resample],
    }
    keys = {"mean": "image_mean", "std": "image_std"}
    given |= {ours: config[k] for ours, k in keys.items() if config.get(k) is not None}
    if not config.get("do_normalize", True):
        given |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return from_mapping(Preprocessing, given, where)


def _read_siglip_processor(
    config: Mapping[str, Any], image: ImageArch, where: str
) -> Preprocessing:
    """SigLIP's, which squashes images to the model's size; of ``Siglip2``, at one resolution."""
    refuse(where, {k: v for k, v in config.items() if k == "image_processor_type"
                   and v not in _SIGLIP_TYPES}, {})  # fmt: skip
    height, width = image.image_shape
    given = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **config}
    given |= {"image_processor_type": _HF_TYPES[0], "do_center_crop": False}
    if config["image_processor_type"].startswith("Siglip2"):
        given["size"] = {"height": height, "width": width}
    given.setdefault("size", {"height": 224, "width": 224})
    return read_image_processor(given, image, where)


def _resize_mode(config: Mapping[str, Any], image: ImageArch, where: str) -> str:
    """``shortest`` for the shorter side and a crop, ``squash`` for both sides and none."""
    height, width = image.image_shape
    both = {"height": height, "width": width}
    size = config.get("size", {"shortest_edge": width})
    if config.get("do_center_crop", True):
        crop = config.get("crop_size", both)
        _require({"height": crop, "width": crop} if isinstance(crop, int) else crop, both,
                 "crop_size", where)  # fmt: skip
    if size == both:
        return "squash"
    if not config.get("do_center_crop", True):
        _require(size, both, "size without do_center_crop", where)
    _require({"shortest_edge": size} if isinstance(size, int) else size, {"shortest_edge": width},
             "size", where)  # fmt: skip
    return "shortest"


def _require(value: object, wanted: object, name: str, where: str) -> None:
    if value != wanted:
        raise ValueError(
            f"{where}: {name} must be {wanted} for this model, but is {repr(value)[:60]}, which "
            "cannot be represented. Save the model with a processor that says so."
        )


def image_processor_config(image: ImageArch) -> dict[str, Any]:
    """The inverse of ``read_image_processor``.

    Raises:
        ValueError: If ``CLIPImageProcessor`` cannot do it.
    """
    preprocessing, (height, width) = image.preprocessing, image.image_shape
    if preprocessing.resize_mode == "longest":
        raise ValueError(
            "Hugging Face's CLIPImageProcessor cannot fit an image's longer side, which this "
            "model's preprocessing does (resize_mode 'longest'). Export it with --format open_clip "
            "or transformers."
        )
    is_squashed = preprocessing.resize_mode == "squash"
    both = {"height": height, "width": width}
    resample = {name: number for number, name in _RESAMPLING.items()}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": both if is_squashed else {"shortest_edge": width},
        "resample": resample[preprocessing.interpolation],
        "do_center_crop": not is_squashed,
        "crop_size": both,
        **_normalizing(preprocessing),
    }


def siglip_processor_config(image: ImageArch, kind: str) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of a ``SiglipModel`` or ``Siglip2Model``.

    Raises:
        ValueError: If their processors cannot do it.
    """
    preprocessing, (height, width) = image.preprocessing, image.image_shape
    if preprocessing.resize_mode != "squash":
        raise ValueError(
            "Hugging Face's SiglipImageProcessor squashes images, but this model's preprocessing "
            f"has resize_mode {preprocessing.resize_mode!r}. Export it with --format open_clip."
        )
    size: dict[str, Any] = {"size": {"height": height, "width": width}}
    if kind == "siglip2":
        rows, columns = image.grid
        size = {"patch_size": image.patch_size, "max_num_patches": rows * columns}
    resample = {name: number for number, name in _RESAMPLING.items()}
    return {
        "image_processor_type": f"Siglip{'2' if kind == 'siglip2' else ''}ImageProcessor",
        "do_resize": True,
        **size,
        "resample": resample[preprocessing.interpolation],
        **_normalizing(preprocessing),
    }


def _normalizing(preprocessing: Preprocessing) -> dict[str, Any]:
    """What Hugging Face's image processors do with pixels behind every resizing."""
    return {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": True,
    }

"""Architectures: strict, round-tripping, and free of torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas_growclip.models.arch import (
    DIMENSIONS,
    PRESETS,
    ClipArch,
    ImageArch,
    SharedArch,
    TextArch,
    dimension_steps,
)

counts = st.integers(1, 8)


@st.composite
def archs(draw: st.DrawFn) -> ClipArch:
    head_dim, patch_size = draw(st.sampled_from([8, 32, 64])), draw(st.sampled_from([4, 14]))
    return ClipArch(
        image=ImageArch(
            depth=draw(counts),
            width=head_dim * draw(counts),
            mlp_width=draw(st.integers(1, 999)),
            patch_size=patch_size,
            image_size=patch_size * draw(counts),
            head_dim=head_dim,
        ),
        text=TextArch(
            depth=draw(counts),
            width=head_dim * draw(counts),
            mlp_width=draw(st.integers(1, 999)),
            context_length=draw(st.integers(3, 99)),
            head_dim=head_dim,
        ),
        shared=SharedArch(
            depth=draw(st.integers(0, 3)), mlp_width=draw(st.integers(1, 999)), head_dim=head_dim
        ),
        embed_dim=head_dim * draw(counts),
    )


@given(archs())
def test_architecture_survives_dict_yaml_and_json(arch: ClipArch) -> None:
    assert ClipArch.from_dict(arch.to_dict()) == arch
    assert ClipArch.from_dict(yaml.safe_load(arch.to_yaml())) == arch
    assert ClipArch.from_dict(json.loads(arch.to_json())) == arch


@given(archs())
def test_sizes_read_back_what_was_set(arch: ClipArch) -> None:
    assert arch.with_sizes(arch.sizes()) == arch
    assert arch.with_size("image.depth", 17).size("image.depth") == 17
    assert dimension_steps(arch, arch) == {}
    grown = arch.with_size("text.mlp_width", arch.text.mlp_width + 1)
    assert dimension_steps(arch, grown) == {
        "text.mlp_width": (arch.text.mlp_width, arch.text.mlp_width + 1)
    }


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_file_round_trip(tmp_path: Path, suffix: str) -> None:
    arch = ClipArch.preset("tiny")
    path = tmp_path / f"arch.{suffix}"
    path.write_text(arch.to_json() if suffix == "json" else arch.to_yaml())
    assert ClipArch.load(path) == arch


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_every_dimension(name: str) -> None:
    assert set(ClipArch.preset(name).sizes()) == set(DIMENSIONS)


@pytest.mark.parametrize(
    ("dimension", "size", "message"),
    [
        ("image.width", 50, r"image\.width must be divisible by image\.head_dim, but got width=50"),
        ("image.patch_size", 7, r"image\.image_size must be divisible by image\.patch_size"),
        ("text.depth", 0, r"text\.depth must be a whole number above 0, but got 0"),
        ("text.context_length", 2, r"text\.context_length must hold start"),
        ("shared.depth", -1, r"shared\.depth: must be 0 or more, but got -1"),
        ("embed_dim", 33, r"embed_dim must be divisible by shared\.head_dim"),
        (
            "image.widht",
            64,
            r"dimension: must be one of .*but got 'image.widht'. Did you mean 'image.width'\?",
        ),
        ("colour", 64, r"dimension: must be one of image.depth.*but got 'colour'\.$"),
    ],
)
def test_impossible_sizes_are_refused(dimension: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipArch.preset("tiny").with_size(dimension, size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": "64"}, r"arch: embed_dim: must be int, but got str '64'"),
        ({"embed_dim": True}, r"arch: embed_dim: must be int, but got bool"),
        ({"embeddim": 64}, r"arch: embeddim: unknown key. Did you mean 'embed_dim'\?"),
        ({"image": 3}, r"arch: image: must be a mapping, but got int '3'"),
    ],
)
def test_bad_mapping_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipArch.from_dict(ClipArch.preset("tiny").to_dict() | change)


def test_missing_key_is_named() -> None:
    data = ClipArch.preset("tiny").to_dict()
    del data["text"]["width"]
    with pytest.raises(ValueError, match=r"arch: text: width: missing key"):
        ClipArch.from_dict(data)


def test_unknown_preset_and_changed_norm_pre_are_refused() -> None:
    with pytest.raises(ValueError, match=r"preset: must be one of tiny"):
        ClipArch.preset("huge")
    tiny = ClipArch.preset("tiny")
    data = tiny.to_dict()
    data["image"]["norm_pre"] = True
    with pytest.raises(ValueError, match=r"image\.norm_pre must stay the same"):
        dimension_steps(tiny, ClipArch.from_dict(data))


def test_architecture_needs_no_torch() -> None:
    code = "import sys, nas_growclip.models.arch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

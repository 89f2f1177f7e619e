"""OpenCLIP's whole list: what the docs say of it, and that what is imported was held to it."""

from pathlib import Path

import open_clip
import pytest

from analysis.pages.zoo import PAGE, zoo, zoo_page
from nas_growclip.interop.sources import read_config
from nas_growclip.models.arch import FIXED_TRAITS, ClipArch
from tests.support import models

APART = ("norm_eps", "preprocessing", "activation")
"""Traits that stand apart from the others, and are tested with several values."""


def traits(arch: ClipArch, encoder: str) -> tuple[object, ...]:
    """Everything about a tower that decides which function it computes, but for its sizes."""
    found = []
    for name, trait in FIXED_TRAITS:
        if name == encoder and trait not in APART:
            value = getattr(getattr(arch, name), trait)
            found.append(value is not None if trait in ("tokenizer", "end_token") else value)
    return tuple(found)


@pytest.mark.slow
def test_the_page_says_what_is_imported() -> None:
    """After an update of open_clip: python -m analysis.pages.zoo"""
    assert PAGE.read_text() == zoo_page()


@pytest.mark.slow
def test_enough_can_be_imported_and_every_refusal_says_why() -> None:
    entries = zoo()
    good = [entry for entry in entries if entry.arch is not None]
    assert len(good) >= 75
    assert sum(len(entry.tags) for entry in good) >= 121
    for entry in entries:
        assert entry.arch or "represented" in entry.reason, entry.name
        assert "\n" not in entry.reason


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["image", "text"])
def test_every_configurations_traits_are_those_of_a_model_that_is_tested(
    tmp_path: Path, encoder: str
) -> None:
    tested = {
        traits(read_config(str(models.write_config(tmp_path, name))).arch, encoder)
        for name in models.CONFIGS
    }
    for entry in zoo():
        if entry.arch is not None:
            assert traits(entry.arch, encoder) in tested, entry.name


def importable_tags() -> list[tuple[str, str]]:
    """Of open_clip's own table."""
    return [(entry.name, tag) for entry in zoo() if entry.arch is not None for tag in entry.tags]


@pytest.mark.slow
def test_every_importable_tag_has_the_activation_and_pixels_that_open_clip_lists() -> None:
    tags = importable_tags()
    assert len(tags) >= 121
    corrected, plain = 0, {entry.name: entry.arch for entry in zoo()}
    for name, tag in tags:
        listed = open_clip.get_pretrained_cfg(name, tag)
        config = read_config(name, tag)
        image, text = config.arch.image, config.arch.text
        is_quick = bool(listed.get("quick_gelu"))
        assert (text.activation == "quick_gelu") == is_quick
        assert config.layout == "timm" or (image.activation == "quick_gelu") == is_quick
        found = image.preprocessing
        assert (found.mean, found.std) == (tuple(listed["mean"]), tuple(listed["std"]))
        assert found.interpolation == listed["interpolation"]
        assert found.resize_mode == listed["resize_mode"]
        corrected += config.arch != plain[name]
        told = "against" in config.provenance()[0]
        assert told == (text.activation != plain[name].text.activation)
    assert corrected >= 19  # plain names under which the weights were another function

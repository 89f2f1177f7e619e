"""OpenCLIP's whole list: what the docs say of it, and that what is imported was held to it."""

from pathlib import Path

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

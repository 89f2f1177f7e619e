"""Folders that are filled whole or not at all."""

from pathlib import Path

import pytest

from nas_growclip.io.files import filled_whole


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_is_filled_at_the_end(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "above" / "out"
    if is_there:
        folder.mkdir(parents=True)
    with filled_whole(folder) as made:
        (made / "a").write_text("1")
        (made / "b").write_text("2")
        assert not (folder / "a").exists()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2"}


def fill_in_vain(folder: Path) -> None:
    with filled_whole(folder) as made:
        (made / "a").write_text("1")
        raise KeyError


@pytest.mark.parametrize("is_there", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "out"
    if is_there:
        folder.mkdir()
    with pytest.raises(KeyError):
        fill_in_vain(folder)
    assert folder.exists() == is_there
    assert not is_there or not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"), filled_whole(tmp_path / "file" / "out"):
        pass

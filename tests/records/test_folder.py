"""A run folder: one class names its files, and a folder of another format is refused."""

import ast
import json
import re
from pathlib import Path

import pytest

import nas_growclip
from nas_growclip.records.folder import (
    FORMAT,
    MAX_NAME,
    RunFolder,
    StageFolder,
    TrialsFolder,
    find_config,
    write_format,
)

PACKAGE = Path(nas_growclip.__file__).parent
OTHERS_NAMES = {
    "model.safetensors": "of any model's folder: models/checkpoint.py names it",
    "arch.json": "of any model's folder: models/checkpoint.py names it",
}


def named_files() -> set[str]:
    """Every file name that the class's table lists."""
    rows = re.findall(r"^ *\| (`[^|]+) \|", RunFolder.__doc__ or "", re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    return {name for name in names if not name.endswith("/")}


def texts(path: Path) -> set[str]:
    """The string literals of a module, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    }


def test_no_other_module_names_a_file_of_a_run_folder() -> None:
    names = named_files() - OTHERS_NAMES.keys()
    assert {"config.yaml", "trials.jsonl", "manifest.json", "study.db"} <= names
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "records" / "folder.py":
            found = names & {part for text in texts(path) for part in text.split("/")}
            assert not found, f"{path.relative_to(PACKAGE)} names {found}"


def test_the_table_lists_every_file_that_the_classes_name() -> None:
    files = {p.name for p in _paths(RunFolder(Path("r")))} | {
        p.name for p in _paths(StageFolder(Path("s")))
    }
    table = RunFolder.__doc__ or ""
    assert all(f"`{name}" in table for name in files), files


def _paths(folder: RunFolder | StageFolder) -> list[Path]:
    found = []
    for name, value in vars(type(folder)).items():
        if isinstance(value, property) and name not in ("path", "lines"):
            place = getattr(folder, name)
            found.append(place.path if isinstance(place, TrialsFolder) else place)
    return found


def test_long_labels_become_short_names_that_differ() -> None:
    trials = TrialsFolder(Path("t"))
    one, other = (trials.record("image.width=1+" * 20 + end) for end in ("a", "b"))
    assert one != other
    assert len(one.name) < MAX_NAME + 30
    assert trials.state("text.depth=2").name == "text.depth=2.safetensors"


# Formats.


def test_a_folder_without_a_format_is_an_earlier_versions(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    message = r"must have format 3 .* has format 1, written by nas_growclip 0\.1\.0\. Use"
    with pytest.raises(ValueError, match=message):
        find_config(tmp_path)


def test_another_versions_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "format.json").write_text(json.dumps({"format": 9, "written_by": "7.1.0"}))
    with pytest.raises(ValueError, match=r"has format 9, written by nas_growclip 7\.1\.0"):
        find_config(tmp_path)


def test_a_folder_of_this_version_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    write_format(tmp_path)
    assert find_config(tmp_path) == tmp_path / "config.yaml"
    assert json.loads((tmp_path / "format.json").read_text())["format"] == FORMAT

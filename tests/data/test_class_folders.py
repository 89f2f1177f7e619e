"""A folder for each class is a zero-shot set, as torchvision's ``ImageFolder`` reads it."""

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from nas_growclip.data.class_folders import (
    DEFAULT_TEMPLATES,
    class_folder_task,
    is_class_folders,
    open_task,
)
from nas_growclip.data.config import ScenesConfig
from nas_growclip.data.stages import load_tasks
from nas_growclip.evaluation.named_sets import tasks_at
from tests.data.sources.test_files import write_pairs
from tests.data.sources.test_webdataset import png, write_shards
from tests.data.test_stages import write_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, one of which has a folder within."""
    for label, name in enumerate(("golden_retriever", "cat", "African grey")):
        for number in range(4):
            file = tmp_path / "pets" / name / ("more" if number > 2 else "") / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png((60 * label, number, 0)))
    return tmp_path / "pets"


def test_images_and_labels_are_those_of_torchvision(folder: Path) -> None:
    task, expected = open_task(folder), ImageFolder(str(folder))
    assert task.name == "pets"
    assert task.class_names == ("African grey", "cat", "golden retriever")
    assert task.templates == DEFAULT_TEMPLATES
    assert len(task.images) == len(expected)
    ours = sorted(
        (np.asarray(i).tobytes(), n) for i, n in zip(task.images, task.labels, strict=True)
    )
    assert ours == sorted((np.asarray(image).tobytes(), label) for image, label in expected)


def test_names_and_templates_may_be_given(folder: Path) -> None:
    (folder / "classnames.txt").write_text("a parrot\na cat\na dog\n")
    (folder / "zeroshot_classification_templates.txt").write_text("{c} at home\n")
    task = open_task(folder)
    assert task.class_names == ("a parrot", "a cat", "a dog")
    assert task.templates == ("{c} at home",)


def test_what_cannot_be_read_is_counted(folder: Path) -> None:
    (folder / "cat/broken.jpg").write_bytes(b"nothing")
    assert open_task(folder).skipped == {"unreadable image": 1}
    with pytest.raises(ValueError, match=r"at most 5% may be bad .*1 of 13 pairs are"):
        open_task(folder, 0.05)


def test_set_is_found_wherever_sets_are_named(folder: Path) -> None:
    config = ScenesConfig(stages=(1,), zero_shot=("pe*",))
    assert [task.name for task in load_tasks(config, folder.parent)] == ["pets"]
    assert [task.name for task in tasks_at(str(folder), 32)] == ["pets"]


def test_other_folders_are_no_class_folders(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards/a")
    write_shards(tmp_path / "shards/b")
    for name in ("00000", "00001"):
        write_pairs(tmp_path / "files" / name, range(2))
    write_task(tmp_path / "sets/wds_a")
    write_task(tmp_path / "sets/wds_b")
    write_pairs(tmp_path / "one/only", range(2))
    assert not any(is_class_folders(path) for path in tmp_path.iterdir())
    assert not is_class_folders(tmp_path / "sets/wds_a")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classnames.txt", "one\ntwo\n", r"must have a line for each of the 3 folders.*has 2"),
        ("zeroshot_classification_templates.txt", "a photo\n", r"each line must hold '\{c\}'"),
    ],
)
def test_wrong_files_are_explained(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_task(folder)


def test_folders_without_an_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="must hold one usable image or more, but has none"):
        class_folder_task(tmp_path)

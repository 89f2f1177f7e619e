import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_growclip.data.zero_shot import digits_task, folder_task

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "zeroshot" / "wds_mnist"


def picture(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 90).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "wds_pets"
    (path / "test").mkdir(parents=True)
    (path / "classnames.txt").write_text("cat\ndog\n\n")
    (path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}.\n")
    (path / "test/nshards.txt").write_text("2\n")
    write_shard(path / "test/0.tar", [("s0000000.cls", b"1"), ("s0000000.png", picture())])
    write_shard(path / "test/1.tar", [("s0000001.cls", b"0\n"), ("s0000001.webp", picture("WEBP"))])
    return path


def test_folder_is_read_in_order(folder):
    task = folder_task(folder)
    assert task.name == "pets"
    assert task.class_names == ("cat", "dog")
    assert task.templates == ("a photo of a {c}.", "a {c}.")
    assert task.labels == (1, 0)
    assert [image.mode for image in task.images] == ["RGB", "RGB"]
    assert task.skipped == {}
    assert task.chance == 0.5


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("s2.cls", b"2"), ("s2.png", picture())], "label out of range"),
        ([("s2.cls", b"-1"), ("s2.png", picture())], "label out of range"),
        ([("s2.cls", b"dog"), ("s2.png", picture())], "unreadable label"),
        ([("s2.cls", b"\xff"), ("s2.png", picture())], "unreadable label"),
        ([("s2.png", picture())], "missing label"),
        ([("s2.cls", b"1")], "missing image"),
        ([("s2.cls", b"1"), ("s2.png", b"broken")], "unreadable image"),
        ([], "empty shard"),
    ],
)
def test_bad_images_are_skipped_and_counted(folder, members, reason):
    write_shard(folder / "test/1.tar", members)
    task = folder_task(folder, max_bad_share=1)
    assert task.labels == (1,)
    assert task.skipped == {reason: 1}


def test_truncated_shard_is_counted(folder):
    path = folder / "test/1.tar"
    path.write_bytes(path.read_bytes()[:1024])
    assert folder_task(folder, max_bad_share=1).skipped == {
        "missing image": 1,
        "truncated shard": 1,
    }


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"]
)
def test_missing_text_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"wds_pets/{name} must be a text file"):
        folder_task(folder)


def test_missing_shard_is_named(folder):
    (folder / "test/1.tar").unlink()
    with pytest.raises(ValueError, match=r"test/1\.tar: no such file, but .*nshards\.txt counts"):
        folder_task(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classnames.txt", "cat\n\ndog\n", r"classnames\.txt must not have empty lines"),
        ("classnames.txt", "", r"classnames\.txt must not have empty lines"),
        ("zeroshot_classification_templates.txt", "a photo", r"must hold '\{c\}', but got 'a ph"),
        ("test/nshards.txt", "two", r"nshards\.txt must hold one count, 1 or more, but got"),
        ("test/nshards.txt", "0", r"nshards\.txt must hold one count, 1 or more, but got"),
    ],
)
def test_malformed_text_file_is_explained(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folder_task(folder)


def test_folder_without_a_usable_image_is_an_error(folder):
    for shard in ("test/0.tar", "test/1.tar"):
        write_shard(folder / shard, [("s0.cls", b"7"), ("s0.png", picture())])
    with pytest.raises(ValueError, match=r"must hold one usable image.*'label out of range': 2"):
        folder_task(folder)


def test_digits_are_white_on_black():
    task = digits_task()
    assert len(task.images) == len(task.labels) == 1797
    assert len(task.class_names) == 10
    assert set(task.labels) == set(range(10))
    assert all("{c}" in template for template in task.templates)
    assert {(image.mode, image.size) for image in task.images} == {("RGB", (32, 32))}
    corner = np.mean([np.asarray(image)[:2, :2].mean() for image in task.images])
    middle = np.mean([np.asarray(image)[8:24, 8:24].mean() for image in task.images])
    assert corner < 10 < 100 < middle


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder, which is absent")
def test_shared_task_opens():
    task = folder_task(SHARED)
    assert task.name == "mnist"
    assert len(task.class_names) == 10
    assert len(task.images) > 100
    assert task.skipped == {}

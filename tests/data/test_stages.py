import io
import itertools
import json
import shutil
import tarfile

import pytest
from PIL import Image

from nas_growclip.data.config import ScenesConfig, WebdatasetConfig
from nas_growclip.data.stages import load_tasks, open_stages, skipped_counts, stage_manifest


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_task(path):
    write_tar(path / "test/0.tar", [("0.cls", b"1"), ("0.png", png(1)), ("1.cls", b"5")])
    (path / "classnames.txt").write_text("a\nb\n")
    (path / "zeroshot_classification_templates.txt").write_text("{c}\n")
    (path / "test/nshards.txt").write_text("1\n")


@pytest.fixture
def folder(tmp_path):
    for shard in range(6):
        keys = range(10 * shard, 10 * shard + 3)
        members = [
            (f"{key}.{suffix}", data)
            for key in keys
            for suffix, data in (("png", png(key)), ("txt", b"caption %d" % key))
        ]
        name = {4: "validation/0.tar", 5: "test/0.tar"}.get(shard, f"train/{shard}.tar")
        write_tar(tmp_path / name, [*members, (f"{10 * shard + 9}.txt", b"no image")])
    write_task(tmp_path / "zeroshot/wds_b")
    write_task(tmp_path / "zeroshot/wds_a")
    return tmp_path


def config(**kwargs):
    settings = {
        "stages": (1, 2, 4),
        "train": "train/{0..3}.tar",
        "validation": "validation",
        "test": "test/*.tar",
        "zero_shot": ("digits", "zeroshot/wds_*"),
        "max_bad_share": 0.5,
    }
    return WebdatasetConfig(**(settings | kwargs))


def captions(pairs):
    return [pair.caption for pair in pairs.epoch(None)]


def test_stages_grow_and_share_the_rest(folder):
    stages = open_stages(config(), folder)
    assert [stage.index for stage in stages] == [0, 1, 2]
    assert [stage.num_pairs for stage in stages] == [3, 6, 12]
    for before, after in itertools.pairwise(stages):
        assert captions(after.train)[: before.num_pairs] == captions(before.train)
        assert after.validation is before.validation
        assert after.test is before.test
        assert after.zero_shot is before.zero_shot


def test_scenes_need_no_folder():
    settings = ScenesConfig(stages=(4, 8), validation_pairs=3, test_pairs=2, zero_shot=("scenes",))
    stages = open_stages(settings, None)
    assert [stage.num_pairs for stage in stages] == [4, 8]
    assert (stages[0].validation.num_pairs, stages[0].test.num_pairs) == (3, 2)
    assert stages[0].zero_shot
    json.dumps(stage_manifest(stages[1], settings))


def test_manifest_is_plain_and_complete(folder):
    settings = config()
    stage = open_stages(settings, folder)[1]
    manifest = stage_manifest(stage, settings)
    assert json.loads(json.dumps(manifest)) == manifest
    assert (manifest["stage"], manifest["source"]) == (1, "webdataset")
    train = manifest["train"]
    assert (train["num_pairs"], train["skipped"]) == (6, {"missing image": 2})
    assert [entry["name"] for entry in train["entries"]] == ["train/0.tar", "train/1.tar"]
    assert set(train["entries"][0]) == {"name", "num_pairs", "sha256", "skipped"}
    digits, first, _ = manifest["zero_shot"]
    assert (digits["name"], digits["num_images"], digits["chance"]) == ("digits", 1797, 0.1)
    assert (first["name"], first["num_images"], first["num_classes"]) == ("a", 1, 2)


def test_skipped_counts_add_up_over_everything(folder):
    stages = open_stages(config(), folder)
    assert skipped_counts(stages[0]) == {"label out of range": 2, "missing image": 3}
    assert skipped_counts(stages[2]) == {"label out of range": 2, "missing image": 6}


def test_globs_of_tasks_are_sorted(folder):
    names = [task.name for task in load_tasks(config(), folder)]
    assert names == ["digits", "a", "b"]


def test_same_file_in_two_splits_is_an_error(folder):
    message = r"must not share files, but data\.train \('train/0\.tar'\) and data\.test"
    with pytest.raises(ValueError, match=message):
        open_stages(config(test="train/0.tar"), folder)


def test_copy_of_a_file_in_two_splits_is_an_error(folder):
    shutil.copy(folder / "test/0.tar", folder / "validation/1.tar")
    message = r"data\.validation \('validation/1\.tar'\) and data\.test \('test/0\.tar'\)"
    with pytest.raises(ValueError, match=message):
        open_stages(config(), folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": (1, 5)}, r"but got 5 and data\.train '.*' names 4"),
        ({"zero_shot": ("zeroshot/none",)}, r"there is no folder 'zeroshot/none' in"),
        ({"zero_shot": ("zeroshot/x*",)}, r"there is no folder 'zeroshot/x\*' in"),
        ({"zero_shot": ("digits", "digits")}, r"name each task once, but got 'digits' 2 times"),
        ({"zero_shot": ("zeroshot",)}, r"zeroshot/classnames\.txt must be a text file"),
    ],
)
def test_wrong_settings_are_explained(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        open_stages(config(**settings), folder)


def test_task_folders_need_a_data_folder():
    with pytest.raises(ValueError, match=r"data\.zero_shot must know where.*--data DIR"):
        load_tasks(config(), None)

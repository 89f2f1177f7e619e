"""Experiments as YAML: every file in the repository loads, every mistake is named."""

from pathlib import Path

import pytest
import yaml

from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.io.mappings import from_mapping, read_mapping
from nas_growclip.models.arch import ClipArch
from tests.support.runs import ROOT, SMOKE


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_experiment_loads_and_says_what_it_is_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = tmp_path / "our_clip"  # what vit_b_32.yaml starts from
    imported.mkdir()
    (imported / "arch.json").write_text(ClipArch.preset("vit_b_32").to_json())
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    assert from_mapping(ExperimentConfig, yaml.safe_load(config.to_yaml()), "again") == config
    head = path.read_text()
    assert head.startswith("# Question:")
    assert "# Command:" in head
    assert "# Time:" in head


def test_seed_can_be_replaced() -> None:
    assert load_config(SMOKE, seed=7).seed == 7


def test_parent_is_a_preset_or_an_architecture(tmp_path: Path) -> None:
    data = dict(read_mapping(SMOKE))
    for parent in ("tiny", ClipArch.preset("tiny").to_dict()):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(data | {"parent": parent}))
        assert load_config(tmp_path / "a.yaml").parent_arch == ClipArch.preset("tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, r"a\.yaml: trian: unknown key. Did you mean 'train'\?"),
        ({"train": {"batchsize": 3}}, r"a\.yaml: train: batchsize: unknown key.*'batch_size'"),
        ({"train": {"learning_rate": "3e-4"}}, r"train: learning_rate: must be float.*3\.0e-4"),
        ({"train": {"batch_size": 0}}, r"a\.yaml: train: batch_size: must be 1 or more"),
        ({"parent": "huge"}, r"a\.yaml: parent: 'huge' must be a preset \(tiny"),
        ({"parent": {"embed_dim": 64}}, r"a\.yaml: parent: image: missing key"),
        ({"passes": 0}, r"a\.yaml: passes: must be above 0, but got 0"),
        (
            {"metrics": ["lost"]},
            r"metrics: must be one of loss, .*, zero_shot, but got 'lost'\. Did you mean",
        ),
        ({"search": {"backend": "grid"}}, r"search\.backend: must be one of"),
        (
            {"search": {"sampler": "cma"}},
            r"search\.sampler: must be one of tpe, ",
        ),
        ({"objective": {"name": "best"}}, r"objective\.name: must be one of"),
        ({"growth": {"operator": "magic"}}, r"growth\.operator: must be one of"),
        ({"growth": {"momentum": 1.5}}, r"growth: momentum: must be in \[0, 1\], but got 1.5"),
        ({"space": {"dimensions": {"image.depth": {}}}}, r"image\.depth: must give sizes, ratios"),
        ({"space": "none.yaml"}, r"none\.yaml: no such file"),
        ({"data": {"source": "scenes", "stages": [5, 3]}}, r"stages: cumulative sizes must grow"),
        ({"data": {"source": "parquet", "stages": [5]}}, r"data: source: must be one of .*csv"),
        (
            {"data": {"source": "scenes", "stages": [5], "shuffle_buffer": 9}},
            r"a\.yaml: data: shuffle_buffer: unknown key for source 'scenes'; .* 'webdataset'",
        ),
        ({"data": {"source": "csv", "stages": [5], "tarin": "a"}}, r"data: tarin: .*'train'"),
        (
            {"data": {"stages": [5]}},
            r"data: source: missing key\. Add one of scenes, webdataset, csv, files\.",
        ),
        ({"data": {"source": "scenes", "stages": []}}, r"stages: must list one size or more"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(dict(read_mapping(SMOKE)) | change))
    with pytest.raises(ValueError, match=message):
        load_config(path)

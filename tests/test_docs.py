"""The examples in README and docs run as printed."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_growclip.config import load_config
from nas_growclip.growth.inherit import inherit
from nas_growclip.models.clip import Clip
from tests.growth.test_inherit import similarity
from tests.runs import ROOT
from tests.search.test_objective import CONFIG, DATA, trial


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def run_block(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), names)
    return names


@pytest.mark.slow
def test_readme_python_example_grows_exactly() -> None:
    names = run_block(blocks("README.md", "python")[0])
    parent, child = names["parent"].eval(), names["child"].eval()
    torch.testing.assert_close(similarity(child), similarity(parent), rtol=0, atol=1e-5)


def test_readme_experiment_loads(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    (tmp_path / "experiments").mkdir()
    path = tmp_path / "experiments" / "mine.yaml"
    path.write_text(blocks("README.md", "yaml")[0])
    assert load_config(path).data.stages == (2, 4, 8)


def test_extending_operator_keeps_what_it_claims_and_breaks_ties(tiny_parent: Clip) -> None:
    operator = run_block(blocks("docs/extending.md", "python")[0])["net2net"]
    parent = tiny_parent.double()
    for dimension in operator.preserves:
        bigger = parent.arch.with_size(dimension, 2 * parent.arch.size(dimension))
        child = inherit(parent, bigger, operator)
        torch.testing.assert_close(similarity(child), similarity(parent), rtol=0, atol=1e-10)
        fan_out = dict(child.named_parameters())[
            {
                "image": "image.trunk.blocks.0.mlp.fc2.weight",
                "text": "text.blocks.0.mlp.fc2.weight",
                "shared": "shared.blocks.0.mlp.fc2.weight",
            }[dimension.split(".")[0]]
        ].T
        distances = torch.cdist(fan_out, fan_out) + torch.eye(len(fan_out))
        assert distances.min() > 1e-6


def test_extending_objective_scores() -> None:
    objective = run_block(blocks("docs/extending.md", "python")[1])["smallest_loss"]
    assert objective(trial(), trial(), DATA, CONFIG).value == 0
    assert objective(trial(1, shift=-0.2), trial(), DATA, CONFIG).value == pytest.approx(0.2)


@pytest.mark.parametrize(
    "path", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / path).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / path).parent / target).exists(), target

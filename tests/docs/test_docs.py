"""The examples in README and docs run as printed."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas_growclip.cli.main import COMMANDS
from nas_growclip.experiment.config import load_config
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.operators import OPERATORS
from nas_growclip.growth.verify import similarity_change
from nas_growclip.models.clip import Clip
from tests.growth.test_inherit import NOT_DEPTH, child_sizes
from tests.growth.test_properties import (
    rows_that_stand_still,
    train_two_steps,
    twin_distances,
    wider,
)
from tests.search.test_objective import CONFIG, DATA, trial
from tests.support.runs import ROOT


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def run_block(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), names)
    return names


@pytest.mark.slow
def test_the_python_example_grows_exactly() -> None:
    names = run_block(blocks("docs/guide/quickstart.md", "python")[0])
    parent, child = names["parent"].eval(), names["child"].eval()
    assert similarity_change(parent, child) < 1e-5


def test_the_experiment_loads(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    (tmp_path / "experiments").mkdir()
    path = tmp_path / "experiments" / "mine.yaml"
    path.write_text(blocks("docs/guide/quickstart.md", "yaml")[0])
    assert load_config(path).data.stages == (2, 4, 8)


EXTENDING_OPERATOR = run_block(blocks("docs/guide/extending.md", "python")[0])["random_copies"]


@pytest.fixture
def random_copies(monkeypatch: pytest.MonkeyPatch) -> GrowthConfig:
    monkeypatch.setitem(OPERATORS, "random_copies", EXTENDING_OPERATOR)
    return GrowthConfig(operator="random_copies")


@pytest.mark.parametrize("dimension", NOT_DEPTH)
def test_extending_operator_is_exact_where_it_claims(
    dimension: str, deep_parent: Clip, random_copies: GrowthConfig
) -> None:
    operator = EXTENDING_OPERATOR
    assert set(operator.claims) == set(NOT_DEPTH)
    for ratio in (1.5, 2.0):
        sizes = child_sizes(deep_parent.arch, dimension, ratio=ratio)
        target = deep_parent.arch.with_sizes(sizes)
        change = similarity_change(deep_parent, inherit(deep_parent, target, random_copies))
        holds = operator.claims[dimension].holds(deep_parent.arch, target)
        assert change < 1e-10 if holds else change > 1e-8


def test_extending_operators_copies_part_within_two_steps(
    deep_parent: Clip, random_copies: GrowthConfig
) -> None:
    child = inherit(deep_parent, wider(deep_parent.arch, 2.0), random_copies)
    start = train_two_steps(child)
    assert rows_that_stand_still(child, start) == {}
    assert min(twin_distances(child).values()) > 1e-9


def test_extending_operator_works_with_pim(deep_parent: Clip, random_copies: GrowthConfig) -> None:
    target = wider(deep_parent.arch, 2.0)
    config = replace(random_copies, pim="null_space", momentum=0.0)
    child = inherit(deep_parent, target, config)
    assert similarity_change(deep_parent, child) < 1e-10


def test_extending_objective_scores() -> None:
    objective = run_block(blocks("docs/guide/extending.md", "python")[1])["smallest_loss"]
    assert objective(trial(), trial(), DATA, CONFIG).value == 0
    assert objective(trial(1, shift=-0.2), trial(), DATA, CONFIG).value == pytest.approx(0.2)


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_and_modules_named_in_a_page_exist(page: Path) -> None:
    for path, test in re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", page.read_text()):
        file = module_named(path)
        assert file, path
        assert not test or f"def {test}(" in file.read_text(), f"{path}::{test}"


def module_named(path: str) -> Path | None:
    """A file as pages name it: from the root or the package, code of exports, growth's tests."""
    package = ROOT / "nas_growclip"
    bases = (ROOT, package, package / "interop", ROOT / "tests" / "growth")
    return next((base / path for base in bases if (base / path).is_file()), None)


def test_the_quick_start_lists_every_command() -> None:
    listed = re.findall(
        r"^growclip ([\w-]+)", blocks("docs/guide/quickstart.md", "console")[0], re.M
    )
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_named_in_a_page_exist(page: Path) -> None:
    changelog = page.name == "CHANGELOG.md"  # which also tells of commands that were
    named = set(re.findall(r"(?:^|`)growclip ([a-z][\w-]*)", page.read_text(), re.M))
    assert named - {"study" if changelog else ""} <= set(COMMANDS)

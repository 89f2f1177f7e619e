"""The site's generated pages follow the code, and a broken link stops its build."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from analysis.pages.commands import commands_page
from analysis.pages.fields import as_yaml, field_docs, settings_of, type_name
from analysis.pages.interface import PACKAGE, interface_pages, rooms
from analysis.pages.settings import CHOICES, row, settings_page
from analysis.pages.site_hook import expanded, site_links
from nas_growclip.cli.main import COMMANDS
from nas_growclip.data.augment import AugmentConfig
from nas_growclip.experiment.config import ExperimentConfig, load_config
from nas_growclip.growth.config import GrowthConfig
from nas_growclip.growth.space import SizeChoices
from nas_growclip.models.arch import ImageArch
from nas_growclip.search.config import SearchConfig
from nas_growclip.training.state import TrainConfig
from tests.support.runs import ROOT, SMOKE


@dataclass
class Settings:
    """Some settings.

    More of them.
    """

    sizes: tuple[int, ...] = (1, 2)
    """Sizes, on
    two lines."""
    bound: int | None = None
    """Numbers | nothing."""
    name: str = ""


def test_a_field_has_its_type_default_and_docstring() -> None:
    assert settings_of(Settings)[:2] == [
        ("sizes", "list[int]", "[1, 2]", "Sizes, on two lines."),
        ("bound", "int or null", "null", "Numbers | nothing."),
    ]


def test_docstrings_of_inherited_fields_are_found() -> None:
    @dataclass
    class Child(Settings):
        """A child."""

        extra: int = 0

    docs = field_docs(Child)
    assert list(docs) == ["sizes", "bound", "name", "extra"]
    assert docs["bound"] == "Numbers | nothing."


def test_a_pipe_stays_in_its_cell() -> None:
    assert "Numbers \\| nothing." in row("bound", settings_of(Settings)[1], [])


@pytest.mark.parametrize("hint", [bytes, set[int], list[int]])
def test_a_type_that_no_setting_has_is_refused(hint: object) -> None:
    with pytest.raises(TypeError, match="must be a type that settings have"):
        type_name(hint)


@pytest.mark.parametrize("value", ["", "\t", "yes", None, 1e-6, (1, None), True, {"a": 1}])
def test_a_default_reads_back_as_it_is(value: object) -> None:
    plain = list(value) if isinstance(value, tuple) else value
    assert yaml.safe_load(as_yaml(value)) == plain


SECTIONS = {
    "": ExperimentConfig,
    "parent.image": ImageArch,
    "data.augment": AugmentConfig,
    "space.dimensions.NAME": SizeChoices,
    "growth": GrowthConfig,
    "search": SearchConfig,
    "train": TrainConfig,
}


@pytest.mark.parametrize("key", SECTIONS)
def test_every_setting_has_its_row(key: str) -> None:
    heading = f"### `{key}`" if key else "## An experiment"
    section = re.split(r"\n#+ ", settings_page().partition(heading)[2])[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert rows == [field.name for field in dataclasses.fields(SECTIONS[key])]


def test_every_section_has_an_id_of_its_own() -> None:
    anchors = re.findall(r"^### .*\{#(.*)\}$", settings_page(), flags=re.MULTILINE)
    assert {"data-csv", "data-augment", "space-dimensions-NAME"} <= set(anchors)
    assert len(anchors) == len(set(anchors))


def test_every_setting_says_what_it_means() -> None:
    rows = re.findall(r"^\| (`\w+`) \|.*\| (.*) \|$", settings_page(), flags=re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize("key", CHOICES)
def test_the_page_lists_the_names_that_the_reader_accepts(key: str, tmp_path: Path) -> None:
    data = yaml.safe_load(SMOKE.read_text())
    part, _, name = key.partition(".")
    wrong = ["no such name"] if key == "growth.pim_exclude" else "no such name"
    data[part] = data.get(part, {}) | {name: wrong}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=re.escape(key)) as refusal:
        load_config(path)
    assert all(choice in str(refusal.value) for choice in CHOICES[key])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_text_an_example_and_its_options(command: str) -> None:
    section = commands_page().partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    text, example, options, *_ = section.split("```")
    assert text.strip()
    assert example.startswith(f"console\ngrowclip {command}")
    assert options == "\n\n"
    assert f"Usage: growclip {command} " in section
    assert section.count("--help") == 1
    assert section.count("Example") == 0


def test_every_module_of_the_package_has_its_section() -> None:
    pages = "\n".join(interface_pages().values())
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.glob("*/**/*.py")
        if path.stem != "__init__"
    }
    assert set(re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)) == modules


def test_the_rooms_are_the_layers_from_the_command_line_down() -> None:
    assert sorted(rooms()) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert (rooms()[0], rooms()[-1]) == ("cli", "io")


def test_links_of_the_readme_lead_into_the_site() -> None:
    text = "[a](docs/guide/data.md#x), [b](CHANGELOG.md), ![c](docs/images/c.png)"
    assert site_links(text) == "[a](guide/data.md#x), [b](changelog.md), ![c](images/c.png)"


def test_a_folder_of_the_navigation_becomes_its_pages() -> None:
    nav = {"Guide": ["guide/data.md", {"Decisions": "decisions/"}]}
    pages = ["decisions/README.md", "decisions/0001.md"]
    folders = {"decisions/": ["README.md", "0001.md"]}
    assert expanded(nav, folders) == {"Guide": ["guide/data.md", {"Decisions": pages}]}


def test_the_index_of_decisions_has_every_page_under_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^- \[(.*)\]\((.*)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = [
        (path.read_text().splitlines()[0].removeprefix("# "), path.name)
        for path in sorted(folder.glob("0*.md"))
    ]
    assert listed == titles


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("missing.md", "not found among documentation files"),
        ("#missing", "no such anchor"),
        ("other.md#missing", "does not contain an anchor"),
        ("/absolute.md", "absolute link"),
    ],
)
def test_a_broken_link_stops_the_build(link: str, complaint: str, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    small = {key: config[key] for key in ("site_name", "strict", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(small))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(
        f"# Home\n\n[link]({link}) [good](other.md#there)\n"
    )
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## There\n")
    command = [sys.executable, "-m", "mkdocs", "build"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert complaint in ended.stderr
    assert "Aborted with 1 warnings" in ended.stdout

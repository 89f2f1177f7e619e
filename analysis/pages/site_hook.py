"""MkDocs' hook: adds the pages that are made from the code, and those that lie outside ``docs/``.

``README.md`` becomes the home page and ``CHANGELOG.md`` a page of its own, so that neither is
written twice; the references of settings, commands and the Python interface follow the code. The
navigation's entries that end in ``/`` stand for all pages of that folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from analysis.pages.commands import commands_page
from analysis.pages.interface import interface_pages
from analysis.pages.settings import settings_page

ROOT = Path(__file__).parents[2]
INTERFACE = "reference/python/"
DECISIONS = "decisions/"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the folders of the navigation."""
    folders = {
        INTERFACE: list(interface_pages()),
        DECISIONS: sorted(path.name for path in Path(config.docs_dir, DECISIONS).glob("*.md")),
    }
    config.nav = [expanded(entry, folders) for entry in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def generated_pages() -> dict[str, str]:
    """Markdown of every page that no file of ``docs/`` holds, by its path in the site."""
    pages = {
        "index.md": site_links((ROOT / "README.md").read_text()),
        "changelog.md": site_links((ROOT / "CHANGELOG.md").read_text()),
        "reference/settings.md": settings_page(),
        "reference/commands.md": commands_page(),
    }
    return pages | {INTERFACE + name: text for name, text in interface_pages().items()}


def site_links(text: str) -> str:
    """Links from the repository's root as links from ``docs/``."""
    return re.sub(r"\]\(docs/", "](", text).replace("](CHANGELOG.md)", "](changelog.md)")


def expanded(entry: Any, folders: Mapping[str, list[str]]) -> Any:
    """An entry of the navigation with its folders' pages in place of ``folder/``."""
    if isinstance(entry, str):
        return [entry + name for name in folders[entry]] if entry in folders else entry
    if isinstance(entry, list):
        return [expanded(part, folders) for part in entry]
    return {title: expanded(part, folders) for title, part in entry.items()}

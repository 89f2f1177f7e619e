"""The figures beside a comparison's tables, drawn from its arms' runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas_growclip.compare import results
from nas_growclip.compare.arms import Arm
from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.records.frames import Run
from tests.compare.test_compare_config import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.pictures]

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_each_figure_is_a_file_of_each_format(
    smoke_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(load_comparison(SMALL), envelope=("fixed",))
    arms = tuple(Arm(name, None, {0: smoke_run}) for name in ("growclip", "fixed"))
    monkeypatch.setattr(results, "load_arms", lambda comparison: arms)
    folder = results.write_results(CompareFolder(config, tmp_path / "out"))
    for name in ("accuracy_vs_flops", "accuracy_over_time"):
        for suffix, beginning in BEGINNINGS.items():
            assert (folder / f"{name}{suffix}").read_bytes().startswith(beginning)

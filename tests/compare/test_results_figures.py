"""The figures beside a comparison's tables, drawn from its arms' runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas_growclip.compare import results
from nas_growclip.compare.arms import Arm
from nas_growclip.compare.config import load_comparison
from nas_growclip.compare.folder import CompareFolder
from nas_growclip.records.folder import RunFolder, write_outcomes
from tests.compare.test_compare_config import SMALL
from tests.report.test_report import write_run

pytestmark = [pytest.mark.slow, pytest.mark.pictures]

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_each_figure_is_a_file_of_each_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(load_comparison(SMALL), envelope=("fixed",))
    run = write_run(tmp_path / "run", num_stages=2)
    for stage in run.stages:
        place = RunFolder(run.path).stage(stage.stage)
        place.path.mkdir()
        write_outcomes(place, {"i2t_recall@1": np.array([True, False])})
    arms = tuple(Arm(name, None, {0: run}) for name in ("growclip", "fixed"))
    monkeypatch.setattr(results, "load_arms", lambda comparison: arms)
    folder = results.write_results(CompareFolder(config, tmp_path / "out"))
    for name in ("accuracy_vs_flops", "accuracy_over_time"):
        for suffix, beginning in BEGINNINGS.items():
            assert (folder / f"{name}{suffix}").read_bytes().startswith(beginning)

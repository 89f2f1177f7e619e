"""The faults that ``benchmarks/mutations.py`` puts into the code have their places there."""

from pathlib import Path

import pytest

from benchmarks.mutations import FAULTS, Fault
from tests.support.runs import ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_one_place_and_tests_that_are_there(fault: Fault) -> None:
    text = (ROOT / "nas_growclip" / fault.file).read_text()
    assert text.count(fault.old) == 1
    files = fault.tests.partition(" -k ")[0].split()
    assert all(Path(ROOT, file.partition("::")[0]).exists() for file in files)
    assert files

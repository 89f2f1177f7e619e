"""The library of growth spaces: what each head says is so, and NNI's file is the same space."""

import re
import shlex
from pathlib import Path

import pytest

from nas_growclip.cli.main import main
from nas_growclip.growth.claims import step_claims
from nas_growclip.growth.config import DEFAULT_GROWTH
from nas_growclip.growth.space import GrowthSpace, load_space
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.flops import count_flops
from tests.models.test_flops import flops_by_hand
from tests.support.runs import ROOT

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
ROW = r"^# +([\d,]+) +(\d+)  (\S+ [MG]) to (\S+ [MG])$"
of_every_space = pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)


def head_of(path: Path) -> str:
    return path.read_text().partition("\ndimensions:")[0]


def parent_of(path: Path) -> ClipArch:
    named = re.search(r"^# Parent: (\w+), ", head_of(path), re.MULTILINE)
    assert named
    return ClipArch.preset(named[1])


def rows_of(path: Path) -> list[tuple[int, int, str, str]]:
    rows = re.findall(ROW, head_of(path), re.MULTILINE)
    return [(int(pairs.replace(",", "")), int(count), *ends) for pairs, count, *ends in rows]


def shown(flops: int) -> str:
    unit, size = ("G", 1e9) if flops >= 1e9 else ("M", 1e6)
    return f"{flops / size:.3g} {unit}"


def row(space: GrowthSpace, parent: ClipArch, num_pairs: int) -> tuple[int, int, str, str]:
    """What a line of the head has to say; FLOPs by the closed form, which fvcore's are."""
    candidates = space.candidates(parent, num_pairs)
    flops = [flops_by_hand(candidate.apply(parent)) for candidate in candidates[1:]]
    return num_pairs, len(candidates), shown(min(flops)), shown(max(flops))


@of_every_space
def test_the_head_says_how_many_candidates_there_are_and_what_they_cost(path: Path) -> None:
    space, parent, rows = load_space(path), parent_of(path), rows_of(path)
    assert f", {shown(flops_by_hand(parent))} FLOPs a pair\n" in head_of(path)
    assert rows == [row(space, parent, num_pairs) for num_pairs, *_ in rows]
    steps = {choices.from_pairs for choices in space.dimensions.values()}
    steps |= {combination.from_pairs for combination in space.combine}
    assert {num_pairs for num_pairs, *_ in rows[1:]} == steps - {0}


def test_flops_of_the_smallest_space_are_fvcores() -> None:
    """Of larger models only the closed form is computed; it is held to fvcore in test_flops."""
    path = ROOT / "search_spaces" / "tiny.yaml"
    parent, (num_pairs, _, least, most) = parent_of(path), rows_of(path)[-1]
    archs = [c.apply(parent) for c in load_space(path).candidates(parent, num_pairs)[1:]]
    ends = min(archs, key=flops_by_hand), max(archs, key=flops_by_hand)
    assert tuple(shown(count_flops(arch)) for arch in ends) == (least, most)


@of_every_space
def test_the_command_in_the_head_writes_nnis_file(path: Path, tmp_path: Path) -> None:
    command = re.search(r"growclip (space .*\\\n#.*\.json)$", head_of(path), re.MULTILINE)
    assert command
    arguments = shlex.split(command[1].replace("\\\n#", ""))
    out = arguments.index("--out") + 1
    assert arguments[out] == f"search_spaces/{path.stem}.json"
    space = arguments.index("--space") + 1
    assert arguments[space] == f"search_spaces/{path.name}"
    arguments[space], arguments[out] = str(path), str(tmp_path / "space.json")
    assert main(arguments) == 0
    assert arguments[arguments.index("--pairs") + 1] == str(rows_of(path)[-1][0])
    assert (tmp_path / "space.json").read_text() == path.with_suffix(".json").read_text()


@of_every_space
def test_every_step_is_exact_but_those_that_the_head_names(path: Path) -> None:
    parent = parent_of(path)
    lossy = {
        step.dimension
        for candidate in load_space(path).candidates(parent, rows_of(path)[-1][0])
        for step in step_claims(parent, candidate.apply(parent), DEFAULT_GROWTH)
        if not step.is_exact
    }
    named = {"image.patch_size", "image.image_size"} if path.stem == "tokens_first" else set()
    assert lossy == named
    assert all(dimension in head_of(path) for dimension in named)

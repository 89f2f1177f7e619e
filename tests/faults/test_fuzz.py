"""Damaged and made-up documents: a ValueError from every reader, one line from the command line.

Valid documents are changed piece by piece (values, keys, nesting) and byte by byte; what is known
to be dangerous is tried by itself. ``benchmarks/fuzz_readers.py`` goes on for as long as wanted.
"""

import copy
import json
import os
import pickle
import random
import re
import runpy
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nas_growclip.cli.main import main
from nas_growclip.experiment.config import load_config
from nas_growclip.growth.space import Combination, GrowthSpace, SizeChoices
from nas_growclip.interop.weights import read_weights
from nas_growclip.io.mappings import MAX_JSON_BYTES, MAX_YAML_BYTES, read_mapping
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.folder import read_stages, read_timings, stage_lines
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.state import TrainConfig, start_training
from tests.support.readers import READERS, TINY, mutated
from tests.support.runs import SMOKE

STRUCTURED = ("experiment", "comparison", "growth space", "architecture", "OpenCLIP config")
STRUCTURED += ("Hugging Face config", "trials", "stages", "timings")

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from(["", "tiny", "1e5", "../..", "\0", "\ud800", "a" * 10_000]),
    st.recursive(
        st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    ),
)
"""What a hand that slips, or one that means harm, may put in place of a value."""

NO_STEPS = {"step": "0", "curve": "[]", "gates": "{}", "rollbacks": "[]"}
"""What a training state says in words before it is trained."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a document stands."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def changed(document: Any, draw: Callable[[Any], Any]) -> Any:
    """A document with one to three values replaced, taken out or under another name."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            break
        *above, last = draw(st.sampled_from(found))
        holder = document
        for key in above:
            holder = holder[key]
        way = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if way == "replace" or isinstance(holder, list):
            holder[last] = draw(ODD)
        elif way == "remove":
            del holder[last]
        else:
            holder[draw(st.text(max_size=5))] = holder[last]
    return document


def dumped(document: Any, file: str) -> bytes:
    if file.endswith(".yaml"):
        return yaml.safe_dump(document).encode("utf-8", "surrogatepass")
    end = "\n" if file.endswith(".jsonl") else ""
    return (json.dumps(document) + end).encode()


@contextmanager
def reader_of(name: str) -> Iterator[tuple[Callable[[bytes], None], bytes]]:
    """A function that lets a reader accept or refuse bytes, and its valid document."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / reader.file
        valid = reader.valid(Path(folder))

        def read(data: bytes) -> None:
            path.write_bytes(data)
            with suppress(ValueError):  # anything else fails the test
                reader.read(path)

        path.write_bytes(valid)
        reader.read(path)  # what is changed is valid
        yield read, valid


@pytest.mark.parametrize("name", STRUCTURED)
def test_documents_with_changed_values_are_read_or_refused(name: str) -> None:
    file = READERS[name].file
    with reader_of(name) as (read, valid):
        first = valid.split(b"\n")[0] if file.endswith(".jsonl") else valid
        document = yaml.safe_load(first) if file.endswith(".yaml") else json.loads(first)

        @settings(max_examples=60)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            read(dumped(changed(document, data.draw), file))

        check()


@pytest.mark.parametrize("name", READERS)
def test_documents_with_changed_bytes_are_read_or_refused(name: str) -> None:
    with reader_of(name) as (read, valid):

        @settings(max_examples=40)
        @given(st.integers(0, 2**32))
        def check(seed: int) -> None:
            read(mutated(valid, random.Random(seed)))

        check()


@pytest.mark.parametrize("name", READERS)
def test_documents_cut_off_anywhere_are_read_or_refused(name: str) -> None:
    with reader_of(name) as (read, valid):
        for cut in range(0, len(valid), max(1, len(valid) // 25)):
            read(valid[:cut])


def refusal(text: str | bytes, suffix: str = ".yaml") -> str:
    """Why a document is refused; that must be told within seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"a\.(yaml|json)") as caught:
            load_config(path)
        assert time.monotonic() - started < 10
        assert len(str(caught.value)) < 1000
        return str(caught.value)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (laughs(30), "its aliases stand for more than 200000 values"),
        ("parent: &a [*a]", "aliases stand for more|recurs"),
        ("a: &a {b: *a}", "aliases stand for more|recurs"),
        (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 500)}]", "aliases stand for more"),
        ("[" * 100_000, "recursion|not valid"),
        ("{a: " * 100_000, "recursion|not valid"),
        ("- " * 100_000, "recursion|not valid"),
        ("seed: 1\nseed: 2", "line 2: the key 'seed' stands twice"),
        ("a: !!python/object/apply:os.system ['touch here']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!int ''", "not valid yaml"),
        ("a: !!bool maybe", "not valid yaml"),
        ("a: !!timestamp yesterday", "not valid yaml"),
        ("a: 2001-13-45", "not valid yaml"),
        ("? [a, b]\n: 1", "not valid yaml"),
        ("a: *nothing", "undefined alias"),
        ("a: \x07", "not valid yaml"),
        (b"a: \xff", "cannot be read as text"),
        (b"\xff\xfea\x00", "cannot be read as text"),
        ("? " + "a" * 10_000 + "\n: 1", "unknown key"),
        ("seed: " + "9" * 5000, "not valid yaml"),
        ("seed: 0x" + "f" * 5000, "missing key|from 0 to"),
        ("", "must be a mapping"),
        ("--- 1\n--- 2", "not valid yaml"),
    ],
)
def test_dangerous_yaml_is_refused_at_once(document: str | bytes, reason: str) -> None:
    assert re.search(reason, refusal(document))


def test_dangerous_json_is_refused_at_once() -> None:
    assert "not valid json" in refusal("[" * 100_000, ".json")
    assert "not valid json" in refusal('{"a": ' + "9" * 5000 + "}", ".json")


def test_files_without_end_are_not_read_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=rf"must have at most {MAX_YAML_BYTES} bytes"):
        read_mapping(tmp_path / "a.yaml")
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ValueError, match=rf"must have at most {MAX_JSON_BYTES} bytes"):
        read_mapping(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": float("inf")}, r"passes: must be a finite number, but got inf"),
        ({"passes": 10**400}, r"passes: must be a number up to 1\.0e308"),
        ({"seed": -1}, r"seed: must be from 0 to 4294967295, but got -0x1"),
        ({"seed": 2**64}, r"seed: must be from 0 to 4294967295"),
        ({"train": {"learning_rate": float("nan")}}, r"learning_rate: must be above 0"),
        (
            {"train": {"weight_decay": float("inf")}},
            r"weight_decay: must be 0 or more, but got inf",
        ),
        ({"growth": {"snr_db": float("nan")}}, r"growth\.snr_db: must be a finite number"),
        ({"train": {"batch_size": 10**30}}, r"train\.batch_size: must be from 0 to"),
        (
            {"space": {"dimensions": {"image.width": {"ratios": [1e300]}}}},
            r"ratios: must be in \(1, 1048576\]",
        ),
    ],
)
def test_numbers_that_no_setting_can_have(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(dict(read_mapping(SMOKE)) | change))
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_space_of_billions_is_refused_before_it_is_spelled_out() -> None:
    choices = SizeChoices(add=tuple(range(8, 800, 8)))
    dimensions = dict.fromkeys(
        ("image.depth", "text.depth", "image.mlp_width", "text.width"), choices
    )
    space = GrowthSpace(
        dimensions=dimensions, combine=(Combination(from_pairs=0, num_dimensions=2**32),)
    )
    with pytest.raises(ValueError, match=r"at most 100000 candidates, but has 2\.6e\+07"):
        space.candidates(ClipArch.preset("tiny"), 1000)


class Writer:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt", "weights.bin"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_in_place_of_weights_are_never_run(tmp_path: Path, name: str, zipped: bool) -> None:
    written, path = tmp_path / "written", tmp_path / name
    document = {"state_dict": {"a": torch.zeros(2)}, "epoch": Writer(written)}
    if zipped:
        torch.save(document, path)
    else:
        path.write_bytes(pickle.dumps(document))
    (tmp_path / "arch.json").write_text(TINY.to_json())
    with pytest.raises(ValueError, match=rf"{name}: (must hold tensors|not a whole safetensors)"):
        read_weights(path)
    if name == "model.safetensors":
        with pytest.raises(ValueError, match=r"not a whole safetensors file"):
            load_model(tmp_path)
        with pytest.raises(ValueError, match=r"not a whole safetensors file"):
            load_state(path, TrainConfig(), torch.device("cpu"))
    assert not written.exists()
    pickle.loads(pickle.dumps(Writer(written)))  # it would have
    assert written.exists()


@pytest.mark.parametrize("claimed", [2**20, 2**40, 2**63, 2**64 - 1])
def test_headers_that_claim_too_much_are_refused(tmp_path: Path, claimed: int) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [claimed], "data_offsets": [0, 4]}})
    path = tmp_path / "model.safetensors"
    (tmp_path / "arch.json").write_text(TINY.to_json())
    for data in (
        struct.pack("<Q", claimed) + b"{}",
        struct.pack("<Q", len(header)) + header.encode() + bytes(4),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            load_model(tmp_path)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_weights(path)


def test_views_that_repeat_a_number_without_end_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"'a' must hold all of its 1099511627776 numbers"):
        read_weights(tmp_path / "a.pt")


def test_architecture_larger_than_its_weights_is_never_built(tmp_path: Path) -> None:
    save_model(Clip(TINY, seed=1), tmp_path)
    large = TINY.with_sizes({"image.mlp_width": 2**20, "image.width": 2**20, "image.depth": 4})
    (tmp_path / "arch.json").write_text(large.to_json())  # 48 TB of weights
    with pytest.raises(ValueError, match=r"model\.safetensors: '.*' must have shape"):
        load_model(tmp_path)
    endless = TINY.to_dict() | {"embed_dim": 2**40}
    (tmp_path / "arch.json").write_text(json.dumps(endless))
    with pytest.raises(ValueError, match=r"embed_dim: must be in \[1, 1048576\], but got"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    model = Clip(TINY, seed=1)
    save_model(model, tmp_path)
    tensors = {n: t.to(kind).contiguous() for n, t in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must be one of float32, .* but is torch\."):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "-1"}, r"step: must be from 0"),
        ({"step": "1e3"}, r"step: must be int"),
        ({"step": "99999999999999999999"}, r"step: must be from 0"),
        ({"curve": "[[1]]"}, r"curve\[0\]: must have 2 items"),
        ({"curve": "[" * 5000}, r"not a training state"),
        ({"gates": '{"image.nothing": 3}'}, r"'image\.nothing' must be a block"),
        ({"gates": '{"image.trunk.blocks.0": 0}'}, r"gates: must be from 1"),
        ({"gates": "[]"}, r"gates: must be a mapping"),
        ({"arch": "{}"}, r"image: missing key"),
        ({"arch": "[" * 5000}, r"not a training state"),
    ],
)
def test_training_state_with_false_metadata(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = tmp_path / "state.safetensors"
    state = start_training(Clip(TINY, seed=1), TrainConfig())
    metadata = {"arch": TINY.to_json(), **NO_STEPS}
    tensors = {f"model.{n}": t.contiguous() for n, t in state.model.state_dict().items()}
    save_file(tensors, path, metadata | change)
    with pytest.raises(ValueError, match=message):
        load_state(path, TrainConfig(), torch.device("cpu"))


def test_training_state_without_all_of_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(start_training(Clip(TINY, seed=1), TrainConfig()), path)
    load_state(path, TrainConfig(), torch.device("cpu"))
    metadata = {"arch": TINY.to_json(), **NO_STEPS}
    tensors = {f"model.{n}": t.contiguous() for n, t in Clip(TINY, seed=1).state_dict().items()}
    save_file(tensors | {"exp_avg.logit_scale": torch.zeros(())}, path, metadata)
    with pytest.raises(ValueError, match=r"'exp_avg_sq\.logit_scale' must stand beside"):
        load_state(path, TrainConfig(), torch.device("cpu"))


@pytest.mark.parametrize(
    "line", ["[" * 5000, "1", "null", "[]", "{}", '{"stage": "x"}', "{", "\xff"]
)
def test_damaged_records_are_named_by_their_line(tmp_path: Path, line: str) -> None:
    for name in ("stages.jsonl", "timings.jsonl"):
        (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"stages\.jsonl: line 1: "):
        read_stages(tmp_path)
    with pytest.raises(ValueError, match=r"stages\.jsonl: line 1: "):
        stage_lines(tmp_path / "stages.jsonl", 1)
    with pytest.raises(ValueError, match=r"timings\.jsonl: line 1: "):
        read_timings(tmp_path)


WORDS = st.one_of(
    st.sampled_from(
        ["--set", "--pairs", "--out", "--format", "--space", "--data", "--seed", "--json"]
    ),
    st.sampled_from(["image.width=96", "image.width=9" + "9" * 5000, "embed_dim=1048577", "a=nan"]),
    st.sampled_from(
        ["tiny", "nni", "optuna", "0", "-1", "1e999", "/dev/null", ".", "--", "\u0664"]
    ),
    st.text(max_size=6),
)


@settings(max_examples=150)
@given(st.sampled_from(["flops", "space", "report", "rescore", "grow", "export"]), st.lists(WORDS))
def test_any_command_line_ends_with_an_exit_code(command: str, words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            code = main([command, *words])
        finally:
            os.chdir(before)
    assert code in (0, 2)


COMMANDS = {
    "experiment": ["run", "a.yaml", "--out", "out"],
    "comparison": ["compare", "a.yaml", "--out", "out"],
    "growth space": ["space", "tiny", "--space", "a.yaml", "--pairs", "100", "--format", "nni"],
    "architecture": ["flops", "arch.json"],
    "model": ["grow", ".", "--set", "image.depth=2", "--out", "out"],
    "stages": ["report", "."],
    "trials": ["rescore", "."],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_damaged_files_give_one_line_on_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = READERS[name]
    valid = reader.valid(tmp_path)
    (tmp_path / "config.yaml").write_bytes(SMOKE.read_bytes())
    monkeypatch.chdir(tmp_path)
    for data in (b"", b"\0" * 99, b"[" * 5000, valid[: len(valid) // 2] + b"\xff", b"{}"):
        (tmp_path / reader.file).write_bytes(data + b"\n")
        assert main(COMMANDS[name]) == 2
        error = capsys.readouterr().err
        assert error.startswith("growclip: error: ")
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_readers_are_fuzzed_by_the_script_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--engine", "mutations", "--seconds", "0.5", "--reader", "architecture"]
    monkeypatch.setattr(sys, "argv", ["fuzz_readers", *options])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("benchmarks.fuzz_readers", run_name="__main__")
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert row[1].strip() == "architecture"
    assert int(row[2]) == int(row[3]) + int(row[4]) > 0

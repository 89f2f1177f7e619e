"""Weights from strangers: nothing in a file is run, and what is wrong is told in one line."""

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nas_growclip.cli.main import main
from nas_growclip.interop.importing import import_model
from nas_growclip.interop.weights import read_weights
from tests.support.models import stock_model, write_config


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "owned"))


class EvilEval:
    def __init__(self, path: Path) -> None:
        self.code = f"open({str(path)!r}, 'w').write('owned')"

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (self.code,))


def write_evil(path: Path, kind: str, victim: Path) -> None:
    payloads: dict[str, Any] = {
        "alone": Evil(victim),
        "eval": EvilEval(victim),
        "among_tensors": {"state_dict": {"a": torch.ones(1)}, "args": Evil(victim)},
        "as_tensor": {"a": EvilEval(victim)},
    }
    if kind == "raw_pickle":
        path.write_bytes(pickle.dumps(EvilEval(victim)))
    else:
        torch.save(payloads[kind], path)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", ".pth"])
@pytest.mark.parametrize("kind", ["alone", "eval", "among_tensors", "as_tensor", "raw_pickle"])
def test_no_file_can_run_code(tmp_path: Path, kind: str, suffix: str) -> None:
    victim, path = tmp_path / "owned", tmp_path / f"weights{suffix}"
    write_evil(path, kind, victim)
    with pytest.raises(ValueError, match=r"must hold tensors|not a whole safetensors"):
        read_weights(path)
    assert not victim.exists()


def test_the_attack_works_where_it_is_not_stopped(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    victim, path = tmp_path / "owned", tmp_path / "weights.pt"
    write_evil(path, "alone", victim)
    torch.load(path, weights_only=False)
    assert victim.read_text() == "owned"


def test_no_reader_can_be_talked_into_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch's own way to switch the restriction off is not taken."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    victim, path = tmp_path / "owned", tmp_path / "weights.pt"
    write_evil(path, "alone", victim)
    with pytest.raises(ValueError, match="must hold tensors"):
        read_weights(path)
    assert not victim.exists()


def torchscript(path: Path) -> None:
    with pytest.warns(FutureWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "torchscript", "list"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_one_clear_line(
    tmp_path: Path, damage: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "b32")
    path = tmp_path / f"weights{suffix}"
    weights = dict(stock_model(config).state_dict())
    if damage == "torchscript":
        torchscript(path)
    elif damage == "list":
        torch.save([torch.ones(1)], path)
    elif suffix == ".pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    elif damage == "text":
        path.write_text("hello, these are no weights")
    elif damage == "missing":
        path.unlink()
    arguments = ["import", str(config), str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(path) in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    config, other = write_config(tmp_path, "b32"), write_config(tmp_path, "l14")
    weights = dict(stock_model(config).state_dict())
    save_file(dict(stock_model(other).state_dict()), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must have shape|has no place for"):
        import_model(str(config), str(tmp_path / "other.safetensors"))
    save_file(weights | {"visual.extra": torch.ones(1)}, tmp_path / "extra.safetensors")
    with pytest.raises(ValueError, match=r"holds 'visual\.extra', which the model named has no"):
        import_model(str(config), str(tmp_path / "extra.safetensors"))
    del weights["ln_final.bias"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"must hold 'text\.norm\.bias', which is missing"):
        import_model(str(config), str(tmp_path / "less.safetensors"))


def test_nothing_here_unpickles_freely() -> None:
    """By construction: the package calls no unpickler but the restricted one."""
    root = Path(sys.modules["nas_growclip"].__file__ or "").parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert "pickle.load" not in text, path
        assert "Unpickler(" not in text, path
        assert "torch.jit.load" not in text, path
        for start in (i for i in range(len(text)) if text.startswith("torch.load(", i)):
            assert "weights_only=True" in text[start : start + 100], path

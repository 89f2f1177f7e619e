"""Models and training states survive the disk; damaged files are refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model, save_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.entries import Rollback
from nas_growclip.training.checkpoint import load_state, save_state
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, TrainState, start_training

CONFIG = TrainConfig(batch_size=4, warmup_steps=2, learning_rate=1e-2, ema_decay=0.9)
CPU = torch.device("cpu")


def batches(model: Clip, start: int = 0):
    step = start
    while True:
        rng = torch.Generator().manual_seed(step)
        captions = tuple(f"picture {step} {i}" for i in range(4))
        images = torch.randn(4, 3, 16, 16, generator=rng)
        yield PairBatch(images, model.tokenize(list(captions)), captions)
        step += 1


def trained(arch: ClipArch, steps: int) -> TrainState:
    state = start_training(Clip(arch), CONFIG)
    state.curve.append((0, 1.5))
    return train(state, batches(state.model), CONFIG, total_steps=8, until_step=steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_model_round_trip(tmp_path: Path, tiny_parent: Clip, dtype: torch.dtype) -> None:
    parent = tiny_parent.to(dtype)
    save_model(parent, tmp_path / "deep" / "model")
    loaded = load_model(tmp_path / "deep" / "model")
    assert loaded.arch == parent.arch
    for (name, a), (_, b) in zip(
        parent.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert a.dtype == b.dtype == dtype
        assert torch.equal(a, b), name


def test_a_mapped_model_and_its_file_do_not_change_each_other(
    tmp_path: Path, tiny_parent: Clip
) -> None:
    save_model(tiny_parent, tmp_path)
    file = tmp_path / "model.safetensors"
    written, mapped = file.read_bytes(), load_model(tmp_path, is_mapped=True)
    expected = {name: value.clone() for name, value in tiny_parent.state_dict().items()}
    assert all(p.requires_grad for p in mapped.parameters())
    torch.testing.assert_close(mapped.state_dict(), expected, rtol=0, atol=0)
    with torch.no_grad():
        mapped.logit_scale.add_(1)
    assert file.read_bytes() == written
    save_model(Clip(tiny_parent.arch, seed=5), tmp_path)
    assert file.read_bytes() != written
    expected["logit_scale"] += 1
    torch.testing.assert_close(mapped.state_dict(), expected, rtol=0, atol=0)


def test_training_goes_on_as_if_never_stopped(tmp_path: Path, tiny_arch: ClipArch) -> None:
    stopped, whole = trained(tiny_arch, 3), trained(tiny_arch, 8)
    stopped.rollbacks = (Rollback(step=2, back_to=1, learning_rate=3e-2, reason="inf"),)
    save_state(stopped, tmp_path / "state.safetensors")
    state = load_state(tmp_path / "state.safetensors", CONFIG, CPU)
    assert (state.step, state.curve) == (3, [(0, 1.5)])
    assert state.rollbacks == stopped.rollbacks
    train(state, batches(state.model, 3), CONFIG, total_steps=8, until_step=8)
    torch.testing.assert_close(state.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(state.ema, whole.ema, rtol=0, atol=0)
    assert any(not torch.equal(mean, state.model.state_dict()[n]) for n, mean in state.ema.items())


def test_truncated_file_is_refused(tmp_path: Path, tiny_parent: Clip) -> None:
    save_model(tiny_parent, tmp_path)
    weights = tmp_path / "model.safetensors"
    for size in (0, 5, weights.stat().st_size // 2, weights.stat().st_size - 1):
        weights.write_bytes(weights.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"not a whole safetensors file"):
            load_model(tmp_path)
        save_model(tiny_parent, tmp_path)


def test_pickled_file_is_refused_and_not_run(tmp_path: Path, tiny_parent: Clip) -> None:
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "attacked",)

    save_model(tiny_parent, tmp_path)
    torch.save(Attack(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(tmp_path)
    assert not (tmp_path / "attacked").exists()


def test_missing_files_are_named(tmp_path: Path, tiny_parent: Clip) -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint: it has no arch\.json"):
        load_model(tmp_path)
    save_model(tiny_parent, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        load_model(tmp_path)
    save_model(tiny_parent, tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a training state"):
        load_state(tmp_path / "model.safetensors", CONFIG, CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, tiny_parent: Clip) -> None:
    save_model(tiny_parent, tmp_path)
    arch = tiny_parent.arch
    for change, message in (
        ({"image.mlp_width": 50}, r"must have shape \(50, 32\), but got \(48, 32\)"),
        ({"text.depth": 2}, r"must hold 'text\.blocks\.1\..*', which is missing"),
        ({"image.depth": 1}, r"holds 'image\.trunk\.blocks\.1\..*', which the architecture has no"),
    ):
        (tmp_path / "arch.json").write_text(arch.with_sizes(change).to_json())
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)


def test_damaged_architecture_is_refused(tmp_path: Path, tiny_parent: Clip) -> None:
    save_model(tiny_parent, tmp_path)
    data = tiny_parent.arch.to_dict() | {"colour": 1}
    (tmp_path / "arch.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"arch\.json: colour: unknown key"):
        load_model(tmp_path)


def test_nothing_is_left_behind_but_whole_files(tmp_path: Path, tiny_parent: Clip) -> None:
    save_model(tiny_parent, tmp_path)
    save_model(tiny_parent, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arch.json", "model.safetensors"]
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors")  # metadata is not needed to load
    load_model(tmp_path)


def test_unwritable_folder_is_named(tmp_path: Path, tiny_parent: Clip) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/model: cannot be made"):
        save_model(tiny_parent, tmp_path / "file" / "model")


@pytest.mark.parametrize("name", ["model.text.norm.bias", "exp_avg_sq.text.norm.bias"])
def test_a_training_state_that_is_not_finite_is_refused(
    tmp_path: Path, tiny_arch: ClipArch, name: str
) -> None:
    save_state(trained(tiny_arch, 3), tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "state.safetensors")
    tensors[name][0] = torch.nan
    save_file(tensors, tmp_path / "state.safetensors", metadata)
    place = name.removeprefix("model.").replace(".", r"\.")
    with pytest.raises(
        ValueError, match=rf"state\.safetensors: '{place}' must hold finite numbers"
    ):
        load_state(tmp_path / "state.safetensors", CONFIG, CPU)

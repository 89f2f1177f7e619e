"""What only an accelerator can show: exact growth, bf16, resuming and compiling on the device.

``benchmarks/gpu.sh`` runs these; where it is dry they run on the CPU, which ``GPU_TESTS_ON`` says.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas_growclip.data.stages import open_stages
from nas_growclip.evaluation.metrics import evaluate
from nas_growclip.experiment.run import run_experiment
from nas_growclip.growth.candidates import NO_GROWTH
from nas_growclip.growth.inherit import inherit
from nas_growclip.growth.verify import perturbed, probe, similarity
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.checkpoint import load_model
from nas_growclip.models.clip import Clip
from nas_growclip.records.folder import stage_folders
from nas_growclip.training.checkpoint import load_state, pack_state, save_state
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, TrainState, start_training
from tests.support.faults import fail_at, in_step
from tests.support.runs import small_config
from tests.training.test_loop import same_batch

DEVICE = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"
    ),
]

GROWTHS = {
    "widths": {"image.width": 48, "text.width": 32, "embed_dim": 48},
    "blocks": {"image.depth": 3, "text.depth": 2},
    "mlps": {"image.mlp_width": 80, "text.mlp_width": 64, "shared.mlp_width": 40},
}


def similarities(model: Clip, dtype: torch.dtype) -> torch.Tensor:
    """Of random images and texts, with matrix products in a precision."""
    images, tokens = (side.to(DEVICE) for side in probe(model.arch))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return similarity(model, images, tokens).float()


@pytest.fixture
def true_fp32() -> Iterator[None]:
    """Without TF32, which fp32 products use otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("true_fp32")
@pytest.mark.parametrize("sizes", GROWTHS.values(), ids=GROWTHS)
def test_growth_is_exact_in_fp32_and_within_rounding_in_bf16(
    sizes: dict[str, int], tiny_arch: ClipArch
) -> None:
    parent = perturbed(Clip(tiny_arch, seed=1)).to(DEVICE)
    child = inherit(parent, tiny_arch.with_sizes(sizes))
    assert child.logit_scale.device.type == DEVICE.type
    exact, rounded = (similarities(parent, dtype) for dtype in (torch.float32, torch.bfloat16))
    rounding = float((exact - rounded).abs().max())
    assert 1e-4 < rounding < 0.1
    assert (similarities(child, torch.float32) - exact).abs().max() < 1e-5
    assert (similarities(child, torch.bfloat16) - exact).abs().max() < 3 * rounding


def trained(state: TrainState, config: TrainConfig, until: int) -> TrainState:
    return train(state, same_batch(state.model), config, total_steps=80, until_step=until)


def test_training_learns_one_batch_and_its_child_goes_on(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5)
    state = trained(start_training(Clip(tiny_arch).to(DEVICE), config), config, 80)
    child = inherit(state.model, tiny_arch.with_size("image.width", 48))
    batch = next(same_batch(child)).to(DEVICE)
    image, text, scale = child(batch.images, batch.tokens)
    assert (scale * image @ text.T).argmax(dim=1).tolist() == list(range(6))


def test_a_saved_state_is_all_of_it_and_resumes(tiny_arch: ClipArch, tmp_path: Path) -> None:
    config = TrainConfig(warmup_steps=5, ema_decay=0.9)
    state = trained(start_training(Clip(tiny_arch).to(DEVICE), config), config, 3)
    save_state(state, tmp_path / "state.safetensors")
    again = load_state(tmp_path / "state.safetensors", config, DEVICE)
    (kept, _), (read, _) = pack_state(state), pack_state(again)
    assert kept.keys() == read.keys()
    for name, value in kept.items():
        assert torch.equal(read[name].to(value.device), value), name
    for one in (state, again):
        trained(one, config, 6)
    batch = next(same_batch(state.model)).to(DEVICE)
    sides = [one.model(batch.images, batch.tokens)[:2] for one in (state, again)]
    for uninterrupted, resumed in zip(*sides, strict=True):
        torch.testing.assert_close(resumed, uninterrupted, atol=1e-2, rtol=0)


def test_compiled_steps_are_the_plain_ones(
    tiny_arch: ClipArch, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--jaxtyping-packages", None):
        pytest.skip("PyTorch cannot compile functions whose types are checked")
    embeddings = []
    for compiles in (False, True):
        config = TrainConfig(warmup_steps=2, compile=compiles)
        state = trained(start_training(Clip(tiny_arch).to(DEVICE), config), config, 4)
        assert (state.model._compiled_call_impl is not None) == compiles
        batch = next(same_batch(state.model)).to(DEVICE)
        with torch.no_grad():
            embeddings.append(state.model.encode_image(batch.images))
    torch.testing.assert_close(*embeddings, atol=1e-2, rtol=0)


def test_a_run_grows_candidates_resumes_and_delivers_what_it_measured(tmp_path: Path) -> None:
    """The CPU finds the same of the model that was trained on the device."""

    def stop() -> None:
        raise InterruptedError("stopped")

    config, out = small_config(), tmp_path / "run"
    stop_training = fail_at("step", stop, in_step(5, "stage 1, training"))
    with pytest.raises(InterruptedError, match="stopped"):
        run_experiment(config, out, device=DEVICE.type, observer=stop_training)
    run = run_experiment(config, out, device=DEVICE.type)
    assert len(run.stages) == 2
    assert [trial.state for trial in run.trials] == ["complete"] * 4
    assert any(trial.candidate != NO_GROWTH for trial in run.trials)
    delivered = load_model(stage_folders(out)[-1].path)
    assert delivered.arch == run.stages[-1].arch
    test = open_stages(config.data, None)[-1].test
    again = evaluate(delivered, test, (), ("loss",), config.train.batch_size)["loss"].value
    assert run.stages[-1].metrics["loss"].value == pytest.approx(again, abs=2e-2)

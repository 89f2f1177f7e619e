"""Training: the schedule by formula, decay on matrices only, divergence, and learning at all."""

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nas_growclip.data.encoding import PairBatch
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.axes import param_axes
from nas_growclip.models.clip import MAX_LOGIT_SCALE, Clip
from nas_growclip.models.losses import ContrastiveLoss
from nas_growclip.training import loop as training
from nas_growclip.training.events import Event
from nas_growclip.training.loop import DivergedError, train
from nas_growclip.training.state import TrainConfig, make_optimizer, start_training
from tests.support.processes import ran
from tests.support.profiled import values_read


def same_batch(model: Clip) -> Iterator[PairBatch]:
    captions = tuple(f"picture number {i}" for i in range(6))
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    while True:
        yield PairBatch(images, model.tokenize(list(captions)), captions)


def test_only_matrices_decay(tiny_arch: ClipArch) -> None:
    model = Clip(tiny_arch)
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.3 if param_axes(name).is_linear else 0.0), name


def test_training_learns_one_batch(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5)
    state = start_training(Clip(tiny_arch), config)
    train(state, same_batch(state.model), config, total_steps=80, until_step=80)
    batch = next(same_batch(state.model))
    image, text, scale = state.model(batch.images, batch.tokens)
    assert (scale * image @ text.T).argmax(dim=1).tolist() == list(range(6))


@pytest.mark.parametrize("micro_batch_size", [0, 2])
@pytest.mark.parametrize(
    ("precision", "is_bf16"), [("auto", False), ("fp32", False), ("bf16", True)]
)
def test_the_towers_compute_in_the_precision_that_is_set(
    tiny_arch: ClipArch, precision: Any, is_bf16: bool, micro_batch_size: int
) -> None:
    config = TrainConfig(precision=precision, micro_batch_size=micro_batch_size)
    state, kinds = start_training(Clip(tiny_arch), config), set[torch.dtype]()
    for layer in state.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    train(state, same_batch(state.model), config, total_steps=9, until_step=1)
    assert kinds == {torch.bfloat16 if is_bf16 else torch.float32}
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_an_observer_sees_every_batch_its_gradients_and_its_step(tiny_arch: ClipArch) -> None:
    config, seen = TrainConfig(), []
    state = start_training(Clip(tiny_arch), config)

    def note(event: Event) -> None:
        assert event.state is state
        assert (event.batch is not None) == (event.moment == "batch")
        has_gradients = state.model.logit_scale.grad is not None
        seen.append((event.moment, state.step, has_gradients))

    train(state, same_batch(state.model), config, total_steps=9, until_step=2, observer=note)
    assert seen == [
        ("batch", 0, False),
        ("gradients", 0, True),
        ("step", 1, True),
        ("batch", 1, True),
        ("gradients", 1, True),
        ("step", 2, True),
    ]


def test_the_loop_reads_no_value_from_the_device_in_most_steps(
    tiny_arch: ClipArch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one would make a GPU wait; the loss and the state are looked at now and then."""
    config = TrainConfig(ema_decay=0.9, micro_batch_size=4)
    state = start_training(Clip(tiny_arch), config)
    train(state, same_batch(state.model), config, total_steps=99, until_step=2)
    looks, look = [], training._check_finite
    monkeypatch.setattr(training, "_check_finite", lambda *a: (looks.append(a), look(*a)))
    monkeypatch.setattr(training, "CHECK_STEPS", 5)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        train(state, same_batch(state.model), config, total_steps=99, until_step=12)
    assert len(looks) == 3  # after 5 and 10 steps, and at the end
    assert values_read(profiled) == 0


def test_logit_scale_is_clamped(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=10.0, warmup_steps=0)
    state = start_training(Clip(tiny_arch), config)
    torch.nn.init.constant_(state.model.logit_scale, MAX_LOGIT_SCALE)
    train(state, same_batch(state.model), config, total_steps=3, until_step=3)
    assert state.model.logit_scale.item() <= MAX_LOGIT_SCALE + 1e-6


def test_divergence_is_told(tiny_arch: ClipArch) -> None:
    config = TrainConfig()
    state = start_training(Clip(tiny_arch), config)
    torch.nn.init.constant_(state.model.image.projection.weight, float("nan"))
    with pytest.raises(DivergedError, match=r"must stay finite, but is nan at step 2\. Lower"):
        train(state, same_batch(state.model), config, total_steps=9, until_step=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "batch_size: must be 1 or more, but got 0"),
        ({"learning_rate": 0.0}, "learning_rate: must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: must be above 0, but got nan"),
        ({"beta2": 1.0}, r"beta2: must be in \[0, 1\), but got 1.0"),
        ({"warmup_steps": -1}, "warmup_steps: must be 0 or more, but got -1"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


COMPILED = """
import torch
from nas_growclip.models.arch import ClipArch
from nas_growclip.data.batches import PairBatch
from nas_growclip.growth.inherit import inherit
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training

torch.compiler.set_default_backend(BACKEND)
arch = ClipArch.preset("tiny").with_sizes({"image.depth": 1, "text.depth": 1, "shared.depth": 0})

def batches(model):
    captions = tuple(f"picture number {i}" for i in range(6))
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    while True:
        yield PairBatch(images, model.tokenize(list(captions)), captions)

def trained(compiles):
    config, model = TrainConfig(warmup_steps=2, compile=compiles), Clip(arch)
    for width in (300, 400):
        state = start_training(model, config)
        for step in (2, 4):
            train(state, batches(state.model), config, total_steps=4, until_step=step)
        assert (state.model._compiled_call_impl is not None) == compiles
        model = inherit(state.model, state.model.arch.with_size("text.mlp_width", width))
    return model

plain, graphs = trained(False), torch._dynamo.utils.counters["stats"]
assert graphs["unique_graphs"] == 0
compiled = trained(True)
assert graphs["unique_graphs"] >= 2
print(max((a - b).abs().max().item() for a, b in zip(plain.parameters(), compiled.parameters())))
"""

by_inductor = (
    pytest.mark.campaign,
    pytest.mark.long("compiles two models with a C++ compiler"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler"),
    pytest.mark.skipif(
        torch.backends.cpu.get_cpu_capability() == "DEFAULT",
        reason="Inductor writes code for vector instructions, which this processor has not",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=by_inductor)])
def test_compiled_training_is_the_same_and_survives_growth(backend: str, tmp_path: Path) -> None:
    """The graphs that torch.compile captures, run as they are or as C++ of Inductor's."""

    def work() -> None:
        forget_type_checks()
        exec(COMPILED, {"BACKEND": backend})

    # no processes that import PyTorch
    done = ran(work, tmp_path, TORCHINDUCTOR_COMPILE_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def forget_type_checks() -> None:
    """Import the package anew without: PyTorch cannot compile functions whose types are checked."""
    sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("jaxtyping")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "nas_growclip"]:
        del sys.modules[name]


def repeated_batch(model: Clip) -> Iterator[PairBatch]:
    """Two images with three captions each."""
    captions = tuple(f"picture number {i}" for i in range(6))
    two = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    image_ids = torch.tensor([0, 0, 0, 1, 1, 1])
    while True:
        yield PairBatch(two[image_ids], model.tokenize(list(captions)), captions, image_ids)


@pytest.mark.parametrize("repeated", ["mask", "negatives"])
def test_captions_of_one_image_are_negatives_only_if_asked_for(
    repeated: Any, tiny_arch: ClipArch
) -> None:
    """Three captions that are right for one image cannot all come first: a third at best."""
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5, repeated_images=repeated)
    state = start_training(Clip(tiny_arch), config)
    train(state, repeated_batch(state.model), config, total_steps=60, until_step=60)
    batch = next(repeated_batch(state.model))
    ids = batch.image_ids if repeated == "mask" else None
    loss = ContrastiveLoss(has_bias=False)(*state.model(batch.images, batch.tokens), image_ids=ids)
    if repeated == "mask":
        assert loss.item() < 0.1
    else:
        assert loss.item() == pytest.approx((math.log(3) + math.log(3)) / 2, abs=0.4)

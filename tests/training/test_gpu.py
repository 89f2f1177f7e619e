"""What only an accelerator can show: bf16 training, and growth on the device."""

import pytest
import torch

from nas_growclip.growth.inherit import inherit
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.clip import Clip
from nas_growclip.training.loop import train
from nas_growclip.training.state import TrainConfig, start_training
from tests.training.test_loop import same_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_bf16_training_learns_one_batch_and_its_child_goes_on(tiny_arch: ClipArch) -> None:
    config = TrainConfig(learning_rate=3e-3, warmup_steps=5)
    state = start_training(Clip(tiny_arch).cuda(), config)
    train(state, same_batch(state.model), config, total_steps=80, until_step=80)
    child = inherit(state.model, tiny_arch.with_size("image.width", 48))
    assert child.logit_scale.device.type == "cuda"
    batch = next(same_batch(child)).to(torch.device("cuda"))
    image, text, scale = child(batch.images, batch.tokens)
    assert (scale * image @ text.T).argmax(dim=1).tolist() == list(range(6))

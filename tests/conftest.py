"""Small models that every test may use."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: faster for models this small, and repeatable

import pytest
import torch
from hypothesis import HealthCheck, settings

from nas_growclip.arch import ClipArch, ImageArch, SharedArch, TextArch
from nas_growclip.models.clip import Clip

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def perturb(model: Clip, seed: int = 0) -> Clip:
    """Move every parameter, norms and biases above all, off its initial value."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "token_embedding" in name:
                continue  # large, and random enough as it is
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


@pytest.fixture
def tiny_arch() -> ClipArch:
    return ClipArch(
        image=ImageArch(depth=2, width=32, mlp_width=48, patch_size=8, image_size=16, head_dim=16),
        text=TextArch(depth=1, width=16, mlp_width=40, context_length=8, head_dim=16),
        shared=SharedArch(depth=1, mlp_width=24, head_dim=16),
        embed_dim=32,
    )


@pytest.fixture
def tiny_parent(tiny_arch: ClipArch) -> Clip:
    return perturb(Clip(tiny_arch, seed=1)).eval()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)

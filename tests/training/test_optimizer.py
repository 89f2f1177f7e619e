"""AdamW with a step count for each entry."""

import pytest
import torch

from nas_growclip.training.optimizer import EntrywiseAdamW

SETTINGS = {"lr": 0.03, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.2}


def gradient(step: int, size: int = 6) -> torch.Tensor:
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(step)).double()


def run(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, rows: slice, steps: range):
    for step in steps:
        parameter.grad = gradient(step)[rows]
        optimizer.step()


def test_entries_of_two_ages_go_as_two_parameters_would() -> None:
    start = gradient(99)
    old, new = (torch.nn.Parameter(start[rows].clone()) for rows in (slice(4), slice(4, 6)))
    old_adam = torch.optim.AdamW([old], **SETTINGS)
    run(old_adam, old, slice(4), range(20))
    moments = old_adam.state[old]
    both = torch.nn.Parameter(torch.cat([old.detach(), new.detach()]))
    optimizer = EntrywiseAdamW([both], **SETTINGS)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[both][key] = torch.cat([moments[key], torch.zeros(2, 3).double()])
    optimizer.set_step_count(both, torch.tensor([20] * 4 + [0] * 2)[:, None].expand(6, 3))
    run(old_adam, old, slice(4), range(20, 30))
    run(torch.optim.AdamW([new], **SETTINGS), new, slice(4, 6), range(20, 30))
    run(optimizer, both, slice(6), range(20, 30))
    torch.testing.assert_close(both[:4], old, rtol=0, atol=1e-12)
    torch.testing.assert_close(both[4:], new, rtol=0, atol=1e-12)


def test_without_ages_it_is_pytorchs_adamw() -> None:
    one, two = (torch.nn.Parameter(gradient(99)) for _ in range(2))
    run(torch.optim.AdamW([one], **SETTINGS), one, slice(6), range(5))
    run(EntrywiseAdamW([two], **SETTINGS), two, slice(6), range(5))
    assert torch.equal(one, two)


def test_inheriting_the_old_count_would_make_first_steps_too_long() -> None:
    """The fault avoided by counts by entry: (1 - beta1) / sqrt(1 - beta2) rates, here 3.2."""
    rate, (beta1, beta2) = SETTINGS["lr"], SETTINGS["betas"]
    moved = {}
    for name, num_steps in (("old count", 10_000), ("fresh", 0)):
        parameter = torch.nn.Parameter(torch.zeros(6, 3).double())
        optimizer = EntrywiseAdamW([parameter], **SETTINGS | {"weight_decay": 0.0})
        optimizer.set_step_count(parameter, torch.tensor(num_steps))
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][key] = torch.zeros(6, 3).double()
        run(optimizer, parameter, slice(6), range(1))
        moved[name] = parameter.abs().median().item() / rate
    assert moved["fresh"] == pytest.approx(1.0, rel=1e-3)
    assert moved["old count"] == pytest.approx((1 - beta1) / (1 - beta2) ** 0.5, rel=1e-2)

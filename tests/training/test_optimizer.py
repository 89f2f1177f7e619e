"""AdamW with a step count for each entry."""

import pytest
import torch

from nas_growclip.growth.config import GrowthConfig, RewarmConfig
from nas_growclip.training.optimizer import EntrywiseAdamW, rewarm_factor

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


def test_rewarm_rises_to_its_peak_and_falls_to_the_rate() -> None:
    rewarm = RewarmConfig(steps=10, peak=1.3)
    factors = rewarm_factor(torch.arange(1, 13), rewarm)
    rising = [1.3 * step / 5 for step in range(1, 6)]
    falling = [1.3 - 0.3 * step / 5 for step in range(1, 6)]
    torch.testing.assert_close(factors, torch.tensor([*rising, *falling, 1.0, 1.0]))


def test_new_entries_train_at_their_own_rate_and_old_ones_as_ever() -> None:
    """Beside the others' 20 steps: rows of a tensor, and a whole tensor, that are new."""
    rewarm, start = RewarmConfig(steps=4, peak=1.5), gradient(99)
    old, mixed, fresh = (torch.nn.Parameter(start[:size].clone()) for size in (6, 6, 2))
    alone = [torch.nn.Parameter(start[rows].clone()) for rows in (slice(6), slice(4))]
    olds = torch.optim.AdamW(alone, **SETTINGS)
    for parameter in alone:
        run_one(olds, parameter, range(20))
    optimizer = EntrywiseAdamW([old, mixed, fresh], **SETTINGS)
    young = torch.zeros(2, 3).double()
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[old][key] = olds.state[alone[0]][key].clone()
        optimizer.state[mixed][key] = torch.cat([olds.state[alone[1]][key], young])
    counts = torch.tensor([20] * 4 + [0] * 2)[:, None].expand(6, 3)
    optimizer.set_step_count(old, torch.tensor(20))
    optimizer.set_step_count(mixed, counts)
    with torch.no_grad():
        old.copy_(alone[0])
        mixed[:4] = alone[1]
    assert optimizer.begin(rewarm) == 20
    expected = torch.nn.Parameter(start[4:6].clone())
    expected_fresh = torch.nn.Parameter(start[:2].clone())
    ruled = torch.optim.AdamW([expected, expected_fresh], **SETTINGS)
    for step in range(20, 28):
        if step == 24:
            optimizer.begin(rewarm)  # as a training that is resumed
        old.grad, mixed.grad, fresh.grad = (gradient(step)[: len(p)] for p in (old, mixed, fresh))
        optimizer.step()
        factor = rewarm_factor(torch.tensor(step - 19), rewarm).item()
        for group in ruled.param_groups:
            group["lr"] = SETTINGS["lr"] * factor
        expected.grad, expected_fresh.grad = gradient(step)[4:6], gradient(step)[:2]
        ruled.step()
        for parameter in alone:
            run_one(olds, parameter, range(step, step + 1))
    torch.testing.assert_close(old, alone[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[:4], alone[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[4:], expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fresh, expected_fresh, rtol=1e-6, atol=1e-7)


def run_one(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, steps: range) -> None:
    """Train one parameter of an optimizer; the others have no gradient."""
    for step in steps:
        parameter.grad = gradient(step)[: len(parameter)]
        optimizer.step()
        parameter.grad = None


def test_a_first_stage_has_no_new_entries() -> None:
    one, two = (torch.nn.Parameter(gradient(99)) for _ in range(2))
    plain, rewarmed = (EntrywiseAdamW([p], **SETTINGS) for p in (one, two))
    assert rewarmed.begin(RewarmConfig(steps=4)) == 0
    run(plain, one, slice(6), range(5))
    run(rewarmed, two, slice(6), range(5))
    assert torch.equal(one, two)


def test_rewarming_asks_for_kept_moments() -> None:
    with pytest.raises(ValueError, match=r"rewarm\.steps: must be 0 where growth\.moments is"):
        GrowthConfig(moments="reset", rewarm=RewarmConfig(steps=10))
    with pytest.raises(ValueError, match="peak: must be above 0"):
        RewarmConfig(peak=0.0)

"""AdamW for parameters whose entries have had different numbers of steps.

PyTorch keeps one step count for a tensor, and so corrects the bias of all its moments alike. After
growth a tensor holds old entries, whose moments have settled, and new ones, whose moments start
from zero: corrected with the old count, a new entry's first steps are up to five times too long
(beta2 = 0.999). Here such a tensor keeps a count for each entry, by which new entries may also have
a rate of their own for a while (``growth.rewarm``).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from nas_growclip.growth.config import NO_REWARM, RewarmConfig


class EntrywiseAdamW(torch.optim.AdamW):
    """PyTorch's AdamW; tensors with a ``step_count`` in their state are corrected by entry."""

    def __init__(self, params: ParamsT, **options: Any) -> None:
        super().__init__(params, **options)
        self.rewarm = NO_REWARM
        self.oldest = 0
        self.ages: dict[Tensor, int] = {}

    def begin(self, rewarm: RewarmConfig) -> int:
        """Look at the ages of all parameters, which are then counted with each step.

        Args:
            rewarm: The rate of entries that are younger than the oldest one.

        Returns:
            Optimizer steps that the oldest parameter has had.
        """
        self.rewarm = rewarm
        self.ages = {}  # of young parameters whose entries are all of one age
        parameters = [p for group in self.param_groups for p in group["params"]]
        unseen = torch.zeros((), device=parameters[0].device)
        steps = [self.state.get(p, {}).get("step", unseen) for p in parameters]
        ages = torch.stack([s.float() for s in steps]).int().tolist()
        self.oldest = max(ages)
        for parameter, age in zip(parameters, ages, strict=True):
            is_mixed = "step_count" in self.state.get(parameter, {})
            if not is_mixed and age < min(self.oldest, rewarm.steps):
                self.ages[parameter] = age
        return self.oldest

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One optimizer step; closures are not supported."""
        own = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and self._steps_on_its_own(parameter)
        ]
        for parameter, _, _ in own:
            parameter.grad = None
        super().step()
        self.oldest += 1
        for parameter, gradient, group in own:
            parameter.grad = gradient
            state = self._counted(parameter)
            factor = self._rate_factor(state, parameter.dtype)
            _entrywise_step(parameter, gradient, state, group, factor)

    def _steps_on_its_own(self, parameter: Tensor) -> bool:
        """Whether entries have ages, or a rate, of their own."""
        is_young = self.ages.get(parameter, self.rewarm.steps) < self.rewarm.steps
        return is_young or "step_count" in self.state.get(parameter, {})

    def _counted(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's state with one step more, which is there at the latest now."""
        state: dict[str, Tensor] = self.state[parameter]
        if parameter in self.ages:
            self.ages[parameter] += 1
            state["step"] = torch.tensor(float(self.ages[parameter]), device=parameter.device)
            for key in ("exp_avg", "exp_avg_sq"):
                state.setdefault(key, torch.zeros_like(parameter))
        else:
            state["step_count"].add_(1)
            state["step"] += 1
        return state

    def _rate_factor(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor | float:
        """Rate of a parameter's entries, in rates of the others."""
        if not self.rewarm.steps:
            return 1.0
        ages = state.get("step_count", state["step"])
        return torch.where(ages < self.oldest, rewarm_factor(ages.to(dtype), self.rewarm), 1.0)

    def set_step_count(self, parameter: Tensor, step_count: Tensor) -> None:
        """State the optimizer steps that a parameter, or each of its entries, has had."""
        state = self.state[parameter]
        if step_count.ndim == 0 or bool((step_count == step_count.flatten()[0]).all()):
            state["step"] = step_count.flatten()[0].to(parameter.device, torch.float32)
        else:
            state["step_count"] = step_count.to(parameter.device, torch.int32)
            state["step"] = step_count.max().to(parameter.device, torch.float32)


def rewarm_factor(ages: Tensor, rewarm: RewarmConfig) -> Tensor:
    """Rate of new entries in rates of the others, at their step number ``ages``, from 1 on."""
    share = (2 * ages / rewarm.steps).clamp(max=2.0)
    falling = rewarm.peak + (1 - rewarm.peak) * (share - 1)
    return torch.where(share < 1, rewarm.peak * share, falling)


def _entrywise_step(
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    factor: Tensor | float,
) -> None:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) with a step count for each entry."""
    (beta1, beta2), rate = group["betas"], group["lr"]
    steps = state.get("step_count", state["step"]).to(parameter.dtype)
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    scale = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
    parameter.mul_(1 - rate * group["weight_decay"] * factor)
    parameter.addcdiv_(mean / (1 - beta1**steps) * factor, scale, value=-rate)

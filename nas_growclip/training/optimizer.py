"""AdamW for parameters whose entries are of different ages.

PyTorch keeps one step count for a tensor, and so corrects the bias of all its moments alike. After
growth a tensor holds old entries, whose moments have settled, and new ones, whose moments start
from zero: corrected with the old count, a new entry's first steps are up to five times too long
(beta2 = 0.999). Here such a tensor keeps a count for each entry.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class AgedAdamW(torch.optim.AdamW):
    """PyTorch's AdamW; tensors with an ``age`` in their state are corrected entry by entry."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One optimizer step; closures are not supported."""
        aged = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and "age" in self.state.get(parameter, {})
        ]
        for parameter, _, _ in aged:
            parameter.grad = None
        super().step()
        for parameter, gradient, group in aged:
            parameter.grad = gradient
            _aged_step(parameter, gradient, self.state[parameter], group)

    def set_age(self, parameter: Tensor, age: Tensor) -> None:
        """State the optimizer steps that a parameter, or each of its entries, has had."""
        state = self.state[parameter]
        if age.ndim == 0 or bool((age == age.flatten()[0]).all()):
            state["step"] = age.flatten()[0].to(parameter.device, torch.float32)
        else:
            state["age"] = age.to(parameter.device, torch.int32)
            state["step"] = age.max().to(parameter.device, torch.float32)


def _aged_step(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) with a step count for each entry."""
    (beta1, beta2), rate = group["betas"], group["lr"]
    age = state["age"].add_(1).to(parameter.dtype)
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    scale = (square / (1 - beta2**age)).sqrt_().add_(group["eps"])
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.addcdiv_(mean / (1 - beta1**age), scale, value=-rate)

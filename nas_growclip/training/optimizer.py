"""AdamW for parameters whose entries have had different numbers of steps.

PyTorch keeps one step count for a tensor, and so corrects the bias of all its moments alike. After
growth a tensor holds old entries, whose moments have settled, and new ones, whose moments start
from zero: corrected with the old count, a new entry's first steps are up to five times too long
(beta2 = 0.999). Here such a tensor keeps a count for each entry.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EntrywiseAdamW(torch.optim.AdamW):
    """PyTorch's AdamW; tensors with a ``step_count`` in their state are corrected by entry."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One optimizer step; closures are not supported."""
        mixed = [
            (parameter, parameter.grad, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and "step_count" in self.state.get(parameter, {})
        ]
        for parameter, _, _ in mixed:
            parameter.grad = None
        super().step()
        for parameter, gradient, group in mixed:
            parameter.grad = gradient
            _entrywise_step(parameter, gradient, self.state[parameter], group)

    def set_step_count(self, parameter: Tensor, step_count: Tensor) -> None:
        """State the optimizer steps that a parameter, or each of its entries, has had."""
        state = self.state[parameter]
        if step_count.ndim == 0 or bool((step_count == step_count.flatten()[0]).all()):
            state["step"] = step_count.flatten()[0].to(parameter.device, torch.float32)
        else:
            state["step_count"] = step_count.to(parameter.device, torch.int32)
            state["step"] = step_count.max().to(parameter.device, torch.float32)


def _entrywise_step(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) with a step count for each entry."""
    (beta1, beta2), rate = group["betas"], group["lr"]
    steps = state["step_count"].add_(1).to(parameter.dtype)
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    scale = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.addcdiv_(mean / (1 - beta1**steps), scale, value=-rate)

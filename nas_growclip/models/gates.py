"""Gates on inserted blocks, which open while a model trains (masked structural growth).

A gated block computes h + alpha * f(h) in both of its branches; alpha rises linearly from 0 to 1
over a number of optimizer steps. A gate holds no parameter, so a state dict does not know of it;
``folded_state`` gives weights of the same function without gates.

Reference: masked structural growth (Yao et al., 2024, arXiv 2305.02869).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_OUTPUTS = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")


class Gate(nn.Module):
    """Multiplies a branch by ``alpha``.

    Args:
        num_steps: Optimizer steps until it is fully open.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.alpha = 0.0

    def forward(self, branch: Tensor) -> Tensor:
        """The branch, scaled."""
        return branch * self.alpha


def install_gates(model: nn.Module, blocks: Sequence[str], num_steps: int) -> None:
    """Put a closed gate on both branches of each named block."""
    for name in blocks:
        block = model.get_submodule(name)
        block.ls1 = block.ls2 = Gate(num_steps)


def gates_of(model: nn.Module) -> Mapping[str, Gate]:
    """Every gate under its block's name."""
    return {
        name.removesuffix(".ls1"): module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Gate) and name.endswith(".ls1")
    }


def set_gates(model: nn.Module, step: int) -> None:
    """Open the gates as far as they are in an optimizer step (counted from 0); 1 / n at first.

    A gate that is fully open is taken away.
    """
    for name, gate in gates_of(model).items():
        gate.alpha = min(1.0, (step + 1) / gate.num_steps)
        if gate.alpha == 1:
            block = model.get_submodule(name)
            block.ls1, block.ls2 = nn.Identity(), nn.Identity()


def folded_state(model: nn.Module, params: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state dict of the same function without gates: output projections times alpha.

    Args:
        model: Has the gates.
        params: Other weights to fold them into, such as a moving average; default: the model's.
    """
    state: dict[str, Tensor] = dict(model.state_dict() if params is None else params)
    with torch.no_grad():
        for name, gate in gates_of(model).items():
            for output in _OUTPUTS:
                state[f"{name}.{output}"] = state[f"{name}.{output}"] * gate.alpha
    return state

"""Learning curves as saturating power laws, and where they lead.

L(D) = E + A (D + S)^-b: loss against effective pairs D, a floor E that no amount of data removes,
an exponent b, and S, what the model had learnt before. A floor above the curve is a loss that
rises, as where a model overfits. A short curve does not determine all four,
so every (b, E, S) of a grid is fitted and weighted by how well it fits and by what is known
beforehand; a prediction is the weighted mean, and the spread is its uncertainty.

Reference: the form is that of Hoffmann et al., 2022 (arXiv 2203.15556), equation 2, at a fixed
model size; repeated pairs count as Muennighoff et al., 2023 (arXiv 2305.16264), equation 5.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

EXPONENTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
FLOOR_SHARES = (0.0, 0.15, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3)
"""E as shares of the curve's lowest loss; above 1 for a loss that rises, as from overfitting."""
HEAD_STARTS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""S as multiples of the curve's last D."""
LEAST_NOISE = 0.01
"""Standard deviation of a measured loss, at least, in nats: a perfect fit proves nothing."""

Array = Float[np.ndarray, "..."]
_GRID: Array = np.array(list(itertools.product(EXPONENTS, FLOOR_SHARES, HEAD_STARTS)))


class CurvePrior(NamedTuple):
    """What is known of a curve's form before it is seen: its exponent. Its floor is left open."""

    exponent: float
    """Likely b."""
    certainty: float = 1.0
    """0 knows nothing; 1 is worth a standard deviation of one e-fold of b."""

    def log_weights(self) -> Array:
        """Log weight of every cell of the grid."""
        return np.asarray(-0.5 * self.certainty * np.log(_GRID[:, 0] / self.exponent) ** 2)


class Prediction(NamedTuple):
    """A mean and its standard deviation, in nats."""

    mean: float
    deviation: float


class PowerLaw(NamedTuple):
    """A learning curve's fits: one for each cell of the grid, with their weights."""

    weights: Array
    floors: Array
    scales: Array
    head_starts: Array

    def loss(self, pairs: float) -> Prediction:
        """Loss after so many effective pairs."""
        exponents = _GRID[:, 0]
        losses = self.floors + self.scales * (pairs + self.head_starts) ** -exponents
        mean = float(self.weights @ losses)
        return Prediction(mean, math.sqrt(float(self.weights @ (losses - mean) ** 2)))


def fit_power_law(pairs: Sequence[float], losses: Sequence[float], prior: CurvePrior) -> PowerLaw:
    """Fit a learning curve.

    Args:
        pairs: Effective pairs at each point, above 0 and rising.
        losses: Validation loss there, in nats.
        prior: What is known of the curve's form.

    Raises:
        ValueError: If there is no point.
    """
    if not pairs:
        raise ValueError("A learning curve must have a point after its start, but has none.")
    seen, measured = np.array(pairs, dtype=float), np.array(losses, dtype=float)
    exponents, shares, starts = _GRID.T
    floors, head_starts = shares * measured.min(), starts * seen[-1]
    shape = (seen[None, :] + head_starts[:, None]) ** -exponents[:, None]
    above = measured[None, :] - floors[:, None]
    scales = (shape * above).sum(1) / (shape * shape).sum(1)
    errors = above - scales[:, None] * shape
    squares = (errors**2).sum(1) + len(seen) * LEAST_NOISE**2
    log_weights = -0.5 * len(seen) * np.log(squares) + prior.log_weights()
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return PowerLaw(weights, floors, scales, head_starts)

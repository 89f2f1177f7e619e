"""Optuna's samplers and pruners by name.

Every sampler is made from a seed, since Optuna's defaults differ between its versions. A pruner
compares trials at the same point of their learning curves: the same share of the stage's FLOPs.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

STARTUP_TRIALS = 4
"""Trials before a sampler or a pruner trusts what it knows; stages have few trials."""
NSGA2_POPULATION = 8
NUMBERS_ONLY = frozenset({"gp", "cmaes"})
"""Samplers that model numbers, not conditions: they search the flat space of levels."""
MULTI_OBJECTIVE = frozenset({"nsga2"})
"""Samplers that weigh the score against FLOPs instead of the score alone."""


@contextmanager
def experimental() -> Iterator[None]:
    """Parts of Optuna that it calls experimental, used on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator; running trials count as bad ones."""
    return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)


def random(seed: int) -> BaseSampler:
    """Uniform over each parameter's choices."""
    return RandomSampler(seed=seed)


def grid(seed: int) -> BaseSampler:
    """Every candidate once, in an order drawn from the seed."""
    with experimental():
        return BruteForceSampler(seed=seed)


def gp(seed: int) -> BaseSampler:
    """Gaussian process over the levels of the dimensions."""
    return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def cmaes(seed: int) -> BaseSampler:
    """CMA-ES over the levels of the dimensions."""
    return CmaEsSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)


def nsga2(seed: int) -> BaseSampler:
    """NSGA-II for the score against FLOPs."""
    return NSGAIISampler(seed=seed, population_size=NSGA2_POPULATION)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": tpe,
    "random": random,
    "grid": grid,
    "gp": gp,
    "cmaes": cmaes,
    "nsga2": nsga2,
}
"""Optuna's samplers by name, made from a seed."""


def no_pruner(points: int) -> BasePruner:
    """Every trial runs to its end."""
    return NopPruner()


def median(points: int) -> BasePruner:
    """Stops a trial that is worse than the median of the others at the same point."""
    return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)


def successive_halving(points: int) -> BasePruner:
    """At points 1, 2, 4, ... only the better half continues."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)


def hyperband(points: int) -> BasePruner:
    """Successive halving with several starting points."""
    return HyperbandPruner(min_resource=1, max_resource=points, reduction_factor=2)


def wilcoxon(points: int) -> BasePruner:
    """Stops a trial whose curve is worse than the best trial's by a signed-rank test."""
    with experimental():
        return WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)


PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": no_pruner,
    "median": median,
    "successive_halving": successive_halving,
    "hyperband": hyperband,
    "wilcoxon": wilcoxon,
}
"""Optuna's pruners by name, made from the number of points of a trial's learning curve."""


def add_sampler(name: str, make: Callable[[int], BaseSampler]) -> None:
    """Make a sampler of one's own known in this process, under a name for ``search.sampler``.

    It weighs one objective, the score, which is maximised, over *which dimensions, then which
    sizes*. Workers and later resumptions need the same call before they read the run's settings.

    Args:
        name: A new one.
        make: Makes the sampler from a seed, anew for every proposal.

    Raises:
        ValueError: If there is one of that name.
    """
    _refuse_known(name, SAMPLERS)
    SAMPLERS[name] = make


def add_pruner(name: str, make: Callable[[int], BasePruner]) -> None:
    """Make a pruner of one's own known in this process, under a name for ``search.pruner``.

    It compares points of learning curves, exp(-loss), of which higher is better.

    Args:
        name: A new one.
        make: Makes the pruner from the number of points of a trial's learning curve.

    Raises:
        ValueError: If there is one of that name.
    """
    _refuse_known(name, PRUNERS)
    PRUNERS[name] = make


def _refuse_known(name: str, table: Iterable[str]) -> None:
    if name in table:
        raise ValueError(f"The name must be a new one, but there is {name!r}. Choose another.")

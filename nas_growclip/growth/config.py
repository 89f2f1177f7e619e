"""How children inherit: the ``growth:`` part of an experiment."""

from dataclasses import dataclass
from typing import Literal

from nas_growclip.io.mappings import read_fields
from nas_growclip.io.ranges import above, at_least, check_ranges, within


@dataclass(frozen=True, kw_only=True)
class RewarmConfig:
    """A learning rate of their own for entries that growth added, while they are young.

    It rises linearly from 0 to ``peak`` times the rate over the first half of ``steps``, and falls
    to the rate over the second half; older entries train as before. As SPARKLING (Yu et al., 2026,
    arXiv 2602.02472) does to break the symmetry of copies.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 0
    """Optimizer steps of an entry's youth; 0: new entries train at the rate of the others."""
    peak: float = 1.3
    """Largest rate of a new entry, in rates of the others."""

    def __post_init__(self) -> None:
        check_ranges(self, steps=at_least(0), peak=above(0))


NO_REWARM = RewarmConfig()
"""New entries train at the rate of the others."""


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """Operators, PIM and training state; names are looked up in their tables when they are used.

    Raises:
        ValueError: If a number is out of range.
    """

    operator: str = "exact"
    """How axes are enlarged, a name in ``OPERATORS``."""
    depth_operator: str = "identity"
    """Where new blocks come from, a name in ``DEPTH_OPERATORS``."""
    placement: Literal["spread", "end"] = "spread"
    """Where new blocks stand: between the parent's, or behind them."""
    momentum: float = 1.0
    """Share m of the inherited weight in PIM's blend; 1 only inherits."""
    pim: str = "convex"
    """PIM variant, a name in ``PIM_VARIANTS``."""
    pim_exclude: tuple[str, ...] = ()
    """Groups of matrices that PIM leaves as inherited, names in ``PIM_GROUPS``."""
    budget: float = 0.05
    """Rise of the validation loss, in nats, that the ``budgeted`` variant may cause."""
    perturbation: float = 0.1
    """Share of fresh weight that the ``shrink_perturb`` variant adds."""
    snr_db: float = 20.0
    """Signal-to-noise ratio of ``hypercloning``'s symmetric noise, in decibels."""
    gate_steps: int = 100
    """Optimizer steps over which the ``gated`` depth operator opens its gates."""
    learn_steps: int = 100
    """Steps that the ``ligo`` operator trains its maps for, the parent frozen."""
    learn_rate: float = 3.0e-3
    """AdamW's rate while ``ligo`` trains its maps."""
    norm_pre: Literal["refuse", "approximate"] = "refuse"
    """What to do with a ``norm_pre`` parent whose width grows by no integer ratio."""
    moments: Literal["grow", "copy", "reset"] = "reset"
    """AdamW's moments: through the same maps; only where a tensor is unchanged; or reset."""
    rewarm: RewarmConfig = NO_REWARM
    """The rate of new entries, where moments are kept."""

    def __post_init__(self) -> None:
        read_fields(self)
        check_ranges(
            self,
            momentum=within(0, 1),
            perturbation=within(0, 1),
            budget=at_least(0),
            gate_steps=at_least(1),
            learn_steps=at_least(0),
            learn_rate=above(0),
        )
        if self.rewarm.steps and self.moments == "reset":
            raise ValueError(
                "rewarm.steps: must be 0 where growth.moments is 'reset', since no entry is then "
                f"older than another, but got {self.rewarm.steps}. Set growth.moments to 'grow'."
            )


DEFAULT_GROWTH = GrowthConfig()
"""Exact growth that only inherits."""

"""The coefficients of objectives: what finished stages taught, and how trials usually begin."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nas_growclip.io.choices import require_choice
from nas_growclip.io.mappings import read_fields
from nas_growclip.io.ranges import above, at_least, check_ranges, within
from nas_growclip.models.arch import DIMENSIONS
from nas_growclip.search.extrapolation import CurvePrior

DIMENSION_GAINS: Mapping[str, float] = {
    "image.depth": 0.16,
    "image.width": 0.15,
    "image.mlp_width": -0.02,
    "image.patch_size": 0.31,
    "text.depth": 0.04,
    "text.width": 0.19,
    "text.mlp_width": 0.02,
    "shared.depth": 0.28,
    "shared.mlp_width": 0.14,
    "embed_dim": 0.31,
}
"""Fitted to ``benchmarks/records/search_oracle.jsonl`` and ``study_calibration*.jsonl`` by
``search.calibration``; see docs/results/search.md for where they hold."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and its coefficients.

    Raises:
        ValueError: If a coefficient is out of range or a dimension is unknown.
    """

    name: str = "data_size_aware"
    """A name in ``OBJECTIVES``."""
    dimension_gains: Mapping[str, float] = field(default_factory=lambda: dict(DIMENSION_GAINS))
    """What an e-fold of a dimension is worth, in e-folds of effective pairs; 0 if not named."""
    pairs_exponent: float = 0.0
    """How that changes with the effective pairs that no growth sees."""
    size_exponent: float = 0.375
    """How fast it falls with the size that the dimension has before it grows."""
    curve_steepness: float = 1.02
    """E-folds by which the loss at a stage's end falls with an e-fold of effective pairs."""
    repetition_constant: float = 5.7
    """R* of data-constrained scaling: repeats after which a pair's worth has mostly gone."""
    gain_spread: float = 0.06
    """Standard deviation of candidates' true gains about the expected ones, in e-folds of loss."""
    lead_spread: float = 0.1
    """Standard deviation of the gain at a stage's end about the lead of a trial just before its
    cool-down, in e-folds of loss, more before; a lead of any trial counts in full from twice that
    beyond none or what is expected."""
    caution: float = 0.4
    """Standard deviations of a growth's forecast that its score is below it: the best of several
    growths promises too much. At 0.4 it must be better than no growth with two chances in three."""
    decay_exponent: float = 0.3
    """b of the learning curve's power law, before a curve is seen."""
    curve_certainty: float = 1.0
    """How much that is trusted against a measured curve."""
    time_exponent: float = 0.5
    """w in AutoProg's loss times time to the power of w."""

    def __post_init__(self) -> None:
        read_fields(self)
        for dimension in self.dimension_gains:
            require_choice(dimension, DIMENSIONS, "dimension_gains")
        check_ranges(
            self,
            pairs_exponent=within(-1, 1),
            size_exponent=within(-1, 1),
            curve_steepness=above(0),
            repetition_constant=above(0),
            gain_spread=above(0),
            lead_spread=above(0),
            caution=at_least(0),
            decay_exponent=above(0),
            curve_certainty=at_least(0),
            time_exponent=at_least(0),
        )

    @property
    def curve_prior(self) -> CurvePrior:
        """What is known of a learning curve before it is seen."""
        return CurvePrior(self.decay_exponent, self.curve_certainty)

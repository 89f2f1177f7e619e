"""Settings of a stage's search."""

from dataclasses import dataclass

from nas_growclip.io.ranges import above, at_least, check_ranges, within


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a stage is searched.

    Raises:
        ValueError: If a number is out of range or two settings exclude each other.
    """

    backend: str = "optuna"
    """A name in ``BACKENDS``."""
    sampler: str = "tpe"
    """Optuna's sampler, a name in ``SAMPLERS``; the other backends have none."""
    pruner: str = "none"
    """Optuna's pruner, a name in ``PRUNERS``: stops trials early; ``nsga2`` can have none."""
    storage: str | None = None
    """Optuna's storage: none for ``study.db`` in the run folder (SQLite), ``journal`` for
    ``study.journal`` there (fit for a network disk), or a database's URL."""
    study_name: str | None = None
    """What the run's studies are called before ``/stage_NN``; ``growclip/RUN-ID`` if not given."""
    shortlist: int | None = 3
    """Growths that may be tried: of the growth space those of which the objective's coefficients
    let most expect, before any trial; none for the whole space."""
    num_trials: int = 4
    """Trials a stage, the control included."""
    trial_share: float = 0.025
    """Share of the stage's training FLOPs that each trial may spend."""
    curve_points: int = 6
    """Measurements of validation loss along a trial."""
    grace_seconds: float = 120.0
    """Seconds without a heartbeat after which a worker on another machine counts as lost."""
    nni_tuner: str = "TPE"
    """NNI's tuner: TPE, Random, Evolution or GridSearch."""
    nni_assessor: str = "none"
    """NNI's assessor, which stops trials early: none, Medianstop or Curvefitting."""
    nni_workers: int = 1
    """NNI's trials at the same time; with more than one the same seed may give other trials."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            shortlist=at_least(1),
            num_trials=at_least(1),
            curve_points=at_least(1),
            nni_workers=at_least(1),
            trial_share=within(0, 1, "(]"),
            grace_seconds=above(0),
        )
        if self.sampler == "nsga2" and self.pruner != "none":
            raise ValueError(
                f"pruner: must be 'none' with sampler 'nsga2', but got {self.pruner!r}: Optuna "
                "prunes by one objective only. Choose another sampler, or prune nothing."
            )

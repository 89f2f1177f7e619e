"""A stage's plan: what follows from its data size, its parent's size and the stages before.

Everything is computed once, before anything is trained. What has to be measured for it (the
parent's losses, for a trigger that asks for them) is handed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nas_growclip.data.batches import epoch_seed
from nas_growclip.experiment.config import ExperimentConfig
from nas_growclip.growth.candidates import NO_GROWTH, Candidate, scheduled
from nas_growclip.growth.space import next_sizes
from nas_growclip.models.arch import ClipArch
from nas_growclip.models.flops import count_flops
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.forecast import Expectation, StageAhead, expectations, shortlist
from nas_growclip.search.objective import OBJECTIVES, Objective
from nas_growclip.search.trigger import TRIGGERS, Decision, TriggerInput
from nas_growclip.training.schedule import trunk_steps
from nas_growclip.training.state import TrainConfig

STAGE_CURVE_POINTS = 12
"""Points of the learning curve after a stage's trial."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Numbers and choices of one stage."""

    index: int
    seed: int
    """For the stage's fresh weights, its batches and its search."""
    batch_size: int
    budget: float
    """Training FLOPs of the stage's model, the continued trial included."""
    candidates: tuple[Candidate, ...]
    """What the stage may choose from: no growth first; only that where nothing triggers a search;
    only the given growth where there is a schedule or a rule; of a growth space the shortlist."""
    expected: tuple[Expectation, ...]
    """What was expected of all candidates of the growth space, by falling gain; none where there
    is no shortlist."""
    decision: Decision | None
    """Whether the stage is searched, and why; None where it grows without a search."""
    given: str
    """How the stage grows without a search: as scheduled or by the rule; empty where it is
    searched."""
    objective: Objective
    """What scores the trials and chooses among them."""
    coefficients: ObjectiveConfig
    num_pairs: int
    """Pairs in the stage."""
    search: SearchConfig
    train: TrainConfig

    @property
    def growth_space(self) -> tuple[Candidate, ...]:
        """All candidates there are, those that the stage may choose from first."""
        left_out = (e.candidate for e in self.expected if e.candidate not in self.candidates)
        return (*self.candidates, *left_out)

    @property
    def is_given(self) -> bool:
        """Whether the stage's growth is given, by a schedule or a rule, without a search."""
        return self.decision is None

    def train_flops(self, arch: ClipArch, steps: int) -> int:
        """Training FLOPs of so many steps."""
        return TRAIN_FLOPS_PER_FORWARD * count_flops(arch) * steps * self.batch_size

    def stage_steps(self, arch: ClipArch) -> int:
        """Steps that the stage's budget buys an architecture."""
        return max(1, int(self.budget / self.train_flops(arch, 1)))

    def trial_steps(self, arch: ClipArch) -> int:
        """Steps of a trial: the same share of the budget for every architecture."""
        steps = max(1, round(self.search.trial_share * self.stage_steps(arch)))
        trunk = self.trunk_steps(arch)
        return steps if trunk is None else min(steps, trunk)

    def trial_points(self, arch: ClipArch) -> tuple[int, ...]:
        """Steps at which a trial's loss is measured."""
        return curve_steps(0, self.trial_steps(arch), self.search.curve_points)

    def stage_points(self, arch: ClipArch) -> tuple[int, ...]:
        """Steps at which the loss of the stage's model is measured, its trial's included."""
        trial, end = self.trial_steps(arch), self.stage_steps(arch)
        points = {*self.trial_points(arch), *curve_steps(trial, end, STAGE_CURVE_POINTS)}
        trunk = self.trunk_steps(arch)
        return tuple(sorted(points if trunk is None else {*points, trunk}))

    def trunk_steps(self, arch: ClipArch) -> int | None:
        """Steps after which the stage's model branches off; None where there is no trunk."""
        if self.train.schedule != "trunk":
            return None
        return max(1, trunk_steps(self.stage_steps(arch), self.train))


def plan_stage(
    config: ExperimentConfig,
    index: int,
    num_pairs: int,
    parent_arch: ClipArch,
    earlier_pairs: int | None,
    measure_losses: Callable[[], tuple[float, float]],
) -> StagePlan:
    """Plan a stage.

    Args:
        config: The experiment.
        index: The stage's number.
        num_pairs: Usable training pairs of the stage, earlier ones included.
        parent_arch: The parent's architecture.
        earlier_pairs: Those of the stage before; None for the first stage.
        measure_losses: Gives the parent's loss on ``validation`` and on as many of its oldest
            training pairs; called only where the trigger asks for it.

    Raises:
        ValueError: If what is scheduled, or comes by the rule, is no legal growth of the parent.
    """
    begins = TriggerInput(
        num_pairs=num_pairs, earlier_pairs=earlier_pairs, measure_losses=measure_losses
    )
    decision: Decision | None = None
    candidates: tuple[Candidate, ...] = (NO_GROWTH,)
    given = ""
    if index < len(config.schedule):
        candidates = (scheduled(parent_arch, config.schedule[index]),)
        given = "as scheduled"
    elif config.rule:
        candidate, given = ruled(config, index, parent_arch, begins)
        candidates = (candidate,)
    else:
        decision = TRIGGERS[config.trigger.name](begins, config.trigger)
        if decision.should_search:
            candidates = config.space.candidates(parent_arch, num_pairs)
    num_listed = num_shortlisted(config, candidates)
    plan = StagePlan(
        index=index,
        seed=stage_seed(config, index),
        batch_size=config.train.batch_size,
        budget=stage_budget(config, index, num_pairs, parent_arch, num_listed),
        candidates=candidates,
        expected=(),
        decision=decision,
        given=given,
        objective=OBJECTIVES[config.objective.name],
        coefficients=config.objective,
        num_pairs=num_pairs,
        search=config.search,
        train=config.train,
    )
    return plan if num_listed == len(candidates) else shortlisted(plan, parent_arch)


def num_shortlisted(config: ExperimentConfig, candidates: Sequence[Candidate]) -> int:
    """How many candidates a stage may try, no growth included."""
    if config.search.shortlist is None:
        return len(candidates)
    most = 1 + config.search.shortlist * max(1, len(config.space.momenta))
    return min(most, len(candidates))


def shortlisted(plan: StagePlan, parent_arch: ClipArch) -> StagePlan:
    """The plan with the candidates of which most is expected in place of all."""
    stage = StageAhead(
        num_pairs=plan.num_pairs,
        seen_pairs=plan.stage_steps(parent_arch) * plan.batch_size,
        flops_of=lambda candidate: count_flops(candidate.apply(parent_arch)),
    )
    expected = expectations(plan.candidates, stage, plan.coefficients)
    listed = shortlist(expected, plan.search.shortlist or len(expected))
    return replace(plan, candidates=listed, expected=expected)


def stage_seed(config: ExperimentConfig, index: int) -> int:
    """The seed of a stage of an experiment."""
    return epoch_seed(config.seed, index)


def stage_budget(
    config: ExperimentConfig,
    index: int,
    num_pairs: int,
    parent_arch: ClipArch,
    num_candidates: int,
) -> float:
    """Training FLOPs of a stage's model, the continued trial included.

    By ``passes`` trials that are not continued cost extra; of ``stage_flops`` they take their
    part, whether they are pruned or not, so that the stage ends within it.
    """
    given = config.stage_flops[index] if config.stage_flops else None
    if given is None:
        forward = count_flops(parent_arch)
        return TRAIN_FLOPS_PER_FORWARD * forward * config.passes * num_pairs
    others = min(config.search.num_trials, num_candidates) - 1
    return given / (1 + others * config.search.trial_share)


def ruled(
    config: ExperimentConfig, index: int, parent_arch: ClipArch, begins: TriggerInput
) -> tuple[Candidate, str]:
    """What a stage grows by the experiment's rule, and why.

    Nothing where the trigger holds, nor before a first model that begins with fresh weights has
    been trained: a larger one could have been given.
    """
    if index == 0 and not config.parent_checkpoint:
        should_grow, reason = Decision(False, "the first model is not trained yet")
    else:
        should_grow, reason = TRIGGERS[config.trigger.name](begins, config.trigger)
    sizes = next_sizes(config.rule, parent_arch, begins.num_pairs) if should_grow else NO_GROWTH
    return sizes, f"by the rule: {reason}"


def curve_steps(start: int, end: int, count: int) -> tuple[int, ...]:
    """Evenly spaced steps after ``start`` in rising order, the last one being ``end``."""
    steps = {start + (end - start) * point // count for point in range(1, count + 1)}
    return tuple(sorted(steps - {start}))

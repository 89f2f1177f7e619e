"""What each proxy says of candidates, and what each policy would choose, from the oracle's records.

Reads what ``benchmarks.search_oracle`` recorded; nothing is trained. A stage is one seed at one
data size. What a candidate is worth is its final loss, the mean over the *other* seeds; so a proxy
and the ceiling (the stage's own finished runs) are judged alike. Correlations that are corrected
for attenuation are divided by the root of the reliability of those means. Regret is how far the
chosen candidate's final loss, the mean over all seeds, is above the lowest, in percent.

Command: python -m benchmarks.search_policy benchmarks/records/search_oracle.jsonl
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.recovery import commit
from benchmarks.search_oracle import (
    BRANCH_SHARES,
    GROWTHS,
    PARENT,
    PARENT_PAIRS,
    Outcome,
    as_trial,
    candidate_of,
    read_outcomes,
)
from nas_growclip.models.flops import count_flops
from nas_growclip.search.objective import DataSize, ObjectiveConfig, scored_again

SHARES = (0.0125, 0.025, 0.05, 0.1)
LATE_SHARES = (0.2, 0.3, 0.5, 0.8)
RESAMPLES = 2000
CONFIG = ObjectiveConfig()
HABITS = {"no growth": 0, "always deeper": 9, "always 1.5 x wider": 10, "always 2 x wider": 11}
"""Policies that look at nothing: numbers in ``GROWTHS``."""

Array = np.ndarray


class Stage(NamedTuple):
    """All candidates of one seed at one data size."""

    seed: int
    num_pairs: int
    outcomes: tuple[Outcome, ...]
    others: Array
    """Final losses, the mean over the other seeds."""
    final: Array
    """Final losses, the mean over all seeds."""

    def regret(self, number: int) -> float:
        """Percent by which a candidate's final loss is above the lowest."""
        return float(100 * (self.final[number] / self.final.min() - 1))


Proxy = Callable[[Stage, Sequence[Stage]], Array]
"""(stage, all stages) -> a score for each candidate, the higher the better."""


def whole_stages(outcomes: Sequence[Outcome]) -> list[Stage]:
    """The stages of which every candidate was recorded, where another seed was as well."""
    groups: dict[tuple[int, int], dict[int, Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.num_pairs, outcome.seed), {})[outcome.number] = outcome
    numbers = range(len(GROWTHS))
    losses = {
        key: np.array([group[n].final_loss for n in numbers])
        for key, group in sorted(groups.items())
        if len(group) == len(GROWTHS)
    }
    stages = []
    for (pairs, seed), own in losses.items():
        rest = [loss for (p, s), loss in losses.items() if p == pairs and s != seed]
        if rest:
            group = tuple(groups[pairs, seed][n] for n in numbers)
            stages.append(Stage(seed, pairs, group, np.mean(rest, 0), np.mean([own, *rest], 0)))
    return stages


def correlation(scores: Array, losses: Array) -> float:
    """Spearman's rank correlation of scores with final losses, its sign turned; 0 if all tie."""
    if len(set(scores.tolist())) == 1:
        return 0.0
    return float(-spearmanr(scores, losses).statistic)


def reliability(stages: Sequence[Stage], pairs: int) -> float:
    """Share of the variance of means over the other seeds that is not noise.

    The noise of one run is what seeds of one candidate scatter by; a mean over k has 1/k of it.
    """
    own = np.array([[o.final_loss for o in s.outcomes] for s in stages if s.num_pairs == pairs])
    centred = own - own.mean(1, keepdims=True)  # a seed's own level orders nothing
    noise = float(centred.var(0, ddof=1).mean()) / (len(own) - 1)
    total = float(np.mean([s.others.var(ddof=1) for s in stages if s.num_pairs == pairs]))
    return max(0.0, 1 - noise / total)


# Proxies.


def curve_at(outcome: Outcome, share: float) -> float:
    """Validation loss after a share of the stage's steps."""
    steps, losses = zip(*outcome.curve, strict=True)
    return float(np.interp(share * outcome.total_steps, steps, losses))


def trial_loss(share: float) -> Proxy:
    """The validation loss at the end of a trial."""
    return lambda stage, _: np.array([-curve_at(o, share) for o in stage.outcomes])


def branch_loss(number: int) -> Proxy:
    """The validation loss at the end of a trial that is cooled down."""
    return lambda stage, _: np.array([-o.branches[number][1] for o in stage.outcomes])


def data_size_aware(share: float, config: ObjectiveConfig = CONFIG) -> Proxy:
    """The product's objective on trials of a share of the stage."""

    def scores(stage: Stage, _: Sequence[Stage]) -> Array:
        data = DataSize(stage.num_pairs, PARENT_PAIRS, count_flops(PARENT))
        trials = scored_again([as_trial(o, share) for o in stage.outcomes], data, config)
        return np.array([trial.score or 0.0 for trial in trials])

    return scores


def finished_run(stage: Stage, _: Sequence[Stage]) -> Array:
    """The ceiling: the stage's own finished runs."""
    return np.array([-o.final_loss for o in stage.outcomes])


def fewer_flops(stage: Stage, _: Sequence[Stage]) -> Array:
    return np.array([-float(o.flops) for o in stage.outcomes])


GROUPS: Mapping[str, Sequence[str]] = {
    "image.depth": ("image.depth",),
    "image.width": ("image.width",),
    "text.depth": ("text.depth",),
    "text.width": ("text.width",),
    "shared.depth": ("shared.depth",),
    "embed_dim": ("embed_dim",),
    "mlp_width": ("image.mlp_width", "text.mlp_width", "shared.mlp_width"),
    "tokens": ("image.patch_size",),
}
"""Dimensions whose effects a prior tells apart."""


def features(outcome: Outcome) -> Array:
    """E-folds by which each group of dimensions grows, and the price of FLOPs at this data size."""
    steps = {
        step.dimension: abs(math.log(step.new / step.old))
        for step in candidate_of(outcome.growth).steps
    }
    grown = [sum(steps.get(d, 0.0) for d in group) for group in GROUPS.values()]
    price = math.log(outcome.flops / count_flops(PARENT))
    data = math.log(outcome.num_pairs / PARENT_PAIRS)
    return np.array([*grown, price, price**2, price * data])


def prior(penalty: float = 0.1) -> Proxy:
    """Effects of dimensions and FLOPs, by ridge regression on other sizes and other seeds.

    The gain is log of the control's final loss less log of the candidate's.
    """

    def scores(stage: Stage, stages: Sequence[Stage]) -> Array:
        rest = [s for s in stages if s.num_pairs != stage.num_pairs and s.seed != stage.seed]
        if not rest:
            return np.zeros(len(stage.outcomes))
        rows = np.array([features(o) for s in rest for o in s.outcomes])
        gains = np.array(
            [math.log(s.outcomes[0].final_loss / o.final_loss) for s in rest for o in s.outcomes]
        )
        gram = rows.T @ rows + penalty * np.eye(rows.shape[1])
        weights = np.linalg.solve(gram, rows.T @ gains)
        return np.array([features(o) @ weights for o in stage.outcomes])

    return scores


def both(first: Proxy, second: Proxy, share_of_second: float) -> Proxy:
    """Two scores added, each by its spread over the candidates."""

    def scores(stage: Stage, stages: Sequence[Stage]) -> Array:
        a, b = (standardised(proxy(stage, stages)) for proxy in (first, second))
        return (1 - share_of_second) * a + share_of_second * b

    return scores


def standardised(values: Array) -> Array:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else values * 0.0


def all_trials(share: float) -> float:
    """Percent of a stage's FLOPs in trials of all candidates, the chosen one continued."""
    others = (len(GROWTHS) - 1) * share
    return 100 * others / (1 + others)


PROXIES: Mapping[str, tuple[Proxy, float]] = {
    "ceiling: one finished run of each": (finished_run, all_trials(1.0)),
    **{f"trial's loss, {100 * s:g} %": (trial_loss(s), all_trials(s)) for s in SHARES},
    **{
        f"cooled-down trial's loss, {100 * s:g} %": (branch_loss(k), all_trials(s))
        for k, s in enumerate(BRANCH_SHARES)
    },
    **{f"data_size_aware, {100 * s:g} %": (data_size_aware(s), all_trials(s)) for s in SHARES},
    **{f"loss at {100 * s:g} %": (trial_loss(s), all_trials(s)) for s in LATE_SHARES},
    "fewer FLOPs": (fewer_flops, 0.0),
    "prior of the other sizes": (prior(), 0.0),
    **{
        f"prior and cooled-down trials, {100 * s:g} %": (
            both(prior(), branch_loss(k), 0.5),
            all_trials(s),
        )
        for k, s in enumerate(BRANCH_SHARES)
    },
}
"""Proxies by name, with the percent of a stage's FLOPs that they take for all candidates."""


# Tables.


def interval(values: Sequence[float]) -> str:
    """The mean with a 95 % interval over stages, by the bootstrap."""
    drawn = np.random.default_rng(0).choice(np.array(values), (RESAMPLES, len(values))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{np.mean(values):.2f} ({low:.2f} to {high:.2f})"


def like_flops(stage: Stage) -> Array:
    """Numbers of the candidates whose FLOPs are within a quarter of the median."""
    flops = np.array([o.flops for o in stage.outcomes], dtype=float)
    return np.flatnonzero(np.abs(np.log(flops / np.median(flops))) < math.log(1.25))


def proxy_table(stages: Sequence[Stage]) -> str:
    """Rank correlations, regret and cost of each proxy over all candidates."""
    lines = [
        "| proxy | Spearman (95 %) | corrected | at like FLOPs | regret, % | worst | % of FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    roots = {p: math.sqrt(reliability(stages, p)) for p in {s.num_pairs for s in stages}}
    for name, (proxy, cost) in PROXIES.items():
        scores = [proxy(stage, stages) for stage in stages]
        pairs = list(zip(stages, scores, strict=True))
        found = [correlation(given, stage.others) for stage, given in pairs]
        corrected = [r / roots[s.num_pairs] for r, s in zip(found, stages, strict=True)]
        like = [correlation(given[like_flops(s)], s.others[like_flops(s)]) for s, given in pairs]
        regrets = [stage.regret(int(given.argmax())) for stage, given in pairs]
        lines.append(
            f"| {name} | {interval(found)} | {np.mean(corrected):.2f} | {np.mean(like):.2f} | "
            f"{interval(regrets)} | {max(regrets):.1f} | {cost:.0f} |"
        )
    return "\n".join(lines)


def habit_table(stages: Sequence[Stage]) -> str:
    """Regret of policies that look at nothing, by data size."""
    sizes = sorted({stage.num_pairs for stage in stages})
    lines = [
        f"| policy | {' | '.join(f'{pairs} pairs' for pairs in sizes)} | mean |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    rows: dict[str, Callable[[Stage], float]] = {
        name: (lambda stage, n=number: stage.regret(n)) for name, number in HABITS.items()
    }
    rows["random"] = lambda s: float(np.mean([s.regret(n) for n in range(len(GROWTHS))]))
    for name, regret in rows.items():
        by_size = [np.mean([regret(s) for s in stages if s.num_pairs == p]) for p in sizes]
        mean = interval([regret(stage) for stage in stages])
        lines.append(f"| {name} | {' | '.join(f'{r:.1f}' for r in by_size)} | {mean} |")
    return "\n".join(lines)


def outcome_table(stages: Sequence[Stage]) -> str:
    """Mean final losses of every candidate at every data size."""
    sizes = sorted({stage.num_pairs for stage in stages})
    first = {pairs: next(s for s in stages if s.num_pairs == pairs) for pairs in sizes}
    lines = [
        f"| candidate | FLOPs a pair | {' | '.join(f'{pairs} pairs' for pairs in sizes)} |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for number, outcome in enumerate(first[sizes[0]].outcomes):
        cells = " | ".join(f"{first[pairs].final[number]:.3f}" for pairs in sizes)
        label = candidate_of(outcome.growth)
        lines.append(f"| {label} | {outcome.flops / 1e6:.2f} M | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=Path)
    options = parser.parse_args()
    stages = whole_stages(read_outcomes(options.oracle))
    seeds = sorted({stage.seed for stage in stages})
    print(f"commit {commit()}, {len(stages)} stages, seeds {seeds}\n")
    print(outcome_table(stages), proxy_table(stages), habit_table(stages), sep="\n\n")
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one.")


if __name__ == "__main__":
    main()

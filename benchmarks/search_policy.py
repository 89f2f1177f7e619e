"""What each objective and each search would have chosen, replayed on the oracle's records.

Reads what ``benchmarks.search_oracle`` recorded. A trial is the beginning of a recorded training;
its final result is that candidate's loss at the end of the stage, the mean over all seeds, on
``test`` (1,024 pairs) and ``validation`` (512) weighted by pairs. Regret is how much higher the
chosen candidate's final loss is than the lowest, in percent. Nothing is trained.

Command: python -m benchmarks.search_policy runs/oracle
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.recovery import commit
from benchmarks.search_oracle import BATCH, PAIRS, Outcome, read_outcomes
from nas_growclip.records.entries import TRAIN_FLOPS_PER_FORWARD, Trial
from nas_growclip.search.backends import BACKENDS
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.loop import Report, search
from nas_growclip.search.objective import OBJECTIVES, DataSize, ObjectiveConfig
from nas_growclip.search.protocol import Proposal, SearchTask

POINTS = 6
LAGS = (16, 64, 128)
SHARES = (0.0125, 0.025, 0.05, 0.1)
CONFIG = ObjectiveConfig()
HABITS = {"no growth, always": 0, "depth, always": 10, "everything x 2, always": 11}
"""Policies that look at nothing: the candidates' numbers in the oracle."""
SEARCHES = (
    ("exhaustive", SearchConfig(backend="exhaustive", num_trials=12)),
    ("random, 6 of 12", SearchConfig(backend="random", num_trials=6)),
    ("TPE, 6 of 12", SearchConfig(num_trials=6)),
    ("GP, 6 of 12", SearchConfig(sampler="gp", num_trials=6)),
    ("CMA-ES, 6 of 12", SearchConfig(sampler="cmaes", num_trials=6)),
    ("NSGA-II, 6 of 12", SearchConfig(sampler="nsga2", num_trials=6)),
    ("grid, median pruner", SearchConfig(sampler="grid", pruner="median", num_trials=12)),
    (
        "grid, successive halving",
        SearchConfig(sampler="grid", pruner="successive_halving", num_trials=12),
    ),
    ("grid, hyperband", SearchConfig(sampler="grid", pruner="hyperband", num_trials=12)),
    ("grid, wilcoxon", SearchConfig(sampler="grid", pruner="wilcoxon", num_trials=12)),
)


class Stage(NamedTuple):
    """All candidates of one seed and data size, with every candidate's mean final loss."""

    seed: int
    outcomes: tuple[Outcome, ...]
    final: tuple[float, ...]

    @property
    def data(self) -> DataSize:
        """What the objective knows of the data."""
        return DataSize(self.outcomes[0].num_pairs, PAIRS[0], self.outcomes[0].trial.flops)

    def regret(self, number: int) -> float:
        """Percent by which a candidate's final loss is above the lowest."""
        return 100 * (self.final[number] / min(self.final) - 1)


def final_loss(outcome: Outcome) -> float:
    return (2 * outcome.test["loss"].value + outcome.trial.metrics["loss"]) / 3


def whole_stages(outcomes: Iterable[Outcome]) -> list[Stage]:
    """The stages of which every candidate was recorded."""
    groups: dict[tuple[int, int], dict[int, Outcome]] = {}
    for outcome in outcomes:
        key = (outcome.num_pairs, outcome.seed)
        groups.setdefault(key, {})[outcome.trial.number] = outcome
    count = max(len(group) for group in groups.values())
    whole = {key: group for key, group in sorted(groups.items()) if len(group) == count}
    means = {
        pairs: np.mean(
            [[final_loss(g[n]) for n in range(count)] for (p, _), g in whole.items() if p == pairs],
            0,
        )
        for pairs, _ in whole
    }
    return [
        Stage(seed, tuple(group[n] for n in range(count)), tuple(means[pairs].tolist()))
        for (pairs, seed), group in whole.items()
    ]


def shortened(outcome: Outcome, pairs: float, points: int = POINTS) -> Trial:
    """A trial that ends after so many pairs, measured at evenly spaced points on the way."""
    seen, losses = zip(*[point for point in outcome.trial.curve if point[0] > 0], strict=True)
    places = [pairs * point / points for point in range(1, points + 1)]
    read = [(max(BATCH, round(p)), float(np.interp(p, seen, losses))) for p in places]
    curve = (outcome.trial.curve[0], *dict(read).items())
    flops = TRAIN_FLOPS_PER_FORWARD * outcome.trial.flops * pairs
    return replace(
        outcome.trial, curve=curve, metrics={"loss": curve[-1][1]}, train_flops=round(flops)
    )


def scored(name: str, trials: Sequence[Trial], stage: Stage) -> list[Trial]:
    results = [OBJECTIVES[name].score(t, trials[0], stage.data, CONFIG) for t in trials]
    return [replace(t, score=r.value, terms=r.terms) for t, r in zip(trials, results, strict=True)]


def correlation(stage: Stage, scores: Sequence[float]) -> float:
    """Spearman's rank correlation of scores with final losses, its sign turned."""
    return float(-spearmanr(scores, stage.final).statistic)


def at_lags(stage: Stage) -> dict[str, list[Trial]]:
    """The stage's trials at fixed numbers of steps and at fixed shares of its FLOPs."""
    lags = {
        f"{lag} steps": [min(lag * BATCH, o.total_steps * BATCH) for o in stage.outcomes]
        for lag in LAGS
    }
    lags |= {f"{100 * s:g} %": [s * o.total_steps * BATCH for o in stage.outcomes] for s in SHARES}
    return {
        name: [shortened(o, p) for o, p in zip(stage.outcomes, pairs, strict=True)]
        for name, pairs in lags.items()
    }


def share_of_stage(trials: Sequence[Trial], chosen: Trial, stage: Stage) -> float:
    """Percent of the stage's training FLOPs in trials that are not continued."""
    others = sum(trial.train_flops for trial in trials if trial.candidate != chosen.candidate)
    return 100 * others / (others + stage.outcomes[0].trial.train_flops)


def replay(stage: Stage, config: SearchConfig, objective: str) -> tuple[float, float, float]:
    """Regret, percent of FLOPs, and trials of a search, replayed."""
    by_candidate = {o.trial.candidate: o for o in stage.outcomes}
    whole = [shortened(o, config.trial_share * o.total_steps * BATCH) for o in stage.outcomes]
    found: list[Trial] = []

    def measure(proposal: Proposal, report: Report) -> Trial:
        trial = whole[by_candidate[proposal.candidate].trial.number]
        for point, (pairs, loss) in enumerate(trial.curve):
            if point and report(point, loss) and point < len(trial.curve) - 1:
                flops = round(trial.train_flops * pairs / trial.curve[-1][0])
                return replace(trial, number=proposal.number, state="pruned", train_flops=flops)
        return replace(trial, number=proposal.number)

    def score(trial: Trial) -> Trial:
        if trial.state == "complete":
            result = OBJECTIVES[objective].score(trial, whole[0], stage.data, CONFIG)
            trial = replace(trial, score=result.value)
        found.append(trial)
        return trial

    backend = BACKENDS[config.backend](
        SearchTask(
            candidates=[o.trial.candidate for o in stage.outcomes],
            seed=stage.seed,
            stage=PAIRS.index(stage.data.num_pairs),
            config=config,
        )
    )
    search(backend, measure, score)
    backend.close()
    chosen = OBJECTIVES[objective].choose(found)
    regret = stage.regret(by_candidate[chosen.candidate].trial.number)
    return regret, share_of_stage(found, chosen, stage), len(found)


def proxies(stages: Sequence[Stage]) -> None:
    """Rank correlation of each objective's score with the final result, by lag."""
    lags = [at_lags(stage) for stage in stages]
    names = list(lags[0])
    print(
        "| objective | 0 steps | "
        + " | ".join(names)
        + " |\n|---"
        + "|---" * (len(names) + 1)
        + "|"
    )
    for objective in OBJECTIVES:
        cells = []
        for name in names:
            values = [
                correlation(stage, [t.score or 0.0 for t in scored(objective, trials[name], stage)])
                for stage, trials in zip(stages, lags, strict=True)
            ]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f})")
        print(f"| {objective} | 0, all equal | " + " | ".join(cells) + " |")


def regrets(stages: Sequence[Stage]) -> None:
    """Regret of what each objective and each habit chooses among all candidates."""
    sizes = sorted({stage.data.num_pairs for stage in stages})
    head = [f"{pairs} pairs" for pairs in sizes]
    print(
        "\n| choice | "
        + " | ".join(head)
        + " | mean | worst |\n|---"
        + "|---" * (len(head) + 2)
        + "|"
    )
    rows = {name: [stage.regret(number) for stage in stages] for name, number in HABITS.items()}
    rows["random (expected)"] = [
        float(np.mean([stage.regret(n) for n in range(len(stage.final))])) for stage in stages
    ]
    rows["step-0 loss"] = rows["random (expected)"]
    for share in (0.025, 0.05, 0.1):
        for objective in OBJECTIVES:
            rows[f"{objective}, {100 * share:g} %"] = [
                stage.regret(
                    OBJECTIVES[objective]
                    .choose(scored(objective, at_lags(stage)[f"{100 * share:g} %"], stage))
                    .number
                )
                for stage in stages
            ]
    for name, row in rows.items():
        by_size = [
            np.mean(
                [r for r, stage in zip(row, stages, strict=True) if stage.data.num_pairs == pairs]
            )
            for pairs in sizes
        ]
        cells = " | ".join(f"{value:.1f}" for value in (*by_size, np.mean(row), max(row)))
        print(f"| {name} | {cells} |")


def searches(stages: Sequence[Stage]) -> None:
    """Regret and cost of each backend, with the default objective and plain quality."""
    print("\n| search | share of a trial | objective | trials | % of stage's FLOPs | regret, % |")
    print("|---|---|---|---|---|---|")
    for name, config in SEARCHES:
        for share in (0.0125, 0.05):
            for objective in ("data_size_aware", "quality"):
                changed = replace(config, trial_share=share, curve_points=POINTS)
                results = np.array([replay(stage, changed, objective) for stage in stages])
                regret, cost, count = results.mean(0)
                print(
                    f"| {name} | {100 * share:g} % | {objective} | {count:.1f} | {cost:.1f} | "
                    f"{regret:.1f} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=Path)
    options = parser.parse_args()
    stages = whole_stages(read_outcomes(options.oracle / "outcomes.jsonl"))
    seeds = sorted({stage.seed for stage in stages})
    print(f"commit {commit()}, {len(stages)} stages, seeds {seeds}\n")
    print("Spearman's rank correlation with the final result: mean over stages (lowest)\n")
    proxies(stages)
    regrets(stages)
    searches(stages)
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one.")


if __name__ == "__main__":
    main()

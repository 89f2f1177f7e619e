"""What each proxy says of candidates, and what each policy would choose, from the oracle's records.

Reads what ``benchmarks.search_oracle`` recorded; nothing is trained. A stage is one seed at one
data size. What a candidate is worth is its final loss, the mean over the *other* seeds; so a proxy
and the ceiling (the stage's own finished runs) are judged alike. Correlations that are corrected
for attenuation are divided by the root of the reliability of those means. Regret is how far the
chosen candidate's final loss, the mean over all seeds, is above the lowest, in percent.

What is expected before a trial comes from coefficients that were fitted to the other data sizes of
the other seeds, and to smaller parents, so that no stage is judged by what it taught. Those that
are fitted to all stages are printed as the product has them.

Command: python -m benchmarks.search_policy benchmarks/records/search_oracle.jsonl
    [--gradients benchmarks/records/search_gradients.jsonl]
    [--growths benchmarks/records/study_calibration.jsonl ...]
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from benchmarks.finished_growths import read as read_growths
from benchmarks.recovery import commit
from benchmarks.search_gradients import GradientScore
from benchmarks.search_oracle import (
    BATCH,
    BRANCH_SHARES,
    GROWTHS,
    NAMES,
    Outcome,
    as_trial,
    candidate_of,
    read_outcomes,
)
from nas_growclip.io.mappings import from_mapping, to_mapping
from nas_growclip.search.calibration import Finished, calibrated
from nas_growclip.search.coefficients import ObjectiveConfig
from nas_growclip.search.config import SearchConfig
from nas_growclip.search.forecast import Expectation, by_gain, shortlist
from nas_growclip.search.objective import OBJECTIVES, scored_again

SHARES = (0.0125, 0.025, 0.05, 0.1)
LATE_SHARES = (0.2, 0.3, 0.5, 0.8)
RESAMPLES = 2000
UNKNOWING = ObjectiveConfig(
    dimension_gains={},
    pairs_exponent=0.0,
    size_exponent=0.0,
    curve_steepness=0.9,
    repetition_constant=5.0,
    gain_spread=0.05,
)
"""Before any stage was finished: nothing of it follows from the defaults that it leads to."""
SEARCH = SearchConfig()
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


Proxy = Callable[[Stage, ObjectiveConfig], Array]
"""(stage, what other stages taught) -> a score for each candidate, the higher the better."""
Lesson = tuple[Stage, ObjectiveConfig]
"""A stage, and what the stages of other sizes and other seeds taught."""


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


def finished(outcome: Outcome, control: Outcome) -> Finished:
    """An outcome as the product's calibration takes it."""
    return Finished(
        candidate=candidate_of(outcome.growth),
        num_pairs=outcome.num_pairs,
        seen_pairs=outcome.total_steps * BATCH,
        control_seen=control.total_steps * BATCH,
        loss=outcome.final_loss,
        control_loss=control.final_loss,
    )


def taught(stages: Sequence[Stage], growths: Sequence[Finished]) -> ObjectiveConfig:
    """Coefficients that stages teach, and growths of other parents."""
    rows = [finished(o, s.outcomes[0]) for s in stages for o in s.outcomes[1:]]
    return calibrated([*rows, *growths], UNKNOWING) if rows else UNKNOWING


def taught_elsewhere(
    stage: Stage, stages: Sequence[Stage], growths: Sequence[Finished]
) -> ObjectiveConfig:
    """Coefficients that the stages of other sizes and other seeds teach, and other parents."""
    others = [s for s in stages if s.num_pairs != stage.num_pairs and s.seed != stage.seed]
    return taught(others, growths)


def expected(stage: Stage, config: ObjectiveConfig) -> Array:
    """What is expected of each candidate before any trial."""
    return np.array([finished(o, stage.outcomes[0]).expected(config) for o in stage.outcomes])


def data_size_aware(share: float) -> Proxy:
    """The product's scores where every candidate had a trial of a share of the stage."""

    def scores(stage: Stage, config: ObjectiveConfig) -> Array:
        trials = [as_trial(o, share) for o in stage.outcomes]
        scored = scored_again(trials, stage.num_pairs, config)
        return np.array([trial.score or 0.0 for trial in scored])

    return scores


def chosen(stage: Stage, config: ObjectiveConfig, search: SearchConfig = SEARCH) -> int:
    """The candidate that the product's search chooses: of the shortlist, by their trials."""
    gains = expected(stage, config)
    ranked = by_gain(
        Expectation(candidate_of(o.growth), o.flops, float(gain))
        for o, gain in zip(stage.outcomes, gains, strict=True)
    )
    listed = shortlist(ranked, search.shortlist or len(GROWTHS))
    trials = [as_trial(o, search.trial_share) for o in stage.outcomes]
    tried = [trial for trial in trials if trial.candidate in listed]
    return OBJECTIVES[config.name].choose(scored_again(tried, stage.num_pairs, config)).number


def finished_run(stage: Stage, _: ObjectiveConfig) -> Array:
    """The ceiling: the stage's own finished runs."""
    return np.array([-o.final_loss for o in stage.outcomes])


def fewer_flops(stage: Stage, _: ObjectiveConfig) -> Array:
    return np.array([-float(o.flops) for o in stage.outcomes])


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
    **{
        f"data_size_aware, {100 * s:g} %": (data_size_aware(s), all_trials(s))
        for s in (*SHARES, 0.5, 0.8, 1.0)
    },
    **{f"loss at {100 * s:g} %": (trial_loss(s), all_trials(s)) for s in LATE_SHARES},
    "fewer FLOPs": (fewer_flops, 0.0),
    "expected, no trial": (expected, 0.0),
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


def proxy_table(lessons: Sequence[Lesson], proxies: Mapping[str, tuple[Proxy, float]]) -> str:
    """Rank correlations, regret and cost of each proxy over all candidates."""
    stages = [stage for stage, _ in lessons]
    lines = [
        "| proxy | Spearman (95 %) | corrected | at like FLOPs | regret, % | worst | % of FLOPs |",
        "|---|---|---|---|---|---|---|",
    ]
    roots = {p: math.sqrt(reliability(stages, p)) for p in {s.num_pairs for s in stages}}
    for name, (proxy, cost) in proxies.items():
        scores = [proxy(stage, config) for stage, config in lessons]
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


def choices(stages: Sequence[Stage]) -> Mapping[str, Callable[[Stage, ObjectiveConfig], float]]:
    """Regret of each way to choose; that of a random choice is its expectation."""
    fixed = min(range(len(GROWTHS)), key=lambda n: sum(stage.regret(n) for stage in stages))
    before = SearchConfig(shortlist=None, trial_share=0.05)
    rows: dict[str, Callable[[Stage, ObjectiveConfig], float]] = {
        "shortlist of 3, trials of 2.5 %": lambda s, c: s.regret(chosen(s, c)),
        "what is expected, no trial": lambda s, c: s.regret(int(expected(s, c).argmax())),
        "all candidates, trials of 5 %": lambda s, c: s.regret(chosen(s, c, before)),
        "lowest loss in trials of 5 %": lambda s, c: s.regret(int(trial_loss(0.05)(s, c).argmax())),
        f"best fixed rule in hindsight: {NAMES[fixed]}": lambda s, _: s.regret(fixed),
    }
    for name, number in HABITS.items():
        rows[name] = lambda s, _, n=number: s.regret(n)  # type: ignore[misc]
    rows["random"] = lambda s, _: float(np.mean([s.regret(n) for n in range(len(GROWTHS))]))
    return rows


def choice_table(lessons: Sequence[Lesson]) -> str:
    """Regret of each way to choose, by data size, and its difference to the product's."""
    stages = [stage for stage, _ in lessons]
    sizes = sorted({stage.num_pairs for stage in stages})
    lines = [
        f"| choice | {' | '.join(f'{pairs} pairs' for pairs in sizes)} | mean | worst | above the "
        "product's |",
        "|---" * (len(sizes) + 4) + "|",
    ]
    rows = choices(stages)
    found = {name: [regret(*lesson) for lesson in lessons] for name, regret in rows.items()}
    product = next(iter(found.values()))
    for name, regrets in found.items():
        by_size = [
            np.mean([r for r, s in zip(regrets, stages, strict=True) if s.num_pairs == p])
            for p in sizes
        ]
        apart = interval([r - best for r, best in zip(regrets, product, strict=True)])
        lines.append(
            f"| {name} | {' | '.join(f'{r:.1f}' for r in by_size)} | {interval(regrets)} | "
            f"{max(regrets):.1f} | {apart} |"
        )
    return "\n".join(lines)


def flops_table(lessons: Sequence[Lesson]) -> str:
    """FLOPs of the product's choice beside those of the best candidate, stage by stage."""
    lines = ["| pairs | seed | chosen | best | chosen FLOPs | best FLOPs |", "|---" * 6 + "|"]
    pairs = []
    for stage, config in lessons:
        picked, best = chosen(stage, config), int(stage.final.argmin())
        flops = [stage.outcomes[n].flops for n in (picked, best)]
        pairs.append([math.log(f) for f in flops])
        labels = [NAMES[n] for n in (picked, best)]
        lines.append(
            f"| {stage.num_pairs} | {stage.seed} | {labels[0]} | {labels[1]} | "
            f"{flops[0] / 1e6:.2f} M | {flops[1] / 1e6:.2f} M |"
        )
    both = np.array(pairs).T
    varies = (both.std(1) > 0).all()
    said = f"{np.corrcoef(both)[0, 1]:.2f}" if varies else "undefined, since one never changes"
    return "\n".join([*lines, "", f"Correlation of their log FLOPs: {said}."])


def coefficient_lines(stages: Sequence[Stage], growths: Sequence[Finished]) -> str:
    """The coefficients that all stages teach, as ``search/coefficients.py`` has them."""
    config = to_mapping(taught(stages, growths))
    gains = {name: round(gain, 3) for name, gain in config["dimension_gains"].items()}
    named = (
        "pairs_exponent",
        "size_exponent",
        "curve_steepness",
        "repetition_constant",
        "gain_spread",
    )
    return f"{ {n: round(config[n], 3) for n in named} }\n{gains}"


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
        lines.append(f"| {NAMES[number]} | {outcome.flops / 1e6:.2f} M | {cells} |")
    return "\n".join(lines)


def gradient_proxies(scores: Sequence[GradientScore]) -> Mapping[str, tuple[Proxy, float]]:
    """The gradient at the new entries as it is, and for each FLOP that a candidate adds."""
    norms = {(score.seed, score.number): score.squared_norm for score in scores}

    def norm(stage: Stage, _: ObjectiveConfig) -> Array:
        return np.array([norms[stage.seed, o.number] for o in stage.outcomes])

    def by_flops(stage: Stage, config: ObjectiveConfig) -> Array:
        added = np.array([max(1, o.flops - stage.outcomes[0].flops) for o in stage.outcomes])
        return np.asarray(norm(stage, config) / added)

    return {"gradient at new entries": (norm, 0.0), "the same by added FLOPs": (by_flops, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", type=Path)
    parser.add_argument("--gradients", type=Path)
    parser.add_argument("--growths", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    stages = whole_stages(read_outcomes(options.oracle))
    proxies = dict(PROXIES)
    if options.gradients is not None:
        lines = options.gradients.read_text(encoding="utf-8").splitlines()
        where = str(options.gradients)
        proxies |= gradient_proxies(
            [from_mapping(GradientScore, json.loads(line), where) for line in lines]
        )
    seeds = sorted({stage.seed for stage in stages})
    print(f"commit {commit()}, {len(stages)} stages, seeds {seeds}\n")
    growths = [growth for path in options.growths for growth in read_growths(path)]
    lessons = [(stage, taught_elsewhere(stage, stages, growths)) for stage in stages]
    tables = outcome_table(stages), proxy_table(lessons, proxies), choice_table(lessons)
    print(*tables, flops_table(lessons), coefficient_lines(stages, growths), sep="\n\n")
    print("\nFLOPs are fvcore FLOPs: one multiply-add is one.")


if __name__ == "__main__":
    main()

"""What earlier stages teach the next search: which dimensions to try first."""

from collections.abc import Sequence

from nas_growclip.growth.candidates import Candidate
from nas_growclip.records.entries import Trial


def warm_start_candidates(
    earlier: Sequence[Trial], candidates: Sequence[Candidate]
) -> tuple[Candidate, ...]:
    """Candidates whose dimensions gained in earlier stages, the largest gain first.

    Of the candidates with the same dimensions the first is taken, the smallest step. A dimension's
    latest trials count, since what pays changes as the model grows.

    Args:
        earlier: Trials of earlier stages, in order.
        candidates: What this stage may choose from.
    """
    gains: dict[frozenset[str], tuple[int, float]] = {}
    for trial in earlier:
        if trial.score is not None and trial.candidate.grows:
            stage, best = gains.get(frozenset(trial.candidate.dimensions), (-1, 0.0))
            gain = trial.score if trial.stage > stage else max(best, trial.score)
            gains[frozenset(trial.candidate.dimensions)] = (trial.stage, gain)
    first = {frozenset(candidate.dimensions): candidate for candidate in reversed(candidates)}
    gained = [dimensions for dimensions, (_, gain) in gains.items() if gain > 0]
    ranked = sorted(gained, key=lambda dimensions: -gains[dimensions][1])
    return tuple(first[dimensions] for dimensions in ranked if dimensions in first)

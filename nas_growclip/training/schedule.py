"""How the learning rate changes over the steps of a stage."""

import math

from nas_growclip.training.state import TrainConfig


def learning_rate(
    step: int, total_steps: int, config: TrainConfig, *, is_continued: bool = False
) -> float:
    """Rate of one step.

    Args:
        step: The step, counted from 0 in the stage.
        total_steps: Steps of the whole stage.
        config: The schedule.
        is_continued: Whether AdamW's moments are those of the stage before: a trunk then goes on
            at its constant rate, without another warm-up.
    """
    is_warm = is_continued and config.schedule == "trunk"
    if step < config.warmup_steps and not is_warm:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        share = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    left = (total_steps - step) / (total_steps - trunk_steps(total_steps, config))
    return config.learning_rate * max(0.0, min(1.0, left))


def trunk_steps(total_steps: int, config: TrainConfig) -> int:
    """Steps of a stage before its rate falls to zero; none where the stage is of one step."""
    return total_steps - max(1, round(config.cooldown_share * total_steps))

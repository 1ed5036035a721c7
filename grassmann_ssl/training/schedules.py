"""Learning-rate schedules, and schedules of the steps that are recorded."""

import math

SCHEDULES = {"cosine": 0.0, "constant": 1.0}
"""the factor of the learning rate that `warmup_cosine` ends at"""


def warmup_cosine(step: int, steps: int, *, warmup: int = 0, end: float = 0.0) -> float:
    """Linear warm-up and cosine decay, as a factor of the learning rate: (step + 1)/warmup up to 1, then 1/2 (1 + cos) down to `end`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return end + (1 - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def evenly_spaced(steps: int, every: int) -> frozenset[int]:
    """Every `every`-th step from 0 on, and the last."""
    return frozenset({*range(0, steps + 1, every), steps})


def log_spaced(steps: int, count: int) -> frozenset[int]:
    """About `count` log-spaced steps from 0 to `steps`, inclusive; every step where the spacing is below 1."""
    count = min(count, 100 * steps + 2)  # more would find no further step
    exponents = (k / max(1, count - 2) for k in range(count - 1))
    return frozenset({0, steps, *(round(steps**exponent) for exponent in exponents if steps)})

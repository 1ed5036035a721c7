"""The search along curves, many at once: steps that satisfy Armijo's and the curvature condition."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

ARMIJO, CURVATURE, TRIALS = 1e-4, 0.9, 25
Numbers = Float64[np.ndarray, " s"]


def search(
    trial: Callable[[Numbers], tuple[Numbers, Numbers]],
    value: Numbers,
    slope: Numbers,
    first: Numbers,
    *,
    longest: Numbers | float = math.inf,
    rounding: Numbers | float = 0.0,
) -> Numbers:
    """Steps 0 < t <= `longest` that satisfy the conditions of `LineSearchOptimizer`, one for each curve, all from the last trial.

    0 for curves that do not fall (slope >= 0), and for those of which no trial satisfies them. `trial(t)` gives values and slopes at t of
    all curves; those that are done stay at their t. `value` and `slope` are those at 0, and `rounding` is the error of values.
    Brackets by growing steps, then interpolates by cubics, kept away from the ends of the bracket. At `longest` a fall is enough.
    """
    searching = slope < 0
    t = np.where(searching, np.minimum(first, longest), 0.0)
    low = np.stack([np.zeros_like(value), value, slope])
    high = np.full_like(low, math.inf)
    with np.errstate(all="ignore"):
        for _ in range(TRIALS):
            if not searching.any():
                break
            f, s = trial(t)
            falls = f <= value + ARMIJO * t * slope
            flat = (np.abs(f - value) <= rounding) & (s <= (2 * ARMIJO - 1) * slope)
            good = np.isfinite(f) & (falls | flat)
            steep = (s < CURVATURE * slope) & (t < longest)
            searching &= ~(good & ~steep & (s <= -CURVATURE * slope))
            if not searching.any():
                break
            here = np.stack([t, f, s])
            beyond = ~good | (f > low[1] + rounding) | (s > 0)
            low, high = np.where(beyond, low, here), np.where(beyond, here, high)
            bracketed = np.isfinite(high[0])
            # Without an upper end: to where the slope would vanish, two to ten times as far.
            flattens = np.where(s > slope, t * slope / (slope - s), math.inf)
            further = np.minimum(np.maximum(2 * t, np.minimum(flattens, 10 * t)), longest)
            lost = searching & bracketed & (np.abs(high[0] - low[0]) <= 1e-14 * np.abs(low[0]))
            searching &= ~lost
            t = np.where(searching, np.where(bracketed, _between(low, high), further), np.where(lost, 0.0, t))
    return np.where(searching, 0.0, t)


def _between(low: Float64[np.ndarray, "3 s"], high: Float64[np.ndarray, "3 s"]) -> Numbers:
    """The minimum of the cubic through two values and slopes, at least a tenth of the bracket away from its ends."""
    (a, fa, sa), (b, fb, sb) = low, high
    d1 = sa + sb - 3 * (fa - fb) / (a - b)
    root = d1 * d1 - sa * sb
    d2 = np.copysign(np.sqrt(np.maximum(root, 0)), b - a)
    denominator = sb - sa + 2 * d2
    t: Numbers = np.where((root < 0) | (denominator == 0), (a + b) / 2, b - (b - a) * (sb + d2 - d1) / denominator)
    margin = np.abs(b - a) / 10
    t = np.clip(t, np.minimum(a, b) + margin, np.maximum(a, b) - margin)
    between: Numbers = np.where(np.isfinite(fb) & np.isfinite(sb), t, a + (b - a) / 10)
    return between

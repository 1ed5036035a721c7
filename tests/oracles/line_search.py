"""The line search one curve at a time, with branches, and the two-loop recursion on vectors."""

import math

from grassmann_ssl.optim.search import ARMIJO, CURVATURE, TRIALS


def search(trial, value, slope, first, longest=math.inf, rounding=0.0):
    """A step that satisfies the conditions, the last one tried; None where no trial does."""
    low, f_low, s_low = 0.0, value, slope
    high = None
    t = min(first, longest)
    for _ in range(TRIALS):
        f, s = trial(t)
        falls = f <= value + ARMIJO * t * slope
        flat = abs(f - value) <= rounding and s <= (2 * ARMIJO - 1) * slope
        steep = s < CURVATURE * slope and t < longest
        if math.isfinite(f) and (falls or flat) and not steep and s <= -CURVATURE * slope:
            return t
        if not math.isfinite(f) or not (falls or flat) or f > f_low + rounding or s > 0:
            high = (t, f, s)
        else:
            low, f_low, s_low = t, f, s
        if high is None:
            t = min(max(2 * t, min(t * slope / (slope - s) if s > slope else math.inf, 10 * t)), longest)
        else:
            t = between(low, f_low, s_low, *high)
        if high is not None and abs(high[0] - low) <= 1e-14 * abs(low):
            return None
    return None


def between(a, fa, sa, b, fb, sb):
    """The minimum of the cubic through two values and slopes, at least a tenth of the bracket away from its ends."""
    if not (math.isfinite(fb) and math.isfinite(sb)):
        return a + (b - a) / 10
    d1 = sa + sb - 3 * (fa - fb) / (a - b)
    root = d1 * d1 - sa * sb
    if root < 0:
        return (a + b) / 2
    d2 = math.copysign(math.sqrt(root), b - a)
    denominator = sb - sa + 2 * d2
    t = (a + b) / 2 if denominator == 0 else b - (b - a) * (sb + d2 - d1) / denominator
    margin = abs(b - a) / 10
    return min(max(t, min(a, b) + margin), max(a, b) - margin)


def two_loop(pairs, g):
    """-H g for pairs (s, y) of vectors, newest first. Nocedal & Wright 2006, algorithm 7.4."""
    q, weights = g.copy(), []
    for s, y in pairs:
        weights.append(s @ q / (s @ y))
        q = q - weights[-1] * y
    if pairs:
        s, y = pairs[0]
        q = q * (s @ y) / (y @ y)
    for (s, y), w in zip(reversed(pairs), reversed(weights), strict=True):
        q = q + s * (w - y @ q / (s @ y))
    return -q

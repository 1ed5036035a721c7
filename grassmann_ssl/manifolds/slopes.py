"""Slopes of residuals on logarithmic axes: how fast an error falls with the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grassmann_ssl.shown import Shown

PER_DECADE = 6  # steps per decade
CLEAR = 30.0  # a residual says something where it is this many times the rounding: then it is known to 3 %
STRAIGHT = 0.03  # decades by which the points of a straight stretch may leave their line
# How far below the expected slope a slope may be, at least and over one decade: short stretches tell less.
SHORTFALL = (0.1, 0.3)
MARGIN = 1e4  # rounding tolerance of identities, in eps


@dataclass(frozen=True, eq=False, repr=False)
class Slope(Shown):
    """How fast a residual falls with the step t: |residual| ~ t^slope.

    `steps`, `residuals`: what was measured, steps increasing, of the length of the direction 1. `slope` is that of the straight stretch
    `fitted` (first and one past the last index) of log residual over log t; NaN where there is none. `exact`: the residual is rounding at
    every step, and the slope infinite. `normal_part`: how far the gradient (or Hessian times direction) is from its own projection,
    relative to the Euclidean one; `asymmetry`: |<u, H v> - <v, H u>|, relative too; both 0 where they do not apply.
    """

    steps: np.ndarray = field(repr=False)
    residuals: np.ndarray = field(repr=False)
    slope: float
    expected: float
    exact: bool
    fitted: tuple[int, int]
    normal_part: float = 0.0
    asymmetry: float = 0.0
    tolerance: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the slope is as large as expected and the other numbers are within `tolerance`.

        The slope may fall short by 0.1, or by 0.3 / decades where it was fitted over fewer than three decades.
        A larger one is no fault: a Hessian that vanishes along the direction, say, gives a gradient the slope 3.
        """
        small = max(self.normal_part, self.asymmetry) <= self.tolerance
        decades = (self.fitted[1] - self.fitted[0]) / PER_DECADE
        shortfall = max(SHORTFALL[0], SHORTFALL[1] / decades) if decades else 0.0
        return small and self.slope >= self.expected - shortfall  # false for NaN

    def plot(self, ax: Any = None) -> Any:
        """Residuals over steps, both logarithmic, with a line of the expected slope; on new matplotlib axes unless given some."""
        if ax is None:
            import matplotlib.pyplot as plt  # not before it is used: importing it takes a second

            ax = plt.subplots()[1]
        first, last = self.fitted
        shown = np.isfinite(self.residuals) & (self.residuals > 0)
        ax.loglog(self.steps[shown], self.residuals[shown], ".", color="0.6", label="residual")
        if last > first:
            steps, residuals = self.steps[first:last], self.residuals[first:last]
            ax.loglog(steps, residuals, "o", color="#12507b", label=f"slope {self.slope:.2f}")
            middle = np.exp(np.log(steps).mean()), np.exp(np.log(residuals).mean())
            line = middle[1] * (steps / middle[0]) ** self.expected
            ax.loglog(steps, line, "--", color="#c1440e", label=f"expected slope {self.expected:g}")
        ax.set_xlabel("step t")
        ax.set_ylabel("residual")
        ax.legend()
        return ax


def log_steps(eps: float) -> np.ndarray:
    """From eps^{3/4}, where a wrong gradient still shows above rounding, to 1, which is within the usual injectivity radii."""
    decades = -0.75 * math.log10(eps)
    return np.logspace(-decades, 0, round(PER_DECADE * decades) + 1)


def rounding(value: Callable[[float], float], eps: float) -> float:
    """Three standard deviations of the rounding of a smooth function, which may exceed that of its result.

    From sixth differences, in which steps of eps^{1/5} leave about eps^{6/5} of the function itself. Nearby values alone could all be
    rounded to the same. Source: Moré & Wild 2011, SIAM J. Sci. Comput. 33, 1292.
    """
    values = np.array([value(j * eps**0.2) for j in range(1, 13)])
    scale = math.factorial(6) ** 2 / math.factorial(12)
    return 3 * math.sqrt(scale * np.square(np.diff(values, 6)).mean())


def tiny_steps(eps: float) -> np.ndarray:
    """Steps after which nothing but rounding, or a jump, can have happened."""
    return eps * np.logspace(0, 2, 8)


def fit(steps: np.ndarray, residuals: np.ndarray, floor: np.ndarray, small: float) -> dict[str, Any]:
    """Slope of log residual over log step on the straight stretch that begins nearest to the rounding floor.

    A stretch of at least a decade is asked for, or else the longest. Nearest to the floor because errors of a derivative win over the terms
    left out only towards t = 0. Residuals nowhere a decade of steps above the floor are rounding, if they are also `small`.
    """
    clear = np.isfinite(residuals) & (residuals > CLEAR * floor)
    if clear.sum() < PER_DECADE:
        exact = bool(np.isfinite(residuals).all() and residuals.max() <= small)
        return {"slope": math.inf if exact else math.nan, "exact": exact, "fitted": (0, 0)}
    log_t, log_r = np.log10(steps), np.log10(np.where(clear, residuals, 1))
    best, slope = (0, 0), math.nan
    for first in range(len(steps)):
        last = first + 3
        while last < len(steps) and clear[first : last + 1].all():
            line = np.polyfit(log_t[first : last + 1], log_r[first : last + 1], 1)
            if np.abs(np.polyval(line, log_t[first : last + 1]) - log_r[first : last + 1]).max() > STRAIGHT:
                break
            last += 1
            if last - first > best[1] - best[0]:
                best, slope = (first, last), float(line[0])
        if best[1] - best[0] > PER_DECADE:
            break
    return {"slope": slope, "exact": False, "fitted": best}


def judged(result: Slope, what: str, raises: bool) -> Slope:
    """The result. Raises AssertionError with its numbers where it is not ok and `raises` is set."""
    if raises and not result.ok:
        raise AssertionError(
            f"{what} fails: slope {result.slope:.3g} (expected {result.expected:g}), normal part {result.normal_part:.3g}, "
            f"asymmetry {result.asymmetry:.3g} (tolerance {result.tolerance:.3g})"
        )
    return result

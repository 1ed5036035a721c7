"""Steps in curves over training: how many, when, and how high; of eigenvalues, which rise, and of losses, which fall.

A step is a stretch where the curve moves much faster than on both sides of it. It is looked for as a peak of the slope, not as a break
of a piecewise constant fit: every ramp and every decay is a staircase of many small steps to such a fit, and no penalty on their number
tells them from real ones, while a monotone slope has no peak. The slope comes from local straight lines, since those need no even
sampling, are as accurate at the two ends, and have a known standard error. numpy and scipy; tensors are converted.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import median_filter
from scipy.signal import find_peaks

Array = NDArray[np.float64]

SIGNIFICANCE = 6.0  # standard errors that a peak of the slope must stand out by, above valleys that are low by chance
PLATEAU = 0.1  # of what the peak slope stands out by: below it a step is over
# In log t, from a quarter of a rise to three quarters: 1.57 for 1 - e^-t, less for every rise after a plateau.
LOG_WIDTH = 1.0
GRID_PER_WIDTH = 6
SCALES = (0.5, 1.0)  # of the resolution: what noise hides from the narrower lines the wider ones find
LEAST_RECORDS = 8  # of a curve
NEIGHBOURS = 2  # records in reach of every local line, however sparse they are
NEAR = 15  # records whose noise is taken together
CHUNK = 256
NORMAL_MEDIAN = 0.6744897501960817  # of |x|, x ~ N(0, 1)
ROUNDING = 64 * np.finfo(float).eps


@dataclass(frozen=True)
class Steps:
    """The steps of one curve in order: the times of half their height, and their heights, by which the curve rose or fell (always > 0)."""

    times: tuple[float, ...]
    heights: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.times)

    @property
    def highest(self) -> float | None:
        """The time of the highest step, at which an eigenvalue is learned, since noise makes lower ones; None without steps."""
        return self.times[int(np.argmax(self.heights))] if self.times else None


def detect_steps(
    time: ArrayLike,
    curve: ArrayLike,
    *,
    falling: bool = False,
    log_time: bool = False,
    resolution: float = 0.02,
    min_height: float = 0.05,
    contrast: float = 0.5,
) -> Steps:
    """The rises of a curve (K,) over increasing times (K,), or its falls; half-rise times to a small fraction of a step's width.

    The scale of time is linear, or logarithmic with `log_time`, where records at t <= 0 are left out: steps whose duration grows in
    proportion to their time, as in stepwise learning, have equal widths there. So has 1 - e^{-t}, which has no plateau before it: a rise
    that takes more than a factor e of time from a quarter of its height to three quarters is no step.
    The curve is fitted by straight lines with Gaussian weights, `resolution` of the whole span wide, wider where records are sparse, and
    by lines half as wide, which tell closer steps apart and see those near the end, but lose more of them in noise: what either finds
    counts. Steps closer than about three times the narrower width are merged. A peak of the slope is a step if on both sides the slope
    falls to 1 - `contrast` of it, and by 6 standard errors for white noise of the size seen between neighbouring records, near it or in
    all, whichever is larger, and if the curve moves by `min_height` of its whole range while the slope stands out by a tenth of that.
    A rise whose peak lies at an end of the curve is no step, nor is one with fewer than about three records before or after it.
    Precision and recall on curves whose steps are known: `python -m benchmarks --cases steps`.
    Raises ValueError for other shapes, fewer than 8 records, times that do not increase, values that are not finite, and options outside
    0 < resolution <= 0.2, 0 <= min_height < 1, 0 < contrast <= 1.
    """
    t, y = _checked(time, curve, log_time)
    if y.ndim != 1:
        raise ValueError(f"curve must have shape (K,), got {y.shape}: see eigenvalue_steps for spectra")
    _check_options(resolution, min_height, contrast)
    y = (-y if falling else y)[:, None]
    return _steps(t, y, log_time, resolution, min_height * float(np.ptp(y)), contrast)[0]


def eigenvalue_steps(
    time: ArrayLike,
    spectra: ArrayLike,
    *,
    log_time: bool = False,
    resolution: float = 0.02,
    min_height: float = 0.05,
    contrast: float = 0.5,
) -> tuple[Steps, ...]:
    """The rises of each of d eigenvalues (K, d), every record sorted, as `detect_steps`; `min_height` is of the largest range of all d.

    An eigenvalue of rounding or noise alone then has no steps. The number of modes learned by time t is that of `highest` steps before t.
    Raises as `detect_steps`.
    """
    t, y = _checked(time, spectra, log_time)
    if y.ndim != 2:
        raise ValueError(f"spectra must have shape (K, d), got {y.shape}")
    _check_options(resolution, min_height, contrast)
    least = min_height * float(np.ptp(y, axis=0).max(initial=0.0))
    return _steps(t, y, log_time, resolution, least, contrast)


def first_crossing(time: NDArray[np.floating], values: NDArray[np.floating], level: float) -> Array:
    """Time at which each curve first reaches a level from below, linear between records: (K,), (K, ...) -> (...), nan where it does not.

    The first time where a curve starts at the level or above it. Raises ValueError for fewer than 2 records.
    """
    if len(time) < 2:
        raise ValueError(f"a crossing needs at least 2 records, got {len(time)}")
    above = values >= level
    reached = above.any(0)
    after = np.clip(above.argmax(0), 1, None)
    before_value, after_value = (np.take_along_axis(values, i[None], 0)[0] for i in (after - 1, after))
    rise = np.where(reached & (after_value > before_value), after_value - before_value, 1.0)
    fraction = np.clip((level - before_value) / rise, 0, 1)
    return np.where(reached, time[after - 1] + fraction * (time[after] - time[after - 1]), np.nan)


class _Rise(NamedTuple):
    """A step on the scale of places: where half of it is done, its height, and where it begins and ends."""

    place: float
    height: float
    begin: float
    end: float


def _steps(t: Array, y: Array, log_time: bool, resolution: float, least: float, contrast: float) -> tuple[Steps, ...]:
    """The rises of every column of y (K, d)."""
    place = np.log(t) if log_time else t
    moving = np.ptp(y, axis=0) > ROUNDING * np.abs(y).max(0)
    found: list[list[_Rise]] = [[] for _ in moving]
    for share in SCALES:
        grid, levels, slopes, errors = _local_lines(place, y, share * resolution)
        for k in np.flatnonzero(moving):
            rises = _rises(grid, levels[:, k], slopes[:, k], errors[:, k], least, contrast, log_time)
            found[k] += [rise for rise in rises if not any(_same(rise, finer) for finer in found[k])]
    ordered = [sorted(rises) for rises in found]
    return tuple(
        Steps(tuple(float(np.exp(r.place)) if log_time else r.place for r in rises), tuple(r.height for r in rises))
        for rises in ordered
    )


def _same(a: _Rise, b: _Rise) -> bool:
    """Whether one of two rises is within the other."""
    return a.begin <= b.place <= a.end or b.begin <= a.place <= b.end


def _rises(
    grid: Array, level: Array, slope: Array, error: Array, least: float, contrast: float, log_time: bool
) -> list[_Rise]:
    """Every step of one curve."""
    peaks, found = find_peaks(slope, prominence=0)
    rise = np.minimum(slope[peaks], found["prominences"])
    peaks = peaks[(rise > 0) & (rise >= contrast * slope[peaks]) & (rise >= SIGNIFICANCE * error[peaks])].tolist()
    # The slope is least between two steps where one ends and the next begins.
    between = [a + int(np.argmin(slope[a : b + 1])) for a, b in itertools.pairwise(peaks)]
    ends = [0, *between, len(grid) - 1]
    steps = []
    for peak, low, high in zip(peaks, ends[:-1], ends[1:], strict=True) if len(peaks) else ():
        left, right = _reach(slope, peak, low, high)
        height = float(level[right] - level[left])
        if height >= max(least, np.finfo(float).tiny):
            part = slice(left, right + 1)
            quarter, half, most = (
                float(first_crossing(grid[part], level[part], level[left] + height * q)) for q in (0.25, 0.5, 0.75)
            )
            if not (log_time and most - quarter > LOG_WIDTH):
                steps.append(_Rise(half, height, float(grid[left]), float(grid[right])))
    return steps


def _local_lines(place: Array, y: Array, resolution: float) -> tuple[Array, Array, Array, Array]:
    """An even grid of places (G,); there (G, d) level and slope of weighted straight lines, and the standard errors of the slopes."""
    span, noise = place[-1] - place[0], _noise(place, y)
    grid = np.linspace(place[0], place[-1], int(GRID_PER_WIDTH / resolution) + 1)
    window = np.searchsorted(place, grid)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS)
    near = np.abs(place[np.clip(window, 0, len(place) - 1)] - grid[:, None])
    near[(window < 0) | (window >= len(place))] = np.inf
    widths = np.maximum(resolution * span, np.sort(near, axis=1)[:, NEIGHBOURS - 1])
    level, slope, error = (np.empty((len(grid), y.shape[1])) for _ in range(3))
    for start in range(0, len(grid), CHUNK):
        part = slice(start, start + CHUNK)
        away = place[None, :] - grid[part, None]
        weights = np.exp(-0.5 * (away / widths[part, None]) ** 2)
        weights /= weights.sum(1, keepdims=True)
        centre = (weights * away).sum(1, keepdims=True)
        lever = weights * (away - centre)
        lever /= (lever * away).sum(1, keepdims=True)
        slope[part] = lever @ y
        level[part] = weights @ y - slope[part] * centre
        error[part] = np.sqrt(lever**2 @ noise**2)
    return grid, level, slope, error


def _noise(place: Array, y: Array) -> Array:
    """The standard deviation (K, d) of white noise at every record: from how far records lie off the line between their neighbours.

    By the median, over all records or over those near, whichever is larger: noise may grow with the curve. Of the near ones count those
    that lie off to the other side than a neighbour does, since bends of the curve lie off to one side.
    """
    gap = place[2:] - place[:-2]
    after, before = ((place[2:] - place[1:-1]) / gap)[:, None], ((place[1:-1] - place[:-2]) / gap)[:, None]
    off = (y[1:-1] - (after * y[:-2] + before * y[2:])) / np.sqrt(1 + after**2 + before**2)
    turns = off[1:] * off[:-1] < 0
    alternating = np.zeros(off.shape, dtype=bool)
    alternating[1:] |= turns
    alternating[:-1] |= turns
    near = median_filter(np.where(alternating, np.abs(off), 0.0), size=(NEAR, 1), mode="nearest")
    deviation: Array = np.maximum(np.median(np.abs(off), axis=0), np.concatenate([near[:1], near, near[-1:]]))
    return deviation / NORMAL_MEDIAN


def _reach(slope: Array, peak: int, low: int, high: int) -> tuple[int, int]:
    """Where around a peak, within low and high, the slope first has lost all but PLATEAU of what it stands out by on that side."""

    def first(side: Array) -> int:
        valley = max(float(side.min()), 0.0)
        return int(np.argmax(side <= valley + PLATEAU * (slope[peak] - valley)))

    return peak - first(slope[low : peak + 1][::-1]), peak + first(slope[peak : high + 1])


def _checked(time: ArrayLike, values: ArrayLike, log_time: bool) -> tuple[Array, Array]:
    t, y = np.asarray(time, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if t.ndim != 1 or y.ndim < 1 or len(y) != len(t):
        raise ValueError(f"time must have shape (K,) and the values K rows, got {t.shape} and {y.shape}")
    if not (np.isfinite(t).all() and np.isfinite(y).all()):
        raise ValueError("time and values must be finite, and some are not: the run diverged")
    if not (np.diff(t) > 0).all():
        raise ValueError("time must increase from record to record")
    if log_time:
        y, t = y[t > 0], t[t > 0]
    if len(t) < LEAST_RECORDS:
        raise ValueError(
            f"a curve needs at least {LEAST_RECORDS} records{' at t > 0' if log_time else ''}, got {len(t)}"
        )
    return t, y


def _check_options(resolution: float, min_height: float, contrast: float) -> None:
    if not (0 < resolution <= 0.2 and 0 <= min_height < 1 and 0 < contrast <= 1):
        raise ValueError(
            "resolution must be in (0, 0.2], min_height in [0, 1) and contrast in (0, 1], "
            f"got {resolution}, {min_height}, {contrast}"
        )

"""Whether the rank of embeddings still changes, and how many dimensions have risen one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, theilslopes

Array = NDArray[np.float64]
State = Literal["too early", "changing", "settled"]

SOON = 100  # steps before which nothing is settled: the rank of networks that have not learned yet is low
POINTS = 8  # fewest judgements that show a trend
RECENT = 0.75  # the share of all steps, the last ones, in which a trend is looked for
MOVED = 1.1  # the least factor that is a change,
SIGNIFICANCE = 0.05  # where chance would show a trend as clear with this probability
# A dimension has risen: its share of the largest eigenvalue seen, its growth since the first judgement.
UP, GREW = 0.1, 4.0
OUTGROWN = 10.0  # growth of the variance to which what was there before adds little: few dimensions are used while the first one rises


@dataclass(frozen=True)
class Trend:
    """The state, the factor by which dimensions used changed over the last three quarters of the steps, and whether learning goes on.

    It goes on where more dimensions are used, or have risen, or where the variance has outgrown what there was.
    """

    state: State
    change: float
    growing: bool


def trend_of(steps: ArrayLike, used: ArrayLike, modes: Sequence[int], variances: Sequence[float]) -> Trend:
    """The trend of dimensions used (K,), NaN where unknown, of the number of risen dimensions and the variance at increasing steps (K,).

    Of the judgements in the last three quarters of the steps: changing, if dimensions used have a trend (Mann & Kendall, p < 0.05) and
    change by more than 10 % (Theil & Sen's slope of log dimensions used on log step), or if 10 % more dimensions have risen or the
    variance has grown tenfold; settled otherwise. Too early with fewer than 8 judgements there, or within 100 steps.
    Sources: Mann 1945, Kendall 1948, Theil 1950, Sen 1968.
    """
    at, values, risen, variance = (np.asarray(v, dtype=np.float64) for v in (steps, used, modes, variances))
    at = at - at[0] + 1
    recent = (at > (1 - RECENT) * at[-1]) & np.isfinite(values)
    if at[-1] < SOON or recent.sum() < POINTS:
        return Trend("too early", math.nan, False)
    place, logs, risen, variance = np.log(at[recent]), np.log(values[recent]), risen[recent], variance[recent]
    change, clear = 1.0, False
    if np.ptp(logs) > 0:  # of equal numbers there is no tau
        change = math.exp(float(theilslopes(logs, place).slope) * float(np.ptp(place)))
        clear = bool(kendalltau(place, logs).pvalue < SIGNIFICANCE) and abs(math.log(change)) > math.log(MOVED)
    more = bool(risen[-1] > MOVED * risen[0] or variance[-1] > OUTGROWN * variance[0])
    return Trend("changing" if clear or more else "settled", change, more or (clear and change > 1))


def risen_dimensions(spectrum: Array, first: Array, largest: float) -> int:
    """How many eigenvalues (D,) are above a tenth of the largest one ever seen, and above four times what they were at first.

    Where modes are learned one by one, that is the number of those learned. What was there at the first judgement has not risen since.
    """
    return int(((spectrum >= UP * largest) & (spectrum >= GREW * first)).sum()) if largest > 0 else 0

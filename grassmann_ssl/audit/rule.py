"""The rule of the collapse audit, and its verdict on a population whose spectrum is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from grassmann_ssl.metrics.ranks import participation_ratio

Array = NDArray[np.float64]

KINDS = ("complete", "directional", "dimensional", "class")


@dataclass(frozen=True)
class Rule:
    """The thresholds of the audit, each on a number of the population. Raises ValueError for a threshold outside (0, 1).

    used      soft dimensional collapse: a share of dimensions used (PR - 1)/(D - 1) below it; PR = (tr S)^2 / tr S^2, S the covariance
    live      hard dimensional collapse: fewer live dimensions than this share of D
    dead      a dimension is live if its eigenvalue is at least this share of the largest one, and above rounding
    spread    directional collapse: a variance of z/||z||, in all dimensions together, below it; 1 is the whole sphere
    within    collapse of a class: its variance below this share of the variance of all rows
    complete  complete collapse: a variance per dimension below this share of that of the inputs, where it is given; always where there is
    none
    """

    used: float = 0.05
    live: float = 0.9
    dead: float = 1e-5
    spread: float = 0.01
    within: float = 0.01
    complete: float = 1e-4

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 < value < 1:
                raise ValueError(f"{one.name} of the rule must be between 0 and 1, got {value}")

    def __str__(self) -> str:
        return (
            f"complete: no variance, or below {self.complete:g} of that of the inputs; "
            f"directional: variance of z/||z|| below {self.spread:g}; "
            f"dimensional: share of dimensions used (PR - 1)/(D - 1) below {self.used:g} (soft), or fewer than {self.live:g} D dimensions "
            f"live, with an eigenvalue of at least {self.dead:g} of the largest (hard); "
            f"class: variance within the class below {self.within:g} of the whole"
        )


@dataclass(frozen=True)
class Verdict:
    """Which kinds of collapse are there, and which could not be decided.

    kinds   those found, in the order complete, directional, dimensional, class
    open    kind -> why it is undecided
    hard    dimensional collapse is hard: dimensions are dead; None where that is undecided or there is no dimensional collapse
    soft    dimensional collapse is soft: few dimensions are used
    classes names of the classes that have collapsed
    """

    kinds: tuple[str, ...]
    open: Mapping[str, str]
    hard: bool | None
    soft: bool | None
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The first of the kinds found; "undecided" where none is found and one is open; "none" otherwise."""
        if self.kinds:
            return self.kinds[0]
        return "undecided" if self.open else "none"


def share_used(dimensions_used: float, d: int) -> float:
    """(PR - 1)/(D - 1): 0 where one dimension carries all variance, 1 where all carry alike, and for D = 1."""
    return (dimensions_used - 1) / (d - 1) if d > 1 else 1.0


def participation(spectrum: Array) -> float:
    """Dimensions used PR = (sum l)^2 / sum l^2 of a spectrum; 0 where all of it is 0."""
    return float(participation_ratio(torch.from_numpy(np.ascontiguousarray(spectrum))))


def judge(
    spectrum: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    classes: Mapping[str, float] | None = None,
    input_variance: float | None = None,
    log_scale: float = 0.0,
    rule: Rule | None = None,
) -> Verdict:
    """The verdict on a population whose covariance has the eigenvalues `spectrum` (D,), in any order: the truth that a sample is to find.

    `mean` (D,) or its length: judge directions, whose second moment is tr S + |mean|^2. `classes`: name -> variance within the class, tr
    S_c. `input_variance`: mean variance per input dimension. `log_scale` is added to the logarithm of the eigenvalues, for variances that
    may leave the range of floating point. Raises ValueError for a spectrum that is empty or not finite, and an input variance that is not
    positive.
    """
    rule = rule or Rule()
    values = np.asarray(spectrum, dtype=np.float64).ravel().clip(min=0)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(
            "spectrum must be one or more finite eigenvalues, and it is not: the run diverged, or nothing was given"
        )
    if input_variance is not None and not input_variance > 0:
        raise ValueError(f"input_variance must be positive, got {input_variance}")
    d, total = values.size, float(values.sum())
    if total == 0 or (
        input_variance is not None and _log(total / d) + log_scale < _log(rule.complete * input_variance)
    ):
        return Verdict(("complete",), {}, None, None)
    kinds = []
    if mean is not None and total < rule.spread * (total + float(np.square(mean).sum())):
        kinds.append("directional")
    soft = share_used(participation(values), d) < rule.used
    hard = int((values >= rule.dead * values.max()).sum()) < rule.live * d
    if soft or hard:
        kinds.append("dimensional")
    collapsed = tuple(str(name) for name, variance in (classes or {}).items() if variance < rule.within * total)
    if collapsed:
        kinds.append("class")
    return Verdict(tuple(kinds), {}, hard, soft, collapsed)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf

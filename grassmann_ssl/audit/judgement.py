"""What the rows at one step of a training run say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grassmann_ssl.audit.decide import judge_sample
from grassmann_ssl.audit.evidence import concentration
from grassmann_ssl.audit.moments import sample_of
from grassmann_ssl.audit.rows import finite_rows, in_range, magnitude
from grassmann_ssl.audit.rule import Rule
from grassmann_ssl.audit.trend import State
from grassmann_ssl.metrics.pairs import on_sphere

Array = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Judgement:
    """What the rows at a step say; str() is one sentence.

    kinds            kinds of collapse, and `kind` the first of them, "undecided" or "none", as in `Verdict`
    dimensions_used  participation ratio, with its 95 % interval `low`, `high`; NaN where the rows do not tell it
    live_least       bounds of the number of live dimensions, to `live_most`
    total_variance   tr S
    concentration    |E z/||z|| |
    modes            dimensions that have risen since the first judgement
    state            whether dimensions used still change; `change` is their factor over the last three quarters of the steps
    growing          more dimensions are used, or have risen, or the variance has grown tenfold
    left_out         rows that were not finite, beside the `rows` judged
    """

    step: int
    rows: int
    left_out: int
    dimension: int
    kind: str
    kinds: tuple[str, ...]
    dimensions_used: float
    low: float
    high: float
    live_least: int
    live_most: int
    total_variance: float
    concentration: float
    modes: int = 0
    state: State = "too early"
    change: float = math.nan
    growing: bool = False

    @property
    def broken(self) -> bool:
        """Whether rows have come, and none of them is finite."""
        return self.rows == 0 and self.left_out > 0

    def __str__(self) -> str:
        if self.broken:
            return f"step {self.step}: {self.kind}: none of {self.left_out:,} rows is finite"
        used = f"{self.dimensions_used:.4g} [{self.low:.4g}, {self.high:.4g}]"
        numbers = (
            f"{used if math.isfinite(self.dimensions_used) else 'unknown'} of {self.dimension} dimensions used, "
            f"{self.live_least} to {self.live_most} live, concentration {self.concentration:.4g}"
        )
        complete = "complete" in self.kinds
        if complete:
            numbers = f"total variance {self.total_variance:.3g} in {self.dimension} dimensions"
        if self.left_out:
            numbers += f", {self.left_out:,} of {self.rows + self.left_out:,} rows left out, which are not finite"
        way = "growing" if self.growing else "falling"
        told = {
            # Complete collapse does not wait for it.
            "too early": "" if complete else "; too early to tell whether it still changes",
            "changing": f"; still changing, {way} (dimensions used {self.change:.2f} times, over the last three quarters of the steps)",
            "settled": "; settled",
        }[self.state]
        risen = f", {self.modes} dimensions have risen so far" if self.modes else ""
        return f"step {self.step}: {', '.join(self.kinds) or self.kind}: {numbers}{told}{risen}"


@torch.no_grad()
def judgement_of(rows: Tensor, step: int, rule: Rule, directions: bool) -> tuple[Judgement, Array | None]:
    """The numbers and the verdict of `audit_embeddings` on rows (N, D), without what needs simulation; rows that are not finite left out.

    And the estimated spectrum (D,) of the population; None for fewer than two rows, which are undecided.
    """
    largest, left_out, d = magnitude(rows), 0, rows.shape[1]
    if not math.isfinite(largest):
        good = finite_rows(rows)
        rows, left_out = rows[good], int((~good).sum())
        largest = magnitude(rows) if len(rows) else 0.0
    if len(rows) < 2:
        nan = math.nan
        return Judgement(step, len(rows), left_out, d, "undecided", (), nan, 1.0, float(d), 0, d, nan, nan), None
    rows, scale = in_range(rows, largest)
    sample = sample_of(on_sphere(rows) if directions else rows)
    judged = judge_sample(sample, rule, directions=directions)
    verdict, live = judged.verdict, judged.live
    used, along = sample.dimensions_used(CONFIDENCE), concentration(sample, CONFIDENCE)[0]
    root = 1.0 if directions else scale  # in two steps: infinite beyond the range of float64, and 0 stays 0
    found = Judgement(
        step=step,
        rows=len(rows),
        left_out=left_out,
        dimension=d,
        kind=verdict.kind,
        kinds=verdict.kinds,
        dimensions_used=used.value,
        low=used.low,
        high=used.high,
        live_least=live.least,
        live_most=live.most,
        total_variance=sample.total * root * root,
        concentration=math.nan if along.value is None else along.value,
    )
    with np.errstate(over="ignore"):
        return found, judged.spectrum * root * root

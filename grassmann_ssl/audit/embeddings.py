"""The audit of an array of embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.audit.decide import judge_sample
from grassmann_ssl.audit.evidence import ClassRow, class_rows, concentration, label_numbers, pair_numbers
from grassmann_ssl.audit.moments import Sample, sample_of
from grassmann_ssl.audit.numbers import spectral_numbers
from grassmann_ssl.audit.result import Audit
from grassmann_ssl.audit.rows import as_labels, as_rows, finite_rows, in_range, magnitude, names_of
from grassmann_ssl.audit.rule import Rule
from grassmann_ssl.metrics.pairs import on_sphere

SHOWN = 5  # indices of bad rows that a message lists


@torch.no_grad()
def audit_embeddings(
    z: Any,
    *,
    z_positive: Any = None,
    labels: Any = None,
    groups: Any = None,
    directions: bool = False,
    confidence: float = 0.95,
    rule: Rule | None = None,
    input_variance: float | None = None,
    tokens: str | None = None,
    nonfinite: str = "refuse",
) -> Audit:
    """Did embeddings z (N, D) collapse, how, and how sure is that? Right with any number of rows.

    z           array of numpy or torch (any device, any floating dtype) or frame of pandas, (N, D); or (N, T, D) with `tokens`: "mean"
                pools the tokens of a sample, "rows" takes each as a row and the samples as groups
    z_positive  the same rows in another view: alignment, uniformity, LiDAR
    labels      (N,) integers or texts, one a sample: dimensions used and variance of every class, NC1, probes
    groups      (N,): rows of one group (views, tokens, frames) are not independent; estimates and intervals take a group as the unit
    directions  judge z / ||z||: for losses that see cosines only
    rule        thresholds, on numbers of the population (`Rule`); the verdict is `judge` of the population, or undecided
    input_variance  mean variance per dimension of the encoder's inputs: complete collapse relative to them
    nonfinite   rows that are not finite: "refuse", or "drop" and count them

    The verdict does not depend on the basis, the scale, the mean (unless `directions`), the order or number of rows. Raises ValueError,
    one line that names the argument, for what cannot be judged.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if input_variance is not None and not input_variance > 0:
        raise ValueError(f"input_variance must be positive, got {input_variance}")
    for name, value, known in (
        ("tokens", tokens, (None, "mean", "rows")),
        ("nonfinite", nonfinite, ("refuse", "drop")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    rule = rule or Rule()
    rows, units = as_rows(z, tokens, groups)
    label: Tensor | None = None
    names: tuple[str, ...] = ()
    if labels is not None:
        tokens_each = len(rows) // len(z)  # rows of one sample share its label
        label = as_labels(labels, len(z), "labels").to(rows.device).repeat_interleave(tokens_each)
        names = names_of(labels)
    positive = None
    if z_positive is not None:
        positive, _ = as_rows(z_positive, tokens, name="z_positive")
        if positive.shape != rows.shape:
            raise ValueError(f"z_positive must have the shape {tuple(rows.shape)} of z, got {tuple(positive.shape)}")
        positive = positive.to(rows.device)
    if rows.is_meta:
        raise ValueError("z must have a number in every place, got a meta tensor")
    largest, left_out = magnitude(rows), 0
    if not (math.isfinite(largest) and _is_finite(positive)):
        good = finite_rows(rows) if positive is None else finite_rows(rows) & finite_rows(positive)
        bad = (~good).nonzero()[:, 0].tolist()
        left_out = len(bad)
        if nonfinite == "refuse":
            shown = ", ".join(map(str, bad[:SHOWN])) + (", ..." if left_out > SHOWN else "")
            views = {"z": rows, "z_positive": positive}
            having = " or ".join(name for name, view in views.items() if not _is_finite(view))
            raise ValueError(
                f"{having} has {left_out} of {len(rows)} rows that are not finite (rows {shown}): "
                "mend them, or leave them out with nonfinite='drop'"
            )
        rows = rows[good]
        largest = magnitude(rows) if len(rows) else 0.0
        units, label, positive = (None if v is None else v[good.to(v.device)] for v in (units, label, positive))
    if len(rows) < 2:
        raise ValueError(
            f"z must have at least 2 rows{' that are finite' if left_out else ''}, got {len(rows)}: one row has no variance"
        )
    rows, scale = in_range(rows, largest)
    square = 1.0 if directions else scale * scale
    if not 0 < square < math.inf:
        raise ValueError(
            f"z has entries of up to {largest:.3g}, whose squares are outside the range of float64: multiply z by a constant, "
            "which changes no verdict"
        )
    seen = on_sphere(rows) if directions else rows
    sample = sample_of(seen, units)
    if sample.units < 2:
        raise ValueError("groups must hold at least 2 different groups, got 1: it is the unit of the estimates")
    table: list[ClassRow] = []
    samples: dict[str, Sample] = {}
    if label is not None:
        table, samples = class_rows(seen, label, names, units, sample, confidence)
    variance = None if input_variance is None else input_variance / square
    judged = judge_sample(sample, rule, directions=directions, classes=samples, input_variance=variance)
    numbers, band = spectral_numbers(sample, judged.spectrum, judged.found, judged.live, confidence)
    numbers += concentration(sample, confidence)
    if positive is not None:
        numbers += pair_numbers(rows, positive, units, confidence)
    if label is not None:
        numbers += label_numbers(seen, label, samples)
    return Audit(
        verdict=judged.verdict,
        rule=rule,
        confidence=confidence,
        rows=len(rows),
        units=sample.units,
        distinct=sample.distinct,
        dimension=sample.dimension,
        left_out=left_out,
        directions=directions,
        numbers=tuple(one.scaled(square) if one.name == "total_variance" else one for one in numbers),
        classes=tuple(table),
        spectrum=judged.spectrum * square,
        band=band * square,
        sample_spectrum=sample.eigenvalues * square,
    )


def _is_finite(z: Tensor | None) -> bool:
    return z is None or math.isfinite(magnitude(z))

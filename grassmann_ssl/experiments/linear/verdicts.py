"""Verdicts of the collapse audit on exact spectra of linear models, one per run."""

import numpy as np

from grassmann_ssl.audit import Rule, judge

RULE = Rule()


def kinds_of(spectra: np.ndarray, input_variance: float, log_scale: np.ndarray) -> list[str]:
    """none, dimensional or complete for covariance eigenvalues (S, d), times exp(log_scale) (S,); not finite: diverged."""
    return [
        judge(values, input_variance=input_variance, log_scale=float(scale), rule=RULE).kind
        if np.isfinite(values).all()
        else "diverged"
        for values, scale in zip(spectra, log_scale, strict=True)
    ]


def live_dimensions(spectra: np.ndarray) -> np.ndarray:
    """Number (S,) of eigenvalues (S, d) that are at least `dead` of the largest; 0 where all vanish."""
    largest = spectra.max(-1, keepdims=True)
    count: np.ndarray = ((spectra >= RULE.dead * largest) & (largest > 0)).sum(-1)
    return count


def unfinished(
    kinds: list[str],
    spectra: np.ndarray,
    input_variance: float,
    log_scale: np.ndarray,
    predicted_times: np.ndarray,
    end: float,
) -> list[str]:
    """The same kinds, but "unfinished" for a collapse that theory explains by steps that are still to come.

    `predicted_times` (S, d) of the steps, in increasing order, known before the run; `end` its last time. A run is unfinished where a
    step is predicted after its end, and the dimensions whose steps were due, those of the largest eigenvalues, have not collapsed.
    """
    result = []
    for kind, values, scale, times in zip(kinds, spectra, log_scale, predicted_times, strict=True):
        due = int((times <= end).sum())
        to_come = bool(np.any(np.isfinite(times) & (times > end)))
        if kind in ("dimensional", "complete") and to_come:
            own = np.sort(values)[::-1][:due]
            if not due or kinds_of(own[None], input_variance, np.array([scale])) == ["none"]:
                kind = "unfinished"
        result.append(kind)
    return result

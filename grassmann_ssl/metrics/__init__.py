"""Moments and spectra of embeddings, ranks, probes, steps over training, and confidence intervals."""

from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.eigenspaces import eigenspaces
from grassmann_ssl.metrics.intervals import mean_interval, wilson_interval
from grassmann_ssl.metrics.lidar import lidar, lidar_without
from grassmann_ssl.metrics.pairs import alignment, linear_cka, subspace_angles_to, uniformity
from grassmann_ssl.metrics.probes import LogisticProbe, RidgeProbe, knn_accuracy, logistic_probe, ridge_probe
from grassmann_ssl.metrics.ranks import (
    SpectralSummary,
    alpha_req,
    effective_rank,
    participation_ratio,
    rankme,
    spectral_summary,
)
from grassmann_ssl.metrics.steps import Steps, detect_steps, eigenvalue_steps, first_crossing

__all__ = [
    "LogisticProbe",
    "RidgeProbe",
    "SecondMoments",
    "SpectralSummary",
    "Steps",
    "alignment",
    "alpha_req",
    "detect_steps",
    "effective_rank",
    "eigenspaces",
    "eigenvalue_steps",
    "first_crossing",
    "knn_accuracy",
    "lidar",
    "lidar_without",
    "linear_cka",
    "logistic_probe",
    "mean_interval",
    "participation_ratio",
    "rankme",
    "ridge_probe",
    "spectral_summary",
    "subspace_angles_to",
    "uniformity",
    "wilson_interval",
]

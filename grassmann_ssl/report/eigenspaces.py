"""Panels of the eigenspaces of a predictor and of the correlation of its inputs over time, as Fig. 2 of Tian et al. 2021."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grassmann_ssl.report.style import median_band

LABELS = {
    "f": "eigenvalues of F",
    "p": "eigenvalues of W_p",
    "cosine": "|cos(u, W_p u)|",
    "asymmetry": "asymmetry of W_p",
}
IN_ORDER = (
    "In this order: eigenvalues of F, of the symmetric part of W_p, |cos| between an eigenvector u of F and W_p u, asymmetry "
    "‖W_p − W_pᵀ‖/‖W_p‖"
)
FLOORS = {"f": 1e-8, "asymmetry": 1e-17}  # where a logarithmic axis puts 0


def eigenspaces_row(
    row: np.ndarray, time: np.ndarray, spaces: Mapping[str, np.ndarray], title: str, time_label: str, symmetric: bool
) -> None:
    """A row of four axes: `metrics.eigenspaces` (K, seeds, k) each over time (K,), medians over seeds on the band of their range."""
    for panel, (name, label) in zip(row, LABELS.items(), strict=True):
        values = spaces[name].clip(FLOORS.get(name, -np.inf))
        for k in range(values.shape[-1]):
            median_band(panel, time, values[..., k], k)
        logarithmic = name == "f" or (name == "asymmetry" and not symmetric)
        panel.set(title=title, xlabel=time_label, ylabel=label, yscale="log" if logarithmic else "linear")
        if name == "asymmetry" and symmetric:
            panel.set_ylim(-0.05, 1)

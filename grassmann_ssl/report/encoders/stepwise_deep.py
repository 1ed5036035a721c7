"""Figures of stepwise learning in deep networks: spectra over time, and agreement with tangent kernels."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, panels, points, traced
from grassmann_ssl.runs import Outcome

ROWS = {
    "loss": "loss",
    "z": "eigenvalues of cov z",
    "directions": "eigenvalues of cov z / ‖z‖",
    "h": "eigenvalues of cov h",
}


def page(outcome: Outcome) -> Page:
    """Steps, and subspaces."""
    config = outcome.record["config"]
    return Page(
        f"Stepwise learning of a {config['encoder']} encoder on {config['data']}",
        f"Head: linear, batch norm, relu, linear to d = {config['dim']}; the last layer starts at "
        f"{' and '.join(f'{scale:g}' for scale in config['init_scales'])} of its usual size, since what comes before is normalised and "
        f"has no scale of its own. Plain gradient descent on batches of {config['batch']}, constant rate, no weight decay. This protocol "
        "is our choice: the settings of Simon et al. 2023 (arXiv 2303.15438), who show such curves for ResNets on STL-10, are only known "
        "in part.",
        (
            Section(
                "steps",
                "The loss and the eigenvalues of the embedding over time",
                steps(outcome),
                "First panels: the loss, the mean since the record before. Then: eigenvalues of cov z on fixed views, of z / ‖z‖, and the "
                f"{config['dim']} largest of the representations h before the head. Dotted: "
                "detected falls of the loss and rises of eigenvalues, at half their height." + _directional(outcome),
            ),
            Section(
                "kernel",
                "The embedding and the tangent kernel",
                kernel(outcome),
                "Mean squared cosine of the principal angles between the span of the embedding and the top-d span that the closed form "
                "takes from the tangent kernel, on pairs of views. Dashed: two random subspaces.",
            ),
        ),
    )


def _directional(outcome: Outcome) -> str:
    """Which objectives see directions only."""
    runs = outcome.record["runs"].values()
    names = dict.fromkeys(one["objective"] for one in runs if one["judged"] == "directions")
    if not names:
        return ""
    return f" The loss of {', '.join(names)} sees directions only: no law holds for the lengths of z, and its steps are those of z / ‖z‖."


def steps(outcome: Outcome) -> Figure:
    """One column per training: the loss, eigenvalues of cov z, of cov of directions, and of cov h."""
    names, d = list(outcome.record["runs"]), outcome.record["config"]["dim"]
    figure, axes = panels(len(ROWS), len(names), 3.3)
    for j, name in enumerate(names):
        time = outcome.arrays[f"{name}_time"]
        seen = time > 0
        for i, (kind, label) in enumerate(ROWS.items()):
            panel, values = axes[i, j], outcome.arrays[f"{name}_{kind}"].reshape(len(time), -1)[:, :d]
            for k in range(values.shape[1]):
                traced(panel, time[seen], values[seen, k], k)
            for t in outcome.record["runs"][name][f"steps_of_{kind}"]:
                panel.axvline(t, color="0.4", lw=0.9, ls=":")
            panel.set(xscale="log", title=name, xlabel=TIME, ylabel=label)
    return figure


def kernel(outcome: Outcome) -> Figure:
    """Overlaps, a line for every training."""
    runs = outcome.record["runs"]
    figure, axes = panels(1, 1, 1.6 + 0.4 * len(runs), width=4.8)
    panel, rows = axes[0, 0], np.arange(len(runs))
    for k, when in enumerate(("before", "after")):
        values = np.array([one["overlap"][when] for one in runs.values()])
        points(panel, values, rows + 0.2 * (k - 0.5), k, f"kernel {when} training", most=None)
    panel.axvline(outcome.record["chance"], color="black", lw=1, ls="--", label="by chance")
    panel.set_yticks(rows, list(runs))
    panel.set(xlim=(0, 1.05), ylim=(len(runs) - 0.5, -0.5), xlabel="overlap with the embedding")
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    return figure

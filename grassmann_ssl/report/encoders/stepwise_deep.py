"""Figures of stepwise learning in deep networks: spectra over time, and agreement with tangent kernels."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, panels, points, traced
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """Steps, and subspaces."""
    config = outcome.record["config"]
    return Page(
        f"Stepwise learning of a {config['encoder']} encoder on {config['data']}",
        f"Head: linear, batch norm, relu, linear to d = {config['dim']}; the last layer starts at {config['init_scale']:g} of its usual "
        "size, since what comes before is normalised and has no scale of its own. Plain gradient descent on batches of "
        f"{config['batch']}, constant rate, no weight decay. This protocol is our choice: the settings of Simon et al. 2023 (arXiv "
        "2303.15438), who show such curves for ResNets on STL-10, are only known in part.",
        (
            Section(
                "steps",
                "The loss and the eigenvalues of the embedding over time",
                steps(outcome),
                "First panels: the loss, the mean since the record before. Then: eigenvalues of cov z on fixed views, and of z / ‖z‖. "
                "Dotted: "
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
    names = [name for name, one in outcome.record["runs"].items() if one["judged"] == "directions"]
    if not names:
        return ""
    return f" The loss of {', '.join(names)} sees directions only: no law holds for the lengths of z, and its steps are those of z / ‖z‖."


def steps(outcome: Outcome) -> Figure:
    """One column per objective: the loss, eigenvalues of cov z, and of cov of directions."""
    names = list(outcome.record["runs"])
    figure, axes = panels(3, len(names), 3.3)
    for j, name in enumerate(names):
        time = outcome.arrays[f"{name}_time"]
        seen = time > 0
        for i, (kind, label) in enumerate(
            (("loss", "loss"), ("z", "eigenvalues of cov z"), ("directions", "eigenvalues of cov z / ‖z‖"))
        ):
            panel, values = axes[i, j], outcome.arrays[f"{name}_{kind}"].reshape(len(time), -1)
            for k in range(values.shape[1]):
                traced(panel, time[seen], values[seen, k], k)
            for t in outcome.record["runs"][name][f"steps_of_{kind}"]:
                panel.axvline(t, color="0.4", lw=0.9, ls=":")
            panel.set(xscale="log", title=name, xlabel=TIME, ylabel=label)
    return figure


def kernel(outcome: Outcome) -> Figure:
    """Overlaps by objective."""
    runs = outcome.record["runs"]
    figure, axes = panels(1, 1, width=4.8)
    panel = axes[0, 0]
    for k, when in enumerate(("before", "after")):
        values = np.array([one["overlap"][when] for one in runs.values()])
        points(panel, np.arange(len(runs)) + 0.1 * (k - 0.5), values, k, f"kernel {when} training", most=None)
    panel.axhline(outcome.record["chance"], color="black", lw=1, ls="--", label="by chance")
    panel.set_xticks(range(len(runs)), list(runs))
    panel.set(ylim=(0, 1.05), xlim=(-0.5, len(runs) - 0.5), ylabel="overlap with the embedding")
    panel.legend(**LEGEND, loc="lower right")
    return figure

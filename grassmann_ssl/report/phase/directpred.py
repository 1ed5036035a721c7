"""Strengths of features over time and at the end against weight decay, one panel per arm."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, line, panels, points
from grassmann_ssl.runs import Outcome

TITLES = ("trained predictor", "DirectPred, W_p = F^½", "DirectCopy, W_p = F")


def page(outcome: Outcome) -> Page:
    """End points against weight decay, and trajectories at the smallest."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with predictor and stop-gradient on features of different augmentation variance σᵢ²: the predictor is trained, "
        "or set from the correlations F (DirectPred: Tian, Chen and Ganguli, arXiv 2102.06810; DirectCopy: Wang et al., arXiv 2110.04947). "
        f"Our settings: X = I, variances {', '.join(map(str, config['variance']))}, start {config['start']:g} times a rotation, "
        f"{config['seeds']} networks each, t = {config['until']:g}. Time is t = learning rate × step."
    )
    ends = (
        "Markers: strength (W Wᵀ)ᵢᵢ of every feature at the end, median over networks. Lines: the stable fixed point; dotted: the weight "
        "decay 1/(4(1 + σᵢ²)) above which a feature is dropped. Weight decay keeps the features that augmentation changes least."
    )
    return Page(
        "Setting the predictor instead of training it",
        lede,
        (
            Section("ends", "Features kept", _ends(outcome), ends),
            Section(
                "paths",
                "On the way",
                _paths(outcome),
                "The same networks at the smallest weight decay: markers simulated, dashed the predicted ends.",
            ),
        ),
    )


def _ends(outcome: Outcome) -> Figure:
    config, measured, predicted = outcome.record["config"], outcome.arrays["measured"], outcome.arrays["predicted"]
    figure, axes = panels(1, 3, width=13.5, height=4.2)
    for k, title in enumerate(TITLES):
        for j, variance in enumerate(config["variance"]):
            order = np.argsort(config["eta"])
            eta = np.array(config["eta"])[order]
            axes[0, k].plot(eta, predicted[k][order, j], **line(j), lw=1)
            points(axes[0, k], eta, np.median(measured[k, -1][order, :, j], -1), j, f"σ² = {variance:g}")
            axes[0, k].axvline(1 / (4 * (1 + variance)), color=line(j)["color"], lw=0.8, ls=":")
        axes[0, k].set(title=title, xlabel="weight decay η", ylabel="strength of a feature" if k == 0 else None)
    axes[0, 0].legend(**LEGEND)
    return figure


def _paths(outcome: Outcome) -> Figure:
    config, measured, predicted = outcome.record["config"], outcome.arrays["measured"], outcome.arrays["predicted"]
    smallest = int(np.argmin(config["eta"]))
    figure, axes = panels(1, 3, width=13.5, height=3.8)
    for k, title in enumerate(TITLES):
        for j, variance in enumerate(config["variance"]):
            points(
                axes[0, k],
                outcome.arrays["time"],
                np.median(measured[k, :, smallest, :, j], -1),
                j,
                f"σ² = {variance:g}",
                most=30,
            )
            axes[0, k].axhline(predicted[k, smallest, j], color=line(j)["color"], lw=0.9, ls="--")
        axes[0, k].set(title=title, xlabel=TIME, ylabel="strength of a feature" if k == 0 else None)
    return figure

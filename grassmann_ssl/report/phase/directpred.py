"""Strengths of features over time and at the end against weight decay, one panel per arm."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, line, panels, points
from grassmann_ssl.runs import Outcome

TITLES = {
    "trained": "trained predictor",
    "directpred": "DirectPred, W_p = F^½",
    "directcopy": "DirectCopy, W_p = F",
}


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
        "Markers: strength (W Wᵀ)ᵢᵢ of every feature at the end, median over networks. Lines: theory, the stable fixed point, and 0 where "
        "the feature is dropped; they break where it jumps. Dotted: the weight decay 1/(4(1 + σᵢ²)) above which theory drops a feature. "
        + _kept(outcome)
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


def _kept(outcome: Outcome) -> str:
    """Whether features were dropped in the order of their augmentation variance, the largest first, in every network."""
    kept = outcome.arrays["measured"][:, -1] > outcome.record["alive_above"]  # (arms, etas, seeds, m)
    ordered = kept[..., np.argsort(outcome.record["config"]["variance"])]
    against = int((~ordered[..., :-1] & ordered[..., 1:]).any(-1).sum())
    total = int(np.prod(kept.shape[:-1]))
    if not against:
        return f"Where a feature was dropped, so were all of larger σᵢ², in all {total} networks."
    return f"In {against} of {total} networks a feature was dropped and one of larger σᵢ² kept."


def _ends(outcome: Outcome) -> Figure:
    config, measured, curves = outcome.record["config"], outcome.arrays["measured"], outcome.arrays["curves"]
    arms = list(outcome.record["arms"])
    figure, axes = panels(1, len(arms), width=4.5 * len(arms), height=4.2)
    for k, arm in enumerate(arms):
        for j, variance in enumerate(config["variance"]):
            order = np.argsort(config["eta"])
            eta = np.array(config["eta"])[order]
            curve = curves[k, :, j]
            for part in (curve > 0, curve == 0):
                axes[0, k].plot(outcome.arrays["curve_eta"], np.where(part, curve, np.nan), **line(j), lw=1)
            points(axes[0, k], eta, np.median(measured[k, -1][order, :, j], -1), j, f"σ² = {variance:g}")
            axes[0, k].axvline(outcome.arrays["thresholds"][j], color=line(j)["color"], lw=0.8, ls=":")
        low, high = min(config["eta"]), max(config["eta"])
        pad = 0.05 * (high - low) or 0.05
        axes[0, k].set(
            xlim=(low - pad, high + pad),
            title=TITLES[arm],
            xlabel="weight decay η",
            ylabel="strength of a feature" if k == 0 else None,
        )
    axes[0, 0].legend(**LEGEND)
    return figure


def _paths(outcome: Outcome) -> Figure:
    config, measured, predicted = outcome.record["config"], outcome.arrays["measured"], outcome.arrays["predicted"]
    smallest = int(np.argmin(config["eta"]))
    arms = list(outcome.record["arms"])
    figure, axes = panels(1, len(arms), width=4.5 * len(arms), height=3.8)
    for k, arm in enumerate(arms):
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
        axes[0, k].set(title=TITLES[arm], xlabel=TIME, ylabel="strength of a feature" if k == 0 else None)
    return figure

"""Strengths of features over time and at the end against weight decay, one panel per arm."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, line, panels, points
from grassmann_ssl.runs import Outcome

TITLES = {
    "trained": "trained predictor",
    "directpred": "DirectPred, flow",
    "directpred_sgd": "DirectPred, SGD on sampled views",
    "directcopy": "DirectCopy, W_p = F, flow",
}


def page(outcome: Outcome) -> Page:
    """End points against weight decay from every start, and trajectories at a middle one."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with predictor and stop-gradient on features of different augmentation variance σᵢ²: the predictor is trained, "
        "set by DirectPred as published (Tian, Chen and Ganguli, arXiv 2102.06810: p = √s + ε max s of a moving average of E f fᵀ, "
        f"ε = {config['epsilon']:g}, ρ = {config['rho']:g}), in the flow limit and by SGD (batches of {config['batch']}, learning rate "
        f"{config['learning_rate']:g}), or by DirectCopy (Wang et al., arXiv 2110.04947). Our settings: X = I, variances "
        f"{', '.join(map(str, config['variance']))}, starts {', '.join(f'{v:g}' for v in config['start'])} times a rotation, "
        f"{config['seeds']} networks each, t = {config['until']:g}. Time is t = learning rate × step."
    )
    ends = (
        "Markers: strength (W Wᵀ)ᵢᵢ of every feature at the end, median over networks. Lines: the reduced flows of "
        "theory, one equation a feature, at the same time; they break where a feature is dropped. Dotted: the weight decay "
        "1/(4(1 + σᵢ²)) above which theory drops it from every start. " + _kept(outcome)
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
                f"Start {config['start'][-1]:g}, η = {config['eta'][_middle(config)]:g}: markers in training, dashed the predicted ends.",
            ),
        ),
    )


def _kept(outcome: Outcome) -> str:
    """Whether features were dropped in the order of their augmentation variance, the largest first, in every network."""
    kept = outcome.arrays["measured"] > outcome.record["alive_above"]  # (arms, starts, etas, seeds, m)
    ordered = kept[..., np.argsort(outcome.record["config"]["variance"])]
    against = int((~ordered[..., :-1] & ordered[..., 1:]).any(-1).sum())
    total = int(np.prod(kept.shape[:-1]))
    if not against:
        return f"Where a feature was dropped, so were all of larger σᵢ², in all {total} networks."
    return f"In {against} of {total} networks a feature was dropped and one of larger σᵢ² kept."


def _ends(outcome: Outcome) -> Figure:
    config, measured, curves = outcome.record["config"], outcome.arrays["measured"], outcome.arrays["curves"]
    arms, alive = list(outcome.record["arms"]), outcome.record["alive_above"]
    figure, axes = panels(len(config["start"]), len(arms))
    order = np.argsort(config["eta"])
    eta = np.array(config["eta"])[order]
    for (i, start), (k, arm) in product(enumerate(config["start"]), enumerate(arms)):
        panel = axes[i, k]
        for j, variance in enumerate(config["variance"]):
            curve = curves[k, i, :, j]
            for part in (curve > alive, curve <= alive):
                panel.plot(outcome.arrays["curve_eta"], np.where(part, curve, np.nan), **line(j), lw=1)
            points(panel, eta, np.median(measured[k, i][order, :, j], -1), j, f"σ² = {variance:g}")
            panel.axvline(outcome.arrays["thresholds"][j], color=line(j)["color"], lw=0.8, ls=":")
        panel.set(title=f"{TITLES[arm]}, start {start:g}", xlabel="weight decay η", ylabel="strength of a feature")
    axes[0, 0].legend(**LEGEND)
    return figure


def _middle(config: dict[str, Any]) -> int:
    """Where the median weight decay is."""
    return int(np.argsort(config["eta"])[len(config["eta"]) // 2])


def _paths(outcome: Outcome) -> Figure:
    config, predicted = outcome.record["config"], outcome.arrays["predicted"]
    middle = _middle(config)
    arms = list(outcome.record["arms"])
    figure, axes = panels(1, len(arms))
    for k, arm in enumerate(arms):
        path = outcome.arrays[f"path_{arm}"][:, -1, middle]  # (K, seeds, m)
        for j, variance in enumerate(config["variance"]):
            strength = np.median(path[..., j], -1)
            points(axes[0, k], outcome.arrays[f"time_{arm}"], strength, j, f"σ² = {variance:g}", most=30)
            axes[0, k].axhline(predicted[k, -1, middle, j], color=line(j)["color"], lw=0.9, ls="--")
        axes[0, k].set(title=TITLES[arm], xlabel=TIME, ylabel="strength of a feature")
    return figure

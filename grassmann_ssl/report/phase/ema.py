"""Correlation of target and weights against time, one panel per weight decay, one line per momentum."""

from __future__ import annotations

from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, compared, panels
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """One figure."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with a predictor and a target that is a moving average of the weights and starts at 0; Fig. 7 of Tian, Chen and "
        f"Ganguli, arXiv 2102.06810, with their σ = 0.03 and η. Our settings: d = {config['dim']}, m = {config['inputs']}, predictors "
        f"aligned with F, p from {config['p_range'][0]:g} to {config['p_range'][1]:g} on the invariant parabola, learning rate "
        f"{config['learning_rate']:g}. Time is t = learning rate × step, and β = (1 − γ_a)/learning rate."
    )
    caption = (
        "Markers: correlation ⟨W_a, W⟩/(‖W_a‖‖W‖) in training, median over the networks; bands: range. Lines: eqs. "
        "(11)-(13). "
        "At t = 0 the target has no direction."
    )
    return Page(
        "How the target follows the weights", lede, (Section("ema", "corr(W_a, W)", _figure(outcome), caption),)
    )


def _figure(outcome: Outcome) -> Figure:
    config, arrays = outcome.record["config"], outcome.arrays
    figure, axes = panels(1, len(config["eta"]))
    time = arrays["time"][1:]
    for i, eta in enumerate(config["eta"]):
        panel = axes[0, i]
        for k, gamma in enumerate(config["gamma_a"]):
            measured, exact = (arrays[name][1:, i, k] for name in ("measured", "predicted"))
            compared(panel, time, measured, exact, k, f"γ_a = {gamma:g}")
        panel.set(title=f"η = {eta:g}", xlabel=TIME, ylabel="corr(W_a, W)")
    axes[0, 0].legend(**LEGEND)
    return figure

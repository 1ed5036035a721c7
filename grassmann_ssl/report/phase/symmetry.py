"""Symmetric and antisymmetric part of the predictor against time, one line per weight decay."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, compared, panels
from grassmann_ssl.runs import Outcome

FLOOR = 1e-12  # below it the integration of theory is not exact


def page(outcome: Outcome) -> Page:
    """One figure."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with a predictor that nothing keeps symmetric, target W_a = W, F = W_pᵀW_p at the start; Fig. 8 of Tian, Chen and "
        "Ganguli, arXiv 2102.06810, whose η these are. Our settings: the full flow (2)-(3) with τ = 1, α_p = 1, X = I, "
        f"σ² = {config['sigma2']:g}, d = {config['dim']}, m = {config['inputs']}, predictor 0.5 I plus Gaussian entries of size "
        f"{config['scale']:g}/√d, {config['seeds']} networks each. Time is t = learning rate × step."
    )
    caption = (
        "Markers: simulated networks, median; bands: range. Lines: eqs. (2)-(3), the same. First panel: symmetric part, second: "
        f"antisymmetric part; its share of the symmetric one, median, {_shares(outcome)}."
    )
    return Page(
        "Does the predictor become symmetric?",
        lede,
        (Section("symmetry", "Two parts of W_p", _figure(outcome), caption),),
    )


def _shares(outcome: Outcome) -> str:
    """The antisymmetric part over the symmetric one at the start and at the end, median over networks, per weight decay."""
    parts = (outcome.arrays[f"measured_{name}"] for name in ("antisymmetric", "symmetric"))
    anti, whole = (part[[0, -1]] for part in parts)  # (2, etas, seeds)
    start, end = np.median(anti / np.maximum(whole, np.finfo(float).tiny), -1)
    etas = outcome.record["config"]["eta"]
    return "; ".join(f"from {a:.2g} to {b:.1e} at η = {eta:g}" for eta, a, b in zip(etas, start, end, strict=True))


def _figure(outcome: Outcome) -> Figure:
    config, arrays, time = outcome.record["config"], outcome.arrays, outcome.arrays["time"]
    figure, axes = panels(1, 2)
    for panel, name in zip(axes[0], ("symmetric", "antisymmetric"), strict=True):
        for k, eta in enumerate(config["eta"]):
            measured, exact = (arrays[f"{kind}_{name}"][:, k].clip(FLOOR) for kind in ("measured", "predicted"))
            compared(panel, time, measured, exact, k, f"η = {eta:g}")
        panel.set(xlabel=TIME, ylabel=f"{name} part of W_p (Frobenius norm)")
    axes[0, 1].set_yscale("log")
    axes[0, 0].legend(**LEGEND)
    return figure

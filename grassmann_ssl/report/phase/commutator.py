"""The commutator against time, one panel per target, one line per weight decay."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, line, panels, points
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """One figure."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with a symmetrised predictor and a stop-gradient, target W_a = τW: does the predictor W_p come to share its "
        "eigenvectors with the output correlations F? Fig. 9 of Tian, Chen and Ganguli, arXiv 2102.06810. Our settings: "
        f"d = {config['dim']}, m = {config['inputs']}, X = I, σ² = {config['sigma2']:g}, α_p = {config['alpha_p']:g}, Gaussian starts of "
        f"size {config['scale']:g}, predictor near {config['p0']:g} I, {config['seeds']} networks each. Time is t = learning rate × step."
    )
    caption = (
        "Markers: simulated networks, median. Lines: eqs. (7)-(8), the same. Thin and pale: the bound e^(−2t inf K) of theorem 3, where "
        f"K stays positive. {_grew(outcome)}"
    )
    return Page(
        "Alignment of predictor and correlations",
        lede,
        (Section("commutator", "‖[F, W_p]‖", _figure(outcome), caption),),
    )


def _grew(outcome: Outcome) -> str:
    """Where K turns negative, and where the commutator grew on the way, from the record."""
    config, counts = outcome.record["config"], outcome.record
    negative = np.any(outcome.arrays["margin"] <= 0, axis=0)  # (taus, etas, seeds)
    where = [
        f"τ = {tau:g}, η = {eta:g}"
        for tau, row in zip(config["tau"], list(negative), strict=True)
        for eta, networks in zip(config["eta"], row, strict=True)
        if networks.any()
    ]
    at = f" ({'; '.join(where)})" if where else ""
    return (
        f"By theory K turns negative in {int(negative.sum())} of {negative.size} networks{at}: only there may the commutator grow. It grew "
        f"by more than 1 % on the way in {counts['grew']}, {counts['grew_held']} of them with positive K."
    )


def _figure(outcome: Outcome) -> Figure:
    config, arrays = outcome.record["config"], outcome.arrays
    figure, axes = panels(1, len(config["tau"]))
    floor = 1e-10
    for i, tau in enumerate(config["tau"]):
        panel = axes[0, i]
        for k, eta in enumerate(config["eta"]):
            measured, exact, bound = (np.median(arrays[n][:, i, k], -1) for n in ("measured", "predicted", "bound"))
            panel.plot(arrays["time"], exact.clip(floor), **line(k), lw=1.2)
            points(panel, arrays["time"], measured.clip(floor), k, f"η = {eta:g}", most=25)
            if (arrays["margin"][:, i, k] > 0).all():
                panel.plot(arrays["time"], bound.clip(floor), color="0.6", lw=0.8)
        panel.set(title=f"τ = {tau:g}", xlabel=TIME, yscale="log", ylabel="‖[F, W_p]‖")
    axes[0, 0].legend(**LEGEND)
    return figure

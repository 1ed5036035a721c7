"""Sweeps of weight decay and moving average: margin, predictor and strength against time, simulated over predicted."""

from __future__ import annotations

from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, TIME, compared, line, panels, points
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """One figure per sweep."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with a predictor, a stop-gradient and a moving average, the predictor aligned with the output correlations F; "
        "Fig. 5 of Tian, Chen and Ganguli, arXiv 2102.06810. Theirs: β = 0.4, learning rate 0.01, η = 0.04 for STL-10. Our settings: "
        f"σ² = {config['sigma2']:g}, α_p = {config['alpha_p']:g}, start p = {config['p0']:g}, s = {', '.join(map(str, config['s0']))}, "
        f"τ = {config['tau0']:g}. Time is t = learning rate × step, learning rate {config['learning_rate']:g}."
    )
    caption = (
        "Markers: gradient descent of the whole network, median over its modes; bands: range over modes. Lines: eqs. (11)-(13), "
        "the same. Left: the smallest alignment margin K of eq. (17); by theory eigenspaces align where it is positive, above the dotted "
        "line. "
        "Middle and right: eigenvalues of the predictor and of F."
    )
    count = len(config["eta"])
    return Page(
        "Sweeps of weight decay and of the moving average",
        lede,
        (
            Section("eta", "Weight decay", _figure(outcome, slice(0, count), "eta", "η"), caption),
            Section("beta", "Moving average", _figure(outcome, slice(count, None), "beta", "β"), caption),
        ),
    )


def _figure(outcome: Outcome, cells: slice, name: str, symbol: str) -> Figure:
    figure, axes = panels(1, 3, width=13.5, height=4.2)
    arrays, time = outcome.arrays, outcome.arrays["time"]
    for k, value in enumerate(arrays[name][cells]):
        label = f"{symbol} = {value:g}"
        axes[0, 0].plot(time, arrays["predicted_margin"][:, cells][:, k], **line(k), lw=1.2)
        points(axes[0, 0], time, arrays["measured_margin"][:, cells][:, k], k, label, most=25)
        for panel, which in ((axes[0, 1], "p"), (axes[0, 2], "s")):
            exact, measured = (arrays[f"{kind}_{which}"][:, cells][:, k] for kind in ("predicted", "measured"))
            compared(panel, time, measured, exact, k, label)
    axes[0, 0].axhline(0, color="0.5", lw=0.8, ls=":")
    for panel, label in zip(
        axes[0], ("smallest alignment margin K", "p, eigenvalues of the predictor", "s, eigenvalues of F"), strict=True
    ):
        panel.set(xlabel=TIME, ylabel=label)
    axes[0, 1].legend(**LEGEND)
    return figure

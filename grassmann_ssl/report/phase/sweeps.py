"""Sweeps of weight decay, moving average and predictor rate: margin, predictor and strength against time, simulated over predicted."""

from __future__ import annotations

import numpy as np
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
        f"σ² = {config['sigma2']:g}, start p = {config['p0']:g}, s = {', '.join(map(str, config['s0']))}, "
        f"τ = {config['tau0']:g}. Time is t = learning rate × step, learning rate {config['learning_rate']:g}."
    )
    caption = (
        "Markers: gradient descent of the whole network, median over its modes; bands: range over modes. Lines: eqs. (11)-(13), "
        "the same. First panel: the smallest alignment margin K of eq. (17); by theory eigenspaces align where it is positive, above "
        "the dotted "
        "line. "
        "Second: eigenvalues of the predictor. Third: α_p s, s the eigenvalues of F; modes that collapse leave the figure below. "
    )
    ends = np.cumsum([len(config[name]) for name in ("eta", "beta", "alpha_p")])
    fixed = {"eta": f"β = {config['beta'][0]:g}, α_p = {config['alpha_p'][0]:g}"}
    fixed["beta"] = f"η = {config['eta'][1]:g}, α_p = {config['alpha_p'][0]:g}"
    fixed["alpha_p"] = f"η = {config['eta'][1]:g}, β = {config['beta'][0]:g}"
    titles = (
        ("eta", "Weight decay", "η"),
        ("beta", "Moving average", "β"),
        ("alpha_p", "Learning rate of the predictor", "α_p"),
    )
    return Page(
        "Which modes survive: weight decay, moving average, learning rate of the predictor",
        lede,
        tuple(
            Section(
                name,
                title,
                _figure(outcome, slice(end - len(config[name]), end), name, symbol),
                f"At {fixed[name]}. {caption}{_survivors(outcome, name, symbol)}",
            )
            for (name, title, symbol), end in zip(titles, ends, strict=True)
        ),
    )


def _survivors(outcome: Outcome, name: str, symbol: str) -> str:
    """How many modes survive along a sweep."""
    counts, config = outcome.record["survivors"][name], outcome.record["config"]
    own = ", ".join(f"{n} at {symbol} = {value:g}" for n, value in zip(counts["measured"], config[name], strict=True))
    verdict = "as eqs. (11)-(13) have it" if counts["same"] else "not those of eqs. (11)-(13)"
    return f"Of {len(config['s0'])} modes survive {own}; {verdict}."


def _figure(outcome: Outcome, cells: slice, name: str, symbol: str) -> Figure:
    figure, axes = panels(1, 3)
    arrays, time = outcome.arrays, outcome.arrays["time"]
    for k, value in enumerate(arrays[name][cells]):
        label = f"{symbol} = {value:g}"
        axes[0, 0].plot(time, arrays["predicted_margin"][:, cells][:, k], **line(k), lw=1.2)
        points(axes[0, 0], time, arrays["measured_margin"][:, cells][:, k], k, label, most=25)
        for panel, which in ((axes[0, 1], "p"), (axes[0, 2], "s")):
            unit = arrays["alpha_p"][cells][k] if which == "s" else 1.0
            exact, measured = (unit * arrays[f"{kind}_{which}"][:, cells][:, k] for kind in ("predicted", "measured"))
            compared(panel, time, measured, exact, k, label)
    axes[0, 0].axhline(0, color="0.5", lw=0.8, ls=":")
    for panel, label in zip(
        axes[0],
        ("smallest alignment margin K", "p, eigenvalues of the predictor", "α_p s, eigenvalues of F"),
        strict=True,
    ):
        panel.set(xlabel=TIME, ylabel=label)
    axes[0, 2].set(yscale="log", ylim=(1e-5, None))
    axes[0, 1].legend(**LEGEND)
    return figure

"""Fixed points against weight decay: closed forms as lines, simulated ends as markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, THEORY, panels, points

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

LABELS = {"p": "p, eigenvalue of the predictor", "s": "s, eigenvalue of the output correlations"}


def page(outcome: Outcome) -> Page:
    """One figure with the bifurcation diagrams of p and s, a column of panels for each setting."""
    config = outcome.record["config"]
    lede = (
        "Fixed points of one mode of learning with a linear predictor and a stop-gradient, eqs. (11)-(12) of Tian, Chen and Ganguli, "
        f"arXiv 2102.06810, Fig. 4. Our settings: τ and α_p of the panels, σ² = {config['sigma2']:g}, starts on the parabola "
        f"s = p²/α_p at p*₋ ± {config['offset']:g} τ/(1 + σ²), simulated by Runge-Kutta 4 until they have settled. "
        "Time is t = learning rate × step."
    )
    collapsed, beyond = (
        sum(result[name] for result in outcome.record["panels"])
        for name in ("starts_beyond_collapsing", "starts_beyond")
    )
    caption = (
        "Lines: closed forms, stable (solid) and unstable (dashed). Markers: where simulated modes end, from just above (circles) and "
        "just below (squares) the unstable fixed point, dots: their starts. Theory: beyond the critical weight decay (dotted) the origin "
        "is the only fixed point; α_p moves the strength s = p²/α_p of a fixed point, not p. "
        f"Beyond it {collapsed} of {beyond} simulated modes collapsed."
    )
    return Page(
        "Fixed points against weight decay", lede, (Section("fixed_points", "Fixed points", _figure(outcome), caption),)
    )


def _figure(outcome: Outcome) -> Figure:
    results = outcome.record["panels"]
    figure, axes = panels(2, len(results))
    last = 1.03 * float(outcome.metrics["eta"].max())
    for k, result in enumerate(results):
        chosen = outcome.metrics["panel"] == k
        columns = {name: values[chosen] for name, values in outcome.metrics.items()}
        curves = {name: outcome.arrays[f"{name}_{k}"] for name in ("eta", "stable", "unstable")}
        for row in range(len(LABELS)):
            _diagram(axes[row, k], row, result, curves, columns, last)
            axes[row, k].sharey(axes[row, 0])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _diagram(
    axes: Axes,
    row: int,
    result: dict[str, Any],
    curves: dict[str, NDArray[Any]],
    columns: dict[str, NDArray[Any]],
    last: float,
) -> None:
    name = list(LABELS)[row]
    axes.plot(curves["eta"], curves["stable"][:, row], **THEORY, label="theory: stable, p*₊ and 0")
    axes.plot([0, last], [0, 0], **THEORY)
    unstable = THEORY | {"linestyle": (0, (4, 2))}
    axes.plot(curves["eta"], curves["unstable"][:, row], **unstable, label="theory: unstable, p*₋")
    axes.axvline(result["eta_critical"], color="0.4", lw=1, ls=":", label="theory: critical η = τ²/(4(1 + σ²))")
    axes.plot(columns["eta"], columns[f"start_{name}"], ".", ms=2.5, color="0.55", label="simulated: starts")
    for series, (side, label) in enumerate(((True, "just above p*₋"), (False, "just below p*₋"))):
        shown = columns["above"] == side
        points(axes, columns["eta"][shown], columns[f"end_{name}"][shown], series, f"simulated: ends, from {label}")
    axes.set(xlim=(0, last), xlabel="weight decay η", ylabel=LABELS[name])
    if name == "p":
        axes.set_title(f"τ = {result['tau']:g}, α_p = {result['alpha_p']:g}")

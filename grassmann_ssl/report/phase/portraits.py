"""Phase portraits: simulated trajectories by verdict; parabola, fixed points and separatrix of theory as lines and markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, SERIES, panels

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

MOST_COLUMNS = 3
COLLAPSES = {"color": SERIES[0]["color"], "linestyle": (0, (4, 1.5))}
SURVIVES = {"color": SERIES[1]["color"], "linestyle": "-"}


def page(outcome: Outcome) -> Page:
    """One figure, one portrait per panel."""
    config = outcome.record["config"]
    lede = (
        "Eigenvalues p of a linear predictor and s of the output correlations of one mode, learned with a stop-gradient: "
        "eqs. (11)-(12) of Tian, Chen and Ganguli, arXiv 2102.06810, whose Fig. 3 has τ = 1, α_p = 1 and η = 0, 0.01, 1. "
        f"Our settings: σ² = {config['sigma2']:g} and the starts. A mode counts as collapsed where the simulated s fell by more than "
        "half over the second half of its run. Time is t = learning rate × step."
    )
    caption = (
        "Simulated trajectories: dashed where the mode collapsed, solid where it survived; each starts at its small dot, and arrows "
        "point along time. Theory: the invariant parabola s = p²/α_p (thin), the separatrix between the two fates (thick), "
        "stable fixed points (filled) and the saddle (open). Without weight decay fixed points form lines (dotted), s = 0 and "
        "p = τ/(1 + σ²); beyond the critical weight decay only the origin is left."
    )
    return Page("Phase portraits of one mode", lede, (Section("portraits", "Portraits", _figure(outcome), caption),))


def _figure(outcome: Outcome) -> Figure:
    results = outcome.record["panels"]
    columns = min(MOST_COLUMNS, len(results))
    rows = -(-len(results) // columns)
    figure, axes = panels(rows, columns, 4.2)
    for empty in axes.ravel()[len(results) :]:
        empty.set_axis_off()
    for k, (panel, result) in enumerate(zip(axes.ravel(), results, strict=False)):
        collapsed = outcome.metrics["collapsed"][outcome.metrics["panel"] == k]
        curves = {name: outcome.arrays[f"{name}_{k}"] for name in ("path", "parabola", "separatrix")}
        _portrait(panel, result, curves, collapsed, outcome.record["config"])
    handles = [
        Line2D([], [], **SURVIVES, label="simulated: survives"),
        Line2D([], [], **COLLAPSES, label="simulated: collapses"),
        Line2D([], [], color="k", lw=0.8, label="theory: parabola s = p²/α_p"),
        Line2D([], [], color="k", lw=2.2, label="theory: separatrix"),
        Line2D([], [], color="k", lw=1.2, ls=":", label="theory: lines of fixed points"),
        Line2D([], [], color="k", marker="o", ls="", label="theory: stable"),
        Line2D([], [], color="k", marker="o", mfc="w", ls="", label="theory: saddle"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _portrait(
    axes: Axes, result: dict[str, Any], curves: dict[str, NDArray[Any]], collapsed: NDArray[Any], config: dict[str, Any]
) -> None:
    (left, right), (low, high) = config["p_range"], config["s_range"]
    for path, fell in zip(curves["path"], collapsed, strict=True):
        draw_path(axes, path, bool(fell), (right - left, high - low))
    axes.plot(*curves["parabola"].T, color="k", lw=0.8)
    axes.plot(*curves["separatrix"].T, color="k", lw=2.2)
    fixed = result["fixed_points"]
    if fixed["line"] is not None:
        axes.axhline(0, color="k", lw=1.8, ls=":")
        axes.axvline(fixed["line"], color="k", lw=1.2, ls=":")
    for point in fixed["saddles"]:
        axes.plot(*point, "ko", mfc="w", ms=5, zorder=6, clip_on=False)
    for point in fixed["stable"]:
        axes.plot(*point, "ko", ms=6, zorder=5, clip_on=False)
    axes.set(
        xlim=(left, right),
        ylim=(low, high),
        xlabel="p, eigenvalue of the predictor",
        ylabel="s, eigenvalue of the output correlations",
        title=f"τ = {result['tau']:g}, η = {result['eta']:g}, α_p = {result['alpha_p']:g}",
    )


def draw_path(axes: Axes, path: NDArray[Any], collapsed: bool, size: tuple[float, float]) -> None:
    """One trajectory: a dot where it starts, and an arrow head in the middle where it is long enough to show a direction."""
    style = COLLAPSES if collapsed else SURVIVES
    axes.plot(*path.T, lw=0.9, **style)
    axes.plot(*path[0], "o", ms=2.2, color=style["color"])
    if np.abs(np.diff(path, axis=0)).sum(0).max() < 0.04 * max(size):
        return
    middle = len(path) // 2
    axes.annotate(
        "",
        xy=path[middle + 1],
        xytext=path[middle - 1],
        arrowprops={"arrowstyle": "-|>", "color": style["color"], "lw": 0.9, "mutation_scale": 8},
    )

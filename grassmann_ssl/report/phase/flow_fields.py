"""Flow fields of predictor and weight: simulated trajectories by verdict, fixed points and separatrix of theory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.phase.portraits import COLLAPSES, SURVIVES, draw_path
from grassmann_ssl.report.style import LEGEND, panels

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """One figure: rows for the kind of target, columns for the weight decay."""
    config = outcome.record["config"]
    lede = (
        "One weight w, its linear predictor w_p and its target w_a, the reduced dynamics (104)-(106) of Tian, Chen and Ganguli, "
        "arXiv 2102.06810, with weight decay η; their Fig. 10 has λ_s = 1, λ_d = 1/2, α_p = β = 1. "
        f"Here λ_s = {config['lambda_s']:g}, λ_d = {config['lambda_d']:g}, α_p = {config['alpha_p']:g}, β = {config['beta']:g}; "
        "weight decay and starts are our settings. A trajectory counts as collapsed where w² fell by more than half over the second "
        "half of its run. Time is t = learning rate × step."
    )
    caption = (
        "Simulated trajectories: dashed where they collapsed, solid where they survived; each starts at its small dot, and arrows point "
        "along time. First panels: the target is the weight itself, w_a = w. The others: the target follows as a moving average from "
        f"w_a = {config['target']:g}, so that the plane is a projection and trajectories may cross. Theory: stable fixed points "
        "(filled) and saddles (open), lines of fixed points w = 0 and w_p = λ_d/λ_s without weight decay (dotted), the separatrix of "
        "w_a = w (thick), and the invariant set w² = w_p²/α_p (thin)."
    )
    return Page(
        "Flow fields of predictor and weight", lede, (Section("flow_fields", "Flow fields", _figure(outcome), caption),)
    )


def _figure(outcome: Outcome) -> Figure:
    config = outcome.record["config"]
    results = outcome.record["panels"]
    etas = list(dict.fromkeys(result["eta"] for result in results))
    figure, axes = panels(2, len(etas), 4.0)
    for empty in axes.T.ravel()[len(results) :]:
        empty.set_axis_off()
    for k, result in enumerate(results):
        panel = axes[0 if result["target"] == "equal" else 1, etas.index(result["eta"])]
        collapsed = outcome.metrics["collapsed"][outcome.metrics["panel"] == k]
        size = tuple(high - low for low, high in (config["wp_range"], config["w_range"]))
        for path, fell in zip(outcome.arrays[f"path_{k}"], collapsed, strict=True):
            draw_path(panel, path, bool(fell), size)
        separatrix = outcome.arrays[f"separatrix_{k}"] if result["target"] == "equal" else ()
        _theory(panel, config, result, outcome.arrays["invariant"], separatrix)
    handles = [
        Line2D([], [], **SURVIVES, label="simulated: survives"),
        Line2D([], [], **COLLAPSES, label="simulated: collapses"),
        Line2D([], [], color="k", lw=0.8, label="theory: w² = w_p²/α_p"),
        Line2D([], [], color="k", lw=2.2, label="theory: separatrix"),
        Line2D([], [], color="k", lw=1.2, ls=":", label="theory: lines of fixed points"),
        Line2D([], [], color="k", marker="o", ls="", label="theory: stable"),
        Line2D([], [], color="k", marker="o", mfc="w", ls="", label="theory: saddle"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _theory(
    axes: Axes,
    config: dict[str, Any],
    result: dict[str, Any],
    invariant: Iterable[NDArray[Any]],
    separatrix: Iterable[NDArray[Any]],
) -> None:
    fixed = result["fixed_points"]
    for line in invariant:
        axes.plot(*line.T, color="k", lw=0.8)
    if fixed["line"] is not None:
        axes.axhline(0, color="k", lw=1.6, ls=":")
        axes.axvline(fixed["line"], color="k", lw=1.6, ls=":")
    for branch in separatrix:
        axes.plot(*branch.T, color="k", lw=2.2)
    for name, fill in (("stable", "k"), ("saddles", "w")):
        for point in fixed[name]:
            axes.plot(*point, "ko", mfc=fill, ms=6, zorder=5)
    target = "w_a = w" if result["target"] == "equal" else f"w_a follows from {config['target']:g}"
    axes.set(
        xlim=config["wp_range"],
        ylim=config["w_range"],
        xlabel="w_p, predictor",
        ylabel="w, weight",
        title=f"{target}, η = {result['eta']:g}",
    )

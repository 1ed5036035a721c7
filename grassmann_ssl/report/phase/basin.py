"""The map of collapse: simulated cells, theory's boundary, and a close-up of the cells where the two could differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, THEORY, panels

if TYPE_CHECKING:
    from grassmann_ssl.runs import Outcome

SURVIVES, COLLAPSES, BLOWN = "#f6efe2", "#7d93a8", "#c1440e"
CLOSE_UP = 24  # cells along the side of the close-up
LABELS = {
    "p": "initial p, eigenvalue of the predictor",
    "s": "initial s, eigenvalue of the output correlations",
    "eta": "weight decay η",
    "tau": "target over online weights τ",
}


def page(outcome: Outcome) -> Page:
    """One figure: the map, and its close-up."""
    config, counts = outcome.record["config"], outcome.record["counts"]
    if config["axes"] == "ps":
        fixed = f"η = {config['eta']:g}, τ = {config['tau']:g}"
        critical = outcome.record["eta_critical"]
        fixed += f" (critical η: {critical:.4g})"
    else:
        fixed = f"all from p = {config['start'][0]:g}, s = {config['start'][1]:g}"
    lede = (
        "Modes of learning with a linear predictor and a stop-gradient, eqs. (11)-(12) of Tian, Chen and Ganguli, arXiv 2102.06810, "
        f"each cell simulated from its centre by Runge-Kutta 4. Our settings: {fixed}, α_p = {config['alpha_p']:g}, "
        f"σ² = {config['sigma2']:g}. A mode counts as collapsed where s fell by more than half over the second half of its run. "
        f"Time is t = learning rate × step; runs last until t = {outcome.record['horizon'][1]:,.0f}."
    )
    if counts["crossed"]:
        caption = (
            "Cells: the simulated verdict. Line: where theory's verdict changes"
            + (", the stable manifold of the saddle" if config["axes"] == "ps" and config["eta"] else "")
            + f". Simulation and theory differ in {counts['differing']} of {counts['cells']:,} cells"
            + (" (hatched in the close-up)" if counts["differing"] else "")
            + f", {counts['differing_not_crossed']} of them not crossed by the line."
        )
    else:
        caption = (
            "Cells: the simulated verdict. Theory has no boundary in this map. "
            f"Simulation and theory differ in {counts['differing']} of {counts['cells']:,} cells."
        )
    return Page("Which modes collapse", lede, (Section("basin", "Map of collapse", _figure(outcome), caption),))


def _figure(outcome: Outcome) -> Figure:
    config, x, y = outcome.record["config"], outcome.arrays["x"], outcome.arrays["y"]
    shape = (len(y) - 1, len(x) - 1)
    columns = {name: values.reshape(shape) for name, values in outcome.metrics.items()}
    detailed = bool(columns["crossed"].any())
    figure, axes = panels(1, 1 + detailed, 4.6)
    kinds = np.where(columns["blown_up"], 2, columns["collapsed"])
    names = ("p", "s") if config["axes"] == "ps" else ("eta", "tau")
    colors = ListedColormap([SURVIVES, COLLAPSES, BLOWN])
    for panel in axes[0]:
        panel.pcolormesh(x, y, kinds, cmap=colors, vmin=0, vmax=2, rasterized=True)
        panel.set(xlabel=LABELS[names[0]], ylabel=LABELS[names[1]], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        _theory(panel, outcome)
    axes[0, 0].set_title("simulated verdict")
    if detailed:
        _close_up(axes[0, 0], axes[0, 1], columns, x, y)
        axes[0, 1].set_title("close-up of the box")
    handles = [Patch(fc=SURVIVES, ec="0.5", label="survives"), Patch(fc=COLLAPSES, ec="0.5", label="collapses")]
    if columns["blown_up"].any():
        handles.append(Patch(fc=BLOWN, label="blew up"))
    handles += axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    return figure


def _theory(axes: Axes, outcome: Outcome) -> None:
    config, segments = outcome.record["config"], outcome.arrays["boundary"]
    if len(segments):
        axes.add_collection(LineCollection(list(segments), colors=THEORY["color"], linewidths=1.5))
        axes.plot([], [], color=THEORY["color"], lw=1.5, label="theory: boundary of collapse")
    if config["axes"] == "eta-tau":
        axes.plot(
            outcome.arrays["critical_eta"], outcome.arrays["y"], color="black", lw=1, ls=":", label="theory: critical η"
        )
        return
    fixed = outcome.record["fixed_points"]
    if fixed["stable"]:
        label = "theory: stable fixed point" + "s" * (len(fixed["stable"]) > 1)
        axes.plot(*zip(*fixed["stable"], strict=True), "ko", ms=6, label=label)
    if fixed["saddles"]:
        axes.plot(*zip(*fixed["saddles"], strict=True), "ko", mfc="w", ms=6, label="theory: saddle")
    if fixed["line"] is not None:
        axes.axvline(fixed["line"], color="black", lw=1, ls=":", label="theory: lines of fixed points, also s = 0")


def _close_up(whole: Axes, detail: Axes, columns: dict[str, NDArray[Any]], x: NDArray[Any], y: NDArray[Any]) -> None:
    """Show where the cells are that differ, around the middle one, else the middle of the boundary, and hatch those cells."""
    differing = (columns["collapsed"] != columns["collapsed_predicted"]) & ~columns["blown_up"]
    side = min(CLOSE_UP, len(x) - 1)
    chosen = np.argwhere(differing if differing.any() else columns["crossed"])
    i, j = chosen[len(chosen) // 2]
    i, j = (int(np.clip(k - side // 2, 0, len(x) - 1 - side)) for k in (i, j))
    box = (x[j], y[i]), x[j + side] - x[j], y[i + side] - y[i]
    whole.add_patch(Rectangle(*box, fill=False, ec="k", lw=1))
    detail.set(xlim=(x[j], x[j + side]), ylim=(y[i], y[i + side]))
    detail.vlines(x[j : j + side], y[i], y[i + side], color="w", lw=0.4)
    detail.hlines(y[i : i + side], x[j], x[j + side], color="w", lw=0.4)
    for a, b in np.argwhere(differing[i : i + side, j : j + side]):
        corner = (x[j + b], y[i + a])
        detail.add_patch(Rectangle(corner, x[1] - x[0], y[1] - y[0], fill=False, ec=BLOWN, lw=1.8, hatch="///"))

"""Figure style: theory as black or grey lines, measurements as coloured markers; colour, dash and marker vary together."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

TIME = "time t = learning rate × step"
THEORY: dict[str, Any] = {"color": "black", "lw": 1.1}
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#c1440e", "marker": "o", "linestyle": "-"},
    {"color": "#12507b", "marker": "s", "linestyle": (0, (5, 1.5))},
    {"color": "#3b7d3a", "marker": "^", "linestyle": (0, (1, 1))},
    {"color": "#8a5fa3", "marker": "D", "linestyle": (0, (5, 1, 1, 1))},
    {"color": "#b8860b", "marker": "v", "linestyle": (0, (3, 3))},
    {"color": "#5f6b6d", "marker": "P", "linestyle": (0, (7, 2, 1, 2, 1, 2))},
)
# Letters stay readable where lines run below them.
LEGEND: dict[str, Any] = {"fontsize": 9, "framealpha": 0.8, "edgecolor": "none"}
TICKS = 6  # most numbers along an axis
LINE = 52  # letters of a title
WIDE, NARROW = 2.0, 0.9  # decades: from here on powers of ten are enough; below, 1, 2 and 5 are too few
BELOW: dict[str, Any] = LEGEND | {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}


def panels(rows: int, columns: int, height: float = 3.7, width: float = 4.4) -> tuple[Figure, np.ndarray]:
    """A figure with (rows, columns) axes, each `height` inches high and `width` inches wide.

    Pages show the axes of several columns one by one, as wide as the window: each needs its own labels, and letters are read where a
    panel of the usual width fills a narrow screen.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def arranged(figure: Figure, columns: int) -> Figure:
    """The figure with at most `columns` panels beside each other, each as large as before. Raises ValueError for fewer than 1."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    cells = [(axes, spec) for axes in figure.axes if (spec := axes.get_subplotspec()) and axes.axison]
    rows, before = max(((grid := spec.get_gridspec()).nrows, grid.ncols) for _, spec in cells)
    if columns < before:
        width, height = figure.get_size_inches() / (before, rows)
        below = -(-len(cells) // columns)
        figure.set_size_inches(width * columns, height * below)
        grid = figure.add_gridspec(below, columns)
        for k, (axes, _) in enumerate(cells):
            axes.set_subplotspec(grid[divmod(k, columns)])
        _fit_legends(figure)
    return figure


def points(
    axes: Axes, x: np.ndarray, y: np.ndarray, series: int = 0, label: str | None = None, most: int | None = 60
) -> None:
    """Measurements as open markers, thinned to about `most`; None: all."""
    every = max(1, len(x) // most) if most else 1
    style = SERIES[series % len(SERIES)]
    axes.plot(x[::every], y[::every], style["marker"], ms=4, color=style["color"], mfc="none", label=label)


def line(series: int) -> dict[str, Any]:
    """Colour and dashes of a series."""
    style = SERIES[series % len(SERIES)]
    return {"color": style["color"], "linestyle": style["linestyle"]}


def traced(axes: Axes, x: np.ndarray, y: np.ndarray, series: int = 0, label: str | None = None) -> None:
    """A line through measurements, each with a marker."""
    axes.plot(x, y, **SERIES[series % len(SERIES)], ms=3, mfc="none", lw=1, label=label)


def band(axes: Axes, x: np.ndarray, values: np.ndarray, series: int = 0) -> None:
    """The range of values (K, S) over the last axis, shaded."""
    axes.fill_between(x, values.min(-1), values.max(-1), color=line(series)["color"], alpha=0.13, lw=0)


def median_band(axes: Axes, x: np.ndarray, values: np.ndarray, series: int = 0, label: str | None = None) -> None:
    """The median of values (K, S) over the last axis as a line, on the band of their range."""
    axes.plot(x, np.median(values, -1), **line(series), lw=1.4, label=label)
    band(axes, x, values, series)


def compared(axes: Axes, x: np.ndarray, measured: np.ndarray, exact: np.ndarray, series: int, label: str) -> None:
    """Medians of both (K, S): the prediction as a line, measurements as markers on the band of their range."""
    axes.plot(x, np.median(exact, -1), **line(series), lw=1.2)
    band(axes, x, measured, series)
    points(axes, x, np.median(measured, -1), series, label, most=25)


def ranges(axes: Axes, x: np.ndarray, values: np.ndarray, series: int, label: str, joined: bool = False) -> None:
    """Medians of values (n, S) with bars over their range; `joined` by the line of the series."""
    style, middle = SERIES[series % len(SERIES)], np.median(values, -1)
    spread = np.stack([middle - values.min(-1), values.max(-1) - middle]) if len(x) else np.zeros((2, 0))
    axes.errorbar(
        x, middle, spread, marker=style["marker"], color=style["color"], mfc="none", ms=5, label=label,
        linestyle=style["linestyle"] if joined else "none", lw=1.1, elinewidth=0.8, capsize=2,
    )  # fmt: skip


def power_law(at: np.ndarray, slope: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The power law of this slope through the geometric means of x (n,) and y (n, ...), evaluated at `at`."""
    law: np.ndarray = np.exp(np.log(y).mean() + slope * (np.log(at) - np.log(x).mean()))
    return law


def readable(figure: Figure) -> None:
    """Titles in lines that panels have room for; ticks that do not overlap, where none were set: of logarithmic axes powers of ten,
    or where there are few of these 1, 2 and 5 of each, or even numbers. Legends that are not wider than the figure.
    """
    _fit_legends(figure)
    for axes in figure.axes:
        lines = (textwrap.wrap(line, LINE, break_on_hyphens=False) for line in axes.get_title().splitlines())
        axes.set_title("\n".join(itertools.chain(*lines)), fontsize=min(axes.title.get_fontsize(), 10.5))
        if axes.get_xscale() == "linear" and axes.xaxis.isDefault_majloc:
            axes.xaxis.set_major_locator(MaxNLocator(TICKS, steps=[1, 2, 5, 10]))
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
            if axis.get_scale() == "log" and axis.isDefault_majloc and low > 0:
                _log_ticks(axis, float(np.log10(high / low)))


def _fit_legends(figure: Figure) -> None:
    """In one column the legends below the figure that would be wider than it; what they need in height is added."""
    for legend in list(figure.legends):
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib gives it no types
        before = legend.get_window_extent(renderer)
        if before.width > figure.bbox.width:
            legend.remove()
            labels = [text.get_text() for text in legend.get_texts()]
            handles = [handle for handle in legend.legend_handles if handle is not None]
            below = figure.legend(handles, labels, loc="outside lower center", ncols=1, **LEGEND)
            width, height = figure.get_size_inches()
            figure.set_size_inches(
                width, height + (below.get_window_extent(renderer).height - before.height) / figure.dpi
            )


def _log_ticks(axis: Axis, decades: float) -> None:
    axis.set_minor_formatter(NullFormatter())
    if decades >= WIDE:
        axis.set_major_locator(LogLocator(numticks=TICKS))
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if decades > NARROW else MaxNLocator(TICKS - 2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def numbered(axis: Axis, values: np.ndarray) -> None:
    """Ticks of a logarithmic axis at these numbers, and the numbers at as many of them as have room."""
    values = np.sort(values)
    room = np.log(values[-1] / values[0]) / TICKS if len(values) else 0.0
    labels, last = [], -np.inf
    for value in values:
        shown = np.log(value) - last >= 0.8 * room
        last = np.log(value) if shown else last
        labels.append(f"{value:g}" if shown else "")
    axis.set_ticks(values, labels)
    axis.set_minor_locator(NullLocator())

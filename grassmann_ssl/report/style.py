"""Figure style: theory as black or grey lines, measurements as coloured markers; colour, dash and marker vary together."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}
BELOW: dict[str, Any] = LEGEND | {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}


def panels(rows: int, columns: int, width: float = 11.5, height: float = 3.9) -> tuple[Figure, np.ndarray]:
    """A figure with (rows, columns) axes, each row `height` inches high, `width` inches wide."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


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

"""The picture of an audit: spectra, the spread of directions, the classes; one below the other, so that a narrow column can show it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.words import class_order

Array = NDArray[np.float64]

WIDTH = 6.2  # inches: letters of 12 points are still read where the picture is 400 pixels wide
LETTERS = 12
NAMED = 30  # most classes with a line and a name of their own
LONGEST = 18  # characters of a name
POPULATION, SAMPLE, GONE, LIMIT = "#12507b", "0.55", "#c1440e", "black"
DECADES = 2  # shown below the threshold of live dimensions
LEAST_SPREAD = 1e-4


def stacked(title: str, classes: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels for spectra and directions, and for this number of classes, if any."""
    heights = [4.0, 1.5]
    if classes:
        heights.append(1.0 + 0.3 * classes if classes <= NAMED else 4.0)
    lines = textwrap.wrap(title, 50, max_lines=3, placeholder=" …")
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4 + 0.25 * len(lines)), layout="constrained")
    figure.suptitle(_plain("\n".join(lines)), fontsize=LETTERS + 1, weight="bold")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel in axes:
        panel.tick_params(labelsize=LETTERS - 1)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def spectra(axes: Axes, of: str, spectrum: Array, band: Array, sample: Array, dead: float) -> None:
    """Eigenvalues of the covariance `of` z or its directions: of the population with its band, of the sample; the threshold `dead`."""
    _labelled(axes, f"eigenvalues of the covariance of {of}", "k", None)
    largest = max(float(spectrum.max()), float(sample.max(initial=0.0)))
    if not largest > 0:
        axes.text(0.5, 0.5, "no variance", ha="center", va="center", transform=axes.transAxes, fontsize=LETTERS)
        axes.set(xticks=[], yticks=[])
        return
    threshold = dead * float(spectrum.max())
    floor = threshold * 10.0**-DECADES
    k = np.arange(1, len(spectrum) + 1)
    low, high = np.maximum(band, floor)
    axes.fill_between(k, low, high, color=POPULATION, alpha=0.2, lw=0)
    axes.plot(
        np.arange(1, len(sample) + 1), np.where(sample > floor, sample, np.nan), ls="none", marker="o", ms=3.5, mfc="none",
        color=SAMPLE, label="sample, biased",
    )  # fmt: skip
    axes.plot(
        k,
        np.maximum(spectrum, floor),
        color=POPULATION,
        lw=2,
        marker="o" if len(k) < 3 else "",
        label="population, estimated",
    )
    axes.axhline(threshold, color=LIMIT, ls="--", lw=1.1, label="live above")
    axes.set(xscale="log", yscale="log", ylim=(floor, 4 * largest))
    axes.set_xlim(0.9, 1.1 * max(len(k), 2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.minorticks_off()
    axes.legend(
        frameon=False, fontsize=LETTERS - 1, loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=3,
        columnspacing=1, handlelength=1.6,
    )  # fmt: skip


def directions(axes: Axes, spread: Number, threshold: float, judged: bool) -> None:
    """The variance of directions with its interval, against the threshold of directional collapse."""
    asked = "" if judged else " (not judged)"
    _labelled(axes, f"variance of z / ‖z‖{asked}", "0: all directions alike, 1: they spread over the sphere", None)
    axes.axvspan(LEAST_SPREAD, threshold, color=GONE, alpha=0.15, lw=0)
    axes.axvline(threshold, color=LIMIT, ls="--", lw=1.1)
    axes.text(threshold, 0.95, " collapsed below", transform=axes.get_xaxis_transform(), va="top", fontsize=LETTERS - 2)
    if spread.value is not None:
        value, low, high = (
            max(spread.value if one is None else one, LEAST_SPREAD) for one in (spread.value, spread.low, spread.high)
        )
        colour = GONE if judged and value < threshold else POPULATION
        axes.plot([low, high], [0, 0], color=colour, lw=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([value], [0], "<" if value == LEAST_SPREAD else "o", ms=8, color=colour, clip_on=False)
    axes.set(xscale="log", xlim=(LEAST_SPREAD, 1.15), ylim=(-1, 1.4), yticks=[])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.minorticks_off()


def classes(axes: Axes, rows: Sequence[ClassRow], collapsed: Sequence[str]) -> None:
    """Dimensions used within every class with their intervals, collapsed classes first; with names where there are few."""
    ordered = class_order(rows, collapsed)
    few = len(ordered) <= NAMED
    gone = set(collapsed)
    title = f"dimensions used within {len(ordered)} class{'es' * (len(ordered) > 1)}"
    _labelled(axes, title + (f", {len(gone)} collapsed" if gone else ""), None, None)
    right = 1.08 * max([1.0, *(one for row in ordered for one in (row.dimensions_used, row.high) if one is not None)])
    for place, row in enumerate(ordered):
        colour = GONE if row.name in gone else POPULATION
        value = row.dimensions_used
        if value is not None:
            low, high = (value if one is None else one for one in (row.low, row.high))
            axes.plot(
                [low, high], [place, place], color=colour, lw=3 if few else 0.8, alpha=0.35, solid_capstyle="butt"
            )
            axes.plot([value], [place], "o", ms=6 if few else 2.5, color=colour)
        elif row.name in gone:  # equal rows use no dimension
            axes.plot([0], [place], "X", ms=8 if few else 4, color=colour, clip_on=False)
        if few and row.name in gone and row.share_of_variance is not None:
            side = "left" if value is None or value > right / 2 else "right"
            axes.text(
                right * (0.03 if side == "left" else 1.0), place, f"{100 * row.share_of_variance:.2g} % of the variance",
                ha=side, va="center", fontsize=LETTERS - 2, color=colour,
            )  # fmt: skip
        elif few and value is None:
            axes.text(0, place, " too few rows", va="center", fontsize=LETTERS - 2, color=SAMPLE)
    if few:
        axes.set_yticks(range(len(ordered)), [_short(row.name) for row in ordered])
        for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_color(GONE if row.name in gone else "black")
    else:
        axes.set_yticks([])
        axes.set_ylabel("classes, sorted", fontsize=LETTERS)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, right)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _labelled(axes: Axes, title: str, x: str | None, y: str | None) -> None:
    style: dict[str, Any] = {"fontsize": LETTERS}
    axes.set_title(title, loc="left", fontsize=LETTERS)
    if x:
        axes.set_xlabel(x, **style)
    if y:
        axes.set_ylabel(y, **style)


def _short(name: str) -> str:
    """A name of at most LONGEST characters in one line, beginning and end of a longer one."""
    line = " ".join(name.split())
    if len(line) > LONGEST:
        line = line[: LONGEST // 2] + "…" + line[LONGEST // 2 + 1 - LONGEST :]
    return _plain(line)


def _plain(text: str) -> str:
    """A text whose dollars are not taken for mathematics."""
    return text.replace("$", r"\$")

"""Figures of encoders side by side: collapse, ranks and probes by arm, and final spectra."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.metrics.collapse import DEAD
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import panels, points, traced
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """Arms in numbers, and their spectra."""
    config = outcome.record["config"]
    kinds = "; ".join(
        f"{one['arm'] or 'defaults'}: " + ", ".join(f"{kind} {count}" for kind, count in one["kinds"].items() if count)
        for one in outcome.record["arms"]
    )
    seeds = len({one["seed"] for one in outcome.record["runs"]})
    return Page(
        f"Encoders side by side on {config['data']}",
        f"{seeds} seeds of {config['steps']} steps; data split, views and initial weights of a seed are the same in all arms. "
        f"Kinds of collapse by arm: {kinds}. Intervals are 95 %: Wilson for counts, Student over seeds for means; arms are tested against "
        "the first by the paired t test.",
        (
            Section(
                "arms",
                "Probe accuracy and ranks",
                arms(outcome),
                "Markers: single seeds. Bars: mean and 95 % interval over seeds. Ranks are effective ranks of covariances on views of "
                "training images; of z / ||z|| for losses that see directions only.",
            ),
            Section(
                "spectra",
                "Spectra at the end",
                spectra(outcome),
                "Eigenvalues of the covariance of z / ||z||, one line per seed. Below the dotted line, relative to the largest, a "
                "dimension is dead; a spectrum whose sum is below 0.01 is complete collapse of directions.",
            ),
        ),
    )


def arms(outcome: Outcome) -> Figure:
    """Every probe, the ranks, and the time of a step, one row of markers per arm."""
    shown = [name for name in outcome.record["probes"] if any(one[name] for one in outcome.record["arms"])]
    quantities = [(name, f"{name} probe of h [%]", 100.0) for name in shown]
    quantities += [("rank_z", "effective rank of z", 1.0), ("directions_rank", "effective rank of z / ‖z‖", 1.0)]
    quantities += [("seconds_per_step", "time of a step [ms]", 1000.0)]
    count = len(outcome.record["arms"])
    figure, axes = panels(2, 3, width=13.5, height=1.6 + 0.32 * count)
    for panel, (name, label, scale) in zip(axes.flat, quantities, strict=False):
        _by_arm(panel, outcome, name, scale)
        panel.set(xlabel=label)
    for k, panel in enumerate(axes.flat):
        panel.set_visible(k < len(quantities))
        names = [one["arm"] or "defaults" for one in outcome.record["arms"]]
        panel.set_yticks(range(count), names if k % 3 == 0 else [""] * count)
        panel.invert_yaxis()
    return figure


def _by_arm(panel: Axes, outcome: Outcome, name: str, scale: float) -> None:
    for k, one in enumerate(outcome.record["arms"]):
        own = (row for row in outcome.record["runs"] if row["arm"] == one["arm"])
        values = np.array([scale * row[name] for row in own if row.get(name) is not None])
        points(panel, values, np.full(len(values), k + 0.18), k, most=None)
        if one[name] is None:
            continue
        low, high = one[name]["low"], one[name]["high"]
        panel.plot([scale * one[name]["mean"]], [k - 0.1], "|", color="black", ms=11)
        if low is not None:
            panel.plot([scale * low, scale * high], [k - 0.1, k - 0.1], "-", color="black", lw=1.3)
    panel.set_ylim(-0.6, len(outcome.record["arms"]) - 0.4)


def spectra(outcome: Outcome) -> Figure:
    """Final spectra of directions, one panel per arm."""
    count = len(outcome.record["arms"])
    columns = min(count, 5)
    figure, axes = panels(-(-count // columns), columns, width=2.7 * columns + 0.5, height=3.2)
    for panel in axes.flat[count:]:
        panel.set_visible(False)
    for index, (panel, one) in enumerate(zip(axes.flat, outcome.record["arms"], strict=False)):
        for k in range(outcome.record["config"]["seeds"]):
            values = outcome.arrays.get(f"arm{index}_seed{k}_spectrum_directions")
            if values is None:
                continue
            end = np.maximum(values[-1], 1e-9)
            numbers = np.arange(1, len(end) + 1)
            traced(panel, numbers, end, index)
            panel.axhline(DEAD * end[0], color="0.4", lw=0.8, ls=":")
        panel.set(title=(one["arm"] or "defaults").replace(",", ",\n"), yscale="log", ylim=(1e-7, 2), xlabel="index k")
        panel.title.set_fontsize(9)
    axes[0, 0].set_ylabel("eigenvalues of cov z / ‖z‖")
    return figure

"""Figures of encoders side by side: collapse, ranks and probes by arm, and final spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import panels, points, traced
from grassmann_ssl.runs import Outcome

JUDGED = {"z": "cov z", "directions": "cov z / ‖z‖"}
COLUMNS = 3
FLOOR = 1e-9  # of the largest eigenvalue: where a logarithmic axis puts 0


def page(outcome: Outcome) -> Page:
    """Arms in numbers, and their spectra."""
    config = outcome.record["config"]
    of_kinds: dict[str, list[str]] = {}
    for one in outcome.record["arms"]:
        counts = ", ".join(f"{kind} {count}" for kind, count in one["kinds"].items() if count)
        of_kinds.setdefault(counts, []).append(_label(one))
    kinds = "; ".join(f"{counts}: {', '.join(names)}" for counts, names in of_kinds.items())
    seeds = len({one["seed"] for one in outcome.record["runs"]})
    return Page(
        f"Encoders side by side on {config['data']}",
        f"{seeds} seed{'s' * (seeds != 1)} of {config['steps']} steps; data, views and initial weights of a seed are the same in all arms. "
        f"Kinds of collapse, with their seeds, and the arms: {kinds}. {_intervals(outcome)}",
        (
            Section(
                "arms",
                "Probe accuracy and ranks" if _probes(outcome) else "Ranks",
                arms(outcome),
                f"Markers: single seeds.{' Bars: mean and 95 % interval over seeds.' if _enough(outcome) else ''} Ranks are effective "
                "ranks of covariances on views of training samples.",
            ),
            Section(
                "spectra",
                "Spectra at the end",
                spectra(outcome),
                _spectra_caption(outcome),
            ),
        ),
    )


def _label(arm: dict[str, Any]) -> str:
    """What an arm of a record is called; in older ones by its settings."""
    return str(arm.get("label") or arm["arm"] or "defaults")


def _enough(outcome: Outcome) -> bool:
    """Whether some arm has an interval over seeds."""
    return any(one[name] and one[name]["low"] is not None for one in outcome.record["arms"] for name in one["means"])


def _intervals(outcome: Outcome) -> str:
    wilson = "Intervals of counts are Wilson's at 95 %"
    if not _enough(outcome):
        return (
            f"{wilson}; for intervals or tests of means there are too few seeds, and the values themselves are shown."
        )
    return (
        f"{wilson}, those of means Student's over seeds, within the range of what is measured; arms are tested against the first by the "
        "paired t test."
    )


def _spectra_caption(outcome: Outcome) -> str:
    """Which spectrum was judged in which arm, and the rule."""
    arms = {kind: [_label(one) for one in outcome.record["arms"] if one["judged"] == kind] for kind in JUDGED}
    which = "; ".join(f"{JUDGED[kind]} for {', '.join(names)}" for kind, names in arms.items() if names)
    dead = outcome.record["thresholds"]["dead"]
    limits = f"Below the dotted line, {dead:g} of the largest, a dimension is dead. {outcome.record['collapse_rule']}."
    return f"Eigenvalues on which collapse is judged, one line per seed: {which or 'none, all runs diverged'}. {limits}"


def _probes(outcome: Outcome) -> list[str]:
    """The probes that some arm has."""
    return [name for name in outcome.record["probes"] if any(one[name] for one in outcome.record["arms"])]


def arms(outcome: Outcome) -> Figure:
    """Every probe, the ranks, and the time of a step, one row of markers per arm."""
    quantities = [(name, f"{name} probe of h [%]", 100.0) for name in _probes(outcome)]
    quantities += [("rank_z", "effective rank of z", 1.0), ("directions_rank", "effective rank of z / ‖z‖", 1.0)]
    quantities += [("seconds_per_step", "time of a step [ms]", 1000.0)]
    count = len(outcome.record["arms"])
    figure, axes = panels(2, 3, 1.0 + 0.4 * count, 5.0)
    for panel, (name, label, scale) in zip(axes.flat, quantities, strict=False):
        _by_arm(panel, outcome, name, scale)
        panel.set(xlabel=label)
    for k, panel in enumerate(axes.flat):
        panel.set_visible(k < len(quantities))
        names = [_label(one).replace(", ", ",\n") for one in outcome.record["arms"]]
        panel.set_yticks(range(count), names, fontsize=8)
        panel.invert_yaxis()
    return figure


def _by_arm(panel: Axes, outcome: Outcome, name: str, scale: float) -> None:
    for k, one in enumerate(outcome.record["arms"]):
        own = (row for row in outcome.record["runs"] if row["arm"] == one["arm"])
        values = np.array([scale * row[name] for row in own if row.get(name) is not None])
        points(panel, values, np.full(len(values), k + 0.18), k, most=None)
        if one[name] is None or one[name]["low"] is None:
            continue
        low, high = one[name]["low"], one[name]["high"]
        panel.plot([scale * one[name]["mean"]], [k - 0.1], "|", color="black", ms=11)
        panel.plot([scale * low, scale * high], [k - 0.1, k - 0.1], "-", color="black", lw=1.3)
    panel.set_ylim(-0.6, len(outcome.record["arms"]) - 0.4)


def spectra(outcome: Outcome) -> Figure:
    """Final spectra that were judged, of z or of its directions, one panel per arm."""
    count = len(outcome.record["arms"])
    columns = min(count, COLUMNS)
    dead = outcome.record["thresholds"]["dead"]
    figure, axes = panels(-(-count // columns), columns, 3.4)
    for panel in axes.flat[count:]:
        panel.set_visible(False)
    for index, (panel, one) in enumerate(zip(axes.flat, outcome.record["arms"], strict=False)):
        panel.set(title=_label(one).replace(", ", ",\n"), xlabel="index k")
        panel.title.set_fontsize(9)
        if one["judged"] is None:
            panel.text(0.5, 0.5, "diverged", ha="center", transform=panel.transAxes)
            panel.set(xticks=[], yticks=[], xlabel="")
            continue
        for k in range(outcome.record["config"]["seeds"]):
            values = outcome.arrays.get(f"arm{index}_seed{k}_spectrum_{one['judged']}")
            if values is None:
                continue
            largest = values[-1, 0] if values[-1, 0] > 0 else 1.0
            traced(panel, np.arange(1, values.shape[1] + 1), np.maximum(values[-1], FLOOR * largest), index)
            panel.axhline(dead * largest, color="0.4", lw=0.8, ls=":")
        panel.set(yscale="log", ylabel=f"eigenvalues of {JUDGED[one['judged']]}")
    return figure

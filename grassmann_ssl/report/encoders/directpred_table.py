"""Figures of a table of predictors: probes by cell, against the predictor's learning rate, and eigenspaces over training."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.report.eigenspaces import IN_ORDER, LABELS, eigenspaces_row
from grassmann_ssl.report.encoders.train import TIME
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import SERIES, panels
from grassmann_ssl.runs import Outcome

SHOWN = ((False, False), (False, True), (True, False), (True, True))  # with EMA, with weight decay
WORDS = {True: "with", False: "without"}
APART = 0.18  # of the rows of a predictor
PAPERS = "Tian et al. (ICML 2021, arXiv 2102.06810) and, for DirectSet and DirectCopy, Wang et al. (arXiv 2110.04947)"


def page(outcome: Outcome) -> Page:
    """The cells, Fig. 6 and Fig. 2 in kind."""
    config, record = outcome.record["config"], outcome.record
    seeds = len({row["seed"] for row in record["runs"]})
    lede = (
        f"Which predictors keep an encoder without negatives from collapse, and what is the representation worth? {PAPERS} ask this of "
        f"ResNet-18 on STL-10 and CIFAR-10; here it is {config['encoder']} on {config['data']}, d = {config['dim']}, {seeds} seeds of "
        f"{config['steps']} steps of SGD (learning rate {config['lr']:g}, momentum 0.9, batches of {config['batch']}), EMA from "
        f"{config['teacher']:g}, weight decay {config['weight_decay']:g}; these settings are ours. The loss is the negative cosine, as "
        f"theirs. {_verdicts(record)} {_room(record)}"
    )
    sections = [Section("cells", "Probes and dimensions used", _cells(outcome), _cells_caption(outcome))]
    if any(one["cell"]["rate"] != 1 for one in record["arms"]):
        sections.append(
            Section(
                "rates",
                "Against the learning rate of the predictor",
                _rates(outcome),
                "Symmetric predictor without EMA, as in Fig. 6 of Tian et al., whose values are not readable here: its learning rate over "
                f"that of the encoder, α_p. {_bars(outcome)}",
            )
        )
    if record["eigenspaces"]:
        sections.append(
            Section(
                "eigenspaces",
                "Eigenspaces of predictor and correlation",
                _eigenspaces(outcome),
                _spaces_caption(outcome),
            )
        )
    return Page(f"Predictors by SGD and in closed form on {config['data']}", lede, tuple(sections))


def _verdicts(record: dict[str, Any]) -> str:
    """How many of the differences that papers report are seen here."""
    found = [one["verdict"] for one in record["claims"]]
    if not found:
        return "No difference that the papers report is between cells of this run."
    counts = [f"{found.count(one)} {one}" for one in dict.fromkeys(found)]
    return (
        f"Differences of the linear probe that the papers report or argue for, {len(found)} in all: {', '.join(counts)}; of such intervals "
        "one in twenty is wrong by chance."
    )


def _room(record: dict[str, Any]) -> str:
    """How far the probes of the untrained encoder are below the best."""
    arms = [one for one in record["arms"] if one["logistic"]]
    random = next((one for one in arms if one["cell"]["row"] == "untrained"), None)
    if random is None:
        return ""
    least, most = (100 * f(one["logistic"]["mean"] for one in arms) for f in (min, max))
    return (
        f"The linear probe tells little where random features are good already: {100 * random['logistic']['mean']:.1f} % untrained, "
        f"{least:.1f} to {most:.1f} % over all cells."
    )


def _intervals(outcome: Outcome) -> bool:
    return any(one["dimensions_used"] and one["dimensions_used"]["low"] is not None for one in outcome.record["arms"])


def _bars(outcome: Outcome) -> str:
    return f"Markers: means over seeds{', bars their 95 % intervals' if _intervals(outcome) else ''}."


def _quantities(outcome: Outcome) -> list[tuple[str, str, float]]:
    shown = [name for name in outcome.record["probes"] if any(one[name] for one in outcome.record["arms"])]
    dimensions = outcome.record["config"]["dim"]
    names = [(name, f"{name} probe of h [%]", 100.0) for name in ("logistic", "ridge", "knn") if name in shown]
    return [*names, ("dimensions_used", f"dimensions of z / ‖z‖ used, of {dimensions}", 1.0)]


def _drawn(
    panel: Axes, at: float, value: dict[str, Any], scale: float, series: int, label: str | None, flat: bool
) -> None:
    """A mean at a place of the one axis, with its interval along the other; `flat`: along the horizontal."""
    style = SERIES[series]

    def plot(values: list[float], **drawn: Any) -> None:
        where = [at] * len(values)
        panel.plot(*((values, where) if flat else (where, values)), color=style["color"], **drawn)

    plot([scale * value["mean"]], marker=style["marker"], ls="none", mfc="none", ms=5, label=label)
    if value["low"] is not None:
        plot([scale * value["low"], scale * value["high"]], lw=1)


def _cells(outcome: Outcome) -> Figure:
    """One row a predictor, four cells each."""
    arms = [one for one in outcome.record["arms"] if one["cell"]["rate"] == 1]
    names = list(dict.fromkeys(one["label"] for one in arms))
    quantities = _quantities(outcome)
    figure, axes = panels(1, len(quantities), 2.4 + 0.55 * len(names), 5.0)
    for panel, (name, label, scale) in zip(axes[0], quantities, strict=True):
        labelled = set()
        for one in arms:
            if one[name] is None:
                continue
            series = SHOWN.index((one["cell"]["ema"], one["cell"]["decay"]))
            said = None if series in labelled else _words(*SHOWN[series])
            labelled.add(series)
            row = [other["arm"] for other in arms if other["label"] == one["label"]]
            at = names.index(one["label"]) + APART * (row.index(one["arm"]) - (len(row) - 1) / 2)
            _drawn(panel, at, one[name], scale, series, said, flat=True)
        panel.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        panel.set_yticks(range(len(names)), names)
        panel.grid(axis="y", lw=0.3)
    order = [_words(*one) for one in SHOWN]
    for panel in axes[0]:
        handles = sorted(zip(*panel.get_legend_handles_labels(), strict=True), key=lambda one: order.index(one[1]))
        below = {"loc": "upper center", "bbox_to_anchor": (0.4, -0.5 / (1.3 + 0.55 * len(names)))}
        panel.legend(*zip(*handles, strict=True), **below, ncols=2, frameon=False, fontsize=8)
    return figure


def _words(ema: bool, decay: bool) -> str:
    return f"{WORDS[ema]} EMA, {WORDS[decay]} weight decay"


def _cells_caption(outcome: Outcome) -> str:
    diverged = [
        f"{one['label']} {one['kinds']['diverged']}" for one in outcome.record["arms"] if one["kinds"]["diverged"]
    ]
    return f"{_bars(outcome)}" + (f" Diverged and left out: {', '.join(diverged)}." if diverged else "")


def _rates(outcome: Outcome) -> Figure:
    """Every quantity against the predictor's learning rate."""
    arms = outcome.record["arms"]
    other = next(one["cell"] for one in arms if one["cell"]["rate"] != 1)
    same = [one for one in arms if {**one["cell"], "rate": 1.0} == {**other, "rate": 1.0}]
    quantities = _quantities(outcome)
    figure, axes = panels(1, len(quantities))
    for panel, (name, label, scale) in zip(axes[0], quantities, strict=True):
        seen = sorted((one["cell"]["rate"], one[name]) for one in same if one[name] is not None)
        for rate, value in seen:
            _drawn(panel, rate, value, scale, 0, None, flat=False)
        panel.set(xscale="log", xlabel="α_p", ylabel=label)
    return figure


def _eigenspaces(outcome: Outcome) -> Figure:
    """One row a cell whose predictor SGD trains."""
    cells, arms = outcome.record["eigenspaces"], outcome.record["arms"]
    figure, axes = panels(len(cells), 4)
    for row, one in zip(axes, cells, strict=True):
        index = next(k for k, arm in enumerate(arms) if arm["cell"] == one["cell"])
        starts = [
            f"arm{index}_seed{k}_"
            for k in range(outcome.record["config"]["seeds"])
            if f"arm{index}_seed{k}_predictor_f" in outcome.arrays
        ]
        spaces = {
            name: np.stack([outcome.arrays[f"{start}predictor_{name}"] for start in starts], 1)
            for name in (*LABELS, "unaligned")
        }
        time = outcome.arrays[f"{starts[0]}time"]
        symmetric = one["cell"]["row"] == "linear-symmetric"
        eigenspaces_row(row, time, spaces, one["quantity"], TIME, symmetric)
        row[2].plot(time, np.median(spaces["unaligned"][..., 0], -1), color="black", lw=1.2, ls="--")
        row[2].set_ylim(0, 1.03)
    return figure


def _spaces_caption(outcome: Outcome) -> str:
    ends = "; ".join(
        f"{one['quantity']}: {one['all_end']['mean']:.2f} at the end and {one['all_start']['mean']:.2f} at the start, weighted "
        f"{one['weighted_end']['mean']:.2f} and {one['weighted_start']['mean']:.2f}, dashed line {one['unaligned']['mean']:.2f}"
        for one in outcome.record["eigenspaces"]
    )
    return (
        "As Fig. 2 of Tian et al., on the trained encoder: F = E z zᵀ on fixed views of training samples, one line per eigenvector, median "
        f"over seeds on the band of their range. {IN_ORDER}. A multiple of the identity has |cos| = 1 with whatever: dashed, what "
        f"directions unrelated to F have under the same W_p. Mean |cos| over eigenvectors, and weighted by the eigenvalues of F: {ends}."
    )

"""Figures of the collapse experiment: a map of verdicts for each objective, and effective ranks against the prediction."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, SERIES, line, panels
from grassmann_ssl.runs import Outcome

PREDICTOR = (
    "With a predictor, theory says which modes a stable solution keeps. Weights near it end there; orthonormal ones at random, as here, "
    "may be outside its basin: the findings have both starts."
)
LETTER = {"none": "", "dimensional": "d", "complete": "c", "diverged": "∞"}


def page(outcome: Outcome) -> Page:
    """Verdict maps, then effective ranks."""
    config = outcome.record["config"]
    return Page(
        "What keeps an embedding from collapsing",
        f"A linear model z = Wᵀx, m = {len(config['spectrum'])}, d = {config['dim']}, on Gaussian data: signal variances "
        f"{', '.join(f'{v:g}' for v in config['spectrum'])}, views by additive noise, inputs scaled so that their largest variance is 1. "
        f"Population gradients, {config['steps']:,} steps, {config['seeds']} seeds per cell. All settings are ours. "
        f"Verdicts on exact eigenvalues: {outcome.record['collapse_rule']}.",
        (
            Section(
                "verdicts",
                "Collapse probability",
                verdict_maps(outcome),
                "Each cell: the fraction of seeds that collapsed (shade and number), and how most of them did: d dimensional, c complete, "
                "∞ diverged. Thick line: where theory puts the boundary between collapse and none; a cross: most of the seeds that "
                "converged end otherwise than predicted (in another kind or, under Stiefel and Grassmann, with another effective "
                "rank); a tilde: most seeds had not converged, and count for nothing; a dot: no prediction. Theory is the limit of "
                "infinite time: next to a boundary modes leave the origin too slowly for any finite run."
                + (f" {PREDICTOR}" if "predictor" in config["constraints"] else ""),
            ),
            Section(
                "ranks",
                "Effective rank",
                ranks(outcome),
                "Markers: effective rank of the embedding's covariance, median over seeds, 0 where it collapsed completely. "
                "Lines: effective rank of the predicted final spectrum, where there is a prediction.",
            ),
        ),
    )


def _grid(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(2, count)
    figure, axes = panels(-(-count // columns), columns, height, 4.8)
    flat = list(axes.ravel())
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def _objectives(outcome: Outcome) -> list[str]:
    """Those of which some constraint was trained, in their order."""
    return list(dict.fromkeys(cell["objective"] for cell in outcome.record["cells"]))


def _cells(outcome: Outcome, objective: str) -> dict[tuple[str, float], dict[str, Any]]:
    return {
        (cell["constraint"], cell["noise"]): cell for cell in outcome.record["cells"] if cell["objective"] == objective
    }


def verdict_maps(outcome: Outcome) -> Figure:
    """One map per objective: constraints by row, noise by column."""
    config, objectives = outcome.record["config"], _objectives(outcome)
    figure, axes = _grid(len(objectives), 3.6)
    for panel, objective in zip(axes, objectives, strict=True):
        cells = _cells(outcome, objective)
        constraints = [c for c in config["constraints"] if (c, config["noise"][0]) in cells]
        table = [[cells[c, noise] for noise in config["noise"]] for c in constraints]
        shade = np.array([[cell["collapse_probability"] for cell in row] for row in table])
        panel.imshow(shade, cmap="Greys", vmin=0, vmax=1.3, aspect="auto")
        for i, row in enumerate(table):
            for j, cell in enumerate(row):
                _write(panel, i, j, cell)
        _boundary(panel, [[cell["predicted_kind"] for cell in row] for row in table])
        panel.set_yticks(range(len(constraints)), [c.replace("_", " ") for c in constraints])
        panel.set_xticks(range(len(config["noise"])), [f"{noise:g}" for noise in config["noise"]])
        panel.set(title=objective.replace("_", " "), xlabel="noise of a view (standard deviation)")
    return figure


def _write(panel: Axes, i: int, j: int, cell: dict[str, Any]) -> None:
    most = max(cell["kinds"], key=lambda kind: cell["kinds"][kind])
    color = "white" if cell["collapse_probability"] > 0.6 else "black"
    panel.text(
        j, i, f"{cell['collapse_probability']:.2g}{LETTER[most]}", ha="center", va="center", fontsize=8, color=color
    )
    if cell["predicted_kind"] is None:
        panel.plot(j + 0.38, i - 0.33, ".", color=color, ms=4)
    elif 2 * cell["converged"] <= cell["seeds"]:
        panel.text(j + 0.36, i - 0.3, "~", color=color, ha="center", va="center", fontsize=9)
    elif 2 * cell["as_predicted"] <= cell["converged"]:
        panel.plot(j + 0.36, i - 0.3, "x", color=SERIES[0]["color"], ms=5, mew=1.5)


def _boundary(panel: Axes, kinds: list[list[str | None]]) -> None:
    """Thick edges between neighbouring cells of a row of which one is predicted to collapse and the other not."""
    for i, row in enumerate(kinds):
        for j, (left, right) in enumerate(pairwise(row)):
            if left is not None and right is not None and (left == "none") != (right == "none"):
                panel.plot(
                    [j + 0.5, j + 0.5], [i - 0.5, i + 0.5], color=SERIES[1]["color"], lw=3, solid_capstyle="butt"
                )


def ranks(outcome: Outcome) -> Figure:
    """Effective rank against noise, one panel per objective."""
    config, objectives = outcome.record["config"], _objectives(outcome)
    figure, axes = _grid(len(objectives), 3.9)
    order = {c: k for k, c in enumerate(config["constraints"])}
    for panel, objective in zip(axes, objectives, strict=True):
        cells = _cells(outcome, objective)
        for constraint in config["constraints"]:
            own = [cells[constraint, noise] for noise in config["noise"] if (constraint, noise) in cells]
            if not own:
                continue
            style = SERIES[order[constraint] % len(SERIES)]
            hollow = "none" if order[constraint] < len(SERIES) else style["color"]
            noise = [cell["noise"] for cell in own]
            panel.plot(
                noise,
                [cell["effective_rank"] for cell in own],
                style["marker"],
                color=style["color"],
                mfc=hollow,
                label=constraint.replace("_", " "),
            )
            known = [cell for cell in own if cell["predicted_effective_rank"] is not None]
            if known:
                x, y = zip(*((cell["noise"], cell["predicted_effective_rank"]) for cell in known), strict=True)
                panel.plot(x, y, **line(order[constraint]), lw=1)
        panel.set(
            title=objective.replace("_", " "),
            xlabel="noise of a view (standard deviation)",
            ylabel=f"effective rank (at most {config['dim']})",
            ylim=(-0.2, config["dim"] + 0.2),
        )
    axes[0].legend(**LEGEND, ncols=2)
    return figure

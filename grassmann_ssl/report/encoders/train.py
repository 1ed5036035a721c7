"""Figures of a trained encoder: loss and spectra over time, and final spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, panels, traced
from grassmann_ssl.runs import Outcome

TIME = "time t = sum of learning rates / (1 − momentum)"
JUDGED = {"z": "cov z", "directions": "cov z / ‖z‖: the loss sees directions only"}
SHOWN = 8  # eigenvalues with a legend of their own


def page(outcome: Outcome) -> Page:
    """Loss and eigenvalues over time; final spectra."""
    config, record = outcome.record["config"], outcome.record
    verdict = record["verdict"]
    held = ", ".join(record["constrained"]) or "no layer"
    return Page(
        f"{config['objective']} on {config['data']}: constraint {config['constraint']}",
        f"Encoder {config['encoder']}, {record['parameters']:,} parameters, embedding dimension {config['dim']}, predictor "
        f"{config['predictor']}, teacher {config['teacher'] or 'none'}, constraint {config['constraint']} on {held}; "
        f"{record['steps_done']} steps of {config['optimizer']} with "
        f"batches of {record['batch']}{_crops(config)}. Collapse: {verdict['judgement']}. {verdict['rule']}.",
        (
            Section(
                "training",
                "Loss and spectrum of the embedding over time",
                training(outcome),
                "Eigenvalues of the covariance of z on fixed views of training samples. Dotted: steps that were detected, "
                f"{record['steps_detected']['count']} of them. Collapse was judged on "
                f"{JUDGED[record['judged']]}, over {verdict['rows']:,} rows.",
            ),
            Section(
                "spectra",
                "Spectra at the end",
                spectra(outcome),
                "Eigenvalues of covariances over their largest. The line is the limit below which a dimension of the embedding is dead.",
            ),
        ),
    )


def _crops(config: dict[str, Any]) -> str:
    """How many small crops there were beside two views."""
    count = config.get("crops")
    return f", {count} small crop{'s' * (count > 1)} beside two views" if count else ""


def training(outcome: Outcome) -> Figure:
    """Loss, eigenvalues of cov z, and of cov of directions."""
    probes = {name: values for name, values in outcome.metrics.items() if name.startswith("probe_")}
    figure, axes = panels(1, 4 if probes else 3)
    time = outcome.metrics["time"]
    seen = time > 0
    loss, z, directions = axes[0][:3]
    loss.plot(time[seen], outcome.metrics["loss"][seen], color="black", lw=1.2, marker="o", ms=3, mfc="none")
    loss.set(title="loss", ylabel="mean since the last record")
    for panel, name, title in (
        (z, "z", "eigenvalues of cov z"),
        (directions, "directions", "eigenvalues of cov z / ‖z‖"),
    ):
        values = outcome.arrays[f"spectrum_{name}"]
        for k in range(values.shape[1]):
            label = f"{k + 1}" if k < SHOWN else None
            traced(panel, time[seen], np.maximum(values[seen, k], 1e-12), k, label)
        panel.set(title=title, yscale="log")
    for t in outcome.record["steps_detected"]["times"]:
        z.axvline(t, color="0.4", lw=0.9, ls=":")
    z.legend(**LEGEND, ncols=2, loc="lower right")
    for k, (name, values) in enumerate(probes.items()):
        traced(axes[0][3], time[seen], values[seen], k, name.removeprefix("probe_"))
    if probes:
        axes[0][3].set(title="probes of h", ylabel="share of test samples that are right")
        axes[0][3].legend(**LEGEND)
    for panel in axes[0]:
        panel.set(xscale="log", xlabel=TIME)
    return figure


def spectra(outcome: Outcome) -> Figure:
    """The last recorded spectra of z, of its directions, and of the representation."""
    dead = outcome.record["verdict"]["thresholds"]["dead"]
    figure, axes = panels(1, 1, width=4.8)
    panel = axes[0, 0]
    names = {"z": "embedding z", "directions": "z / ‖z‖", "h": "representation h"}
    for k, (name, label) in enumerate(names.items()):
        values = outcome.arrays[f"spectrum_{name}"][-1]
        largest = values[0] if values[0] > 0 else 1.0
        traced(panel, np.arange(1, len(values) + 1), np.maximum(values / largest, 1e-12), k, label)
    panel.axhline(dead, color="black", lw=1, ls=":", label="dead below")
    panel.set(xscale="log", yscale="log", xlabel="index k", ylabel="eigenvalue over the largest")
    panel.legend(**LEGEND)
    return figure

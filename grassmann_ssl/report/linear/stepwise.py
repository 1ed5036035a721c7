"""Figures of stepwise learning: the staircase of one seed, all step times against theory, and held-out embeddings."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.growth import growth
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, THEORY, TIME, panels, points
from grassmann_ssl.runs import Outcome

LOSS = {
    "barlow_twins": "Barlow Twins, ‖WᵀΓW − I‖² (off-diagonal terms weighted by λ)",
    "spectral_contrastive": "the spectral contrastive loss, −2 tr WᵀΓW + ‖WᵀΣW‖²",
    "squared_vicreg": "VICReg in squared form, ‖WᵀΣW − I‖² + β E‖z − z′‖²",
    "infonce": "InfoNCE on the population, similarity −‖z − z′‖²/2, temperature 1",
}


def page(outcome: Outcome) -> Page:
    """Staircase, step times, and for random features the embeddings."""
    config = outcome.record["config"]
    model = (
        "A linear model"
        if config["model"] == "linear"
        else f"A linear layer on {config['features']} fixed random ReLU features"
    )
    sections = [
        Section(
            "staircase",
            "Loss and eigenvalues in time",
            staircase(outcome),
            f"First seed. Markers: loss and eigenvalues measured in training. Dotted: {_times(outcome)}."
            + (" Lines: predicted curves." if "curves" in outcome.arrays else "")
            + " Dashed: the predicted final eigenvalues.",
        ),
        Section(
            "step_times",
            "Step times, all seeds",
            step_times(outcome),
            "Each marker is one step of one seed: the time at which the k-th eigenvalue reaches half its final height, against the time "
            + (
                "predicted from the initial weights"
                if outcome.record["times"] == "predicted"
                else "at which it does in a numerical integration of the flow from the same weights. Training discretises that flow: no "
                "independent prediction is known where the moments Γ and Σ do not commute"
            )
            + "; on the diagonal they are equal."
            + (
                " Bars: mean and standard deviation predicted before any draw, from the size of the initialisation alone."
                if "a_priori" in outcome.record
                else ""
            ),
        ),
    ]
    if "cloud" in outcome.arrays:
        sections.append(
            Section(
                "growth",
                "The embedding over time, along the directions of the first three steps",
                growth(*(outcome.arrays[f"cloud{name}"] for name in ("_time", "", "_steps", "_stills"))),
                f"First seed: embeddings of {outcome.arrays['cloud'].shape[1]} samples, centred, until half-way from the third step to "
                "the next. Axes: directions of most variance, each across the ones before, half-way between a step and the next. Bars: "
                "variance along them.",
            )
        )
    if "held_out_trained" in outcome.arrays:
        sections.append(
            Section(
                "held_out",
                "Embeddings of held-out samples",
                held_out(outcome),
                "Every coordinate of every held-out sample: trained, against predicted from kernel values alone (turned by one rotation).",
            )
        )
    return Page(
        f"Stepwise learning: {config['loss'].replace('_', ' ')} on {config['data'].replace('_', ' ')}",
        f"{model}, d = {config['dim']}, trained with {LOSS[config['loss']]}, by full-batch gradient descent from Gaussian weights of size "
        f"{config['init_scale']:g}, {config['seeds']} seeds. Theory: Simon et al. 2023, arXiv 2303.15438, and what was derived from it. "
        f"Time is t = learning rate × step, learning rate {outcome.record['learning_rate']:.3g}.",
        tuple(sections),
    )


def _times(outcome: Outcome) -> str:
    """What the times are that measured ones are held against."""
    return "predicted step times" if outcome.record["times"] == "predicted" else "step times of the integrated flow"


def staircase(outcome: Outcome) -> Figure:
    """Loss above, eigenvalues below, on one time axis."""
    time, values, heights = (outcome.arrays[name] for name in ("time", "eigenvalues", "heights"))
    figure = Figure(figsize=(5.2, 6.4), layout="constrained")
    loss, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    points(loss, time, outcome.arrays["loss"], 0, "measured")
    if "curves" in outcome.arrays and outcome.record["config"]["loss"] == "barlow_twins":
        loss.plot(time, ((1 - outcome.arrays["curves"]) ** 2).sum(1), **THEORY, label="theory")
    loss.legend(**LEGEND)
    loss.set_ylabel("loss")
    for k in range(values.shape[1]):
        points(spectrum, time, values[:, k], k, f"mode {k + 1}")
        spectrum.axhline(heights[k], color="0.6", lw=0.8, ls="--")
        if "curves" in outcome.arrays:
            curve = outcome.arrays["curves"][:, k]
            spectrum.plot(time, curve, **THEORY, label="theory" if k == 0 else None)
    for k, step in enumerate(outcome.arrays[f"{outcome.record['times']}_times"][0]):
        for axes in (loss, spectrum):
            axes.axvline(
                step, color="0.4", lw=0.9, ls=":", label=_times(outcome) if k == 0 and axes is spectrum else None
            )
    moment = "C = WᵀΓW" if outcome.record["config"]["loss"] == "barlow_twins" else "WᵀΣW"
    spectrum.set(xlabel=TIME, ylabel=f"eigenvalues of {moment}")
    figure.legend(*spectrum.get_legend_handles_labels(), **LEGEND, loc="outside lower center", ncols=3)
    return figure


def step_times(outcome: Outcome) -> Figure:
    """Measured against predicted times."""
    figure, axes = panels(1, 1, 4.4, 4.8)
    panel = axes[0, 0]
    known = outcome.record["times"]
    predicted, measured = outcome.arrays[f"{known}_times"], outcome.arrays["measured_times"]
    low, high = 0.9 * predicted.min(), 1.1 * predicted.max()
    panel.plot([low, high], [low, high], **THEORY, label="theory: equal" if known == "predicted" else "equal")
    for k in range(predicted.shape[1]):
        seen = np.isfinite(measured[:, k])
        points(panel, predicted[seen, k], measured[seen, k], k, f"step {k + 1}", most=None)
    if "a_priori" in outcome.record:
        mean, deviation = (np.array(outcome.record["a_priori"][name]) for name in ("mean", "standard_deviation"))
        panel.errorbar(
            mean, mean, xerr=deviation, fmt="none", ecolor="0.5", capsize=3, label="before any draw: mean ± sd"
        )
    panel.set(
        xlabel="predicted step time t" if known == "predicted" else "step time t of the integrated flow",
        ylabel="measured step time t",
        xlim=(low, high),
        ylim=(low, high),
    )
    panel.legend(**LEGEND)
    return figure


def held_out(outcome: Outcome) -> Figure:
    """Trained against predicted coordinates."""
    figure, axes = panels(1, 1, 4.4, 4.8)
    panel = axes[0, 0]
    predicted, trained = outcome.arrays["held_out_predicted"], outcome.arrays["held_out_trained"]
    ends = [min(predicted.min(), trained.min()), max(predicted.max(), trained.max())]
    panel.plot(ends, ends, **THEORY, label="theory: equal")
    for k in range(predicted.shape[1]):
        points(panel, predicted[:, k], trained[:, k], k, f"coordinate {k + 1}", most=None)
    panel.set(xlabel="predicted embedding", ylabel="trained embedding")
    panel.legend(**LEGEND)
    return figure

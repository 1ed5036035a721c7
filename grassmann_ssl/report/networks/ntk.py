"""Figures of a network against its tangent kernel: the staircase, errors of step times, angles and kernels by width."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import (
    BELOW,
    LEGEND,
    SERIES,
    THEORY,
    TIME,
    line,
    numbered,
    panels,
    points,
    power_law,
    ranges,
)
from grassmann_ssl.runs import Outcome

LINEARISED = {"color": "0.45", "lw": 1.4, "ls": (0, (4, 2))}
FLOOR = 1e-17  # where a logarithmic axis puts 0
TITLES = {"grouped": "grouped start: scalar kernel", "independent": "independent start: outputs share units"}
REFERENCES = {
    "predicted": "theory, scalar kernel",
    "linearised": "the linearised network",
    "coupled": "theory, full kernel",
}
LEGENDS = {
    "prediction": "network – prediction, kernel at the start",
    "afterwards": "network – span of the kernel after training",
    "linearised": "network – linearised network",
    "closed_form": "linearised network – prediction",
}


def page(outcome: Outcome) -> Page:
    """Staircase, step times, angles and kernels."""
    config = outcome.record["config"]
    widths = ", ".join(str(h) for h in _widths(outcome))
    return Page(
        "Stepwise learning of networks from their neural tangent kernel",
        f"Networks f(x) = h^(−1/2) Vᵀ tanh(Uᵀx), less their output at the centre of the start, d = {config['dim']} outputs, width "
        f"h = {widths}, {config['seeds']} of each, trained with Barlow Twins ‖C − I‖² by full-batch gradient descent of all weights on "
        f"{config['pairs']} pairs of {config['data']}. At the centre f = 0, a saddle: weights start beside it by a Gaussian draw of size "
        f"{config['init_scale']:g}. Theory: kernel form of Simon et al. 2023, arXiv 2303.15438, with the empirical tangent kernel averaged "
        "over outputs; step times from the initial outputs projected on its functions, at the learning rate of the run. Grouped start: "
        "that kernel is the same for every output and none couples two of them; independent start: only up to h^(−1/2). The linearised "
        "network keeps its whole kernel of the start. Time is t = learning rate × step. All of these are our settings.",
        (
            Section(
                "staircase",
                f"Eigenvalues of C, width {_widths(outcome)[-1]}",
                staircase(outcome),
                "First network. Markers: the network. Dashed: the linearised network. Solid: closed form from the kernel, dotted "
                "its step times.",
            ),
            Section(
                "step_times",
                "Step times against width",
                step_times(outcome),
                _step_times_caption(outcome),
            ),
            Section(
                "agreement",
                "Subspaces and kernels against width",
                agreement(outcome),
                "First panels: largest principal angle between spans of training embeddings, median and range over networks. By theory "
                "a finite start leaves an angle between linearised network and prediction at any width. Last: relative change of the "
                f"kernel by training, and share of it that is not scalar (grouped start: at most {_not_scalar(outcome):.1g}), with the "
                "predicted slopes.",
            ),
        ),
    )


def _widths(outcome: Outcome) -> list[int]:
    """The completed widths, the first of those that were asked for."""
    widths: list[int] = outcome.record["config"]["widths"][: outcome.arrays["times"].shape[1]]
    return widths


def _step_times_caption(outcome: Outcome) -> str:
    """What limits the agreement by theory, and what the medians of this run do."""
    record, seen = outcome.record, []
    for start in record["axes"]["start"]:
        for name, reference in (("prediction", "theory"), ("linearised", "the linearised network")):
            medians = record[start]["step_times"][name]["median_error"]
            seen.append(f"{start} start, against {reference}: {_trend(_widths(outcome), medians)}")
    return (
        "Every step of every network, and medians. By theory the kernel changes by 1/h, and with shared units (independent start) it is "
        "scalar, as the closed form takes it, only up to h^(−1/2); theory with the full kernel has the coupling to first order, the "
        "linearised network has the whole kernel. Medians measured: "
        f"{'; '.join(seen)}."
    )


def _trend(widths: list[int], medians: list[float | None]) -> str:
    """The medians of errors at the widths, and their power of h where they fall from each width to the next."""
    text = ", ".join("–" if one is None else f"{100 * one:.2g} %" for one in medians)
    known = [one for one in medians if one]
    if len(known) < len(medians) or len(known) < 2:
        return text
    if any(b >= a for a, b in pairwise(known)):
        return f"{text}, which do not fall with every width"
    slope = np.polyfit(np.log(widths), np.log(known), 1)[0]
    return f"{text}, about h^{slope:.2f}".replace("-", "−")


def _not_scalar(outcome: Outcome) -> float:
    return float(outcome.arrays["off_diagonal"][outcome.record["axes"]["start"].index("grouped")].max())


def staircase(outcome: Outcome) -> Figure:
    """Eigenvalues of the widest networks in time, one panel for each start."""
    order = outcome.record["axes"]
    figure, axes = panels(1, len(order["start"]), 4.2)
    for i, (panel, start) in enumerate(zip(axes[0], order["start"], strict=True)):
        time, trained, linearised, predicted = (
            outcome.arrays[f"{start}_{name}"] for name in ("time", "trained", "linearised", "predicted")
        )
        for k in range(trained.shape[1]):
            points(panel, time, trained[:, k], k, f"network, mode {k + 1}")
            panel.plot(time, linearised[:, k], **LINEARISED, label="linearised network" if k == 0 else None)
            panel.plot(time, predicted[:, k], **THEORY, label="theory" if k == 0 else None)
        for k, step in enumerate(outcome.arrays["times"][i, -1, order["time"].index("predicted"), 0]):
            panel.axvline(step, color="0.4", lw=0.9, ls=":", label="predicted step times" if k == 0 else None)
        panel.set(title=TITLES[start], xlabel=TIME, ylabel="eigenvalues of C", ylim=(-0.05, 1.15))
    axes[0, 0].legend(**BELOW, ncols=2)
    return figure


def step_times(outcome: Outcome) -> Figure:
    """Relative errors of all step times, against both predictions and against the linearised network."""
    widths = np.array(_widths(outcome), dtype=float)
    starts = outcome.record["axes"]["start"]
    figure, axes = panels(1, len(starts))
    for panel, start, times in zip(axes[0], starts, outcome.arrays["times"], strict=True):
        named = dict(zip(outcome.record["axes"]["time"], np.moveaxis(times, 1, 0), strict=True))
        for k, (name, title) in enumerate(REFERENCES.items()):
            if name in named:
                _errors(panel, widths, 100 * np.abs(named["trained"] / named[name] - 1), k, f"against {title}")
        panel.set(title=TITLES[start], xlabel="width h", ylabel="relative error of step times [%]")
    axes[0, 0].legend(**LEGEND)
    low, high = (f(panel.get_ylim()[i] for panel in axes.flat) for i, f in ((0, min), (1, max)))
    for panel in axes.flat:
        panel.set_ylim(low, high)
    return figure


def _errors(panel: Axes, widths: np.ndarray, errors: np.ndarray, series: int, label: str) -> None:
    """Every error (widths, S, d) as a marker, and a line through the medians of those that were seen."""
    errors = np.maximum(errors, FLOOR)
    shifted = widths * 1.15 ** (series - 0.5)
    seen = np.isfinite(errors)
    x = np.broadcast_to(shifted[:, None, None], errors.shape)
    points(panel, x[seen], errors[seen], series, label, most=None)
    some = seen.any((1, 2))
    medians = [np.median(row[good]) for row, good in zip(errors[some], seen[some], strict=True)]
    panel.plot(shifted[some], medians, **line(series), lw=1.1, label="median")
    panel.set(xscale="log", yscale="log")
    _width_ticks(panel, widths)


def agreement(outcome: Outcome) -> Figure:
    """Angles for each start, and the two ways in which a kernel is not what theory takes it for."""
    widths = np.array(_widths(outcome), dtype=float)
    starts, kinds = (outcome.record["axes"][name] for name in ("start", "angle"))
    figure, axes = panels(1, len(starts) + 1, height=4.6)
    for panel, start, angles in zip(axes[0], starts, outcome.arrays["angles"], strict=False):
        for k, name in enumerate(kinds):
            _range(panel, widths, angles[:, k], k, LEGENDS[name])
        panel.set(title=TITLES[start], xlabel="width h", ylabel="largest principal angle [rad]")
        panel.legend(**BELOW)
    low = min(panel.get_ylim()[0] for panel in axes[0, :-1])
    for panel in axes[0, :-1]:
        panel.set_ylim(low, 2)
    kernels = axes[0, -1]
    curves = [
        (outcome.arrays[name][i], f"{title}, {start} start", outcome.record[start][name]["predicted_exponent"])
        for name, title in (("kernel_change", "change"), ("off_diagonal", "not scalar"))
        for i, start in enumerate(starts)
        if outcome.record[start][name]["predicted_exponent"] is not None
    ]
    for k, (values, label, slope) in enumerate(curves):
        _range(kernels, widths, values, k, label, joined=False)
        law = power_law(widths, slope, widths, np.median(values, -1))
        kernels.plot(widths, law, **THEORY, ls=SERIES[k]["linestyle"], label=f"theory: slope −{-slope:g}")
    kernels.yaxis.set_minor_formatter(NullFormatter())
    low, high = kernels.get_ylim()
    kernels.set(title="the kernel", xlabel="width h", ylabel="relative Frobenius norm")
    kernels.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
    kernels.legend(**BELOW)
    return figure


def _range(panel: Axes, widths: np.ndarray, values: np.ndarray, series: int, label: str, joined: bool = True) -> None:
    """Median and range over networks of values (widths, S)."""
    ranges(panel, widths * 1.04 ** (series - 1.5), np.maximum(values, FLOOR), series, label, joined)
    panel.set(xscale="log", yscale="log")
    _width_ticks(panel, widths)


def _width_ticks(panel: Axes, widths: np.ndarray) -> None:
    numbered(panel.xaxis, widths)

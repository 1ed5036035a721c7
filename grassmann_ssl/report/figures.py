"""The pictures of a comparison: theory as lines, measurements as points or bands, readable in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import theory
from grassmann_ssl.report.terminal import number
from theory import landscape

if TYPE_CHECKING:
    from grassmann_ssl.experiments.linear.compare import Arm, Comparison

STYLE: dict[
    str, dict[str, Any]
] = {  # colour, line style and marker differ together, so that grey print tells arms apart
    "free": {"color": "#c1440e", "linestyle": "-"},
    "grassmann": {"color": "#12507b", "linestyle": (0, (5, 1.5))},
    "stiefel": {"color": "#3b7d3a", "linestyle": (0, (1, 1))},
}
TIME = "time t = learning rate × step"


def objective_panels(comparison: Comparison, name: str) -> Figure:
    """The four panels of one objective: loss, spectrum, effective rank, angle to the predicted subspace."""
    figure = Figure(figsize=(11.5, 7.6), layout="constrained")
    panels = figure.subplots(2, 2)
    runs = {arm: run for (objective, arm), run in comparison.arms.items() if objective == name}
    _loss(panels[0, 0], comparison, name, runs)
    _spectrum(panels[0, 1], comparison, name, runs)
    _ranks(panels[1, 0], runs, comparison.config.dim)
    _angles(panels[1, 1], runs, comparison, name)
    if name == "spectral_contrastive":  # its slowest mode settles long after the last has risen
        for axes in (panels[0, 0], panels[0, 1], panels[1, 0]):
            axes.set_xscale("log")
    return figure


def staircase(comparison: Comparison) -> Figure:
    """Loss and eigenvalues of free Barlow Twins on one time axis, with the predicted steps: the picture of stepwise learning."""
    run = comparison.arms["barlow_twins", "free"]
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    loss, eigenvalues = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    prediction = comparison.predictions["barlow_twins"]
    aligned = theory.stepwise.aligned_initialisation(_initial(run)[0], prediction.cross)
    time = run.trajectory.time.numpy()
    loss.plot(
        time, theory.stepwise.loss(time, aligned.singular_values, aligned.gamma), color="black", lw=1, label="theory"
    )
    _points(loss, time, run.trajectory.loss[:, 0].double().numpy(), STYLE["free"]["color"], "measured")
    loss.set_ylabel("loss ‖C − I‖²")
    loss.legend(frameon=False)
    times = theory.stepwise.step_times(aligned.singular_values, aligned.gamma)
    _step_lines(loss, times)
    loss.set_xlim(0, min(time[-1], 1.3 * np.max(times[np.isfinite(times)], initial=1.0)))
    _staircase(eigenvalues, run, aligned)
    eigenvalues.set_xlabel(TIME)
    figure.suptitle(
        f"Barlow Twins on {comparison.config.data}, free weights, d = {comparison.config.dim}: modes are learned one by one"
    )
    return figure


def initialisation_law(comparison: Comparison) -> Figure:
    """Final angle and step-time error of free Barlow Twins against the initialisation scale."""
    law = comparison.result["agreement"]["barlow_twins"]["initialisation_law"]
    scales, medians = np.array(law["scales"]), np.array(law["median_angles"])
    figure = Figure(figsize=(11.5, 3.9), layout="constrained")
    angle, error = figure.subplots(1, 2)
    for scale, seeds in zip(scales, law["angles"], strict=True):
        angle.plot(np.full(len(seeds), scale), seeds, ".", color="0.7", ms=4, zorder=1)
    angle.plot(scales, medians, "o", color=STYLE["free"]["color"], label="median over seeds (grey: each seed)")
    centre = np.exp(np.log(scales).mean()), np.exp(np.log(medians).mean())
    line = centre[1] * (scales / centre[0]) ** law["predicted_exponent"]
    angle.plot(
        scales,
        line,
        "k-",
        lw=1,
        label=f"theory: slope {law['predicted_exponent']:.3f} (measured {number(law['measured_exponent'])})",
    )
    constrained = comparison.arms.get(("barlow_twins", "grassmann"))
    if constrained is not None and constrained.angles is not None:
        worst = max(float(constrained.angles[-1].max()), np.finfo(float).eps)
        angle.axhline(worst, **STYLE["grassmann"], label=f"grassmann arm, worst seed: {worst:.1e}")
    angle.set(xscale="log", yscale="log", xlabel="initialisation scale α", ylabel="final largest angle [rad]")
    angle.legend(frameon=False, fontsize=8)
    errors = [np.nan if e is None else 100 * e for e in law["step_time_errors"]]
    error.plot(scales, errors, "o-", color=STYLE["free"]["color"])
    error.set(
        xscale="log", ylim=(0, None), xlabel="initialisation scale α", ylabel="step times: worst relative error [%]"
    )
    return figure


def _initial(run: Arm) -> np.ndarray:
    return run.trajectory.weights[0].double().numpy()


def _points(axes: Axes, time: np.ndarray, values: np.ndarray, color: Any, label: str | None = None) -> None:
    every = max(1, len(time) // 60)
    axes.plot(time[::every], values[::every], "o", ms=3, color=color, mfc="none", label=label)


def _step_lines(axes: Axes, times: np.ndarray, whose: str = "") -> None:
    for k, time in enumerate(times[np.isfinite(times)]):
        axes.axvline(time, color="0.6", lw=0.8, ls=":", label=f"predicted step times{whose}" if k == 0 else None)


def _staircase(axes: Axes, run: Arm, aligned: theory.stepwise.Aligned) -> None:
    """Eigenvalues of C of the first seed: measured points on the logistic curves of theory."""
    time = run.trajectory.time.numpy()
    fine = np.linspace(0, time[-1], 1500)
    predicted = theory.stepwise.eigenvalues(fine, aligned.singular_values, aligned.gamma)
    measured = run.spectra["cross_eigenvalues"][:, 0]
    shades = np.linspace(0.0, 0.75, measured.shape[-1])
    for k, shade in enumerate(shades):
        axes.plot(fine, predicted[:, k], color=str(shade * 0.8), lw=1, label="theory (logistic)" if k == 0 else None)
        _points(
            axes, time, measured[:, k], (0.76, 0.27 + 0.5 * shade, 0.05 + 0.6 * shade), "measured" if k == 0 else None
        )
    _step_lines(axes, theory.stepwise.step_times(aligned.singular_values, aligned.gamma))
    axes.set(ylabel="eigenvalues of C = WᵀΓW", ylim=(-0.05, 1.15))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _band(axes: Axes, time: np.ndarray, values: np.ndarray, arm: str) -> None:
    """Median over seeds with the band from the smallest to the largest."""
    axes.plot(time, np.median(values, axis=1), **STYLE[arm], lw=1.6, label=f"{arm} (median; band: all seeds)")
    axes.fill_between(time, values.min(1), values.max(1), color=STYLE[arm]["color"], alpha=0.18, lw=0)


def _loss(axes: Axes, comparison: Comparison, name: str, runs: dict[str, Arm]) -> None:
    homogeneous = comparison.predictions[name].matrix is not None
    horizon = min(float(run.trajectory.time[-1]) for run in runs.values())
    for arm, run in runs.items():
        time = run.trajectory.time.numpy()
        loss = run.trajectory.loss.double().numpy()
        if homogeneous:
            loss = loss * comparison.config.dim / run.trajectory.weights.double().square().sum((-2, -1)).numpy()
        shown = time <= 1.001 * horizon
        _band(axes, time[shown], loss[shown], arm)
        if name == "barlow_twins" and arm == "free" and comparison.config.barlow_lambda == 1:
            aligned = theory.stepwise.aligned_initialisation(_initial(run), comparison.predictions[name].cross)
            times = theory.stepwise.step_times(aligned.singular_values, aligned.gamma)
            _step_lines(axes, np.median(times, axis=0), ", median over seeds")
    axes.set(title="loss" + (", at ‖W‖² = d" if homogeneous else ""), xlabel=TIME, ylabel="loss")
    axes.legend(frameon=False, fontsize=8)


def _spectrum(axes: Axes, comparison: Comparison, name: str, runs: dict[str, Arm]) -> None:
    prediction = comparison.predictions[name]
    if "free" not in runs:
        arm, run = next(iter(runs.items()))
        time, values = run.trajectory.time.numpy(), run.spectra["covariance_eigenvalues"][:, 0]
        axes.plot(time, values, color=STYLE[arm]["color"], lw=1)
        axes.set(title=f"embedding covariance, {arm}, first seed", xlabel=TIME, ylabel="eigenvalues")
        return
    run = runs["free"]
    time = run.trajectory.time.numpy()
    if name == "barlow_twins":
        if comparison.config.barlow_lambda == 1:
            aligned = theory.stepwise.aligned_initialisation(_initial(run)[0], prediction.cross)
            _staircase(axes, run, aligned)
        else:
            axes.plot(time, run.spectra["cross_eigenvalues"][:, 0], color=STYLE["free"]["color"], lw=1)
            axes.set(ylabel="eigenvalues of C = WᵀΓW")
        axes.set(title="eigenvalues of C, free, first seed", xlabel=TIME)
    elif name == "spectral_contrastive":
        _points_on_log_time(axes, time, run.spectra["covariance_eigenvalues"][:, 0])
        mu, _, _ = landscape.quartic_minimiser(prediction.cross, prediction.second, comparison.config.dim)
        for k, value in enumerate(mu):
            axes.axhline(
                value, color="black", lw=0.8, ls="--", label="theory: spectrum of the minimiser" if k == 0 else None
            )
        axes.set(title="embedding covariance, free, first seed", xlabel=TIME, ylabel="eigenvalues")
        axes.legend(frameon=False, fontsize=8)
    else:
        _collapse(axes, comparison, name, run, time)


def _points_on_log_time(axes: Axes, time: np.ndarray, values: np.ndarray) -> None:
    chosen = np.unique(np.geomspace(1, len(time) - 1, 80).astype(int)) if len(time) > 1 else np.array([0])
    axes.plot(time[chosen], values[chosen], "o", ms=3, color=STYLE["free"]["color"], mfc="none")
    axes.plot([], [], "o", ms=3, color=STYLE["free"]["color"], mfc="none", label="measured")


def _collapse(axes: Axes, comparison: Comparison, name: str, run: Arm, time: np.ndarray) -> None:
    """Singular values of free weights relative to the first, against the exact free flow e^{-2Ct} W(0)."""
    prediction = comparison.predictions[name]
    assert prediction.matrix is not None
    direction, _ = theory.constrained.free_flow(time, _initial(run)[0], prediction.matrix)
    exact = np.linalg.svd(direction, compute_uv=False)
    measured = run.spectra["singular_values"][:, 0]
    for k in range(1, measured.shape[-1]):
        axes.plot(
            time, exact[:, k] / exact[:, 0], color="black", lw=0.9, label="theory: exp(−2Ct) W(0)" if k == 1 else None
        )
        _points(axes, time, measured[:, k] / measured[:, 0], STYLE["free"]["color"], "measured" if k == 1 else None)
    ratio = measured[:, 1:] / measured[:, :1]
    floor = max(float(ratio[ratio > 0].min(initial=1.0)), 1e-16)
    axes.set(
        title="singular values of W over the largest, free, first seed",
        xlabel=TIME,
        ylabel="σₖ / σ₁",
        yscale="log",
        ylim=(floor / 3, 2),
    )
    if measured.shape[-1] > 1:
        axes.legend(frameon=False, fontsize=8)


def _ranks(axes: Axes, runs: dict[str, Arm], dim: int) -> None:
    horizon = min(float(run.trajectory.time[-1]) for run in runs.values())
    for arm, run in runs.items():
        time = run.trajectory.time.numpy()
        shown = time <= 1.001 * horizon
        _band(axes, time[shown], run.spectra["effective_rank"][shown], arm)
    axes.axhline(dim, color="0.6", lw=0.8, ls=":")
    axes.set(
        title="effective rank of the embedding covariance",
        xlabel=TIME,
        ylabel=f"effective rank (at most {dim})",
        ylim=(0.8, dim * 1.05 + 0.2),
    )
    axes.legend(frameon=False, fontsize=8)


def _angles(axes: Axes, runs: dict[str, Arm], comparison: Comparison, name: str) -> None:
    drawn = False
    for arm, run in runs.items():
        if run.angles is None:
            continue
        time = run.trajectory.time.numpy()
        _band(axes, time[1:], np.clip(run.angles[1:], 1e-17, None), arm)
        drawn = True
    if drawn:
        smallest = min(run.angles.min() for run in runs.values() if run.angles is not None)
        scale = "log" if smallest < 0.1 else "linear"
        axes.set(xscale="log", yscale=scale, ylabel="largest principal angle [rad]")
        if scale == "linear":
            axes.set_ylim(0, 1.65)
        axes.legend(frameon=False, fontsize=8)
    else:
        reasons = {comparison.predictions[name].reasons.get(arm, "") for arm in runs}
        axes.text(
            0.5,
            0.5,
            "no predicted subspace:\n" + "\n".join(sorted(reasons)),
            ha="center",
            va="center",
            wrap=True,
            transform=axes.transAxes,
            fontsize=8,
        )
    axes.set(title="angle to the predicted subspace", xlabel=TIME)

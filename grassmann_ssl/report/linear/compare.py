"""Figures of a comparison: theory as lines, measurements as points or bands, readable in grey."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, SERIES, THEORY, TIME, panels
from grassmann_ssl.runs import Outcome

Course = dict[
    str, np.ndarray
]  # of one arm, as the run stores it: bands (3, K) over seeds at the logged steps, and the first seed
LEAST, MEDIAN, MOST = range(3)
PARTS = ("time", "loss", "effective_rank", "principal_angle", "first_loss", "first_spectrum")

# Colour, line style and marker differ together, so that grey print tells arms apart.
STYLE: dict[str, dict[str, Any]] = {
    arm: {"color": series["color"], "linestyle": series["linestyle"]}
    for arm, series in zip(("free", "grassmann", "stiefel"), SERIES, strict=False)
}
BLOWS_UP = "Unbounded below: theory predicts that free weights blow up while their rank goes to 1."
MEANING = {
    "barlow_twins": "Barlow Twins, L = ‖WᵀΓW − I‖² (off-diagonal terms weighted by λ, no normalisation). Theory, for λ = 1: free weights "
    "learn one mode after the other; the constraint removes the scale that lets them whiten, and with all γ below 1 leads to the top-d "
    "eigenspace of Γ.",
    "spectral_contrastive": "Spectral contrastive loss, L = −2 tr(WᵀΓW) + ‖WᵀΣW‖².",
    "linear_contrastive": f"Linear contrastive trace loss E[z·(z⁻ − z⁺)] = tr(WᵀCW). {BLOWS_UP}",
    "squared_contrastive": f"Squared contrastive trace loss ½E[‖z − z⁺‖² − ‖z − z⁻‖²] = tr(WᵀCW). {BLOWS_UP}",
    "linear_noncontrastive": f"Linear non-contrastive trace loss −E[z·z⁺] = tr(WᵀCW). {BLOWS_UP}",
    "squared_noncontrastive": "Squared non-contrastive trace loss ½E‖z − z⁺‖² = tr(WᵀCW). Theory predicts that free weights shrink to "
    "zero, complete collapse; under the constraint the loss seeks the directions that views change least. Where eigenvalues of C lie close "
    "together, trajectories can be compared with theory, end points cannot.",
}
TRACE = (
    "First panel: the loss at fixed norm. Second: singular values of free weights over the largest, beside the curves of theory. "
    "Third: effective rank of the embedding, which does not see a scale that vanishes; the verdict does. "
    "Fourth: angle to the subspace predicted for infinite time, for free weights a line."
)
PANELS = {
    "barlow_twins": "First panel: the loss, and the predicted step times of the free arm (dotted). Second: the eigenvalues of C of one "
    "seed, beside their predicted curves. Third: effective rank of the embedding. Fourth: angle to the predicted subspace.",
    "spectral_contrastive": "First panel: the loss. Second: eigenvalues of the free embedding's covariance; dashed: where theory puts them "
    "at the minimum, the eigenvalues of Σ^(−1/2) Γ Σ^(−1/2). Third: effective rank of the embedding. Fourth: angle to the "
    "predicted minimiser.",
}
CONVENTIONS = (
    "Time is t = learning rate × step, with the losses exactly as written (no factor ½, no 1/d) and means over samples. Data are centred "
    "and divided by one number so that the largest eigenvalue of Γ is ½. All arms start from the same Gaussian draw: free weights from "
    "α = {init_scale:g} times it, constrained ones from its column space. Under a trace loss the free weights are divided by their norm at "
    "every logged step, and the logarithm of the norm is recorded: directions are untouched; effective rank, singular values and losses of "
    "those arms are of the rescaled weights."
)


def page(outcome: Outcome) -> Page:
    """The staircase of free Barlow Twins, four panels per objective, and how the free arm depends on its initialisation."""
    config, data = outcome.record["config"], outcome.record["data"]
    names = [name for name, arms in outcome.record["arms"].items() if arms]
    sections = [
        Section(
            name,
            name,
            panels_of(outcome, name),
            " ".join((MEANING[name], _seen(name), _rank_course(outcome, name), _arms(outcome, name))),
        )
        for name in names
    ]
    if "predicted_loss/barlow_twins/free" in outcome.arrays:
        sections.insert(
            0,
            Section(
                "staircase",
                "Loss and eigenvalues of free Barlow Twins in time",
                staircase(outcome),
                "First seed of free Barlow Twins. Markers: loss and eigenvalues of C measured in training. Lines: their predicted curves. "
                "Dotted: predicted step times.",
            ),
        )
    law = _law(outcome)
    if law:
        sections.append(
            Section(
                "initialisation_law",
                "How the free arm depends on its initialisation",
                initialisation_law(outcome, law),
                _law_caption(law, config["dtype"]),
            )
        )
    return Page(
        f"Free, constrained, predicted: {config['data']}",
        f"A linear model z = Wᵀx, d = {config['dim']}, m = {data['m']}, trained by full-batch gradient descent on {data['n']:,} "
        f"triplets of views, {config['seeds']} seeds, with free weights and under WᵀW = I, and held against closed-form theory. "
        + CONVENTIONS.format(**config),
        tuple(sections),
    )


def _seen(name: str) -> str:
    return PANELS.get(name, TRACE)


def _rank_course(outcome: Outcome, name: str) -> str:
    """The effective rank of each arm at the start, where it is lowest, and at the end, median over seeds."""
    parts = []
    for arm, course in courses(outcome, name).items():
        rank, time = course["effective_rank"][MEDIAN], course["time"]
        low = int(rank.argmin())
        parts.append(
            f"{arm} {rank[0]:.2f} at the start, lowest {rank[low]:.2f} at t = {time[low]:.3g}, {rank[-1]:.2f} at the end"
        )
    return f"Effective rank, median over seeds: {'; '.join(parts)}."


def _arms(outcome: Outcome, name: str) -> str:
    """How each arm was trained, from the record."""
    parts = []
    for arm, end in outcome.record["arms"][name].items():
        words = [f"{arm}: learning rate {end['learning_rate']:.3g}"]
        if end["collapsed"] is None:
            words.append(end["reason"])
        else:
            words.append(f"t from 0 to {end['horizon']:.3g}")
            if end["log_norm"]:
                words.append(f"norm taken out of the weights on the way exp({end['log_norm']:.3g})")
            if end["orthonormality_error"] is not None:
                words.append(f"‖WᵀW − I‖ {end['orthonormality_error']:.3g}")
            words.append(f"{end['wall_time_s']} s")
        parts.append(", ".join(words) + ".")
    return " ".join(parts)


def _law(outcome: Outcome) -> dict[str, Any] | None:
    law: dict[str, Any] | None = outcome.record["agreement"].get("barlow_twins", {}).get("initialisation_law")
    return law


def _exponent(law: dict[str, Any]) -> str:
    return "–" if law["measured_exponent"] is None else f"{law['measured_exponent']:.3g}"


def _law_caption(law: dict[str, Any], dtype: str) -> str:
    fitted = (
        ""
        if law["fitted_scales"] == law["scales"]
        else f" (fitted to the scales above the rounding of {dtype}, which seeds modes anew)"
    )
    return (
        "First panel: theory lets free Barlow Twins stop at an angle ∝ α^(1 − γ_(d+1)/γ_d) from the top-d subspace, although its loss "
        "is zero: "
        f"the modes beyond d that grew before the last step stay. Measured exponent {_exponent(law)}{fitted}, theory "
        f"{law['predicted_exponent']:.3g}. Second: the error of the predicted step times, which hold for α → 0, in the worst seed."
    )


def courses(outcome: Outcome, objective: str) -> dict[str, Course]:
    """What is drawn of each arm of an objective."""
    arms = outcome.record["arms"][objective]
    return {arm: {part: outcome.arrays[f"course/{objective}/{arm}/{part}"] for part in PARTS} for arm in arms}


def panels_of(outcome: Outcome, name: str) -> Figure:
    """The four panels of one objective: loss, spectrum, effective rank, angle to the predicted subspace."""
    figure, axes = panels(2, 2)
    arms, dim = courses(outcome, name), outcome.record["config"]["dim"]
    _loss(axes[0, 0], outcome, name, arms)
    _spectrum(axes[0, 1], outcome, name, arms)
    _ranks(axes[1, 0], arms, dim)
    _angles(axes[1, 1], outcome, name, arms)
    if name == "spectral_contrastive":  # its slowest mode settles long after the last has risen
        for panel in (axes[0, 0], axes[0, 1], axes[1, 0]):
            panel.set_xscale("log")
    return figure


def staircase(outcome: Outcome) -> Figure:
    """Loss and eigenvalues of free Barlow Twins on one time axis, with the predicted steps: the picture of stepwise learning."""
    config, free = outcome.record["config"], courses(outcome, "barlow_twins")["free"]
    figure = Figure(figsize=(5.2, 5.8), layout="constrained")
    loss, eigenvalues = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    time = free["time"]
    loss.plot(time, outcome.arrays["predicted_loss/barlow_twins/free"], color="black", lw=1, label="theory")
    _points(loss, time, free["first_loss"], STYLE["free"]["color"], "measured")
    loss.set_ylabel("loss ‖C − I‖²")
    loss.legend(frameon=False)
    times = outcome.arrays["predicted_step_times/barlow_twins/free"][0]
    _step_lines(loss, times)
    loss.set_xlim(0, min(time[-1], 1.3 * np.max(times[np.isfinite(times)], initial=1.0)))
    _staircase(eigenvalues, outcome, free)
    eigenvalues.set_xlabel(TIME)
    figure.suptitle(f"Barlow Twins on {config['data']}, free weights, d = {config['dim']}", fontsize=11)
    return figure


def initialisation_law(outcome: Outcome, law: dict[str, Any]) -> Figure:
    """Final angle and step-time error of free Barlow Twins against the initialisation scale."""
    scales, medians = np.array(law["scales"]), np.array(law["median_angles"])
    figure, axes = panels(1, 2)
    angle, error = axes[0]
    for scale, seeds in zip(scales, law["angles"], strict=True):
        angle.plot(np.full(len(seeds), scale), seeds, ".", color="0.7", ms=4, zorder=1)
    angle.plot(scales, medians, "o", color=STYLE["free"]["color"], label="median over seeds (dots: each)")
    centre = np.exp(np.log(scales).mean()), np.exp(np.log(medians).mean())
    slope = law["predicted_exponent"]
    line = centre[1] * (scales / centre[0]) ** slope
    angle.plot(scales, line, **THEORY, label=f"theory: slope {slope:.3f} (measured {_exponent(law)})")
    constrained = courses(outcome, "barlow_twins").get("grassmann")
    if constrained is not None and np.isfinite(constrained["principal_angle"]).all():
        worst = max(float(constrained["principal_angle"][MOST, -1]), np.finfo(float).eps)
        angle.axhline(worst, **STYLE["grassmann"], label=f"grassmann arm, worst seed: {worst:.1e}")
    angle.set(xscale="log", yscale="log", xlabel="initialisation scale α", ylabel="final largest angle [rad]")
    angle.legend(**LEGEND)
    errors = [np.nan if e is None else 100 * e for e in law["step_time_errors"]]
    error.plot(scales, errors, "o-", color=STYLE["free"]["color"])
    error.set(
        xscale="log", ylim=(0, None), xlabel="initialisation scale α", ylabel="step times: worst relative error [%]"
    )
    return figure


def _points(axes: Axes, time: np.ndarray, values: np.ndarray, color: Any, label: str | None = None) -> None:
    every = max(1, len(time) // 60)
    axes.plot(time[::every], values[::every], "o", ms=3, color=color, mfc="none", label=label)


def _step_lines(axes: Axes, times: np.ndarray, whose: str = "") -> None:
    for k, time in enumerate(times[np.isfinite(times)]):
        axes.axvline(time, color="0.6", lw=0.8, ls=":", label=f"predicted step times{whose}" if k == 0 else None)


def _staircase(axes: Axes, outcome: Outcome, free: Course) -> None:
    """Eigenvalues of C of the first seed: measured points on the logistic curves of theory."""
    time, measured = free["time"], free["first_spectrum"]
    predicted = outcome.arrays["predicted_eigenvalues/barlow_twins/free"]
    shades = np.linspace(0.0, 0.75, measured.shape[-1])
    for k, shade in enumerate(shades):
        axes.plot(time, predicted[:, k], color=str(shade * 0.8), lw=1, label="theory (logistic)" if k == 0 else None)
        _points(
            axes, time, measured[:, k], (0.76, 0.27 + 0.5 * shade, 0.05 + 0.6 * shade), "measured" if k == 0 else None
        )
    _step_lines(axes, outcome.arrays["predicted_step_times/barlow_twins/free"][0])
    axes.set(ylabel="eigenvalues of C = WᵀΓW", ylim=(-0.05, 1.15))
    axes.legend(**LEGEND, loc="lower right")


def _band(axes: Axes, time: np.ndarray, values: np.ndarray, arm: str) -> None:
    """Median over seeds with the band from the smallest to the largest, values (3, K)."""
    axes.plot(time, values[MEDIAN], **STYLE[arm], lw=1.6, label=f"{arm} (median; band: all seeds)")
    axes.fill_between(time, values[LEAST], values[MOST], color=STYLE[arm]["color"], alpha=0.18, lw=0)


def _shared(arms: dict[str, Course]) -> dict[str, np.ndarray]:
    """The logged steps of each arm that lie within the time of the shortest."""
    horizon = min(float(course["time"][-1]) for course in arms.values())
    return {arm: course["time"] <= 1.001 * horizon for arm, course in arms.items()}


def _loss(axes: Axes, outcome: Outcome, name: str, arms: dict[str, Course]) -> None:
    homogeneous = f"trace_matrix/{name}" in outcome.arrays
    shown = _shared(arms)
    for arm, course in arms.items():
        _band(axes, course["time"][shown[arm]], course["loss"][:, shown[arm]], arm)
    times = outcome.arrays.get(f"predicted_step_times/{name}/free")
    if times is not None:
        _step_lines(axes, np.median(times, axis=0), ", median over seeds")
    axes.set(title="loss" + (", at ‖W‖² = d" if homogeneous else ""), xlabel=TIME, ylabel="loss")
    axes.legend(**LEGEND)


def _spectrum(axes: Axes, outcome: Outcome, name: str, arms: dict[str, Course]) -> None:
    if "free" not in arms:
        arm, course = next(iter(arms.items()))
        axes.plot(course["time"], course["first_spectrum"], color=STYLE[arm]["color"], lw=1)
        axes.set(title=f"embedding covariance, {arm}, first seed", xlabel=TIME, ylabel="eigenvalues")
        return
    free = arms["free"]
    time, spectrum = free["time"], free["first_spectrum"]
    if name == "barlow_twins":
        if f"predicted_eigenvalues/{name}/free" in outcome.arrays:
            _staircase(axes, outcome, free)
        else:
            axes.plot(time, spectrum, color=STYLE["free"]["color"], lw=1)
            axes.set(ylabel="eigenvalues of C = WᵀΓW")
        axes.set(title="eigenvalues of C, free, first seed", xlabel=TIME)
    elif name == "spectral_contrastive":
        _points_on_log_time(axes, time, spectrum)
        for k, value in enumerate(outcome.arrays[f"predicted_spectrum/{name}/free"]):
            axes.axhline(
                value, color="black", lw=0.8, ls="--", label="theory: spectrum of the minimiser" if k == 0 else None
            )
        axes.set(title="embedding covariance, free, first seed", xlabel=TIME, ylabel="eigenvalues")
        axes.legend(**LEGEND)
    else:
        exact = outcome.arrays[f"predicted_singular_values/{name}/free"]
        _collapse(axes, time, spectrum, exact)


def _points_on_log_time(axes: Axes, time: np.ndarray, values: np.ndarray) -> None:
    chosen = np.unique(np.geomspace(1, len(time) - 1, 80).astype(int)) if len(time) > 1 else np.array([0])
    axes.plot(time[chosen], values[chosen], "o", ms=3, color=STYLE["free"]["color"], mfc="none")
    axes.plot([], [], "o", ms=3, color=STYLE["free"]["color"], mfc="none", label="measured")


def _collapse(axes: Axes, time: np.ndarray, measured: np.ndarray, exact: np.ndarray) -> None:
    """Singular values of free weights relative to the first, against the exact free flow e^{-2Ct} W(0)."""
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
        axes.legend(**LEGEND)


def _ranks(axes: Axes, arms: dict[str, Course], dim: int) -> None:
    shown = _shared(arms)
    for arm, course in arms.items():
        _band(axes, course["time"][shown[arm]], course["effective_rank"][:, shown[arm]], arm)
    axes.axhline(dim, color="0.6", lw=0.8, ls=":")
    axes.set(
        title="effective rank of the embedding covariance",
        xlabel=TIME,
        ylabel=f"effective rank (at most {dim})",
        ylim=(0.8, dim * 1.05 + 0.2),
    )
    axes.legend(**LEGEND)


def _angles(axes: Axes, outcome: Outcome, name: str, arms: dict[str, Course]) -> None:
    angles = {arm: one["principal_angle"] for arm, one in arms.items() if not np.isnan(one["principal_angle"]).any()}
    for arm, values in angles.items():
        _band(axes, arms[arm]["time"][1:], np.clip(values[:, 1:], 1e-17, None), arm)
    if angles:
        scale = "log" if min(values.min() for values in angles.values()) < 0.1 else "linear"
        axes.set(xscale="log", yscale=scale, ylabel="largest principal angle [rad]")
        if scale == "linear":
            axes.set_ylim(0, 1.65)
        axes.legend(**LEGEND)
    else:
        subspace, ends = outcome.record["agreement"][name]["subspace"], outcome.record["arms"][name]
        reasons = {subspace.get(arm, ends[arm]).get("reason", "") for arm in arms}
        axes.text(
            0.5,
            0.5,
            "no angle:\n" + "\n".join(sorted(reasons)),
            ha="center",
            va="center",
            wrap=True,
            transform=axes.transAxes,
            fontsize=8,
        )
    axes.set(title="angle to the predicted subspace", xlabel=TIME)

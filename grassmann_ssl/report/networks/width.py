"""Page of `width`: the exact law for every hidden width, mode by mode, what another metric changes, and a free layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import LEGEND, SERIES, THEORY, TIME, line, median_band, numbered, panels
from grassmann_ssl.runs import Outcome

FLOOR = 1e-17
EXCESS_FLOOR = ANGLE_FLOOR = 1e-6


def page(outcome: Outcome) -> Page:
    """Lede and figures."""
    config = outcome.record["config"]
    widths = ", ".join(str(h) for h in _hidden(outcome))
    names = ("projector", "modes", "metrics", "cosines", "collapse")
    figures = (draw(outcome) for draw in (_projector, _modes, _metrics, _cosines, _collapse))
    return Page(
        "Width independence of constrained linear layers",
        f"Two linear layers M = W₁W₂ with orthonormal columns, W₁ (m, h) and W₂ (h, d), d = {config['dim']}, minimise the trace loss "
        f"tr(MᵀCM) of {config['objective']} on {config['data']} by Riemannian gradient descent, for the hidden widths "
        f"h = {widths}. All widths start from the same M(0), {config['seeds']} random starts each. Theory: with Grassmannian gradients on "
        "both factors M follows the flow of one layer, span M(t) = span(exp(−2Ct) M(0)), whatever h is; with the Euclidean metric of the "
        "Stiefel manifold it does not (Esser, Mukherjee & Ghoshdastidar, arXiv 2309.02011; laws derived in "
        "theory.constrained and theory.two_layer). Time t = learning rate × step. Data, widths, rates and starts are our settings.",
        tuple(
            Section(name, title, figure, caption)
            for name, figure, (title, caption) in zip(names, figures, _captions(outcome), strict=True)
        ),
    )


def _hidden(outcome: Outcome) -> list[int]:
    """The completed hidden widths, the first of those that were asked for."""
    hidden: list[int] = outcome.record["config"]["hidden"][: len(outcome.arrays["worst_errors"])]
    return hidden


def _captions(outcome: Outcome) -> list[tuple[str, str]]:
    config, record = outcome.record["config"], outcome.record
    grassmann, stiefel, free = record["grassmann"], record["stiefel"], record["free"]
    worst = max(row[-1] for row in grassmann["max_projector_error"])
    apart = grassmann["max_difference_between_widths"]
    orders = [o for o in grassmann["order"] if o is not None]
    order = f"Halving the learning rate divides the error by about {2 ** np.mean(orders):.2f}." if orders else ""
    together = f"; two widths are at most {apart:.1g} apart" if apart is not None else ""
    cosines = free["mean_cosine"]
    steps = {
        name: ", ".join(f"{x:.3f}" if x else "–" for x in values) for name, values in stiefel["median_speed"].items()
    }
    return [
        (
            "P(t) against the exact law",
            "First panel: share of each eigenvector v_j of C in the learned subspace, v_jᵀP(t)v_j, first start; lines are the exact "
            "one-layer "
            "law, markers the trained two-layer models, each width at times of its own. Second: distance of the projector "
            f"to the exact one, median and range over starts, at learning rate {config['rates'][-1]:g}: at most {worst:.2g}{together}. "
            f"Third: its largest value against the learning rate. {order}",
        ),
        (
            "Angles and rates, mode by mode",
            "First panel: principal angles between the learned subspace and the bottom-d eigenspace of C, first start: lines from the law "
            "T_ij(t) = T_ij(0) exp(−2(λ_{d+i} − λ_j)t) of the tangent coordinates, by which an angle stays up near a saddle; measured "
            f"within {grassmann['max_angle_error']:.2g} rad of it at all times. "
            "Second panel: measured rate of every T_ij against the predicted one, median over starts: "
            f"{grassmann['rate_ratio']:.4f} times as large (median).",
        ),
        (
            "The same with the Euclidean metric",
            "First panel: excess loss over its minimum, median over starts, with the Euclidean metric (markers) against the flow "
            "predicted for "
            "each width (lines); pale: one layer. Second panel: how much sooner than one layer the excess falls to a tenth. Grassmannian "
            f"metric: {steps['grassmann']}. Euclidean metric: {steps['stiefel']} (predicted {steps['law']}; by theory 1 at h = d and "
            "1.5 at h = m).",
        ),
        (
            "One free layer beside it",
            "Cosines between the outputs of samples, from −1 (blue) to 1 (red), samples ordered by v₁ᵀx. Predicted without the "
            "constraint: ±1, each output one fixed "
            f"vector times v₁ᵀx. Measured: mean |cos| {cosines[0]:.2f}, {cosines[1]:.2f}, {cosines[2]:.3f}, and {cosines[3]:.2f} with the "
            f"constraint; at the end the sign is the predicted one in {100 * free['sign_agreement']:.0f} % of pairs.",
        ),
        (
            "Collapse of one free layer",
            "The second singular value of free weights over the first, and the effective rank of the outputs, median and range over "
            "starts, on the "
            "exact law exp(−2Ct) M(0).",
        ),
    ]


def _markers(series: int) -> dict[str, Any]:
    style = SERIES[series % len(SERIES)]
    return {"marker": style["marker"], "color": style["color"], "linestyle": "none", "ms": 4.5, "mfc": "none"}


def _offset(series: int, count: int, length: int, points: int = 12) -> slice:
    """Indices of some points of a curve, other ones for each of `count` curves."""
    every = max(1, length // points)
    return slice(every * series // max(count, 1), None, every)


def _projector(outcome: Outcome) -> Figure:
    config, arrays = outcome.record["config"], outcome.arrays
    figure, axes = panels(1, 3)
    time, hidden = arrays["time"], _hidden(outcome)
    for j, exact in enumerate(arrays["exact_occupations"].T):
        axes[0, 0].plot(time, exact, **THEORY, label="theory" if j == 0 else None)
    for i, h in enumerate(hidden):
        shown = _offset(i, len(hidden), len(time))
        for j, measured in enumerate(arrays["occupations"][i].T):
            axes[0, 0].plot(time[shown], measured[shown], **_markers(i), label=f"h = {h}" if j == 0 else None)
        error = np.maximum(np.median(arrays["projector_errors"][i], -1), FLOOR)
        axes[0, 1].plot(time[shown][time[shown] > 0], error[shown][time[shown] > 0], **_markers(i), label=f"h = {h}")
        style = SERIES[i % len(SERIES)]
        axes[0, 2].plot(
            config["rates"], arrays["worst_errors"][i], marker=style["marker"], color=style["color"], mfc="none",
            linestyle="none", ms=6 + 2 * i, label=f"h = {h}",
        )  # fmt: skip
    whole = np.maximum(np.moveaxis(arrays["projector_errors"], 0, -1).reshape(len(time), -1)[1:], FLOOR)
    axes[0, 1].fill_between(
        time[1:], whole.min(1), whole.max(1), color="0.5", alpha=0.2, lw=0, label="all widths and starts"
    )
    rates = np.array(config["rates"])
    first_order = arrays["worst_errors"][:, -1].max() * rates / rates[-1]
    axes[0, 2].plot(rates, first_order, **THEORY, label="first order")
    axes[0, 0].set(
        title="share of eigenvector j in the subspace",
        xlabel=TIME,
        ylabel="v$_j^T$P(t)v$_j$,  j = 1 … d + 2",
        ylim=(-0.03, 1.03),
    )
    axes[0, 1].set(title="distance to the exact flow", xlabel=TIME, ylabel="‖P − P$_{exact}$‖$_2$", yscale="log")
    axes[0, 2].set(
        title="largest distance",
        xlabel="learning rate",
        ylabel="max over t and starts",
        xscale="log",
        yscale="log",
        ylim=(first_order[-1] / 1.5, 1.5 * first_order[0]),
    )
    numbered(axes[0, 2].xaxis, rates)
    for panel in axes[0]:
        panel.legend(**LEGEND)
    return figure


def _modes(outcome: Outcome) -> Figure:
    arrays = outcome.arrays
    figure, axes = panels(1, 2)
    time, hidden = arrays["time"], _hidden(outcome)
    for k, exact in enumerate(arrays["exact_angles"][:, 0].T):
        axes[0, 0].plot(time, np.maximum(exact, FLOOR), **THEORY, label="theory" if k == 0 else None)
    for i, h in enumerate(hidden):
        shown = _offset(i, len(hidden), len(time))
        for k, measured in enumerate(arrays["angles"][i, :, 0].T):
            axes[0, 0].plot(
                time[shown], np.maximum(measured[shown], FLOOR), **_markers(i), label=f"h = {h}" if k == 0 else None
            )
    for i, h in enumerate(hidden):
        predicted, measured = arrays["exact_decay_rates"].ravel(), arrays["decay_rates"][i].ravel()
        shown = _offset(i, len(hidden), len(predicted), 40)
        axes[0, 1].plot(predicted[shown], measured[shown], **_markers(i), label=f"h = {h}")
    ends = np.array([0, arrays["exact_decay_rates"].max()])
    axes[0, 1].plot(ends, ends, **THEORY, label="theory")
    axes[0, 0].set(
        title="principal angles to the bottom-d eigenspace",
        xlabel=TIME,
        ylabel="angle [rad]",
        yscale="log",
        ylim=(ANGLE_FLOOR, 3),
    )
    axes[0, 1].set(
        title="rates of the tangent coordinates",
        xlabel="predicted, 2(λ$_{d+i}$ − λ$_j$)",
        ylabel="measured, −log|T$_{ij}$(t)/T$_{ij}$(0)| / t",
    )
    for panel in axes[0]:
        panel.legend(**LEGEND)
    return figure


def _metrics(outcome: Outcome) -> Figure:
    arrays = outcome.arrays
    figure, axes = panels(1, 2)
    time, hidden = arrays["time"], _hidden(outcome)
    one = np.median(arrays["excess_one_layer"], 1)
    for i, h in enumerate(hidden):
        law, measured = (np.median(arrays[f"excess_{name}"][i], -1) for name in ("law", "stiefel"))
        shown = _offset(i, len(hidden), len(time))
        axes[0, 0].plot(time, np.maximum(law, FLOOR), **line(i), lw=1.1)
        axes[0, 0].plot(time[shown], np.maximum(measured[shown], FLOOR), **_markers(i), label=f"h = {h}")
    axes[0, 0].plot(time, np.maximum(one, FLOOR), color="0.8", lw=5, label="one layer", zorder=0)
    axes[0, 0].set(
        title="Euclidean metric on both factors", xlabel=TIME, ylabel="excess loss", yscale="log",
        ylim=(max(np.median(arrays["excess_law"], -1).min(), EXCESS_FLOOR * one[0]) / 2, 1.5 * one[0]),
    )  # fmt: skip
    axes[0, 0].legend(**LEGEND)
    for series, (name, label) in enumerate((("stiefel", "Euclidean metric"), ("grassmann", "Grassmannian metric"))):
        values = np.ma.masked_equal(arrays[f"speed_{name}"], 0)
        middle = np.ma.median(values, axis=1)  # type: ignore[no-untyped-call]  # numpy has no annotation of it
        spread = np.ma.stack([middle - values.min(1), values.max(1) - middle])
        style = SERIES[series]
        axes[0, 1].errorbar(
            hidden, middle, spread, marker=style["marker"], color=style["color"], mfc="none", linestyle="none", capsize=3,
            label=label,
        )  # fmt: skip
    speeds = np.ma.masked_equal(arrays["speed_law"], 0)
    law = np.ma.median(speeds, axis=1)  # type: ignore[no-untyped-call]  # numpy has no annotation of it
    axes[0, 1].plot(hidden, law, **THEORY, label="theory, each width")
    axes[0, 1].margins(y=0.12)
    for level, text, end, shift in ((1.0, "h = d: 1", -1, -14), (1.5, "h = m: 3/2", 0, 2)):
        axes[0, 1].axhline(level, color="0.6", lw=0.8, ls=":")
        axes[0, 1].annotate(
            text, (hidden[end], level), xytext=(shift, 3), textcoords="offset points", fontsize=8, color="0.35",
            ha="right" if end else "left",
        )  # fmt: skip
    axes[0, 1].set(
        title="speed against one layer", xlabel="hidden width h", ylabel="ratio of times to a tenth", xscale="log"
    )
    numbered(axes[0, 1].xaxis, np.array(hidden))
    axes[0, 1].legend(**LEGEND)
    return figure


def _cosines(outcome: Outcome) -> Figure:
    config, arrays, free = outcome.record["config"], outcome.arrays, outcome.record["free"]
    figure, axes = panels(1, 4, 3.6, 3.4)
    titles = [f"free, t = {time:.3g}" for time in free["shown_times"]] + [f"constrained, t = {config['horizon']:g}"]
    for panel, cosines, title in zip(axes[0], arrays["cosines"], titles, strict=True):
        panel.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        panel.set(title=title, xticks=[], yticks=[], xlabel="samples by v₁ᵀx", ylabel="samples by v₁ᵀx")
    return figure


def _collapse(outcome: Outcome) -> Figure:
    config, arrays, free = outcome.record["config"], outcome.arrays, outcome.record["free"]
    figure, axes = panels(1, 2)
    ratio, rank = axes[0]
    time = arrays["free_time"]
    if "size_ratio" in arrays:
        median_band(ratio, time, np.maximum(arrays["size_ratio"], FLOOR), 0, "free (median; band: all starts)")
        ratio.plot(time, np.maximum(np.median(arrays["exact_size_ratio"], -1), FLOOR), **THEORY, ls=":", label="theory")
        end = np.median(arrays["exact_size_ratio"][-1])
        slope = np.exp(free["slope"]["predicted"] * (time - time[-1])) * end
        late = slope < 1
        ratio.plot(time[late], slope[late], color="0.5", ls="--", lw=1, label=f"slope {free['slope']['predicted']:.3g}")
        ratio.set(title="singular values of free weights", xlabel=TIME, ylabel="σ₂ / σ₁", yscale="log")
        ratio.legend(**LEGEND)
    else:
        ratio.text(0.5, 0.5, "d = 1 has no second singular value", ha="center", transform=ratio.transAxes)
        ratio.set_axis_off()
    median_band(rank, time, arrays["effective_rank"], 0, "free (median; band: all starts)")
    rank.plot(time, np.median(arrays["exact_effective_rank"], -1), **THEORY, ls=":", label="theory")
    rank.set(title="effective rank of the outputs", xlabel=TIME, ylabel=f"effective rank (at most {config['dim']})")
    rank.legend(**LEGEND)
    return figure

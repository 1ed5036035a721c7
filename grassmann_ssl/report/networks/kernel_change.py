"""Page of `kernel-change`: exponents in the width, what moves, and how long free training stays lazy."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import BELOW, LEGEND, SERIES, THEORY, TIME, line, numbered, panels, power_law, ranges
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """Lede and figures."""
    config, record = outcome.record["config"], outcome.record
    inputs = 3 * config["triplets"]
    lede = (
        f"Two-layer ReLU networks f(x) = √h W₂ᵀφ(W₁ᵀx) with d = {config['dim']} outputs, trained on the {inputs} views of "
        f"{config['triplets']} triplets of {config['data']} data; all arms start from the same weights with orthonormal columns, "
        f"{config['seeds']} draws for each width. Supervised: squared distance to a random linear map. Barlow Twins: λ = 1, without "
        f"normalisation. Trace loss: {config['objective']}. Measured: relative change ‖K − K₀‖/‖K₀‖ of the kernel that the training "
        f"sees, at t = {config['horizon']:g} (free trace loss: t = {config['free_time']:g}); under the constraint that is the projected "
        "one, Φ(I − W₂W₂ᵀ)Φᵀ for the last layer. Time t = learning rate × step, where each weight moves by learning rate / h times its "
        "gradient. The question is that of Esser, Mukherjee & Ghoshdastidar, arXiv 2309.02011; data, widths, times and rates are our "
        "settings."
    )
    sections = (
        ("kernels", "How much the kernel changes", _kernels(outcome)),
        ("movement", "What moves", _movement(outcome)),
        ("laziness", "How long the free trace loss stays lazy", _laziness(outcome)),
    )
    captions = (_kernels_caption(record), _movement_caption(record), _laziness_caption(record))
    return Page(
        "Kernel change against width",
        lede,
        tuple(Section(*section, caption) for section, caption in zip(sections, captions, strict=True)),
    )


def _widths(outcome: Outcome) -> list[int]:
    """The completed widths, the first of those that were asked for."""
    widths: list[int] = outcome.record["config"]["widths"][: len(outcome.arrays["exact_last"])]
    return widths


def _power(exponent: float) -> str:
    """An exponent as a fraction: -3/4."""
    return str(Fraction(exponent).limit_denominator(64))


def _movement_caption(record: dict[str, Any]) -> str:
    moved, last, switched, whole = (
        _power(record["arms"]["free"][name]["predicted"]) for name in ("movement", "last_layer", "switched", "whole")
    )
    return (
        "First panel: relative movement of W₂. Second panel: share of units and inputs at which a ReLU switched. Predicted without "
        "constraint: every "
        f"weight moves by h^{moved} of itself with signs that cancel in the last-layer kernel, which changes by h^{last}; a share "
        f"h^{switched} of the units switches, and the sum of these jumps, with random signs, changes the first layer's kernel by h^{whole}."
    )


def _kernels_caption(record: dict[str, Any]) -> str:
    free, fixed = record["arms"]["free"], _power(record["arms"]["last"]["last_layer"]["predicted"]).replace("-", "−")
    last, whole = (_power(free[name]["predicted"]).replace("-", "−") for name in ("last_layer", "whole"))
    if record["laziness"]["predicted_slope"] is not None:
        constrained = f"{fixed}, since the projection moves with W₂ at any width"
    else:
        constrained = (
            f"{fixed} with W₁ fixed, since this trace loss has no negative eigenvalue and W₂ hardly has to move"
        )
    diverged = {name: arm["diverged_widths"] for name, arm in record["arms"].items() if arm["diverged_widths"]}
    missing = "".join(
        f" Not drawn, since some networks diverged: {record['titles'][name]} at h = {', '.join(map(str, widths))}."
        for name, widths in diverged.items()
    )
    return (
        "First panel: kernel of the last layer. Second panel: the whole tangent kernel. Medians and ranges over networks, power laws "
        "fitted network by "
        f"network. Predicted exponents: {last} (first) and {whole} (second) where nothing is constrained; under the constraint "
        f"{constrained}. Crosses: the exact flow of W₂ with W₁ fixed, at most {record['exact_last']['max_difference']:.1g} from the "
        f"measured change.{missing}"
    )


def _laziness_caption(record: dict[str, Any]) -> str:
    lazy = record["laziness"]
    if lazy["predicted_slope"] is None:
        return "Relative change of the last-layer kernel in time, median over networks. This trace loss has no growing mode."
    times = ", ".join("–" if x is None else f"{x:.3g}" for x in lazy["diverged"])
    return (
        "First panel: relative change of the last-layer kernel in time, median over networks; crosses: the last look before the median one "
        f"diverged (t = {times}). Second panel: time at which the change reaches {lazy['left_at']:g}, and at which a network diverged. "
        "Theory: outputs grow as "
        "exp(2|λ|t), λ the smallest eigenvalue of the trace loss in the kernel at the start, so that the kernel changes by exp(4|λ|t) "
        f"/ h and leaves the lazy regime after log(h)/(4|λ|); here λ = {lazy['lambda']:.3g}. Lines have the predicted slope and the "
        "height of the measurements."
    )


def _with_fits(axes: Axes, outcome: Outcome, measure: str, arms: tuple[str, ...]) -> None:
    widths = np.array(_widths(outcome), dtype=float)
    titles = outcome.record["titles"]
    for arm in arms:
        series = list(titles).index(arm)
        fit = outcome.record["arms"][arm][measure]
        values = outcome.arrays[measure][series]
        good = np.isfinite(values).all(1) & (values > 0).all(1)
        label = titles[arm]
        if fit["slope"] is not None:
            label += f": {fit['slope']:.2f} ± {fit['standard_error']:.2f}"
            axes.plot(widths, power_law(widths, fit["slope"], widths[good], values[good]), **line(series), lw=1)
        elif not good.all():
            label += ": diverged"
        ranges(axes, widths[good] * 1.03 ** (series - 2), values[good], series, label)
    axes.set(xscale="log", yscale="log", xlabel="width h")
    numbered(axes.xaxis, widths)


def _kernels(outcome: Outcome) -> Figure:
    figure, axes = panels(1, 2, 4.8)
    arms = tuple(outcome.record["titles"])
    _with_fits(axes[0, 0], outcome, "last_layer", arms)
    exact = np.median(outcome.arrays["exact_last"], -1)
    axes[0, 0].plot(np.array(_widths(outcome)) * 1.03, exact, "x", color="black", ms=7, label="exact flow of W₂")
    _with_fits(axes[0, 1], outcome, "whole", tuple(name for name in arms if name != "last"))
    axes[0, 0].set(title="last-layer kernel", ylabel="relative change ‖K − K₀‖ / ‖K₀‖")
    axes[0, 1].set(title="whole tangent kernel", ylabel="relative change ‖Θ − Θ₀‖ / ‖Θ₀‖")
    _legends(axes)
    return figure


def _legends(axes: np.ndarray) -> None:
    for panel in axes[0]:
        panel.legend(**BELOW | {"fontsize": 8}, title="exponent of h ± standard error", title_fontsize=8)


def _movement(outcome: Outcome) -> Figure:
    figure, axes = panels(1, 2, 4.7)
    arms = tuple(outcome.record["titles"])
    _with_fits(axes[0, 0], outcome, "movement", arms)
    _with_fits(axes[0, 1], outcome, "switched", tuple(name for name in arms if name != "last"))
    axes[0, 0].set(title="last layer", ylabel="‖W₂ − W₂(0)‖ / ‖W₂(0)‖")
    axes[0, 1].set(title="first layer", ylabel="share of (unit, input) that switched")
    _legends(axes)
    return figure


def _laziness(outcome: Outcome) -> Figure:
    arrays, lazy = outcome.arrays, outcome.record["laziness"]
    widths = np.array(_widths(outcome), dtype=float)
    figure, axes = panels(1, 2)
    for i, h in enumerate(widths):
        style = SERIES[i % len(SERIES)]
        middle = np.sort(arrays["path"][i], -1)[:, arrays["path"].shape[-1] // 2]
        good = np.isfinite(middle) & (middle > 0) & (middle < lazy["diverged_at"])
        axes[0, 0].plot(
            arrays["path_time"][good],
            middle[good],
            **line(i),
            label=f"h = {h:g}",
        )
        if not good[1:].all() and good.any():
            end = np.flatnonzero(good)[-1]
            axes[0, 0].plot(arrays["path_time"][end], middle[end], "x", color=style["color"], ms=8)
    axes[0, 0].axhline(lazy["left_at"], color="0.6", lw=0.8, ls=":")
    axes[0, 0].set(
        xlabel=TIME, ylabel="relative change of the last-layer kernel", yscale="log", title="free trace loss"
    )
    axes[0, 0].legend(**LEGEND)
    for series, (name, label) in enumerate((("left", f"change above {lazy['left_at']:g}"), ("diverged", "diverged"))):
        reached = np.isfinite(arrays[name]).all(1)
        if not reached.any():
            continue
        fit = lazy[f"{name}_fit"]
        text = label + (f": slope {fit['slope']:.2f} ± {fit['standard_error']:.2f}" if fit["slope"] is not None else "")
        ranges(axes[0, 1], widths[reached], arrays[name][reached], series, text)
        if lazy["predicted_slope"] is not None:
            logs = np.log(widths)
            law = arrays[name][reached].mean() + lazy["predicted_slope"] * (logs - logs[reached].mean())
            axes[0, 1].plot(
                widths,
                law,
                **THEORY,
                label=f"theory: slope 1/(4|λ|) = {lazy['predicted_slope']:.2f}" if series == 0 else None,
            )
    if not np.isfinite(arrays["left"]).all(1).any():
        left = int(np.isfinite(arrays["left"]).sum())
        text = f"{left} of {arrays['left'].size} networks leave the lazy regime,\nat no width all"
        axes[0, 1].text(0.5, 0.5, text, ha="center", transform=axes[0, 1].transAxes)
        axes[0, 1].set_axis_off()
    axes[0, 1].set(xscale="log", xlabel="width h", ylabel=TIME, title="end of the lazy regime, against log h")
    numbered(axes[0, 1].xaxis, widths)
    if axes[0, 1].get_legend_handles_labels()[0]:
        axes[0, 1].legend(**LEGEND)
    return figure

"""The self-contained report.html."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

from grassmann_ssl.report import figures, terminal
from grassmann_ssl.report.page import embedded, png

if TYPE_CHECKING:
    from grassmann_ssl.experiments.linear.compare import Comparison

MEANING = {
    "barlow_twins": "Barlow Twins, L = ‖WᵀΓW − I‖² (λ = 1, no normalisation). Free weights learn one mode after the other; the "
    "constraint removes the scale that lets them whiten, and with all γ below 1 leads to the top-d eigenspace of Γ.",
    "spectral_contrastive": "Spectral contrastive loss, L = −2 tr(WᵀΓW) + ‖WᵀΣW‖².",
    "linear_contrastive": "Linear contrastive trace loss E[z·(z⁻ − z⁺)] = tr(WᵀCW). Unbounded below: free weights blow up while "
    "their rank goes to 1.",
    "squared_contrastive": "Squared contrastive trace loss ½E[‖z − z⁺‖² − ‖z − z⁻‖²] = tr(WᵀCW). Unbounded below: free weights "
    "blow up while their rank goes to 1.",
    "linear_noncontrastive": "Linear non-contrastive trace loss −E[z·z⁺] = tr(WᵀCW). Unbounded below: free weights blow up while "
    "their rank goes to 1.",
    "squared_noncontrastive": "Squared non-contrastive trace loss ½E‖z − z⁺‖² = tr(WᵀCW). Free weights shrink to zero, complete "
    "collapse. Under the constraint the loss seeks the directions that views change least; their eigenvalues of C lie close "
    "together, so trajectories are compared with theory, not end points.",
}


def render(comparison: Comparison) -> str:
    """The report as one HTML string: verdicts first, then the figures of every objective, then the settings."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = terminal.number
    template = environment.from_string((files(__package__) / "report.html.j2").read_text(encoding="utf-8"))
    result = comparison.result
    shown = list(dict.fromkeys(name for name, _ in comparison.arms))
    law = result["agreement"].get("barlow_twins", {}).get("initialisation_law")
    return template.render(
        result=result,
        header=terminal.HEADER,
        rows=terminal.rows(result),
        meaning=MEANING,
        panels={name: embedded(png(figures.objective_panels(comparison, name))) for name in shown},
        law=law,
        law_figure=embedded(png(figures.initialisation_law(comparison))) if law else None,
    )

"""Four panels for each arm: eigenvalues of F and of the predictor, alignment, asymmetry, against time."""

from __future__ import annotations

from matplotlib.figure import Figure

from grassmann_ssl.report.eigenspaces import IN_ORDER, LABELS, eigenspaces_row
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.report.style import TIME, panels
from grassmann_ssl.runs import Outcome

ROWS = ("regular", "symmetrised")


def page(outcome: Outcome) -> Page:
    """One figure."""
    config = outcome.record["config"]
    lede = (
        "Linear networks with a predictor and a moving average, without and with a predictor symmetrised at every step; "
        "Fig. 2 of Tian, Chen and Ganguli, arXiv 2102.06810, whose network is a ResNet-18 on STL-10. Our settings: Gaussian inputs with "
        f"X = I, σ² = {config['sigma2']:g}, m = {config['inputs']}, d = {config['dim']}, α_p = {config['alpha_p']:g}, starts of size "
        f"{config['scale']:g}, predictor near {config['p0']:g} I, target from a draw of its own. η = {config['eta']:g} and β = "
        f"{config['beta']:g} are theirs. Time is t = learning rate × step, learning rate {config['learning_rate']:g}."
    )
    ends = outcome.record["final_cosine"]
    caption = (
        f"Median over {config['seeds']} networks, bands show the range, one line per eigenvector. {IN_ORDER}. "
        f"At the end the smallest |cos|, median over networks, is {ends['regular']:.4f} without symmetrisation and {ends['symmetric']:.4f} "
        "with it; 1 is aligned."
    )
    return Page(
        "Do the eigenspaces of predictor and correlations align?",
        lede,
        (Section("alignment", "With and without symmetrisation", _figure(outcome), caption),),
    )


def _figure(outcome: Outcome) -> Figure:
    arrays = outcome.arrays
    figure, axes = panels(2, 4)
    for k, title in enumerate(ROWS):
        spaces = {name: arrays[name][:, k] for name in LABELS}
        eigenspaces_row(axes[k], arrays["time"], spaces, title, TIME, symmetric=k == 1)
    return figure

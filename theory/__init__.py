"""Closed forms and ODEs that predict self-supervised learning of linear models. numpy and scipy only; never trains."""

from theory import (
    barlow_twins,
    constrained,
    dimensional_collapse,
    graph,
    kernel,
    landscape,
    lazy,
    losses,
    off_diagonal,
    predictor,
    regularisation,
    scaling,
    sigreg,
    spectral_norm,
    stepwise,
    two_layer,
)

__all__ = [
    "barlow_twins",
    "constrained",
    "dimensional_collapse",
    "graph",
    "kernel",
    "landscape",
    "lazy",
    "losses",
    "off_diagonal",
    "predictor",
    "regularisation",
    "scaling",
    "sigreg",
    "spectral_norm",
    "stepwise",
    "two_layer",
]

"""Objectives: one pure keyword-only function per equation, from views or from population moments, and their registry.

Conventions of all of them: embeddings are rows, z (n, d); weights are W (..., m, d) with z = x W, so that the embedding
cross-moment is C = W^T Gamma W; expectations are means over the batch, not sums; leading dimensions are batch dimensions.
"""

from importlib import import_module
from pkgutil import iter_modules

from grassmann_ssl.objectives.check import ObjectiveCheck, check_objective
from grassmann_ssl.objectives.contrastive import (
    infonce,
    infonce_moments,
    spectral_contrastive,
    spectral_contrastive_moments,
)
from grassmann_ssl.objectives.hypersphere import alignment_uniformity
from grassmann_ssl.objectives.noncontrastive import (
    barlow_twins,
    barlow_twins_moments,
    barlow_twins_normalised,
    squared_vicreg,
    squared_vicreg_moments,
)
from grassmann_ssl.objectives.nt_xent import directclr, nt_xent
from grassmann_ssl.objectives.predictive import euclidean, isoloss, isoloss_cosine, negative_cosine
from grassmann_ssl.objectives.registry import REGISTRY, Objective, objective, options_of
from grassmann_ssl.objectives.sigreg import lejepa, random_directions, sigreg
from grassmann_ssl.objectives.trace import (
    linear_contrastive,
    linear_noncontrastive,
    squared_contrastive,
    squared_noncontrastive,
    trace_loss,
    trace_matrix,
)
from grassmann_ssl.objectives.vicreg import vicreg
from grassmann_ssl.objectives.whitening import w_mse

# Each module of this package declares what it defines: a new file is found, and needs no line here.
for _module in iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)

OBJECTIVES = tuple(REGISTRY)
TRACE_LOSSES = tuple(name for name in OBJECTIVES if REGISTRY[name].is_trace)
# Those that deep encoders train on.
EMBEDDING_LOSSES = tuple(name for name in OBJECTIVES if not REGISTRY[name].is_trace)

__all__ = [
    "EMBEDDING_LOSSES",
    "OBJECTIVES",
    "REGISTRY",
    "TRACE_LOSSES",
    "Objective",
    "ObjectiveCheck",
    "alignment_uniformity",
    "barlow_twins",
    "barlow_twins_moments",
    "barlow_twins_normalised",
    "check_objective",
    "directclr",
    "euclidean",
    "infonce",
    "infonce_moments",
    "isoloss",
    "isoloss_cosine",
    "lejepa",
    "linear_contrastive",
    "linear_noncontrastive",
    "negative_cosine",
    "nt_xent",
    "objective",
    "options_of",
    "random_directions",
    "sigreg",
    "spectral_contrastive",
    "spectral_contrastive_moments",
    "squared_contrastive",
    "squared_noncontrastive",
    "squared_vicreg",
    "squared_vicreg_moments",
    "trace_loss",
    "trace_matrix",
    "vicreg",
    "w_mse",
]

"""Gr(n, p) and St(n, p) as geoopt manifolds, and tools on subspaces.

Further: `checks` and `validated` for diagnostics, `derivatives` for Hessian-vector products, `pymanopt` for pymanopt's solvers.
"""

import warnings

with warnings.catch_warnings():
    # geoopt decorates its maths with torch.jit.script, which newer torch deprecates: 73 warnings that users cannot act on.
    # A DeprecationWarning, and a FutureWarning from torch 2.14 on.
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=Warning)
    import geoopt as _geoopt  # noqa: F401

from grassmann_ssl.manifolds.generalized import GeneralizedGrassmann
from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.manifolds.means import Mean, frechet_mean
from grassmann_ssl.manifolds.stiefel import CanonicalStiefel, Stiefel
from grassmann_ssl.manifolds.subspaces import (
    basis,
    complement,
    cut_locus_margin,
    distance,
    geodesic_ema,
    principal_angles,
    principal_vectors,
    procrustes,
    projector,
)
from grassmann_ssl.manifolds.validated import Validated

__all__ = [
    "CanonicalStiefel",
    "GeneralizedGrassmann",
    "Grassmann",
    "Mean",
    "Stiefel",
    "Validated",
    "WeightLayout",
    "basis",
    "complement",
    "cut_locus_margin",
    "distance",
    "frechet_mean",
    "geodesic_ema",
    "principal_angles",
    "principal_vectors",
    "procrustes",
    "projector",
]

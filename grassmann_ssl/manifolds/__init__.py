"""Gr(n, p) and St(n, p) as geoopt manifolds, and tools on subspaces."""

from grassmann_ssl.manifolds.generalized import GeneralizedGrassmann
from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.stiefel import Stiefel
from grassmann_ssl.manifolds.subspaces import principal_angles

__all__ = ["GeneralizedGrassmann", "Grassmann", "Stiefel", "principal_angles"]

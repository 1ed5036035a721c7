"""Layers whose weights live on a manifold."""

from grassmann_ssl.nn.constrain import GrassmannLinear, constrain, constraints

__all__ = ["GrassmannLinear", "constrain", "constraints"]

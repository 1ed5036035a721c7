"""Angles between subspaces given by orthonormal bases."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_angles(x: Float[Tensor, "*#b n p"], y: Float[Tensor, "*#b n p"]) -> Float[Tensor, "*b p"]:
    """Principal angles between span(X) and span(Y), in increasing order, radians in [0, pi/2].

    theta_i = atan2(s_i, c_i), c the singular values of X^T Y and s those of Y - X X^T Y: accurate to a few eps everywhere,
    where arccos loses half the digits near 0 and arcsin near pi/2. X, Y (..., n, p) orthonormal; leading dimensions broadcast.
    Invariant under X -> X Q. Source: Knyazev & Argentati 2002, SIAM J. Sci. Comput. 23, 2009.
    """
    overlap = x.mT @ y
    cosines = torch.linalg.svdvals(overlap)
    # The Gram matrix of the residual would square its small singular values away; its triangular factor does not.
    sines = torch.linalg.svdvals(torch.linalg.qr(y - x @ overlap, mode="r")[1]).flip(-1)
    return torch.atan2(sines, cosines)


def relative_position(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (..., p), directions H (..., n, p) and basis R (..., p, p) with Log_X(Y) = H diag(angles) R^H."""
    q, cosines, rh = torch.linalg.svd(y.mH @ x)
    aligned = y @ q
    residual = aligned - x @ (x.mH @ aligned)
    sines = torch.linalg.vector_norm(residual, dim=-2)
    directions = residual / torch.where(sines > 0, sines, 1)[..., None, :]
    return torch.atan2(sines, cosines), directions, rh.mH

"""Ways back to X^T X = I."""

import torch
from jaxtyping import Float
from torch import Tensor


def cholesky_qr(x: Float[Tensor, "*b n p"]) -> Float[Tensor, "*b n p"]:
    """The Q factor of X = Q R with positive diagonal of R, by Cholesky of the Gram matrix: X R^{-1}, R^T R = X^T X.

    The Gram matrix is that of X itself, so that rounding in X is corrected, not inherited. Error about eps cond(X)^2: for X + U with U
    horizontal, cond^2 <= 1 + ||U||_2^2, below 3 for ordinary steps. Where cond(X)^2 > 1/eps the factorization breaks down, and what
    comes back is meaningless: raising an error would wait for the device. No sign flips. X (..., n, p) of full rank. For arbitrary
    input use `householder_qr`.
    """
    factor = torch.linalg.cholesky_ex(x.mT @ x)[0]
    # Inverting the small triangle and one product is faster than a triangular solve with n right-hand sides, and as accurate here.
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return x @ torch.linalg.solve_triangular(factor, identity, upper=False).mT


def householder_qr(x: Float[Tensor, "*b n p"]) -> Float[Tensor, "*b n p"]:
    """The Q factor of X = Q R with non-negative diagonal of R, by Householder reflections: stable for any X (..., n, p)."""
    q, r = torch.linalg.qr(x)
    sign = torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1, 1).to(x.dtype)
    return (q * sign[..., None, :]).contiguous()

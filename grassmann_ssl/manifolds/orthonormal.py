"""Orthonormalisation: p x p factors T of a Gram matrix G = Z^H Z with (Z T)^H (Z T) = I, and Householder QR for any Z."""

import math
from functools import cache

import torch
from jaxtyping import Inexact
from torch import Tensor

from grassmann_ssl.manifolds.matrix_functions import minus_product
from grassmann_ssl.manifolds.tall import ROWS, inner_products

KEPT = 64
"""side of the largest identity that is kept"""


def cholesky_factor(gram: Inexact[Tensor, " *b p p"]) -> Inexact[Tensor, " *b p p"]:
    """T = R^{-1}, upper triangular with positive diagonal, where R^H R = G: Z T is the Q factor of Z.

    The Gram matrix is that of Z itself, so that rounding in Z is corrected, not inherited. Error about eps cond(Z)^2: for Z = X + U with
    U horizontal, cond^2 <= 1 + ||U||_2^2, below 3 for ordinary steps. Where cond(Z)^2 > 1/eps the factorization breaks down, and what
    comes back is meaningless: raising an error would wait for the device. No sign flips. G (..., p, p) positive definite.
    """
    factor = torch.linalg.cholesky_ex(gram)[0]
    # Inverting the small triangle and one product is faster than a triangular solve with n right-hand sides, and as accurate here.
    p = gram.shape[-1]
    # Not on a GPU, where the identity of a graph that is being captured lives no longer than the graph.
    kept = gram.is_cpu and p <= KEPT and type(gram) is Tensor and not torch.compiler.is_compiling()
    identity = _identity(p, gram.dtype) if kept else torch.eye(p, dtype=gram.dtype, device=gram.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.mH


@cache
def _identity(p: int, dtype: torch.dtype) -> Tensor:
    """torch.eye, kept, since it takes as long as a product of small matrices. Nobody writes to it."""
    return torch.eye(p, dtype=dtype, device="cpu")


def polar_factor(
    gram: Inexact[Tensor, " *b p p"], longest: float = math.pi / 2, length: float | None = None
) -> Inexact[Tensor, " *b p p"]:
    """T = G^{-1/2} by Newton-Schulz: Z T is the orthonormal matrix nearest to Z, and T is a function of G, free of any basis.

    With M = T G T, steps T <- T (15 I - 10 M + 3 M^2)/8 from T = I sqrt(2/(l + L)), where l = 1 and L bound the spectrum: exact to
    rounding, in as many steps as `longest`, the largest ||U||_F, needs (four at pi/2).
    Products only. G (..., p, p) with spectrum in about [1, 1 + longest^2], as of Z = X + U with U horizontal and ||U||_F <= longest.
    `length` is ||U||_F, of one matrix, where the host knows it. Source: Higham 2008, Functions of Matrices, sec. 8.3 (Pade family).
    """
    p = gram.shape[-1]
    # ||U||_F^2 bounds the spectrum above by 1 + ||U||_F^2; the midpoint 1 + ||U||_F^2 / 2 halves the distance to both ends.
    if length is None:  # ||U||_F^2 = tr G - p
        spread = (torch.diagonal(gram, dim1=-2, dim2=-1).real.sum(-1) - p).clamp_min(0)[..., None, None]
        middle = 1 + spread / 2
        m, start = gram / middle, middle.rsqrt().to(gram.dtype)
    else:
        scale = 1 / (1 + length**2 / 2)
        m, start = gram * scale, scale**0.5
    factor = None
    for step in reversed(range(quintic_steps(longest, gram.dtype))):
        q = minus_product(m, m, m, -3 / 8, -10 / 8)
        torch.diagonal(q, dim1=-2, dim2=-1).add_(15 / 8)
        factor = q * start if factor is None else factor @ q
        m = q @ m @ q if step else m
    assert factor is not None  # one step at least
    return (factor + factor.mH) / 2


def quintic_steps(longest: float, dtype: torch.dtype) -> int:
    """Newton-Schulz steps to rounding from ||U||_F <= `longest`: one at least, which removes the rounding error of X."""
    eps = torch.finfo(dtype).eps
    error = longest**2 / (2 + longest**2)
    steps = 0
    while steps == 0 or error > eps / 2:
        # At m = 1 - error, the farther end of the spectrum, m (15 - 10 m + 3 m^2)^2 / 64 leaves this.
        error = error**3 * (40 + 15 * error + 9 * error**2) / 64
        steps += 1
    return steps


def refined(x: Inexact[Tensor, " *b n p"], gram: Inexact[Tensor, " *b p p"]) -> Inexact[Tensor, " *b n p"]:
    """X (3 I - G)/2 with its Gram matrix G: one Newton-Schulz step; squares the error of a nearly orthonormal X, turns no basis."""
    return minus_product(1.5 * x, x, gram, 0.5)


def cholesky_qr(x: Inexact[Tensor, " *b n p"]) -> Inexact[Tensor, " *b n p"]:
    """The Q factor, with positive diagonal of R, of a well-conditioned X (..., n, p); see `cholesky_factor` for its limits."""
    return x @ cholesky_factor(inner_products(x, x))


def householder_qr(x: Inexact[Tensor, " *b n p"]) -> Inexact[Tensor, " *b n p"]:
    """The Q factor of X = Q R with non-negative diagonal of R, by Householder reflections: stable for any X (..., n, p)."""
    # A complex reflection of one entry is a difference of numbers up to 2, and would be off the circle by 6 eps.
    if x.shape[-2:] == (1, 1):
        return torch.where(x == 0, torch.ones_like(x), x.sgn()).contiguous()
    q: Tensor
    q, r = torch.linalg.qr(x)
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)
    phase = torch.where(diagonal == 0, torch.ones_like(diagonal), diagonal.sgn())
    q = (q * phase[..., None, :]).contiguous()
    # The rounding of reflections grows with n; a Newton-Schulz step undoes it and keeps the basis.
    return q if q.shape[-2] <= ROWS else refined(q, inner_products(q, q))

"""Products and p x p matrix functions that the closed forms are made of."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Inexact
from torch import Tensor

from grassmann_ssl.manifolds.applied import applied
from grassmann_ssl.manifolds.tall import product

DOUBLINGS = 2
BLOCK, BLOCKS, ARC_BLOCKS = 4, 4, 6
MANY = 50
"""matrices in a batch from where baddbmm takes twice the time of bmm and a sum (measured, CPU)"""


def _coefficients() -> list[list[float]]:
    """Taylor coefficients of sinc, sum (-S)^j / (2j + 1)!, and (1 - cos)/S, sum (-S)^j / (2j + 2)!, in blocks of powers 0 .. 3 of S."""
    series = [[(-1) ** j / math.factorial(2 * j + k) for j in range(BLOCK * BLOCKS)] for k in (1, 2)]
    return [row[BLOCK * i : BLOCK * (i + 1)] for row in series for i in range(BLOCKS)]


def _arc_coefficients() -> list[list[float]]:
    """Coefficients of arccos(c) (1 - c^2)^{-1/2} in powers of 2c - 1, in blocks; the series falls by 3 + 8^{1/2} each, from the pole -1."""
    order = BLOCK * ARC_BLOCKS
    t = np.polynomial.chebyshev.chebpts1(order)
    series = np.polynomial.chebyshev.chebfit(t, np.arccos((1 + t) / 2) / np.sqrt((1 - t) * (3 + t) / 4), order - 1)
    blocks: list[list[float]] = np.polynomial.chebyshev.cheb2poly(series).reshape(ARC_BLOCKS, BLOCK).tolist()
    return blocks


COEFFICIENTS = _coefficients()
ARC_COEFFICIENTS = _arc_coefficients()


def trigonometric(
    s: Inexact[Tensor, " *b p p"],
) -> tuple[Inexact[Tensor, " *b p p"], Inexact[Tensor, " *b p p"], Inexact[Tensor, " *b p p"]]:
    """cos(S^{1/2}), sinc(S^{1/2}) = sin(S^{1/2}) S^{-1/2} and (1 - cos S^{1/2}) S^{-1}, for Hermitian S (..., p, p), S >= 0.

    Entire in S: exact and differentiable at every U. Taylor series of sinc and w = (1 - cos)/S at S / 4^k, by blocks of four powers,
    then k doublings of the angle, with v = w S: sinc <- sinc (1 - v), w <- w (2 - v)/2, S <- 4 S. Working with v = 1 - cos keeps
    rounding at a few eps where cos(2x) = 2 cos^2 x - 1 would multiply it by 4 each time. No eigendecomposition: derivatives exist at
    S = 0 and at repeated eigenvalues. Error a few eps max(1, theta^2) for angles theta up to 10 rad, 60 times that at 20.
    Source: Higham 2008, Functions of Matrices, sec. 4.2 (Paterson & Stockmeyer), ch. 12.
    """
    p = s.shape[-1]
    s = s / 4**DOUBLINGS
    square = s @ s
    identity = torch.eye(p, dtype=s.dtype, device=s.device).expand_as(s)
    powers = torch.stack([identity, s, square, square @ s], dim=-3)
    # All blocks of both series at once, as one small product: (2 * BLOCKS, BLOCK) times the powers, flattened.
    coefficients = torch.tensor(COEFFICIENTS, dtype=s.dtype, device=s.device)
    blocks = torch.unflatten(coefficients @ powers.flatten(-2), -1, (p, p)).unbind(-3)
    fourth = square @ square
    sinc, w = blocks[BLOCKS - 1], blocks[-1]
    for i in reversed(range(BLOCKS - 1)):
        sinc = minus_product(blocks[i], sinc, fourth, -1.0)
        w = minus_product(blocks[BLOCKS + i], w, fourth, -1.0)
    for _ in range(DOUBLINGS):
        v = w @ s
        sinc = minus_product(sinc, sinc, v)
        w = minus_product(w, w, v, 0.5)
        s = 4 * s
    return minus_product(identity, w, s), sinc, w


def arc_ratio(c: Inexact[Tensor, " *b p p"]) -> Inexact[Tensor, " *b p p"]:
    """arccos(C) (I - C^2)^{-1/2}, that is theta / sin theta at cosines, for Hermitian C (..., p, p) with spectrum in [0, 1].

    The function is analytic but for C = -I. A polynomial through Chebyshev points, by blocks of powers: to a few eps, and with derivatives
    of any order at every C, repeated eigenvalues and the identity among them. Source: Higham 2008, sec. 4.2.
    """
    identity = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device).expand_as(c)
    t = 2 * c - identity
    square = t @ t
    powers = torch.stack([identity, t, square, square @ t], dim=-3)
    coefficients = torch.tensor(ARC_COEFFICIENTS, dtype=c.dtype, device=c.device)
    *lower, total = torch.unflatten(coefficients @ powers.flatten(-2), -1, c.shape[-2:]).unbind(-3)
    fourth = square @ square
    result: Tensor = total
    for block in reversed(lower):
        result = minus_product(block, result, fourth, -1.0)
    return result


def unitary_factor(a: Inexact[Tensor, " *b p p"]) -> Inexact[Tensor, " *b p p"]:
    """U of the polar decomposition A = U (A^H A)^{1/2} of A (..., p, p): the nearest unitary matrix.

    Derivatives divide by sums of singular values, never by differences: they exist to any order, in either mode, where A is regular.
    Where it is singular U is one of several. Source: Higham 2008, ch. 8.
    """
    return applied(_UnitaryFactor, a)


class _UnitaryFactor(torch.autograd.Function):
    """By SVD. With P = U^H A, dU = U K and P K + K P = U^H dA - dA^H U: a self-adjoint map, so that one formula serves both modes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        left, _, right = torch.linalg.svd(a)
        factor: Tensor = left @ right
        return factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        # Not the output: torch's forward mode, nested, takes a saved one for a constant.
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        factor = unitary_factor(a)
        skew = factor.mH @ gradient
        turned: Tensor = factor @ _sylvester(factor.mH @ a, skew - skew.mH)
        return turned

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _UnitaryFactor.backward(ctx, tangent)


def _sylvester(p: Tensor, m: Tensor) -> Tensor:
    return applied(_Sylvester, p, m)


class _Sylvester(torch.autograd.Function):
    """K with P K + K P = M, for Hermitian P; self-adjoint in M, and its derivatives are equations of the same kind."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, m: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((p + p.mH) / 2)
        sums = values[..., :, None] + values[..., None, :]
        solution: Tensor = vectors @ ((vectors.mH @ m @ vectors) / sums) @ vectors.mH
        return solution

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        p, m = ctx.saved_tensors
        k, by_m = _sylvester(p, m), _sylvester(p, gradient)
        return (-(by_m @ k.mH + k.mH @ by_m)).sum_to_size(p.shape), by_m.sum_to_size(m.shape)

    @staticmethod
    def jvp(ctx: Any, p_moved: Tensor, m_moved: Tensor) -> Tensor:
        p, m = ctx.saved_tensors
        k = _sylvester(p, m)
        return _sylvester(p, m_moved - p_moved @ k - k @ p_moved)


def minus_product(u: Tensor, x: Tensor, a: Tensor, scale: float = 1.0, beta: float = 1.0) -> Tensor:
    """beta U - scale X A, in one fused pass over memory where shapes allow; U, X (..., n, p), A (..., p, p)."""
    if u.shape == x.shape and u.ndim == 2:
        return torch.addmm(u, x, a, alpha=-scale, beta=beta)
    if u.shape == x.shape and u.ndim == 3 and a.ndim == 3 and len(u) < MANY:
        return torch.baddbmm(u, x, a, alpha=-scale, beta=beta)
    return torch.sub(u if beta == 1 else beta * u, product(x, a), alpha=scale)


def minus_product_(u: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """U - X A in place of U."""
    if u.ndim == 2:
        return u.addmm_(x, a, alpha=-1)
    if u.ndim == 3 and x.ndim == 3 and len(u) < MANY:
        return u.baddbmm_(x, a, alpha=-1)
    return u.sub_(product(x, a))

"""Products and p x p matrix functions that the closed forms are made of."""

import math

import torch
from jaxtyping import Inexact
from torch import Tensor

DOUBLINGS = 2
BLOCK, BLOCKS = 4, 4


def _coefficients() -> list[list[float]]:
    """Taylor coefficients of sinc, sum (-S)^j / (2j + 1)!, and (1 - cos)/S, sum (-S)^j / (2j + 2)!, in blocks of powers 0 .. 3 of S."""
    series = [[(-1) ** j / math.factorial(2 * j + k) for j in range(BLOCK * BLOCKS)] for k in (1, 2)]
    return [row[BLOCK * i : BLOCK * (i + 1)] for row in series for i in range(BLOCKS)]


COEFFICIENTS = _coefficients()


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


def minus_product(u: Tensor, x: Tensor, a: Tensor, scale: float = 1.0) -> Tensor:
    """U - scale X A, in one fused pass over memory where shapes allow; U, X (..., n, p), A (..., p, p)."""
    if u.shape == x.shape and u.ndim == 2:
        return torch.addmm(u, x, a, alpha=-scale)
    if u.shape == x.shape and u.ndim == 3 and a.ndim == 3:
        return torch.baddbmm(u, x, a, alpha=-scale)
    return u - scale * (x @ a)


def minus_product_(u: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """U - X A in place of U."""
    if u.ndim == 2:
        return torch.addmm(u, x, a, alpha=-1, out=u)
    if u.ndim == 3 and x.ndim == 3:
        return torch.baddbmm(u, x, a, alpha=-1, out=u)
    return u.sub_(x @ a)

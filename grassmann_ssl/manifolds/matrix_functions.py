"""Products and p x p matrix functions that the closed forms are made of."""

import torch
from jaxtyping import Inexact
from torch import Tensor

DOUBLINGS = 4
TERMS = 13


def trigonometric(
    s: Inexact[Tensor, " *b p p"],
) -> tuple[Inexact[Tensor, " *b p p"], Inexact[Tensor, " *b p p"], Inexact[Tensor, " *b p p"]]:
    """cos(S^{1/2}), sinc(S^{1/2}) = sin(S^{1/2}) S^{-1/2} and (1 - cos S^{1/2}) S^{-1}, for Hermitian S (..., p, p), S >= 0.

    Entire in S: exact and differentiable at every U. Taylor series of sinc and w = (1 - cos)/S at S / 4^k, then k doublings of the angle, with v = w S:
    sinc <- sinc (1 - v), w <- w (2 - v)/2, S <- 4 S. Working with v = 1 - cos keeps rounding at a few eps where cos(2x) = 2
    cos^2 x - 1 would multiply it by 4 each time. No eigendecomposition: derivatives exist at S = 0 and at repeated
    eigenvalues. Error a few eps max(1, theta^2) for angles theta up to 20 rad.
    """
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    s = s / 4**DOUBLINGS
    sinc = w = torch.zeros_like(s)
    for j in reversed(
        range(TERMS)
    ):  # Horner, from the innermost term: sum_j (-S)^j / (2j + 1)! and sum_j (-S)^j / (2j + 2)!
        sinc = identity - s @ sinc / ((2 * j + 2) * (2 * j + 3))
        w = identity - s @ w / ((2 * j + 3) * (2 * j + 4))
    w = w / 2
    for _ in range(DOUBLINGS):
        v = w @ s
        sinc = sinc - sinc @ v
        w = w - w @ v / 2
        s = 4 * s
    return identity - w @ s, sinc, w


def minus_product(u: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """U - X A, in one fused pass over memory where shapes allow; U, X (..., n, p), A (..., p, p)."""
    if u.shape == x.shape and u.ndim == 2:
        return torch.addmm(u, x, a, alpha=-1)
    if u.shape == x.shape and u.ndim == 3 and a.ndim == 3:
        return torch.baddbmm(u, x, a, alpha=-1)
    return u - x @ a


def minus_product_(u: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """`minus_product` in place of U."""
    if u.ndim == 2:
        return torch.addmm(u, x, a, alpha=-1, out=u)
    if u.ndim == 3 and x.ndim == 3:
        return torch.baddbmm(u, x, a, alpha=-1, out=u)
    return u.sub_(x @ a)

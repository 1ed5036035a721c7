"""Trigonometric functions of the square root of a p x p matrix S = U^T U, entire in S: exact and differentiable at every U."""

import torch
from jaxtyping import Float
from torch import Tensor

DOUBLINGS = 4
TERMS = 13


def trigonometric(
    s: Float[Tensor, "*b p p"],
) -> tuple[Float[Tensor, "*b p p"], Float[Tensor, "*b p p"], Float[Tensor, "*b p p"]]:
    """cos(S^{1/2}), sinc(S^{1/2}) = sin(S^{1/2}) S^{-1/2} and (1 - cos S^{1/2}) S^{-1}, for symmetric S (..., p, p), S >= 0.

    Taylor series of sinc and w = (1 - cos)/S at S / 4^k, then k doublings of the angle, with v = w S:
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

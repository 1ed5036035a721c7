"""Right-hand sides of linear networks with a predictor, for `simulate`, and their measurements.

Tian, Chen, Ganguli, ICML 2021, arXiv 2102.06810: weights W (N, m, d) and f = W^T x (our W is the paper's transposed), predictor W_p
(N, d, d), target W_a (N, m, d), gradients of J = (1/2) E ||W_p f_1 - stop(W_a^T x_2)||^2 in the population. The data have X = I and X'
diagonal: `variance` (N, m) holds the augmentation variance of every input. Time is learning rate x step of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = NDArray[np.float64]


def trained(
    weights: Tensor,
    predictor: Tensor,
    target: Tensor | None = None,
    *,
    variance: Tensor,
    alpha_p: Tensor,
    eta: Tensor,
    tau: Tensor | None = None,
    beta: Tensor | None = None,
    symmetric: Tensor | None = None,
) -> dict[str, Tensor]:
    """Eqs. (2)-(4): all three are trained, or, without `target`, W_a = tau W. Settings are (N, 1, 1).

    symmetric: 1 where the predictor is symmetrised after every step, W_p <- (W_p + W_p^T) / 2, else 0. From a symmetric start that is
    the symmetric part of its derivative.
    """
    if target is None:
        assert tau is not None
        goal = tau * weights
    else:
        goal = target
    residual = goal - (1 + variance[..., None]) * (weights @ predictor.mT)
    slope = alpha_p * (residual.mT @ weights) - eta * predictor
    if symmetric is not None:
        slope = slope + symmetric * (slope.mT - slope) / 2
    slopes = {"weights": residual @ predictor - eta * weights, "predictor": slope}
    if target is not None and beta is not None:
        slopes["target"] = beta * (weights - target)
    return slopes


@dataclass(frozen=True)
class Aligned:
    """Networks (N, ...) whose predictor and correlations share their eigenvectors (N, d, d), with modes p, s (N, d)."""

    weights: Tensor
    predictor: Tensor
    vectors: Tensor


def aligned(p: Array, s: Array, inputs: int, generator: torch.Generator) -> Aligned:
    """W = frame diag(sqrt s) V^T and W_p = V diag(p) V^T with a random frame (inputs, d) and random V: F = W^T W = V diag(s) V^T."""
    modes_p, modes_s = torch.as_tensor(p), torch.as_tensor(s)
    count, d = modes_p.shape
    frame = torch.linalg.qr(torch.randn(count, inputs, d, dtype=torch.float64, generator=generator))[0]
    vectors = torch.linalg.qr(torch.randn(count, d, d, dtype=torch.float64, generator=generator))[0]
    weights = (frame * modes_s.sqrt()[:, None]) @ vectors.mT
    return Aligned(weights, (vectors * modes_p[:, None]) @ vectors.mT, vectors)


def settings(device: torch.device, **values: ArrayLike) -> dict[str, Tensor]:
    """Values per cell (N,) as (N, 1, 1), to multiply matrices."""
    return {name: torch.as_tensor(np.asarray(v, float), device=device)[:, None, None] for name, v in values.items()}


def modes_of(matrix: Tensor, vectors: Tensor) -> Array:
    """v_j^T M v_j (K, N, d) of matrices (K, N, d, d) in fixed eigenvectors (N, d, d)."""
    return torch.einsum("nij,knil,nlj->knj", vectors, matrix, vectors).numpy()


def correlation(weights: Tensor) -> Tensor:
    """F = W^T X W = W^T W (..., d, d)."""
    return weights.mT @ weights

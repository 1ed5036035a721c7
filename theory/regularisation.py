"""Which modes survive a penalty: final scales of a linear model under weight decay, orthogonality and variance penalties.

Model f(x) = W^T x with weights W (m, d); signal and augmentation noise share their eigenvectors: cross-moment Gamma with
eigenvalues gamma_j, second moment Sigma with sigma_j = gamma_j + n_j. On weights whose columns are eigenvectors, W = V S, all
losses below split into one term a mode, L = sum_j l_j(x_j) with x_j = s_j^2 >= 0 the scale of mode j and y_j = sigma_j x_j the
variance of its embedding. Near the origin every loss is const - sum_j 2 b_j x_j: a mode leaves the origin iff b_j > 0
(Ziyin et al., ICLR 2023, arXiv 2210.00638). From a small start the modes of largest b_j are learned first; trained to the end,
d outputs hold the d modes of largest gain l_j(0) - l_j(x_j). Free Barlow Twins alone gains the same from all of them.
These are the minima among aligned weights. Where the loss weighs W by two matrices at once (orthogonality or Barlow Twins'
Gamma beside Sigma) directions that mix modes can lie a little lower, as in the mixed regime of constrained Barlow Twins.
Penalties, added to the loss as written (gradient flow of the sum, t = learning rate x step):
    weight decay eta       (eta / 2) ||W||_F^2, the convention of torch.optim.SGD(weight_decay=eta): gradient eta W
    orthogonality kappa    kappa ||W^T W - I||_F^2
    variance nu            nu ||W^T Sigma W - I||_F^2, the variance and covariance terms of VICReg in squared form
(`theory.sigreg` has the penalty on the distribution of the embedding.)
All functions are derived here and verified in tests. They raise ValueError for arrays that are not finite or do not fit each
other, and for negative penalties.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory._validation import Array

BISECTIONS = 200  # halve any bracket of float64 numbers down to neighbours, in the logarithm


class Quartic(NamedTuple):
    """A loss -2 tr(W^T B W) + quadratic form in the scales: l_j(x) = -2 b_j x + q_j x^2 + const, with b, q (m,)."""

    attraction: Array
    curvature: Array


def quartic(objective: str, gamma: ArrayLike, sigma: ArrayLike, *, beta: float = 1.0) -> Quartic:
    """The coefficients (b_j, q_j) of an objective without penalties.

    barlow_twins            ||W^T Gamma W - I||^2                                   b = gamma, q = gamma^2
    spectral_contrastive    -2 tr W^T Gamma W + ||W^T Sigma W||^2                   b = gamma, q = sigma^2
    squared_vicreg          ||W^T Sigma W - I||^2 + beta E||z - z'||^2              b = sigma - beta (sigma - gamma), q = sigma^2
    linear_contrastive      -tr W^T Gamma W (centred data), linear_noncontrastive the same     b = gamma / 2, q = 0
    squared_contrastive     -tr W^T Gamma W (centred data, views of one law)        b = gamma / 2, q = 0
    squared_noncontrastive  tr W^T (Sigma - Gamma) W                                b = -(sigma - gamma) / 2, q = 0
    gamma, sigma (m,). Raises ValueError for another name (lists the known ones), unless sigma > 0, or for beta < 0.
    """
    g, s = _modes(gamma, sigma)
    weight = check.number("beta", beta, least=0)
    zero = np.zeros_like(g)
    known = {
        "barlow_twins": Quartic(g, g**2),
        "spectral_contrastive": Quartic(g, s**2),
        "squared_vicreg": Quartic(s - weight * (s - g), s**2),
        "linear_contrastive": Quartic(g / 2, zero),
        "squared_contrastive": Quartic(g / 2, zero),
        "linear_noncontrastive": Quartic(g / 2, zero),
        "squared_noncontrastive": Quartic(-(s - g) / 2, zero),
    }
    if objective not in known:
        raise ValueError(f"objective must be one of {', '.join(known)}, got {objective!r}")
    return known[objective]


def scales(
    loss: Quartic,
    sigma: ArrayLike,
    *,
    weight_decay: float = 0.0,
    orthogonality: float = 0.0,
    variance: float = 0.0,
) -> Array:
    """Final scales x_j = s_j^2 (m,) of a quartic loss under penalties.

    x_j = max(0, b_j - eta/4 + kappa + nu sigma_j) / (q_j + kappa + nu sigma_j^2)
    minimises l_j(x) + (eta/2) x + kappa (x - 1)^2 + nu (sigma_j x - 1)^2. inf where the denominator is 0 and the numerator
    is not: the loss is unbounded below, and free weights diverge (`theory.constrained.free_flow` says how).
    sigma (m,). Validity: d of the modes carry these scales, those of the largest gain, numerator^2 / denominator.
    Raises ValueError for sigma <= 0, curvature < 0 or negative penalties.
    """
    b, q = np.broadcast_arrays(
        check.array("attraction", loss.attraction), check.non_negative("curvature", loss.curvature)
    )
    s = check.positive("sigma", sigma)
    eta, kappa, nu = _penalties(weight_decay, orthogonality, variance)
    gain = np.maximum(b - eta / 4 + kappa + nu * s, 0.0)
    cost = q + kappa + nu * s**2
    return np.where(gain > 0, np.where(cost > 0, gain / np.where(cost > 0, cost, 1.0), np.inf), 0.0)


def infonce_scales(
    signal: ArrayLike,
    noise: ArrayLike,
    *,
    weight_decay: float = 0.0,
    orthogonality: float = 0.0,
    variance: float = 0.0,
) -> Array:
    """Final scales x_j (m,) of InfoNCE on Gaussian data with additive noise, under penalties.

    The root of n_j - sigma_j/2 [1/(1+y) + 1/(1+y)^2] + eta/2 + 2 kappa (x - 1) + 2 nu sigma_j (y - 1), y = sigma_j x; the loss
    is convex in x, so there is one, or x = 0. Without kappa and nu, y = 2 / (sqrt(1 + 8 r) - 1) - 1 with
    r = (n_j + eta/2) / sigma_j, and inf for r = 0. signal, noise (m,): eigenvalues of Gamma > 0 and Sigma - Gamma >= 0.
    Similarity -|z - z'|^2 / 2, temperature 1, infinitely many negatives.
    Raises ValueError unless signal > 0, noise >= 0 and all penalties >= 0.
    """
    a, n = check.positive("signal", signal), check.non_negative("noise", noise)
    a, n = np.broadcast_arrays(a, n)
    s = a + n
    eta, kappa, nu = _penalties(weight_decay, orthogonality, variance)

    def slope(x: Array) -> Array:
        y = s * x
        pull = s / 2 * (1 / (1 + y) + 1 / (1 + y) ** 2)
        return n - pull + eta / 2 + 2 * kappa * (x - 1) + 2 * nu * s * (y - 1)

    if kappa == nu == 0:
        r = (n + eta / 2) / s
        with np.errstate(divide="ignore"):
            y = 2 / (np.sqrt(1 + 8 * r) - 1) - 1
        return np.maximum(y, 0.0) / s
    low, high = np.full(s.shape, 1e-300), np.full(s.shape, 1e300)
    for _ in range(BISECTIONS):
        middle = np.sqrt(low) * np.sqrt(high)
        rising = slope(middle) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return np.where(slope(np.zeros_like(s)) < 0, high, 0.0)


def _modes(gamma: ArrayLike, sigma: ArrayLike) -> tuple[Array, Array]:
    g, s = check.array("gamma", gamma, ndim=1), check.positive("sigma", sigma)
    if g.shape != s.shape:
        raise ValueError(f"gamma and sigma need one shape (m,), got {g.shape} and {s.shape}")
    return g, s


def _penalties(weight_decay: float, orthogonality: float, variance: float) -> tuple[float, float, float]:
    return (
        check.number("weight_decay", weight_decay, least=0),
        check.number("orthogonality", orthogonality, least=0),
        check.number("variance", variance, least=0),
    )

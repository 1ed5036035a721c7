"""Power-law spectra: the loss as a power of time, from small free weights and from random orthonormal ones.

Stepwise learning (Simon et al., ICML 2023, arXiv 2303.15438) learns mode j at tau_j = log(1 / lambda_j(0)) / (8 gamma_j), lambda_j its
share of its final scale. With gamma_j = gamma_1 j^-alpha and steps that lower the loss by w_1 j^-beta the staircase becomes a power law of
exponent (beta - 1) / alpha, up to logarithms (`PowerLaw`). Orthonormal weights have no small start, and the trace loss of
`theory.constrained` obeys another law: its excess falls as t^-2 for every alpha, until t is 1 / gap.
Unit of time everywhere: t = learning rate x step of gradient descent on the loss as written. A vector of times gives (T,), a scalar a
number. Derived here and verified in tests. All functions raise ValueError for arrays that are not finite or do not fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit, wrightomega, zeta

from theory import _validation as check
from theory._validation import Array

SPACING, DIGITS = 0.05, 40.0  # of a quadrature in the logarithm; e-folds of the integrand that are kept on each side
LARGEST_EXPONENT = 600.0  # of e, in that quadrature
SAME_START = 1e-12  # |r| below which all modes start at the same share
LOWER_BRANCH = float(np.nextafter(np.pi, 4.0))  # omega(x + i pi) jumps there; just above it is W_{-1}(-e^x)


@dataclass(frozen=True)
class PowerLaw:
    """Modes of `theory.losses.LogisticModes` along power laws, infinitely many of them.

    gamma_j = gamma_1 j^-alpha the attraction; lambda_j(0) = start j^-delta the share of the final scale that a mode starts with;
    j^-beta the loss that it takes away in the end, in units of the first. With r = delta / alpha the mode of gamma* is being learned at
        t = z / (8 gamma*),   z + r log z = r log(8 gamma_1 t) - log(start):   z = r W((8 gamma_1 t)/r start^{-1/r}), W of Lambert,
    k = (gamma_1 / gamma*)^{1/alpha} = (8 gamma_1 t / z)^{1/alpha} modes have been, and the z e-folds change like log t.
    Validity: start << 1, and k between 1 and the number of outputs d, both far away. For r < 0 also before modes that start above their
    final scale matter, z >> |r|. A random start of scale c has s_0^2 = c^2 (d - j + 1), about c^2 d for the first modes.
    Raises ValueError unless gamma_1, alpha and start are > 0, and start < 1.
    """

    gamma_1: float
    alpha: float
    start: float
    delta: float
    beta: float

    def __post_init__(self) -> None:
        for name in ("gamma_1", "alpha", "start"):
            check.positive_number(name, getattr(self, name))
        for name in ("delta", "beta"):
            check.number(name, getattr(self, name))
        if self.start >= 1:
            raise ValueError(f"start must be < 1, a share of the final scale, got {self.start:g}")

    def frontier(self, t: ArrayLike) -> Array:
        """The attraction gamma*(t) (T,) of the mode that is being learned: lambda(0) e^{8 gamma* t} = 1. Raises ValueError for t <= 0."""
        at, scalar = _times(t)
        result = self._folds(at, 0.0) / (8 * at)
        return result[0] if scalar else result

    def learned(self, t: ArrayLike) -> Array:
        """The number of learned modes k(t) (T,), not rounded: t^{1/alpha} up to a logarithm. Raises ValueError for t <= 0."""
        result: Array = (self.gamma_1 / self.frontier(t)) ** (1 / self.alpha)
        return result

    def exponent(self, t: ArrayLike) -> Array:
        """Local slope (T,) of log k^{1 - beta} in log t: -((beta - 1) / alpha) z / (z + r).

        It tends to -(beta - 1) / alpha as 1 / log t. The slope of `excess` differs from it by a share of order 1 / z^2. For beta < 1 it is
        positive, that of the loss gained. Raises ValueError for t <= 0.
        """
        at, scalar = _times(t)
        z, r = self._folds(at, 0.0), self.delta / self.alpha
        result: Array = -(self.beta - 1) / self.alpha * z / (z + r)
        return result[0] if scalar else result

    def excess(self, t: ArrayLike) -> Array:
        """Loss still to be gained (T,), in units of the first step: sum_j j^-beta (1 - lambda_j(t))^2, for beta > 1.

        = E[k^{1 - beta}] / (beta - 1),  k as above with log x added to the right of z + r log z, and 2 / (1 + x)^3 the density of x > 0:
        the sum as an integral over j, by parts. Its error is seen to fall exponentially once a step is as wide as the distance to the
        next, k > alpha z: for alpha from 0.7 to 2 it is below 8 % at k = 4, 0.5 % at 12 and 1e-6 at 60. To leading order
        k^{1 - beta} / (beta - 1), with an error of order 1 / z.
        Raises ValueError for t <= 0 or beta <= 1: the sum diverges.
        """
        if self.beta <= 1:
            raise ValueError(
                f"beta must be > 1, the excess of infinitely many modes diverges; got {self.beta:g}: use `gained`"
            )
        return self._tail(t)

    def gained(self, t: ArrayLike) -> Array:
        """Loss gained (T,) since zero weights, in units of the first step: sum_j j^-beta [1 - (1 - lambda_j(t))^2].

        = zeta(beta) - E[k^{1 - beta}] / (beta - 1), k as in `excess`, zeta of Riemann, continued to beta < 1: E[k] - 1/2 for beta = 0.
        Raises ValueError for t <= 0, for beta = 1, and for beta < 1 unless beta + delta > 1: modes that are still to come then count for
        more than those that have been learned.
        """
        if self.beta == 1 or (self.beta < 1 and self.beta + self.delta <= 1):
            raise ValueError(f"beta must be > 1, or < 1 and > 1 - delta = {1 - self.delta:g}, got {self.beta:g}")
        result: Array = float(np.real(zeta(complex(self.beta)))) - self._tail(t)
        return result

    def _folds(self, t: Array, log_x: Array | float) -> Array:
        """z of z + r log z = r log(8 gamma_1 t) - log(start) + log x, the larger of two for r < 0."""
        r = self.delta / self.alpha
        right = r * np.log(8 * self.gamma_1 * t) - np.log(self.start) + log_x
        if abs(r) < SAME_START:
            result: Array = np.maximum(right, 0.0)
        elif r > 0:
            result = r * wrightomega(right / r - np.log(r))
        else:
            result = r * wrightomega(-np.maximum(right / -r + np.log(-r), 1.0) + 1j * LOWER_BRANCH).real
        return result

    def _tail(self, t: ArrayLike) -> Array:
        """E[k^{1 - beta}] / (beta - 1), with x = e^u on equally spaced nodes."""
        at, scalar = _times(t)
        power = (self.beta - 1) / self.alpha
        slow = 1.0 if power >= 0 else 1 - (1 - self.beta) / self.delta  # to the left the integrand falls as e^{slow u}
        u = np.arange(-min(DIGITS / min(1.0, slow), LARGEST_EXPONENT), DIGITS, SPACING)
        weights = SPACING * 2 * np.exp(u) / (1 + np.exp(u)) ** 3
        z = self._folds(at[:, None], u)
        result: Array = (z / (8 * self.gamma_1 * at[:, None])) ** power @ weights / (self.beta - 1)
        return result[0] if scalar else result


def barlow_twins(s0: float, gamma_1: float, alpha: float) -> PowerLaw:
    """Barlow Twins of one start s_0 for all modes: lambda_j(0) = gamma_j s_0^2 and steps of 1, r = 1.

    The loss gained is the number of learned modes, t^{1/alpha}. Raises ValueError unless all are > 0, and s_0^2 gamma_1 < 1.
    """
    start = check.positive_number("s0", s0) ** 2 * check.positive_number("gamma_1", gamma_1)
    return PowerLaw(gamma_1, alpha, start, alpha, 0.0)


def spectral_contrastive(s0: float, gamma_1: float, alpha: float) -> PowerLaw:
    """Spectral contrastive on white views, Sigma = I, of one start s_0: lambda_j(0) = s_0^2 / gamma_j and steps of gamma_j^2, r = -1.

    The excess loss over gamma_1^2 falls as t^{-(2 - 1/alpha)}, faster while z is not large. Converges for alpha > 1/2.
    Raises ValueError unless all are > 0, and s_0^2 < gamma_1.
    """
    start = check.positive_number("s0", s0) ** 2 / check.positive_number("gamma_1", gamma_1)
    return PowerLaw(gamma_1, alpha, start, -alpha, 2 * alpha)


# With orthonormal weights


def constrained_occupation(t: ArrayLike, gamma: ArrayLike, d: int) -> Array:
    """Expected overlap (T, m) of each eigenvector with the span of W under the constrained flow, from a random start.

    L = -tr(W^T Gamma W), span W(t) = span(e^{2 Gamma t} W(0)) exactly (`theory.constrained`). For Gaussian W(0) (m, d) the expectation of
    v_j^T W W^T v_j tends for many modes to the law of Fermi and Dirac at temperature 1 / (4 t),
        P_j = 1 / (1 + e^{4 t (mu - gamma_j)}),  mu so that sum_j P_j = d,
    the deterministic equivalent of v_j^T E^{1/2} W (W^T E W)^{-1} W^T E^{1/2} v_j, E = e^{4 Gamma t}: one mode taken out of W^T E W changes
    it little when many lie within a temperature of mu. Not proved here. The excess loss it gives is measured to be short by 1 % for
    n = d / (4 alpha gamma_d t) = 40 modes within a temperature, by 1 to 3 % for 10 and by 4 to 6 % for 5 (m = 200, d = 40, alpha = 1/2, 1
    and 2, 60 starts). One start fluctuates around it. gamma (m,) decreasing. t = 0 gives d / m. Raises
    ValueError unless 1 <= d < m.
    """
    at, scalar = check.times(t)
    values = check.decreasing("gamma", gamma)
    d = check.dimension(d, values.size, proper=True)
    result = np.empty((at.size, values.size))
    for row, time in zip(result, at, strict=True):
        energy = 4 * time * (values - values[d - 1])
        shift = float(logit(d / values.size))  # of all energies equal; the root lies within their range of it
        low, high = -energy.max() + shift - 1, -energy.min() + shift + 1
        row[:] = expit(energy + brentq(lambda x, e=energy: expit(e + x).sum() - d, low, high, xtol=1e-14))
    return result[0] if scalar else result


def constrained_excess(t: ArrayLike, gamma_1: float, alpha: float, d: int) -> Array:
    """Excess trace loss (T,) of random orthonormal weights over the top-d subspace: pi^2 d / (96 alpha gamma_d t^2).

    gamma_j = gamma_1 j^-alpha: (pi^2 / 6) rho / (4 t)^2 with rho = d / (alpha gamma_d) modes per unit of gamma at the boundary
    (Sommerfeld's expansion of `constrained_occupation`). Validity: 1 / gamma_d << t << 1 / (gamma_d - gamma_{d+1}); after that it is the
    exponential e^{-4 gap t} of `theory.constrained.gap`. For alpha from 1/2 to 2 within 3 % of the excess of `constrained_occupation` from
    gamma_d t = 8 to d / 20.
    """
    at, scalar = _times(t)
    first, power = check.positive_number("gamma_1", gamma_1), check.positive_number("alpha", alpha)
    d = check.integer("d", d)
    result: Array = np.pi**2 * d / (96 * power * first * d**-power * at**2)
    return result[0] if scalar else result


def _times(t: ArrayLike) -> tuple[Array, bool]:
    at, scalar = check.times(t)
    check.positive("t", at)
    return at, scalar

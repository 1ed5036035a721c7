"""SIGReg on linear models, slice by slice: its mean over slices by quadrature or sampling, and training by its gradient."""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import beta

from tests.oracles.dynamics import transpose


def sliced_normality(sigma, strength, directions):
    """nu mean_u T(u^T W^T Sigma W u), T by quadrature of the characteristic functions."""
    t, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def loss(w):
        v = np.einsum("kd,...de,ke->...k", directions, transpose(w) @ sigma @ w, directions)
        difference = np.exp(-v[..., None] * t**2 / 2) - np.exp(-(t**2) / 2)
        return strength * (difference**2 @ weights).mean(-1)

    return loss


def slices(rng, count, d):
    u = rng.standard_normal((count, d))
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def epps_pulley(v):
    """int |e^{-v t^2/2} - e^{-t^2/2}|^2 N(t; 0, 1) dt: three Gaussian integrals."""
    return (1 + 2 * v) ** -0.5 - 2 * (2 + v) ** -0.5 + 3**-0.5


def sampled_normality(y, samples):
    """Mean over random slices u of the distance of N(0, sum_j y_j u_j^2) from N(0, 1), and its standard error."""
    distances = epps_pulley(slices(np.random.default_rng(0), samples, y.size) ** 2 @ y)
    return distances.mean(), distances.std() / np.sqrt(samples)


def sampled_variances(alignment, strength, count, seed):
    """Variances that minimise a . y + nu times the mean distance over `count` fixed random slices, as training has it."""
    squares = slices(np.random.default_rng(seed), count, alignment.size) ** 2

    def loss(y):
        v = squares @ y
        slope = (2 + v) ** -1.5 - (1 + 2 * v) ** -1.5
        return alignment @ y + strength * epps_pulley(v).mean(), alignment + strength * slope @ squares / count

    start = np.ones(alignment.size)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * alignment.size, tol=1e-15).x


def sphere(count=24):
    """Directions (k, 3) and weights (k,) of the mean over the sphere: Gauss-Legendre in height, equal angles over half a turn."""
    height, weights = np.polynomial.legendre.leggauss(count)
    angle = np.pi * np.arange(count) / count
    across = np.sqrt(1 - height**2)[:, None]
    u = np.stack(
        [across * np.cos(angle), across * np.sin(angle), np.broadcast_to(height[:, None], (count, count))], axis=-1
    )
    return u.reshape(-1, 3), np.repeat(weights / (2 * count), count)


def gradient(w, sigma, noise, strength, slices_and_weights):
    """Gradient of tr(W^T N W) + nu sum_k p_k T(u_k^T W^T Sigma W u_k), slice by slice; sigma and noise (m,), W (..., m, d)."""
    u, p = slices_and_weights
    image = w @ u.T  # (..., m, k): W u_k
    v = (sigma[:, None] * image**2).sum(-2, keepdims=True)
    slope = (2 + v) ** -1.5 - (1 + 2 * v) ** -1.5
    return 2 * noise[:, None] * w + 2 * strength * sigma[:, None] * ((image * slope * p) @ u)


def equal_pulls(height, k, d):
    """Slopes -dF/dy in a learned direction and in one of the others, k variances at one height, by the law of u_1^2 + .. + u_k^2."""

    def mean(f):  # b = x^2 takes the root at 0 away, 1 - b = w^2 that at 1
        density = lambda b: b ** (k / 2 - 1) * (1 - b) ** ((d - k) / 2 - 1) / beta(k / 2, (d - k) / 2)  # noqa: E731
        near = quad(lambda x: 2 * x * f(x * x) * density(x * x), 0, 0.7, epsabs=1e-14)[0]
        return near + quad(lambda x: 2 * x * f(1 - x * x) * density(1 - x * x), 0, np.sqrt(0.51), epsabs=1e-14)[0]

    def slope(v):
        return (1 + 2 * v) ** -1.5 - (2 + v) ** -1.5

    return mean(lambda b: b * slope(height * b)) / k, mean(lambda b: (1 - b) * slope(height * b)) / (d - k)

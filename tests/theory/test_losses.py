"""The spectral contrastive loss: minimum, Hessian and learning rates against training (arXiv 2106.04156)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from theory import losses


def moments(rng, m, dead=0, noise=0.5):
    """Population moments of views x = b + e: Gamma = E b b^T and Sigma = Gamma + E e e^T, on a range of m - dead."""
    live = m - dead
    a, e = rng.standard_normal((2, live, live)) / np.sqrt(live)
    basis = twin.orthogonal(rng, m)[:, :live]
    gamma = basis @ (a @ a.T) @ basis.T
    return gamma, gamma + noise * basis @ (e @ e.T + 0.2 * np.eye(live)) @ basis.T


def train(gamma, sigma, w, learning_rate, steps):
    return twin.descend(lambda v: twin.spectral_contrastive_gradient(v, gamma, sigma), w, learning_rate, steps)


def test_the_gradient_of_the_twin_is_the_gradient_of_the_loss():
    rng = np.random.default_rng(0)
    gamma, sigma = moments(rng, 5)
    w = rng.standard_normal((5, 2))
    slope = twin.difference(lambda v: twin.spectral_contrastive_loss(v, gamma, sigma), w)
    assert np.abs(slope - twin.spectral_contrastive_gradient(w, gamma, sigma)).max() < 1e-6


@pytest.mark.parametrize("dead", [0, 3])
def test_training_reaches_the_minimum_with_the_cca_spectrum(dead):
    rng = np.random.default_rng(1)
    gamma, sigma = moments(rng, 7, dead)
    mu, w, minimum = losses.spectral_contrastive_minimiser(gamma, sigma, 3)
    whiten = np.linalg.pinv(sigma, rcond=1e-10)
    correlations = np.sort(np.linalg.eigvals(whiten @ gamma).real)[::-1][:3]
    assert np.abs(mu - correlations).max() < 1e-9
    assert np.abs(w.T @ sigma @ w - np.diag(mu)).max() < 1e-12
    assert abs(twin.spectral_contrastive_loss(w, gamma, sigma) - minimum) < 1e-12
    assert np.abs(twin.spectral_contrastive_gradient(w, gamma, sigma)).max() < 1e-10
    trained = train(gamma, sigma, 0.1 * rng.standard_normal((7, 3)), 0.04, 20000)
    assert abs(twin.spectral_contrastive_loss(trained, gamma, sigma) - minimum) < 1e-8
    assert np.abs(np.linalg.eigvalsh(trained.T @ sigma @ trained)[::-1] - mu).max() < 1e-4


def test_anticorrelated_directions_stay_empty():
    sigma, gamma = np.diag([2.0, 1.0, 0.5]), np.diag([1.0, -0.4, -0.1])
    mu, w, minimum = losses.spectral_contrastive_minimiser(gamma, sigma, 2)
    assert np.abs(mu - [0.5, -0.2]).max() < 1e-14 and abs(minimum + 0.25) < 1e-14
    assert np.all(w[:, 1] == 0) and abs(abs(w[0, 0]) - 0.5) < 1e-14
    trained = train(gamma, sigma, 0.1 * np.random.default_rng(2).standard_normal((3, 2)), 0.05, 4000)
    assert abs(twin.spectral_contrastive_loss(trained, gamma, sigma) - minimum) < 1e-10


def test_fewer_live_directions_than_outputs():
    gamma, sigma = np.diag([0.5, 0.0, 0.0]), np.diag([1.0, 0.0, 0.0])
    mu, w, minimum = losses.spectral_contrastive_minimiser(gamma, sigma, 2)
    assert mu.tolist() == [0.5, 0.0] and minimum == -0.25 and np.all(w[:, 1] == 0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3))
def test_changes_of_basis_leave_the_minimum(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    gamma, sigma = moments(rng, m)
    o = twin.orthogonal(rng, m)
    mu, w, minimum = losses.spectral_contrastive_minimiser(gamma, sigma, d)
    moved = losses.spectral_contrastive_minimiser(o @ gamma @ o.T, o @ sigma @ o.T, d)
    assert np.abs(moved[0] - mu).max() < 1e-9 and abs(moved[2] - minimum) < 1e-9
    assert np.abs(o @ (w @ w.T) @ o.T - moved[1] @ moved[1].T).max() < 1e-6 * max(1, np.abs(w @ w.T).max())
    assert np.all(np.diff(mu) <= 0) and 0 <= mu.min() <= mu.max() <= 1
    near = w + 0.1 * rng.standard_normal((20, m, d))
    assert twin.spectral_contrastive_loss(near, gamma, sigma).min() >= minimum - 1e-10
    rate = losses.spectral_contrastive_max_learning_rate(gamma, sigma, d)
    assert abs(losses.spectral_contrastive_max_learning_rate(o @ gamma @ o.T, o @ sigma @ o.T, d) / rate - 1) < 1e-8


@pytest.mark.parametrize("m, d", [(4, 2), (1, 1), (30, 8)])  # 8, 1 and 240 weights: dense, trivial, Lanczos
def test_the_learning_rate_is_two_over_the_largest_curvature(m, d):
    rng = np.random.default_rng(3)
    gamma, sigma = moments(rng, m)
    _, w, _ = losses.spectral_contrastive_minimiser(gamma, sigma, d)
    h, columns = 1e-5, []
    for index in np.ndindex(w.shape):
        e = np.zeros_like(w)
        e[index] = h
        up, down = (twin.spectral_contrastive_gradient(w + s * e, gamma, sigma) for s in (1, -1))
        columns.append(((up - down) / (2 * h)).ravel())
    largest = np.linalg.eigvalsh(np.array(columns))[-1]
    limit = losses.spectral_contrastive_max_learning_rate(gamma, sigma, d)
    assert abs(limit * largest / 2 - 1) < 1e-8
    assert losses.spectral_contrastive_max_learning_rate(gamma, sigma, d) == limit
    near, minimum = w + 1e-3 * rng.standard_normal(w.shape), twin.spectral_contrastive_loss(w, gamma, sigma)
    below, above = (train(gamma, sigma, near, f * limit, 1500) for f in (0.98, 1.02))
    assert twin.spectral_contrastive_loss(below, gamma, sigma) - minimum < 1e-6
    assert twin.spectral_contrastive_loss(above, gamma, sigma) - minimum > 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_constrained_descent_below_the_bound_never_rises(seed):
    rng = np.random.default_rng(seed)
    m, d = 8, 1 + seed
    gamma, sigma = moments(rng, m, dead=seed % 3, noise=[0.1, 0.5, 2.0][seed % 3])
    bound = losses.spectral_contrastive_grassmann_max_learning_rate(gamma, sigma)
    w0 = np.linalg.qr(rng.standard_normal((50, m, d)))[0]
    gradient = lambda w: twin.spectral_contrastive_gradient(w, gamma, sigma)  # noqa: E731
    values = twin.spectral_contrastive_loss(twin.descend_on_grassmann(gradient, w0, 0.999 * bound, 300), gamma, sigma)
    assert np.diff(values, axis=0).max() < 1e-12
    assert (values[0] - values[-1]).min() > 1e-3


def test_the_bound_holds_the_curvature_and_is_not_far_above_it():
    rng, ratios = np.random.default_rng(4), []
    for _ in range(200):
        m = int(rng.integers(2, 7))
        d = int(rng.integers(1, m))
        gamma, sigma = moments(rng, m, noise=rng.uniform(0, 1))
        curvature = 2 / losses.spectral_contrastive_grassmann_max_learning_rate(gamma, sigma)
        frame = np.linalg.eigh(sigma)[1] if rng.random() < 0.5 else twin.orthogonal(rng, m)
        u, rest = frame[:, :d], frame[:, d:]
        gradient = twin.spectral_contrastive_gradient(u, gamma, sigma)
        hessian = []
        for index in np.ndindex(m - d, d):
            e = np.zeros((m - d, d))
            e[index] = 1e-5
            step = rest @ e
            up, down = (twin.spectral_contrastive_gradient(u + s * step, gamma, sigma) for s in (1, -1))
            hessian.append((rest.T @ ((up - down) / 2e-5 - step / 1e-5 @ (u.T @ gradient))).ravel())
        ratios.append(np.linalg.eigvalsh(np.array(hessian))[-1] / curvature)
    assert max(ratios) <= 1 + 1e-6
    assert max(ratios) > 0.25


def test_with_white_inputs_the_bound_is_that_of_the_trace_loss():
    gamma = np.diag([0.9, 0.5, 0.2])
    assert abs(losses.spectral_contrastive_grassmann_max_learning_rate(gamma, np.eye(3)) - 1 / (2 * 0.7)) < 1e-12
    assert losses.spectral_contrastive_grassmann_max_learning_rate(np.eye(2), np.eye(2)) == np.inf
    assert losses.spectral_contrastive_max_learning_rate(np.zeros((2, 2)), np.eye(2), 1) == np.inf


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: losses.spectral_contrastive_minimiser(np.eye(2), np.eye(3), 1), "cross and second need one shape"),
        (lambda: losses.spectral_contrastive_minimiser(np.eye(2), np.eye(2), 3), "d must be an integer from 1 to 2"),
        (lambda: losses.spectral_contrastive_minimiser(np.eye(2), np.diag([1.0, -1.0]), 1), "positive semi-definite"),
        (lambda: losses.spectral_contrastive_minimiser(np.eye(2), np.diag([1.0, 0.0]), 1), "smallest eigenvalue 0"),
        (
            lambda: losses.spectral_contrastive_minimiser(np.zeros((2, 2)), np.zeros((2, 2)), 1),
            "second must not be zero",
        ),
        (
            lambda: losses.spectral_contrastive_minimiser([[1.0, 1.0], [0.0, 1.0]], np.eye(2), 1),
            "cross must be symmetric",
        ),
        (
            lambda: losses.spectral_contrastive_max_learning_rate(np.eye(2), [[np.inf, 0], [0, 1]], 1),
            "second must be finite",
        ),
        (lambda: losses.spectral_contrastive_grassmann_max_learning_rate(np.eye(2), np.eye(3)), "one shape"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

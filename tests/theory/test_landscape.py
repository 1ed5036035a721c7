"""Minima, curvature and collapse of linear models against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.oracles import losses_numpy
from theory import landscape, losses, stepwise


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
    mu, w, minimum = landscape.quartic_minimiser(gamma, sigma, 3)
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
    mu, w, minimum = landscape.quartic_minimiser(gamma, sigma, 2)
    assert np.abs(mu - [0.5, -0.2]).max() < 1e-14 and abs(minimum + 0.25) < 1e-14
    assert np.all(w[:, 1] == 0) and abs(abs(w[0, 0]) - 0.5) < 1e-14
    trained = train(gamma, sigma, 0.1 * np.random.default_rng(2).standard_normal((3, 2)), 0.05, 4000)
    assert abs(twin.spectral_contrastive_loss(trained, gamma, sigma) - minimum) < 1e-10


def test_fewer_live_directions_than_outputs():
    gamma, sigma = np.diag([0.5, 0.0, 0.0]), np.diag([1.0, 0.0, 0.0])
    mu, w, minimum = landscape.quartic_minimiser(gamma, sigma, 2)
    assert mu.tolist() == [0.5, 0.0] and minimum == -0.25 and np.all(w[:, 1] == 0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 3))
def test_changes_of_basis_leave_the_minimum(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    gamma, sigma = moments(rng, m)
    o = twin.orthogonal(rng, m)
    mu, w, minimum = landscape.quartic_minimiser(gamma, sigma, d)
    moved = landscape.quartic_minimiser(o @ gamma @ o.T, o @ sigma @ o.T, d)
    assert np.abs(moved[0] - mu).max() < 1e-9 and abs(moved[2] - minimum) < 1e-9
    assert np.abs(o @ (w @ w.T) @ o.T - moved[1] @ moved[1].T).max() < 1e-6 * max(1, np.abs(w @ w.T).max())
    assert np.all(np.diff(mu) <= 0) and 0 <= mu.min() <= mu.max() <= 1
    near = w + 0.1 * rng.standard_normal((20, m, d))
    assert twin.spectral_contrastive_loss(near, gamma, sigma).min() >= minimum - 1e-10
    rate = landscape.quartic_max_learning_rate(gamma, sigma, d)
    assert abs(landscape.quartic_max_learning_rate(o @ gamma @ o.T, o @ sigma @ o.T, d) / rate - 1) < 1e-8


@pytest.mark.parametrize("m, d", [(4, 2), (1, 1), (30, 8)])  # 8, 1 and 240 weights: dense, trivial, Lanczos
def test_the_learning_rate_is_two_over_the_largest_curvature(m, d):
    rng = np.random.default_rng(3)
    gamma, sigma = moments(rng, m)
    _, w, _ = landscape.quartic_minimiser(gamma, sigma, d)
    h, columns = 1e-5, []
    for index in np.ndindex(w.shape):
        e = np.zeros_like(w)
        e[index] = h
        up, down = (twin.spectral_contrastive_gradient(w + s * e, gamma, sigma) for s in (1, -1))
        columns.append(((up - down) / (2 * h)).ravel())
    largest = np.linalg.eigvalsh(np.array(columns))[-1]
    limit = landscape.quartic_max_learning_rate(gamma, sigma, d)
    assert abs(limit * largest / 2 - 1) < 1e-8
    assert landscape.quartic_max_learning_rate(gamma, sigma, d) == limit
    near, minimum = w + 1e-3 * rng.standard_normal(w.shape), twin.spectral_contrastive_loss(w, gamma, sigma)
    below, above = (train(gamma, sigma, near, f * limit, 1500) for f in (0.98, 1.02))
    assert twin.spectral_contrastive_loss(below, gamma, sigma) - minimum < 1e-6
    assert twin.spectral_contrastive_loss(above, gamma, sigma) - minimum > 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_constrained_descent_below_the_bound_never_rises(seed):
    rng = np.random.default_rng(seed)
    m, d = 8, 1 + seed
    gamma, sigma = moments(rng, m, dead=seed % 3, noise=[0.1, 0.5, 2.0][seed % 3])
    bound = landscape.quartic_grassmann_max_learning_rate(gamma, sigma)
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
        curvature = 2 / landscape.quartic_grassmann_max_learning_rate(gamma, sigma)
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


def test_the_bound_holds_where_the_second_moment_alone_curves_the_loss():
    """||W^T Sigma W||^2 = cos^4 for Sigma = diag(1, 0), W = (cos, sin): its curvature 12 cos^2 sin^2 - 4 cos^4 is 9/4 at cos^2 = 3/8."""
    curvature = 2 / landscape.quartic_grassmann_max_learning_rate(np.zeros((2, 2)), np.diag([1.0, 0.0]))
    angle, h = np.arccos(np.sqrt(3 / 8)), 1e-4
    measured = np.dot([1, -2, 1], np.cos(angle + h * np.arange(-1, 2)) ** 4) / h**2
    assert abs(measured - 9 / 4) < 1e-6
    assert measured <= curvature <= 4 / 3 * 9 / 4 + 1e-12  # 4 max s (1 - s) + 2, with at most a third to spare


def test_with_white_inputs_the_bound_is_that_of_the_trace_loss():
    gamma = np.diag([0.9, 0.5, 0.2])
    assert abs(landscape.quartic_grassmann_max_learning_rate(gamma, np.eye(3)) - 1 / (2 * 0.7)) < 1e-12
    assert landscape.quartic_grassmann_max_learning_rate(np.eye(2), np.eye(2)) == np.inf
    assert landscape.quartic_max_learning_rate(np.zeros((2, 2)), np.eye(2), 1) == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("beta, penalty", [(1.0, 0.0), (0.5, 0.0), (1.6, 0.0), (0.7, 0.1), (0.0, 0.3)])
def test_squared_vicreg_ends_with_the_truncated_spectrum(beta, penalty):
    rng = np.random.default_rng(5)
    gamma, sigma = moments(rng, 5)
    gradient = lambda w: losses_numpy.squared_vicreg_gradient(w, gamma, sigma, beta, penalty)  # noqa: E731
    trained = twin.descend(gradient, 0.3 * rng.standard_normal((5, 3)), 0.03, 20000)
    spectrum = np.linalg.eigvalsh(trained.T @ sigma @ trained)[::-1]
    interplay = landscape.interplay_matrix(gamma, sigma, beta, penalty)
    expected = np.maximum(np.linalg.eigvalsh(interplay)[::-1][:3], 0)
    assert np.abs(spectrum - expected).max() < 1e-6
    b = landscape.squared_vicreg_attraction(gamma, sigma, beta, penalty)
    mu, _, minimum = landscape.quartic_minimiser(b, sigma, 3)
    assert np.abs(np.maximum(mu, 0) - expected).max() < 1e-12
    loss = losses_numpy.squared_vicreg_loss(trained, gamma, sigma, beta, penalty)
    assert abs(loss - (minimum + 3)) < 1e-8
    if penalty == 0:
        truncated = landscape.truncated_spectrum(landscape.correlations(gamma, sigma)[:3], beta)
        assert np.abs(spectrum - truncated).max() < 1e-6


def test_augmentation_and_architecture_take_turns_as_the_penalty_grows():
    ratios, norms = np.array([0.9, 0.75, 0.5]), np.array([0.4, 0.25, 0.125])  # figure 2 of arXiv 2302.02774, beta = 1
    second = np.diag(1 / norms)
    winners = []
    for penalty in (0.0, 0.99, 1.01, 1.99, 2.01, 3.9):
        matrix = landscape.interplay_matrix(np.diag(ratios / norms), second, 1.0, penalty)
        assert np.abs(np.diag(matrix) - (ratios - penalty * norms)).max() < 1e-12
        winners.append(int(np.argmax(np.diag(matrix))))
    assert winners == [0, 0, 1, 1, 2, 2]


def test_correlations_are_those_of_canonical_correlation_analysis():
    rng = np.random.default_rng(6)
    base = rng.standard_normal((500, 4))
    x, y = (base + rng.standard_normal((500, 4)) for _ in range(2))
    x, y = np.concatenate([x, y]), np.concatenate([y, x])  # symmetric moments
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    expected = np.linalg.svd(qx.T @ qy, compute_uv=False)
    assert np.abs(landscape.correlations(x.T @ y, x.T @ x) - expected).max() < 1e-12
    dead = landscape.correlations(np.diag([0.5, 0.0, -0.2]), np.diag([1.0, 0.0, 1.0]))
    assert np.abs(dead - [0.5, 0, -0.2]).max() < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.15, 0.55, 2.0])
@pytest.mark.parametrize("extra", [0.0, 0.5, 2.2])
def test_weight_decay_collapses_the_predicted_number_of_dimensions_of_infonce(penalty, extra):
    rng = np.random.default_rng(7)
    o = twin.orthogonal(rng, 4)
    signal, noise = o @ np.diag([1.0, 0.6, 0.3, 0.1]) @ o.T, o @ np.diag([0.2, 0.3, 0.1, 0.4]) @ o.T
    b = landscape.infonce_attraction(signal, noise, extra)
    assert np.abs(b - (signal - extra * noise)).max() < 1e-14
    gradient = lambda w: losses_numpy.infonce_gradient(w, signal, noise, 1 + extra, penalty)  # noqa: E731
    w = twin.descend(gradient, 0.1 * rng.standard_normal((4, 4)), 0.1, 20000)
    collapsed = (np.linalg.eigvalsh(w.T @ w) < 1e-8).sum()
    assert collapsed == landscape.collapsed_dimensions(b, penalty)


def test_small_weights_see_the_attraction_and_the_quartic_term():
    rng = np.random.default_rng(8)
    signal, noise = moments(rng, 3)
    w = rng.standard_normal((3, 2))
    attraction = landscape.infonce_attraction(signal, noise)
    s = w.T @ (signal + noise) @ w
    for scale in (1e-1, 3e-2):
        rest = losses.infonce_loss(scale * w, signal, noise) + scale**2 * np.trace(w.T @ attraction @ w)
        assert abs(rest / scale**4 / (0.75 * np.trace(s @ s)) - 1) < 6 * scale**2 * np.linalg.norm(s, 2)


def test_collapsed_dimensions_counts_zero_as_collapsed():
    assert landscape.collapsed_dimensions(np.diag([1.0, 0.5, 0.0, -1.0]), 0.0) == 2
    assert landscape.collapsed_dimensions(np.diag([1.0, 0.5, 0.0, -1.0]), 0.5) == 3
    assert landscape.collapsed_dimensions(np.zeros((2, 2)), 0.0) == 2


def test_larger_features_are_learned_first():
    gamma, sigma = landscape.extent_bias_moments(9, 1, 0.3)
    spectrum, _ = stepwise.spectrum(gamma)
    assert np.abs(spectrum[:2] - [9, 1]).max() < 1e-12
    assert np.abs(spectrum[2:]).max() < 1e-12 and np.abs(sigma - gamma - 0.09 * np.eye(10)).max() < 1e-15
    x, positive = landscape.extent_bias_samples(np.random.default_rng(0), 40_000, 9, 1, 0.3)
    cross, second = (x.T @ positive + positive.T @ x) / 80_000, (x.T @ x + positive.T @ positive) / 80_000
    assert (
        np.abs(cross - gamma).max() < 0.03 and np.abs(second - sigma).max() < 0.03
    )  # 1 / sqrt(n) = 0.005 and 91 entries
    bright, _ = landscape.extent_bias_moments(4, 4, 0.0, amplitude=3.0)
    assert np.abs(stepwise.spectrum(bright)[0][:2] - [9 * 8 / 2, 4]).max() < 1e-12
    samples, again = landscape.extent_bias_samples(np.random.default_rng(1), 5, 2, 1, 0.0, amplitude=3.0)
    assert np.array_equal(samples, again) and set(np.abs(samples[:, :2]).ravel()) == {3.0} and samples.shape == (5, 3)


def test_the_steps_of_two_features_come_in_the_ratio_of_their_extents():
    gamma, _ = landscape.extent_bias_moments(9, 1, 0.3)
    w = 1e-8 * np.random.default_rng(9).standard_normal((10, 2))
    times, values = losses_numpy.rk4_until(
        lambda v: -twin.barlow_twins_gradient(v, gamma), w, 0.01, lambda v: np.linalg.eigvalsh(v.T @ gamma @ v)[::-1],
        lambda c: np.all(c > 0.5),
    )  # fmt: skip
    measured = losses_numpy.first_crossings(times, values, np.full(2, 0.5))
    aligned = stepwise.aligned_initialisation(w, gamma)
    predicted = stepwise.step_times(aligned.singular_values, aligned.gamma)
    assert np.abs(predicted / measured - 1).max() < 0.005
    assert (
        abs(measured[1] / measured[0] / 9 - 1) < 0.2
    )  # 1/m_small : 1/m_large, up to log(9) in the logarithm of the start


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: landscape.quartic_minimiser(np.eye(2), np.eye(3), 1), "attraction and second need one shape"),
        (lambda: landscape.quartic_minimiser(np.eye(2), np.eye(2), 3), "d must be an integer from 1 to 2"),
        (lambda: landscape.quartic_minimiser(np.eye(2), np.diag([1.0, -1.0]), 1), "positive semi-definite"),
        (lambda: landscape.quartic_minimiser(np.eye(2), np.diag([1.0, 0.0]), 1), "smallest eigenvalue 0"),
        (
            lambda: landscape.quartic_minimiser(np.zeros((2, 2)), np.zeros((2, 2)), 1),
            "second must not be zero",
        ),
        (
            lambda: landscape.quartic_minimiser([[1.0, 1.0], [0.0, 1.0]], np.eye(2), 1),
            "attraction must be symmetric",
        ),
        (
            lambda: landscape.quartic_max_learning_rate(np.eye(2), [[np.inf, 0], [0, 1]], 1),
            "second must be finite",
        ),
        (lambda: landscape.quartic_grassmann_max_learning_rate(np.eye(2), np.eye(3)), "one shape"),
        (lambda: landscape.correlations(np.eye(2), np.eye(3)), "cross and second need one shape"),
        (lambda: landscape.truncated_spectrum([0.5], -1.0), "beta must be >= 0"),
        (lambda: landscape.squared_vicreg_attraction(np.eye(2), np.eye(2), 1.0, -1.0), "penalty must be >= 0"),
        (lambda: landscape.interplay_matrix(np.zeros((2, 2)), np.diag([1.0, 0.0]), 1.0, 0.0), "positive definite"),
        (lambda: landscape.infonce_attraction(-np.eye(2), np.eye(2)), "signal_matrix must be positive semi-definite"),
        (lambda: landscape.infonce_attraction(np.eye(2), np.eye(2), -2.0), "extra_alignment must be >= -1"),
        (lambda: landscape.collapsed_dimensions(np.eye(2), -0.1), "penalty must be >= 0"),
        (lambda: landscape.collapsed_dimensions(np.ones(2), 0.0), "attraction must have 2 dimension"),
        (lambda: landscape.extent_bias_moments(0, 1, 0.1), "large must be an integer >= 1"),
        (lambda: landscape.extent_bias_moments(1, 1, -0.1), "noise must be >= 0"),
        (lambda: landscape.extent_bias_samples(np.random.default_rng(0), 0, 1, 1, 0.1), "n must be an integer >= 1"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

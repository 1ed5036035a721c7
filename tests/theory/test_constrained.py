"""Trace losses and Barlow Twins with and without orthonormal weights: closed forms against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm, subspace_angles

from tests.oracles import dynamics as twin
from theory import constrained, stepwise

LAMBDA = np.array([-1.0, -0.5, -0.2, 0.3, 0.9, 1.4])
seeds = st.integers(0, 10**6)


def start(rng, *shape):
    return np.linalg.qr(rng.standard_normal(shape))[0]


def same_span(a, b):
    return np.abs(twin.projector(a) - twin.projector(b)).max()


# Without the constraint


def test_the_free_flow_is_the_matrix_exponential():
    rng = np.random.default_rng(0)
    c, w0, t = twin.symmetric(rng, LAMBDA), rng.standard_normal((3, 6, 2)), np.array([0.0, 0.4, 2.0])
    direction, log_norm = constrained.free_flow(t, w0, c)
    assert np.abs((direction**2).sum((-2, -1)) - 1).max() < 1e-14
    for k, at in enumerate(t):
        expected = expm(-2 * c * at) @ w0
        error = np.abs(np.exp(log_norm[:, k, None, None]) * direction[:, k] - expected).max()
        assert error < 1e-10 * np.abs(expected).max()
    trained = twin.rk4(lambda w: twin.trace_gradient(w, c), w0, 1e-3, 2000)[-1]
    predicted = np.exp(log_norm[:, -1, None, None]) * direction[:, -1]
    assert np.abs(predicted - trained).max() < 1e-9 * np.abs(trained).max()
    one, its_norm = constrained.free_flow(2.0, w0[0], c)
    assert np.allclose(one, direction[0, -1], atol=1e-15) and np.isclose(its_norm, log_norm[0, -1], rtol=1e-15)


@pytest.mark.parametrize("shift", [0.0, 1.5])  # the norm diverges, or vanishes
def test_free_training_collapses_at_the_predicted_slope(shift):
    rng = np.random.default_rng(1)
    c = twin.symmetric(rng, LAMBDA + shift)
    states = twin.rk4(lambda w: twin.trace_gradient(w, c), rng.standard_normal((6, 3)), 5e-3, 2000, every=100)
    t, late = 0.5 * np.arange(21), slice(10, None)
    sizes = np.linalg.svd(states, compute_uv=False)
    slope = np.polyfit(t[late], np.log(sizes[late, 1] / sizes[late, 0]), 1)[0]
    assert abs(slope / constrained.collapse_slope(c) - 1) < 0.01
    norms = np.log(np.linalg.norm(states, axis=(-2, -1)))
    assert abs(np.polyfit(t[late], norms[late], 1)[0] - constrained.norm_rate(c)) < 0.01
    top = np.linalg.svd(states[-1])[0][:, 0]
    assert abs(abs(top @ constrained.limit_direction(c)) - 1) < 1e-3
    direction, log_norm = constrained.free_flow(t, states[0], c)
    assert np.abs(log_norm - norms).max() < 1e-8
    assert np.abs(np.linalg.svd(direction, compute_uv=False) * np.exp(log_norm)[:, None] / sizes - 1).max() < 1e-7


def test_the_free_flow_never_overflows():
    rng = np.random.default_rng(2)
    c = twin.symmetric(rng, LAMBDA)
    direction, log_norm = constrained.free_flow([1e3, 1e6], rng.standard_normal((6, 3)), c)
    assert np.abs(np.linalg.svd(direction, compute_uv=False) - [1, 0, 0]).max() < 1e-12
    assert np.abs(np.diff(log_norm) / (2 * (1e6 - 1e3)) - 1).max() < 1e-9


def test_free_descent_below_and_above_its_learning_rate():
    rng = np.random.default_rng(3)
    lambda_ = np.array([0.1, 0.5, 2.0])
    c, w = twin.symmetric(rng, lambda_), rng.standard_normal((3, 2))
    limit = constrained.max_free_learning_rate(c)
    assert abs(limit - 0.5) < 1e-12
    for factor, shrinks in ((0.99, True), (1.01, False)):
        final = twin.descend(lambda v: twin.trace_gradient(v, c), w, factor * limit, 600)
        assert (np.abs(final).max() < 1e-3) == shrinks
        assert np.isfinite(final).all()
    assert constrained.max_free_learning_rate(-c) == np.inf


def test_two_free_layers_blow_up_in_finite_time():
    rng = np.random.default_rng(4)
    lambda_, m0 = np.array([-1.0, -0.3, 0.5]), np.array([0.3, 0.2, 0.4])
    v, q, h = twin.orthogonal(rng, 3), twin.orthogonal(rng, 3), start(rng, 5, 3)
    c = v @ np.diag(lambda_) @ v.T
    layers = np.concatenate([(v * np.sqrt(m0)) @ h.T, (q * np.sqrt(m0)) @ h.T])  # W_1, W_2^T on top of each other

    def gradient(pair):
        w1, w2 = pair[:3], pair[3:].T
        slope = 2 * c @ w1 @ w2
        return np.concatenate([slope @ w2.T, (w1.T @ slope).T])

    end = constrained.blow_up_time(m0, lambda_)
    assert np.abs(end[:2] - [1 / 1.2, 1 / 0.24]).max() < 1e-12 and end[2] == np.inf
    steps = 8000
    states = twin.rk4(gradient, layers, 0.95 * end[0] / steps, steps, every=800)
    trained = states[:, :3] @ twin.transpose(states[:, 3:])
    predicted = constrained.two_layer_mode(0.095 * end[0] * np.arange(11), m0, lambda_)
    assert np.abs(v.T @ trained @ q - predicted[..., None] * np.eye(3)).max() < 1e-7
    assert predicted[-1, 0] > 19 * m0[0]
    assert np.array_equal(np.isinf(constrained.two_layer_mode([0.9, 5.0], m0, lambda_)), [[1, 0, 0], [1, 1, 0]])
    assert np.array_equal(constrained.two_layer_mode(1.0, [0.0, 0.0], [-1.0, 1.0]), [0, 0])


# With the constraint


@pytest.mark.parametrize("d", [1, 2, 5, 6])
def test_the_constrained_flow_is_exact(d):
    rng = np.random.default_rng(5)
    c, w0 = twin.symmetric(rng, LAMBDA), start(rng, 2, 6, d)
    states = twin.rk4(twin.tangent(lambda w: twin.trace_gradient(w, c)), w0, 2e-3, 1500, every=300)
    t = 0.6 * np.arange(6)
    predicted = constrained.grassmann_flow(t, w0, c)
    assert np.abs(twin.transpose(predicted) @ predicted - np.eye(d)).max() < 1e-14
    assert same_span(predicted, np.moveaxis(states, 0, 1)) < 1e-7
    assert same_span(predicted[:, 1], np.linalg.qr(expm(-2 * t[1] * c) @ w0)[0]) < 1e-12
    assert same_span(constrained.grassmann_flow(0.6, w0, c), predicted[:, 1]) < 1e-14


def test_tangent_coordinates_decay_one_by_one():
    rng = np.random.default_rng(6)
    c, d = twin.symmetric(rng, LAMBDA), 2
    w0, t = start(rng, 4, 6, d), np.array([0.0, 0.3, 1.0, 3.0])
    first = constrained.tangent_coordinates(w0, c)
    assert first.shape == (4, 4, 2)
    law = first[:, None] * np.exp(-2 * t[:, None, None] * (LAMBDA[d:, None] - LAMBDA[:d]))
    later = constrained.tangent_coordinates(constrained.grassmann_flow(t, w0, c), c)
    assert np.abs(later - law).max() < 1e-12 * np.abs(first).max()
    vectors = constrained.spectrum(c)[1]
    for k in range(4):
        angles = subspace_angles(w0[k], vectors[:, :d])
        assert np.abs(np.sort(np.tan(angles)) - np.sort(np.linalg.svd(first[k], compute_uv=False))).max() < 1e-10
    basis = rng.standard_normal((2, 2))
    assert np.abs(constrained.tangent_coordinates(w0 @ basis, c) - first).max() < 1e-10


def test_angles_and_losses_converge_at_the_gap():
    rng = np.random.default_rng(7)
    c, d, t = twin.symmetric(rng, LAMBDA), 3, np.linspace(6, 9, 7)
    assert abs(constrained.gap(c, d) - 0.5) < 1e-12
    w = constrained.grassmann_flow(t, start(rng, 6, d), c)
    largest = np.linalg.svd(constrained.tangent_coordinates(w, c), compute_uv=False)[:, 0]
    assert abs(np.polyfit(t, np.log(largest), 1)[0] / (-2 * 0.5) - 1) < 0.01
    excess = twin.trace_loss(w, c) - LAMBDA[:d].sum()
    assert abs(np.polyfit(t, np.log(excess), 1)[0] / (-4 * 0.5) - 1) < 0.01


def test_any_time_from_zero_to_a_million():
    rng = np.random.default_rng(8)
    c, w0 = twin.symmetric(rng, LAMBDA), start(rng, 5, 6, 3)
    t = np.r_[0, np.geomspace(1e-6, 1e6, 25)]
    w = constrained.grassmann_flow(t, w0, c)
    assert np.abs(twin.transpose(w) @ w - np.eye(3)).max() < 1e-14
    assert same_span(w[:, 0], w0) < 1e-14
    assert same_span(w[:, -1], constrained.spectrum(c)[1][:, :3]) < 1e-13
    vectors, coordinates = constrained.spectrum(c)[1], constrained.tangent_coordinates(w0, c)
    decayed = coordinates[:, None] * np.exp(-2 * t[:, None, None] * (LAMBDA[3:, None] - LAMBDA[:3]))
    assert same_span(w, vectors[:, :3] + vectors[:, 3:] @ decayed) < 1e-12
    for k in range(t.size - 1):  # the law of the flow: what comes later continues what came before
        assert same_span(constrained.grassmann_flow(t[k + 1] - t[k], w[:, k], c), w[:, k + 1]) < 1e-9


@pytest.mark.parametrize("tiny", [1e-8, 1e-40, 1e-200])
def test_plateaus_near_a_saddle_last_as_long_as_predicted(tiny):
    lambda_ = np.array([-1.0, -0.4, 0.2, 0.8])
    w0 = np.zeros((4, 2))
    w0[2, 0], w0[3, 1] = 1.0, 1.0  # the top eigenspace, with tiny components below
    w0[0, 0], w0[1, 1] = tiny, tiny
    t = -np.log(tiny) / (2 * 1.2) * np.array([0.9, 0.999, 1.0, 1.001, 1.1])  # lambda_3 - lambda_1 = lambda_4 - lambda_2
    w = constrained.grassmann_flow(t, w0, np.diag(lambda_))
    cosine = np.linalg.norm(w[:, 0], axis=-1)
    tangent = np.exp(2 * 1.2 * t + np.log(tiny))
    assert np.abs(cosine - tangent / np.hypot(1, tangent)).max() < 1e-9
    exact = np.zeros((4, 2))
    exact[2, 0], exact[3, 1] = 1.0, 1.0
    assert same_span(constrained.grassmann_flow(1e6, exact, np.diag(lambda_)), exact) == 0


def test_projected_descent_is_orthogonal_iteration():
    rng = np.random.default_rng(9)
    c, w0 = twin.symmetric(rng, LAMBDA), start(rng, 3, 6, 2)
    for rate in (0.05, 0.3, 0.6):  # at 0.6 the largest eigenvalue changes sign at every step
        w, steps = w0, np.array([0, 1, 4, 25])
        predicted = constrained.orthogonal_iteration(steps, w0, c, rate)
        for k in range(26):
            if k in steps:
                assert same_span(w, predicted[:, list(steps).index(k)]) < 1e-12
            w = np.linalg.qr(w - rate * twin.trace_gradient(w, c))[0]
        first, later = (constrained.tangent_coordinates(x, c) for x in (w0, predicted[:, 2]))
        law = first * ((1 - 2 * rate * LAMBDA[2:, None]) / (1 - 2 * rate * LAMBDA[:2])) ** 4
        assert np.abs(later - law).max() < 1e-12 * np.abs(first).max()
    assert same_span(constrained.orthogonal_iteration(4, w0, c, 0.6), predicted[:, 2]) < 1e-14
    late = constrained.orthogonal_iteration(10**6, w0, c, 0.3)
    assert same_span(late, constrained.spectrum(c)[1][:, :2]) < 1e-13


def test_orthogonal_iteration_changes_its_limit_at_the_stated_rate():
    rng = np.random.default_rng(10)
    c, w0 = twin.symmetric(rng, LAMBDA), start(rng, 6, 2)
    bottom, limit = constrained.spectrum(c)[1][:, :2], 1 / (LAMBDA[1] + LAMBDA[-1])
    below, above = (constrained.orthogonal_iteration(5000, w0, c, f * limit) for f in (0.99, 1.01))
    assert same_span(below, bottom) < 1e-6 and same_span(above, bottom) > 0.1


def test_a_factor_of_zero_removes_its_direction():
    c, w0 = np.diag([-0.5, 0.5, 1.0]), np.eye(3)[:, :2] + 0.1
    w = constrained.orthogonal_iteration([0, 1, 2], w0, c, 1.0)
    assert same_span(w[0], w0) < 1e-14 and same_span(w[2], np.eye(3)[:, [0, 2]]) < 1e-14
    with pytest.raises(ValueError, match="weights need rank 2 at all times"):
        constrained.orthogonal_iteration(1, w0, np.diag([0.5, 0.5, 1.0]), 1.0)


def test_riemannian_descent_below_and_above_its_learning_rate():
    rng = np.random.default_rng(11)
    c = twin.symmetric(rng, LAMBDA)
    bottom = constrained.spectrum(c)[1][:, :2]
    near = np.linalg.qr(bottom + 1e-3 * rng.standard_normal((6, 2)))[0]
    limit = constrained.max_learning_rate(c)
    assert abs(limit - 1 / 2.4) < 1e-12
    below, above = (
        twin.descend_on_grassmann(lambda w: twin.trace_gradient(w, c), near, f * limit, 1500)[-1] for f in (0.99, 1.01)
    )
    assert same_span(below, bottom) < 1e-9 and same_span(above, bottom) > 1e-2
    assert constrained.max_learning_rate(np.eye(3)) == np.inf


@given(seeds, st.integers(1, 4), st.integers(0, 3), st.floats(0, 50))
def test_changes_of_basis_and_batches(seed, d, more, t):
    rng, m = np.random.default_rng(seed), d + more
    c, o = twin.symmetric(rng, rng.integers(-2, 3, m) / 2.0), twin.orthogonal(rng, m)  # repeated and zero eigenvalues
    w0 = start(rng, 2, m, d)
    w = constrained.grassmann_flow([t, 2 * t], w0, c)
    turned = constrained.grassmann_flow([t, 2 * t], w0 @ (rng.standard_normal((d, d)) + 3 * np.eye(d)), c)
    moved = constrained.grassmann_flow([t, 2 * t], o @ w0, o @ c @ o.T)
    assert w.shape == (2, 2, m, d)
    assert same_span(turned, w) < 1e-7 and same_span(o @ w, moved) < 1e-7
    for i in range(2):
        for k in range(2):
            assert same_span(constrained.grassmann_flow((k + 1) * t, w0[i], c), w[i, k]) < 1e-12
    direction, log_norm = constrained.free_flow([t, 2 * t], w0, c)
    for i in range(2):
        one, its_norm = constrained.free_flow(2 * t, w0[i], c)
        assert np.abs(direction[i, 1] - one).max() < 1e-12 and abs(log_norm[i, 1] - its_norm) < 1e-10
    energy = twin.trace_loss(w, c)
    assert np.all(energy[:, 1] <= energy[:, 0] + 1e-10)


# Barlow Twins with the constraint


def best_of(gamma, d, rng, tries=24, steps=3000):
    """Lowest loss and its weights after Riemannian descent from random starts."""
    matrix = np.diag(gamma)
    rate = 0.1 / max(1.0, np.abs(gamma).max()) ** 2
    final = twin.descend_on_grassmann(
        lambda w: twin.barlow_twins_gradient(w, matrix), start(rng, tries, len(gamma), d), rate, steps
    )[-1]
    losses = twin.barlow_twins_loss(final, matrix)
    return losses.min(), final[losses.argmin()]


@pytest.mark.parametrize(
    "gamma, d, regime, loss",
    [
        ([0.9, 0.6, 0.3, -0.1], 2, "top", 0.01 + 0.16),
        ([3.0, 2.0, 1.5, 1.2], 2, "bottom", 0.25 + 0.04),
        ([2.0, 1.5, 0.6, 0.2], 2, "mixed", 0.0),
        ([2.0, 0.5, 0.4, 0.3], 3, "mixed", 0.25 + 0.36),  # one above: it lifts the worst of the three to 1
        ([3.0, 2.5, 2.0, 0.5], 3, "mixed", 2.25 + 1.0),  # one below
        ([2.0, 1.5, 0.5], 2, "mixed", 0.25),
        ([2.0, 0.5], 2, "top", 1.0 + 0.25),  # d = m: one subspace
    ],
)
def test_minimum_of_constrained_barlow_twins(gamma, d, regime, loss):
    minimum = constrained.barlow_twins_minimum(gamma, d)
    assert minimum.regime == regime and abs(minimum.loss - loss) < 1e-14
    trained, w = best_of(gamma, d, np.random.default_rng(12))
    assert abs(trained - loss) < 1e-6
    matrix = np.diag(gamma)
    assert np.abs(np.linalg.eigvalsh(w.T @ matrix @ w)[::-1] - minimum.eigenvalues).max() < 1e-3
    if regime == "mixed":
        assert minimum.indices is None
        with pytest.raises(ValueError, match="both sides of 1"):
            constrained.barlow_twins_subspace(matrix, d)
    else:
        assert same_span(constrained.barlow_twins_subspace(matrix, d), np.eye(len(gamma))[:, minimum.indices]) < 1e-14
        assert same_span(w, constrained.barlow_twins_subspace(matrix, d)) < 1e-4


@given(seeds, st.integers(1, 4), st.integers(0, 3))
def test_no_subspace_is_below_the_minimum(seed, d, more):
    rng = np.random.default_rng(seed)
    gamma = np.sort(rng.uniform(-0.5, 2.5, d + more))[::-1]
    minimum = constrained.barlow_twins_minimum(gamma, d)
    losses = twin.barlow_twins_loss(start(rng, 200, d + more, d), np.diag(gamma))
    assert losses.min() >= minimum.loss - 1e-10
    assert abs(((minimum.eigenvalues - 1) ** 2).sum() - minimum.loss) < 1e-12
    below, above = (gamma <= 1).sum(), (gamma >= 1).sum()
    if below >= d and above >= d:
        assert minimum.loss == 0
    assert (minimum.regime == "mixed") or more == 0 or below == 0 or above == 0


@given(seeds, st.integers(2, 40))
def test_dividing_by_the_largest_eigenvalue_always_gives_the_top_subspace(seed, m):
    rng = np.random.default_rng(seed)
    matrix = twin.symmetric(rng, rng.uniform(0, 10, m))
    gamma, vectors = stepwise.spectrum(matrix)
    d = int(rng.integers(1, m))
    assert constrained.barlow_twins_minimum(gamma / gamma[0], d).regime == "top"
    assert same_span(constrained.barlow_twins_subspace(matrix / gamma[0], d), vectors[:, :d]) < 1e-6


def test_random_minima_are_reached_by_training():
    rng = np.random.default_rng(13)
    for _ in range(6):
        m = int(rng.integers(3, 6))
        d, gamma = int(rng.integers(1, m)), np.sort(rng.uniform(0, 2, m))[::-1]
        assert abs(best_of(gamma, d, rng)[0] - constrained.barlow_twins_minimum(gamma, d).loss) < 1e-4


@pytest.mark.parametrize(
    "gamma, inside", [([0.9, 0.6, 0.3, -0.2], (0, 1)), ([3.0, 2.0, 1.5, 1.2], (3, 2)), ([2.0, 0.7, 0.4], (1,))]
)
def test_rates_around_an_eigenspace(gamma, inside):
    rng, (m, d) = np.random.default_rng(14), (len(gamma), len(inside))
    outside = [i for i in range(m) if i not in inside]
    rates = constrained.barlow_twins_rates(gamma, inside)
    assert rates.shape == (m - d, d)
    b = 1e-5 * rng.standard_normal((m - d, d))
    w0 = np.eye(m)[:, inside] + np.eye(m)[:, outside] @ b
    flow = twin.tangent(lambda w: twin.barlow_twins_gradient(w, np.diag(gamma)))
    w = twin.rk4(flow, np.linalg.qr(w0)[0], 1e-3, 300)[-1]
    later = w[outside] @ np.linalg.inv(w[list(inside)])
    assert np.abs(-np.log(later / b) / 0.3 / rates - 1).max() < 1e-3
    if set(inside) == set(constrained.barlow_twins_minimum(gamma, d).indices or ()):
        assert rates.min() > 0
    else:
        assert rates.min() < 0


@pytest.mark.parametrize("gamma", [[0.9, 0.6, 0.3, -0.2], [3.0, 2.0, 1.5, 1.2]])
def test_constrained_barlow_twins_below_and_above_its_learning_rate(gamma):
    rng, matrix = np.random.default_rng(15), np.diag(gamma)
    target = constrained.barlow_twins_subspace(matrix, 2)
    near = np.linalg.qr(target + 1e-3 * rng.standard_normal((4, 2)))[0]
    limit = constrained.max_barlow_twins_learning_rate(gamma, 2)
    below, above = (
        twin.descend_on_grassmann(lambda w: twin.barlow_twins_gradient(w, matrix), near, f * limit, 1500)[-1]
        for f in (0.98, 1.02)
    )
    assert same_span(below, target) < 1e-8 and same_span(above, target) > 1e-2
    assert constrained.max_barlow_twins_learning_rate([0.5, 0.5], 1) == np.inf
    assert constrained.max_barlow_twins_learning_rate([0.5, 0.2], 2) == np.inf


def test_free_and_constrained_barlow_twins_share_the_top_subspace_after_normalisation():
    rng = np.random.default_rng(16)
    gamma_matrix = twin.symmetric(rng, [4.0, 2.0, 0.5, 0.1])
    gamma_matrix = gamma_matrix / stepwise.spectrum(gamma_matrix)[0][0]
    free = stepwise.final_weights(stepwise.aligned_initialisation(1e-6 * rng.standard_normal((4, 2)), gamma_matrix))
    assert same_span(free, constrained.barlow_twins_subspace(gamma_matrix, 2)) < 1e-12


C = np.diag([0.0, 1.0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: constrained.spectrum([[0.0, 1.0], [0.0, 0.0]]), "matrix must be symmetric"),
        (lambda: constrained.free_flow(1.0, np.zeros((2, 1)), C), "weights must not be zero"),
        (lambda: constrained.free_flow(-1.0, np.ones((2, 1)), C), "t must be >= 0"),
        (lambda: constrained.free_flow(1.0, np.ones((3, 1)), C), "weights must have shape"),
        (lambda: constrained.collapse_slope([[1.0]]), "matrix needs at least 2 rows"),
        (lambda: constrained.limit_direction(np.eye(2)), "matrix needs a single smallest"),
        (lambda: constrained.two_layer_mode(1.0, [-1.0], [1.0]), "m0 must be >= 0"),
        (lambda: constrained.blow_up_time([1.0, 1.0], [1.0]), "same d"),
        (lambda: constrained.tangent_coordinates([[0.0], [1.0]], C), "weights must not be orthogonal"),
        (lambda: constrained.tangent_coordinates(np.ones((2, 2)), C), "weights need rank 2"),
        (lambda: constrained.grassmann_flow(1.0, np.ones((2, 2)), C), "weights need rank 2"),
        (lambda: constrained.grassmann_flow(np.nan, np.ones((2, 1)), C), "t must be finite"),
        (lambda: constrained.orthogonal_iteration(1, np.ones((2, 1)), C, -0.1), "learning_rate must be > 0"),
        (lambda: constrained.orthogonal_iteration(-1, np.ones((2, 1)), C, 0.1), "steps must be >= 0"),
        (lambda: constrained.gap(C, 2), "d must be an integer from 1 to 1"),
        (lambda: constrained.barlow_twins_minimum([0.1, 0.5], 1), "gamma must be sorted"),
        (lambda: constrained.barlow_twins_minimum([0.5, 0.1], 3), "d must be an integer from 1 to 2"),
        (lambda: constrained.barlow_twins_rates([0.5, 0.1], (0, 0)), "inside must be different"),
        (lambda: constrained.barlow_twins_rates([0.5, 0.1], (2,)), "inside must be different"),
        (lambda: constrained.max_barlow_twins_learning_rate([1.5, 0.1], 1), "both sides of 1"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

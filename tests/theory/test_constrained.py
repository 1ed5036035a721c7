"""Trace losses of one layer with and without orthonormal weights: closed forms against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm, subspace_angles

from tests.oracles import dynamics as twin
from tests.oracles.dynamics import orthonormal, same_span
from tests.profiles import examples
from theory import constrained

LAMBDA = np.array([-1.0, -0.5, -0.2, 0.3, 0.9, 1.4])
seeds = st.integers(0, 10**6)


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


# With the constraint


@pytest.mark.parametrize("d", [1, 2, 5, 6])
def test_the_constrained_flow_is_exact(d):
    rng = np.random.default_rng(5)
    c, w0 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 2, 6, d)
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
    w0, t = orthonormal(rng, 4, 6, d), np.array([0.0, 0.3, 1.0, 3.0])
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
    w = constrained.grassmann_flow(t, orthonormal(rng, 6, d), c)
    largest = np.linalg.svd(constrained.tangent_coordinates(w, c), compute_uv=False)[:, 0]
    assert abs(np.polyfit(t, np.log(largest), 1)[0] / (-2 * 0.5) - 1) < 0.01
    excess = twin.trace_loss(w, c) - LAMBDA[:d].sum()
    assert abs(np.polyfit(t, np.log(excess), 1)[0] / (-4 * 0.5) - 1) < 0.01


def test_any_time_from_zero_to_a_million():
    rng = np.random.default_rng(8)
    c, w0 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 5, 6, 3)
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


def near_eigenspace(rng, vectors, inside, coordinates):
    """Weights in a random basis with these coordinates around an eigenspace."""
    outside = [i for i in range(len(vectors)) if i not in inside]
    w = vectors[:, inside] + vectors[:, outside] @ coordinates
    return w @ (rng.standard_normal((w.shape[-1],) * 2) + 3 * np.eye(w.shape[-1]))


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.floats(0, 3))
@examples(40)
def test_the_law_of_coordinates_on_random_problems(seed, d, more, t):
    rng, m = np.random.default_rng(seed), d + more
    lambda_ = np.sort(rng.uniform(-1, 1, m))
    c = twin.symmetric(rng, lambda_)
    inside = [int(i) for i in rng.permutation(m)[:d]]
    outside = [i for i in range(m) if i not in inside]
    first = rng.uniform(-1, 1, (m - d, d))
    w0 = near_eigenspace(rng, constrained.spectrum(c)[1], inside, first)
    law = first * np.exp(-2 * t * (lambda_[outside][:, None] - lambda_[inside]))
    later = constrained.tangent_coordinates(constrained.grassmann_flow(t, w0, c), c, inside)
    # around a saddle coordinates grow: what V_in^T W loses in conditioning, about |T|, multiplies the rounding
    assert np.abs(later - law).max() < 1e-12 * max(1, np.abs(law).max()) ** 2
    bottom = constrained.tangent_coordinates(w0, c)
    assert np.array_equal(bottom, constrained.tangent_coordinates(w0, c, range(d)))


@given(seeds, st.integers(1, 4), st.integers(1, 3))
@examples(10)
def test_the_constrained_flow_on_random_problems(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    c, w0 = twin.symmetric(rng, rng.uniform(-1, 1, m)), orthonormal(rng, 2, m, d)
    states = twin.rk4(twin.tangent(lambda w: twin.trace_gradient(w, c)), w0, 5e-3, 400, every=100)
    predicted = constrained.grassmann_flow(0.5 * np.arange(5), w0, c)
    assert same_span(predicted, np.moveaxis(states, 0, 1)) < 1e-7


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.floats(0.01, 0.4), st.integers(0, 12))
@examples(40)
def test_projected_descent_on_random_problems(seed, d, more, rate, steps):
    rng, m = np.random.default_rng(seed), d + more
    lambda_ = np.sort(rng.uniform(-1, 1, m))
    c = twin.symmetric(rng, lambda_)
    first = rng.uniform(-1, 1, (m - d, d))
    w0 = near_eigenspace(rng, constrained.spectrum(c)[1], list(range(d)), first)
    trained = np.linalg.qr(w0)[0]
    for _ in range(steps):
        trained = np.linalg.qr(trained - rate * twin.trace_gradient(trained, c))[0]
    predicted = constrained.orthogonal_iteration(steps, w0, c, rate)
    assert same_span(trained, predicted) < 1e-12
    law = first * ((1 - 2 * rate * lambda_[d:, None]) / (1 - 2 * rate * lambda_[:d])) ** steps
    assert np.abs(constrained.tangent_coordinates(predicted, c) - law).max() < 1e-12


def test_the_excess_loss_is_the_sum_of_squared_coordinates():
    rng = np.random.default_rng(20)
    c, d = twin.symmetric(rng, LAMBDA), 3
    w = constrained.grassmann_flow(9.0, orthonormal(rng, 5, 6, d), c)
    coordinates = constrained.tangent_coordinates(w, c)
    predicted = ((LAMBDA[d:, None] - LAMBDA[:d]) * coordinates**2).sum((-2, -1))
    # the next order is smaller by |T|^2
    assert (
        np.abs((twin.trace_loss(w, c) - LAMBDA[:d].sum()) / predicted - 1).max()
        < 3 * (coordinates**2).sum((-2, -1)).max()
    )
    assert (coordinates**2).sum((-2, -1)).max() < 0.01


def test_without_a_gap_the_limit_lies_between_two_eigenspaces():
    rng = np.random.default_rng(21)
    lambda_ = np.array([-1.0, 0.2, 0.2, 0.2, 0.9])
    c, w0 = twin.symmetric(rng, lambda_), orthonormal(rng, 3, 5, 2)
    assert abs(constrained.gap(c, 2)) < 1e-14
    vectors, limit = constrained.spectrum(c)[1], constrained.grassmann_flow(1e3, w0, c)
    assert np.abs(twin.projector(limit) @ vectors[:, 0] - vectors[:, 0]).max() < 1e-12  # contains
    assert np.abs(vectors[:, 4:].T @ limit).max() < 1e-12  # lies in
    assert same_span(limit[0], limit[1]) > 0.1  # depends on the start
    assert np.isinf(constrained.plateau_times(w0, c)[:, :2, 1]).all()


@pytest.mark.parametrize("i, j", [(0, 1), (0, 3), (2, 3)])
def test_a_plateau_ends_half_way_between_two_levels_when_predicted(i, j):
    rng = np.random.default_rng(22)
    lambda_ = np.array([-1.0, -0.4, 0.2, 0.8])
    c = twin.symmetric(rng, lambda_)
    vectors, tiny = constrained.spectrum(c)[1], -1e-3
    w0 = np.linalg.qr(np.stack([vectors[:, j] + tiny * vectors[:, i]], axis=1))[0]
    states = twin.rk4(twin.tangent(lambda w: twin.trace_gradient(w, c)), w0, 1e-2, 1500)
    height = twin.trace_loss(states, c)
    half = np.interp(-(lambda_[i] + lambda_[j]) / 2, -height, 1e-2 * np.arange(1501))
    order = [k for k in range(4) if k != j]
    times = constrained.plateau_times(w0, c, [j])
    assert times.shape == (3, 1)
    assert abs(half / times[order.index(i), 0] - 1) < 1e-4  # linear interpolation between steps of 1e-2
    assert abs(times[order.index(i), 0] - -np.log(1e-3) / (2 * (lambda_[j] - lambda_[i]))) < 1e-10
    if i == 0:  # the same plateau seen from where it leads
        others = [k for k in range(4) if k != 0]
        assert abs(constrained.plateau_times(w0, c)[others.index(j), 0] - times[order.index(i), 0]) < 1e-9


@given(seeds, st.integers(1, 3), st.integers(1, 3), st.floats(-30, -1))
@examples(40)
def test_each_coordinate_passes_one_at_its_time(seed, d, more, log_size):
    rng, m = np.random.default_rng(seed), d + more
    lambda_ = np.sort(rng.uniform(-1, 1, m)) + 0.1 * np.arange(m)
    vectors = np.eye(m)
    inside = [int(i) for i in rng.permutation(m)[:d]]
    outside = [i for i in range(m) if i not in inside]
    first = np.exp(log_size) * rng.uniform(0.1, 1, (m - d, d))
    w0 = vectors[:, inside] + vectors[:, outside] @ first
    times = constrained.plateau_times(w0, np.diag(lambda_), inside)
    grows = lambda_[outside][:, None] < lambda_[inside]
    assert np.array_equal(np.isfinite(times), grows) and times.min() > 0
    for a, b in np.argwhere(grows):
        # one at a time: the others, set to zero, neither help nor disturb a coordinate
        alone = np.zeros_like(first)
        alone[a, b] = first[a, b]
        w = constrained.grassmann_flow(times[a, b], vectors[:, inside] + vectors[:, outside] @ alone, np.diag(lambda_))
        angles = subspace_angles(w, vectors[:, inside])
        assert abs(angles.max() - np.pi / 4) < 1e-10
    away = constrained.plateau_times(w0[None], np.diag(lambda_), inside)
    assert away.shape == (1, m - d, d) and np.array_equal(away[0], times)


def test_plateau_times_of_coordinates_that_never_pass_one():
    c = np.diag([-1.0, 0.0, 1.0])
    never = constrained.plateau_times([[1.0], [0.5], [0.0]], c)
    assert np.array_equal(never, [[np.inf], [np.inf]])  # falls from 1/2; stays 0
    now = constrained.plateau_times([[1.0], [1.0], [3.0]], c)
    assert now[0, 0] == 0 and abs(now[1, 0] - np.log(3) / 4) < 1e-15
    assert constrained.plateau_times(np.eye(3), c).shape == (0, 3)


def test_projected_descent_is_orthogonal_iteration():
    rng = np.random.default_rng(9)
    c, w0 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 3, 6, 2)
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
    c, w0 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 6, 2)
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
    w0 = orthonormal(rng, 2, m, d)
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
        (lambda: constrained.tangent_coordinates([[0.0], [1.0]], C), "weights must not be orthogonal"),
        (lambda: constrained.tangent_coordinates(np.ones((2, 2)), C), "weights need rank 2"),
        (lambda: constrained.tangent_coordinates(np.ones((2, 1)), C, [0, 1]), "inside must name as many"),
        (
            lambda: constrained.tangent_coordinates(np.ones((2, 1)), C, [2]),
            "inside must be different indices from 0 to 1",
        ),
        (lambda: constrained.tangent_coordinates([[1.0], [0.0]], C, [1]), "weights must not be orthogonal"),
        (lambda: constrained.plateau_times(np.eye(2), C, [0, 0]), "inside must be different"),
        (lambda: constrained.grassmann_flow(1.0, np.ones((2, 2)), C), "weights need rank 2"),
        (lambda: constrained.grassmann_flow(np.nan, np.ones((2, 1)), C), "t must be finite"),
        (lambda: constrained.orthogonal_iteration(1, np.ones((2, 1)), C, -0.1), "learning_rate must be > 0"),
        (lambda: constrained.orthogonal_iteration(-1, np.ones((2, 1)), C, 0.1), "steps must be >= 0"),
        (lambda: constrained.gap(C, 2), "d must be an integer from 1 to 1"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

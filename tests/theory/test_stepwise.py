"""Stepwise learning: closed forms against training (Simon et al. 2023, arXiv 2303.15438)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.oracles.stepwise import heavy_ball
from tests.profiles import examples
from theory import stepwise

GAMMA = np.array([1.0, 0.7, 0.45, 0.2, 0.05, -0.3])
rate = st.one_of(st.just(0.0), st.floats(-2, 2).filter(lambda g: abs(g) > 1e-3))
modes = st.lists(st.tuples(st.floats(1e-8, 2), rate), min_size=1, max_size=5)


def aligned_weights(rng, gamma_matrix, s0):
    """V_{<=d} diag(s0) U^T for a batch of s0 and one random U each."""
    d = s0.shape[-1]
    vectors = stepwise.spectrum(gamma_matrix)[1][:, :d]
    u = np.stack([twin.orthogonal(rng, d) for _ in range(s0.shape[0])])
    return (vectors * s0[:, None]) @ twin.transpose(u)


def test_the_gradient_of_the_twin_is_the_gradient_of_the_loss():
    rng = np.random.default_rng(0)
    gamma, w = twin.symmetric(rng, GAMMA), rng.standard_normal((6, 3))
    for lambda_ in (1.0, 0.3):
        slope = twin.difference(lambda v, lam=lambda_: twin.barlow_twins_loss(v, gamma, lam), w)
        assert np.abs(slope - twin.barlow_twins_gradient(w, gamma, lambda_)).max() < 1e-7


def test_aligned_trajectories_are_exact():
    rng = np.random.default_rng(1)
    gamma_matrix = twin.symmetric(rng, GAMMA)
    s0 = rng.uniform(0.01, 1.2, (2, 6))  # all six modes: the last decays
    w0 = aligned_weights(rng, gamma_matrix, s0)
    states = twin.rk4(lambda w: twin.barlow_twins_gradient(w, gamma_matrix), w0, 2e-3, 6000, every=100)
    t = 0.2 * np.arange(61)
    start = stepwise.aligned_initialisation(w0, gamma_matrix)
    assert np.abs(start.singular_values - s0).max() < 1e-12
    predicted = stepwise.weights(t, start)
    assert np.abs(predicted - np.moveaxis(states, 0, 1)).max() < 1e-7
    c = twin.transpose(states) @ gamma_matrix @ states
    assert np.abs(np.moveaxis(np.linalg.eigvalsh(c), 0, 1) - np.sort(stepwise.eigenvalues(t, s0, GAMMA))).max() < 1e-7
    trained = np.moveaxis(twin.barlow_twins_loss(states, gamma_matrix), 0, 1)
    assert np.abs(stepwise.loss(t, s0, GAMMA) - trained).max() < 1e-7
    assert np.abs(stepwise.weights(0.0, start) - w0).max() < 1e-12


@pytest.fixture(scope="module")
def small_start():
    """Four seeds trained from alpha = 1e-5 on a Gamma measured on n = 400 pairs, m = 12, d = 5."""
    rng, (m, d, n) = np.random.default_rng(2), (12, 5, 400)
    x = rng.standard_normal((n, m)) * np.r_[1.2 * 0.7 ** np.arange(d), np.linspace(0.15, 0.05, m - d)]
    a, b = (x + 0.1 * rng.standard_normal((n, m)) for _ in range(2))
    gamma_matrix = (a.T @ b + b.T @ a) / (2 * n)
    w0 = 1e-5 * rng.standard_normal((4, m, d))
    dt, steps, every = 0.02, 2600, 4
    states = twin.rk4(lambda w: twin.barlow_twins_gradient(w, gamma_matrix), w0, dt, steps, every)
    return gamma_matrix, w0, dt * every * np.arange(steps // every + 1), np.moveaxis(states, 0, 1)


def test_small_random_starts_follow_the_aligned_one(small_start):
    gamma_matrix, w0, t, trained = small_start  # gamma_{j+1} / gamma_j about 0.5: the closer, the smaller alpha must be
    start = stepwise.aligned_initialisation(w0, gamma_matrix)
    assert np.abs(start.rotation @ twin.transpose(start.rotation) - np.eye(5)).max() < 1e-14
    size = np.linalg.norm(stepwise.final_weights(start), axis=(-2, -1))
    error = np.linalg.norm(stepwise.weights(t, start) - trained, axis=(-2, -1)).mean(-1) / size
    assert error.max() < 0.03
    c = np.linalg.eigvalsh(twin.transpose(trained) @ gamma_matrix @ trained)[..., ::-1]
    predicted = stepwise.step_times(start.singular_values, start.gamma)
    paper = stepwise.step_times(start.singular_values, start.gamma, rule="paper")
    for seed in range(4):
        for j in range(5):
            measured = np.interp(0.5, c[seed, :, j], t)
            assert abs(predicted[seed, j] / measured - 1) < 0.02
    assert np.abs(predicted - paper).max() < 1e-6


def test_it_ends_at_the_smallest_weights_without_loss(small_start):
    gamma_matrix, w0, _, trained = small_start
    start = stepwise.aligned_initialisation(w0, gamma_matrix)
    final = trained[:, -1]
    assert twin.barlow_twins_loss(final, gamma_matrix).max() < 1e-6
    norm = (final**2).sum((-2, -1))
    assert np.abs(norm / stepwise.minimum_norm(start.gamma) - 1).max() < 1e-3
    assert (
        np.abs((stepwise.final_weights(start) ** 2).sum((-2, -1)) / stepwise.minimum_norm(start.gamma) - 1).max()
        < 1e-12
    )


def test_the_minimum_norm_is_reached_from_a_tiny_start():
    rng = np.random.default_rng(3)
    gamma_matrix = twin.symmetric(rng, [1.0, 0.8, 0.5, 0.2, 0.1])
    gradient = lambda w: twin.barlow_twins_gradient(w, gamma_matrix)  # noqa: E731
    final = twin.rk4(gradient, 1e-6 * rng.standard_normal((3, 5, 2)), 0.02, 500)[-1]
    assert np.abs((final**2).sum((-2, -1)) / stepwise.minimum_norm([1.0, 0.8]) - 1).max() < 1e-3
    assert abs(stepwise.minimum_norm([1.0, 0.8]) - 2.25) < 1e-14


@pytest.mark.parametrize(
    "eigenvalues, d, minimum", [([1, 0.5, -0.2, -1], 3, 1), ([1, 0.5, 0, 0], 4, 2), ([1, 0.5], 1, 0)]
)
def test_missing_positive_eigenvalues_cost_one_each(eigenvalues, d, minimum):
    rng = np.random.default_rng(4)
    gamma_matrix = twin.symmetric(rng, eigenvalues)
    gamma = stepwise.spectrum(gamma_matrix)[0]
    assert stepwise.minimum_loss(gamma, d) == minimum
    w = 0.1 * rng.standard_normal((len(eigenvalues), d))
    final = twin.descend(lambda v: twin.barlow_twins_gradient(v, gamma_matrix), w, 0.05, 3000)
    assert abs(twin.barlow_twins_loss(final, gamma_matrix) - minimum) < 1e-6
    start = stepwise.aligned_initialisation(w, gamma_matrix)
    last = stepwise.final_weights(start)
    assert np.abs(last - stepwise.weights(1e9, start)).max() < 1e-6
    if min(eigenvalues[:d]) != 0:
        assert abs((last**2).sum() - stepwise.minimum_norm(gamma[:d])) < 1e-9


def test_the_largest_learning_rate_is_the_limit_of_stability():
    rng = np.random.default_rng(5)
    gamma_matrix = twin.symmetric(rng, [2.0, 0.7, 0.4, 0.1, -0.2])
    gradient = lambda w: twin.barlow_twins_gradient(w, gamma_matrix)  # noqa: E731
    start = stepwise.aligned_initialisation(0.1 * rng.standard_normal((5, 3)), gamma_matrix)
    near = stepwise.final_weights(start) + 1e-3 * rng.standard_normal((5, 3))
    limit = stepwise.max_learning_rate(start.gamma)
    assert limit == 1 / (4 * start.gamma[0])
    below, above = (twin.descend(gradient, near, f * limit, 3000) for f in (0.98, 1.02))
    assert twin.barlow_twins_loss(below, gamma_matrix) < 1e-20
    assert twin.barlow_twins_loss(above, gamma_matrix) > 1e-4


def test_discrete_descent_is_exact_per_mode():
    rng = np.random.default_rng(6)
    gamma_matrix, s0 = twin.symmetric(rng, GAMMA), rng.uniform(0.1, 1.5, (3, 6))
    w0 = aligned_weights(rng, gamma_matrix, s0)
    steps = np.array([7, 0, 40])
    predicted = stepwise.discrete_singular_values(steps, 0.15, s0, GAMMA)
    start = stepwise.aligned_initialisation(w0, gamma_matrix)
    for k, count in enumerate(steps):
        w = twin.descend(lambda v: twin.barlow_twins_gradient(v, gamma_matrix), w0, 0.15, count)
        s = np.diagonal(start.vectors.T @ w @ start.rotation, axis1=-2, axis2=-1)
        assert np.abs(s - predicted[:, k]).max() < 1e-11
    assert np.array_equal(stepwise.discrete_singular_values(40, 0.15, s0, GAMMA), predicted[:, 2])
    assert np.isinf(stepwise.discrete_singular_values(50, 2.0, [1.5, 1.5], [1.0, -1.0])).all()
    fine = stepwise.discrete_singular_values(100_00, 1e-4, s0, GAMMA)
    assert np.abs(fine - stepwise.singular_values(1.0, s0, GAMMA)).max() < 1e-3


@pytest.mark.parametrize("gamma, d", [([1.0, 0.6, 0.2], 1), ([1.0, 0.8, 0.2], 1), ([1.0, 0.8, 0.4, 0.3], 2)])
def test_the_final_angle_shrinks_with_the_predicted_power_of_the_scale(gamma, d):
    rng = np.random.default_rng(7)
    gamma_matrix, scales = np.diag(gamma), np.array([1e-6, 1e-7, 1e-8, 1e-9, 1e-10])
    w0 = scales[:, None, None, None] * rng.standard_normal((8, len(gamma), d))
    dt, duration = 0.05, (np.log(1e10) / (4 * gamma[d - 1]) + 5)
    final = twin.rk4(lambda w: twin.barlow_twins_gradient(w, gamma_matrix), w0, dt, int(duration / dt))[-1]
    assert twin.barlow_twins_loss(final, gamma_matrix).max() < 1e-6
    q = np.linalg.qr(final)[0]
    angle = np.median(np.arcsin(np.linalg.svd(q[..., d:, :], compute_uv=False)[..., 0]), axis=1)
    fitted = np.polyfit(np.log(scales), np.log(angle), 1)[0]
    assert abs(fitted - stepwise.initialisation_exponent(gamma, d)) < 0.03


def test_heavy_ball_descent_is_exact_per_mode():
    rng = np.random.default_rng(8)
    gamma_matrix, s0 = twin.symmetric(rng, GAMMA), rng.uniform(0.1, 1.5, (3, 6))
    w0 = aligned_weights(rng, gamma_matrix, s0)
    start = stepwise.aligned_initialisation(w0, gamma_matrix)
    gradient = lambda w: twin.barlow_twins_gradient(w, gamma_matrix)  # noqa: E731
    for momentum in (0.0, 0.5, 0.9):
        predicted = stepwise.discrete_singular_values([1, 2, 30, 0], 0.05, s0, GAMMA, momentum)
        for k, count in enumerate([1, 2, 30, 0]):
            w = heavy_ball(gradient, w0, 0.05, momentum, count)
            s = np.diagonal(start.vectors.T @ w @ start.rotation, axis1=-2, axis2=-1)
            assert np.abs(s - predicted[:, k]).max() < 1e-11
    plain = stepwise.discrete_singular_values([5, 50], 0.15, s0, GAMMA)
    assert np.array_equal(plain, stepwise.discrete_singular_values([5, 50], 0.15, s0, GAMMA, momentum=0.0))
    lost = stepwise.discrete_singular_values([5, 50, 500], 2.0, [1.5, 1.5, 1.5], [1.0, -1.0, 0.0], 0.9)
    assert np.isinf(lost[1:, :2]).all() and np.all(lost[:, 2] == 1.5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_descent_follows_the_flow_at_its_time(momentum):
    s0, gamma, errors = np.full(3, 0.02), np.array([1.0, 0.5, 0.1]), []
    for steps in (4000, 8000):
        learning_rate = 4.0 * (1 - momentum) / steps
        t = stepwise.flow_time(np.arange(0, steps + 1, steps // 20), learning_rate, momentum)
        assert t[0] == 0 and abs(t[-1] - 4.0) < 1e-12
        trained = stepwise.discrete_singular_values(
            np.arange(0, steps + 1, steps // 20), learning_rate, s0, gamma, momentum
        )
        errors.append(np.abs(trained - stepwise.singular_values(t, s0, gamma)).max())
    assert errors[0] < 0.05 and abs(errors[0] / errors[1] - 2) < 0.1  # first order in the learning rate
    assert stepwise.flow_time(10, 0.1, momentum) == 10 * 0.1 / (1 - momentum)


@given(st.integers(1, 6), st.floats(1e-8, 1e-2), st.integers(0, 10**6))
@examples(10)
def test_step_times_before_any_draw(d, scale, seed):
    rng, draws = np.random.default_rng(seed), 20_000
    gamma = np.append(np.sort(rng.uniform(0.1, 2, d))[::-1], [0.05, -0.3])
    w0 = scale * rng.standard_normal((draws, d + 2, d))
    start = stepwise.aligned_initialisation(w0, twin.symmetric(rng, gamma))
    drawn = stepwise.step_times(start.singular_values, start.gamma, rule="paper")
    mean, deviation = stepwise.expected_step_times(scale, gamma[:d])
    assert np.all(np.abs(drawn.mean(0) - mean) < 4.5 * deviation / np.sqrt(draws))
    # the fourth moment of log chi^2 with one degree of freedom is 7 times its variance squared
    assert np.all(np.abs(drawn.var(0) / deviation**2 - 1) < 4.5 * np.sqrt(6 / draws))


def test_step_times_that_no_draw_reaches():
    mean, deviation = stepwise.expected_step_times(1e-4, [1.0, 0.0, -2.0])
    assert np.isfinite(mean[0]) and np.isposinf(mean[1:]).all()
    assert deviation[0] > 0 and np.all(deviation[1:] == 0)
    leading = -np.log(1e-8 * np.arange(200, 0, -1)) / 8  # with E R_jj^2 = scale^2 (d - j + 1) in place of the mean log
    assert np.abs(stepwise.expected_step_times(1e-4, np.ones(200)).mean - leading)[:100].max() < 2e-3


def test_equal_eigenvalues_are_one_group():
    gamma = [1.0, 0.5, 0.5 - 1e-9, 0.5 - 2e-9, 0.1, 0.1]
    groups = [stepwise.top_group(gamma, d) for d in range(1, 7)]
    assert groups == [range(0, 1), *[range(1, 4)] * 3, *[range(4, 6)] * 2]
    assert stepwise.top_group([0.5, 0.5 - 1e-7], 1) == range(0, 1)
    assert stepwise.top_group([0.0, 0.0], 1) == range(0, 2)


def test_small_weights_find_the_top_subspace_and_what_is_left_of_it_at_a_degenerate_gap():
    rng = np.random.default_rng(9)
    gamma_matrix = twin.symmetric(rng, [1.0, 0.5, 0.5, 0.5, 0.05])
    vectors = stepwise.spectrum(gamma_matrix)[1]
    final = {}
    for d in (1, 2, 4):
        w0 = 1e-9 * rng.standard_normal((6, 5, d))
        states = twin.rk4(lambda w: twin.barlow_twins_gradient(w, gamma_matrix), w0, 0.05, 400)
        final[d] = twin.projector(states[-1])
        if d != 2:
            top = stepwise.top_subspace(gamma_matrix, d)
            assert np.abs(final[d] - top @ top.T).max() < 1e-3
    with pytest.raises(
        ValueError, match=r"degenerate gap at d = 2: gamma_2 to gamma_4 are all 0.5; compare modes 2 to 4"
    ):
        stepwise.top_subspace(gamma_matrix, 2)
    before, through = (vectors[:, :k] @ vectors[:, :k].T for k in (1, 4))
    assert np.abs(final[2] @ before - before).max() < 1e-3  # contains what comes before the group
    assert np.abs(through @ final[2] - final[2]).max() < 1e-3  # and lies in all up to its end
    assert np.abs(final[2] - final[2][0]).max() > 0.1  # but which span depends on the start
    whole = stepwise.top_subspace(np.eye(3), 3)
    assert np.abs(whole @ whole.T - np.eye(3)).max() < 1e-12


@given(modes, st.lists(st.floats(0, 1e3), min_size=1, max_size=4))
def test_eigenvalues_are_logistic_and_the_loss_is_their_sum(values, t):
    s0, gamma = np.array(values).T
    lambda_ = stepwise.eigenvalues(t, s0, gamma)
    assert lambda_.shape == (len(t), len(values))
    for k, at in enumerate(t):
        for j, (s, g) in enumerate(values):
            if g <= 0:
                continue
            decay = np.exp(-min(8 * g * at, 700))
            start = g * s**2
            expected = start / (start + (1 - start) * decay)
            assert abs(lambda_[k, j] - expected) < 1e-12 * max(expected, 1e-3)
    assert np.all(lambda_ * np.sign(gamma) >= 0)
    assert np.abs(stepwise.loss(t, s0, gamma) - ((1 - lambda_) ** 2).sum(-1)).max() < 1e-12 * len(values)
    assert np.array_equal(stepwise.eigenvalues(t[0], s0, gamma), lambda_[0])


@given(modes, st.integers(1, 3), st.integers(1, 3))
def test_batches_and_times_are_loops(values, seeds, times):
    s0, gamma = np.array(values).T
    batch, t = s0 * np.arange(1, seeds + 1)[:, None], np.arange(times) * 0.7
    for function in (stepwise.singular_values, stepwise.eigenvalues, stepwise.loss):
        together = function(t, batch, gamma)
        for i in range(seeds):
            for k in range(times):
                assert np.allclose(together[i, k], function(t[k], batch[i], gamma), rtol=1e-13, atol=0)
    assert np.allclose(stepwise.step_times(batch, gamma)[-1], stepwise.step_times(batch[-1], gamma), rtol=1e-13)


@given(modes)
def test_step_times_are_half_times(values):
    s0, gamma = np.array(values).T
    half, paper = stepwise.step_times(s0, gamma), stepwise.step_times(s0, gamma, rule="paper")
    assert np.all(np.isposinf(half[gamma <= 0])) and np.all(np.isposinf(paper[gamma <= 0]))
    ahead = np.isfinite(half) & (half >= 0)
    assert np.all(half <= paper)
    for j in np.flatnonzero(ahead):
        assert abs(stepwise.eigenvalues(half[j], s0[j : j + 1], gamma[j : j + 1])[0] - 0.5) < 1e-9
    assert np.all(np.isneginf(half[gamma * s0**2 >= 1 + 1e-12]))


def test_every_step_lowers_the_loss_by_one():
    gamma, s0 = np.array([1.0, 0.2, 0.04]), np.full(3, 1e-9)
    times = stepwise.step_times(s0, gamma)
    between = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [2 * times[-1]]])
    assert np.abs(stepwise.loss(between, s0, gamma) - [3, 2, 1, 0]).max() < 1e-6
    t = np.array([-0.5, 0.5]) * np.log(81) / 8 + times[0]
    assert np.abs(stepwise.eigenvalues(t, s0[:1], gamma[:1])[:, 0] - [0.1, 0.9]).max() < 1e-6


def test_late_times_zero_starts_and_extreme_scales_stay_finite():
    s = stepwise.singular_values([0.0, 1.0, 1e6, 1e300], [1e-300, 0.0, 1.0, 2.0, 1e-5], [1e3, 1.0, -1.0, 0.0, 4.0])
    assert np.isfinite(s).all()
    assert np.abs(s[0] - [1e-300, 0, 1, 2, 1e-5]).max() < 1e-14
    assert np.abs(s[-1] - [1e-3**0.5, 0, 0, 2, 0.5]).max() < 1e-12
    assert np.isposinf(stepwise.step_times([0.0], [1.0]))[0]


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 3))
def test_changes_of_basis(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    gamma_matrix = twin.symmetric(rng, np.linspace(1, -0.5, m) if m > 1 else [1.0])
    w, q, o = rng.standard_normal((m, d)), twin.orthogonal(rng, d), twin.orthogonal(rng, m)
    expected = stepwise.weights([0.3, 2.0], stepwise.aligned_initialisation(w, gamma_matrix))
    turned = stepwise.weights([0.3, 2.0], stepwise.aligned_initialisation(w @ q, gamma_matrix))
    moved = stepwise.weights([0.3, 2.0], stepwise.aligned_initialisation(o @ w, o @ gamma_matrix @ o.T))
    assert np.abs(turned - expected @ q).max() < 1e-8
    assert np.abs(moved - o @ expected).max() < 1e-8


@given(st.integers(0, 10**6), st.lists(st.sampled_from([1.0, 0.5, 0.0, -0.2]), min_size=2, max_size=5))
def test_repeated_and_zero_eigenvalues(seed, eigenvalues):
    rng, m = np.random.default_rng(seed), len(eigenvalues)
    gamma_matrix = twin.symmetric(rng, eigenvalues)
    gamma, vectors = stepwise.spectrum(gamma_matrix)
    assert np.abs(gamma - np.sort(eigenvalues)[::-1]).max() < 1e-12
    assert np.abs((vectors * gamma) @ vectors.T - gamma_matrix).max() < 1e-12
    start = stepwise.aligned_initialisation(rng.standard_normal((m, m - 1)), gamma_matrix)
    w = stepwise.weights(5.0, start)
    c = np.linalg.eigvalsh(w.T @ gamma_matrix @ w)
    assert np.abs(c - np.sort(stepwise.eigenvalues(5.0, start.singular_values, start.gamma))).max() < 1e-9
    assert stepwise.minimum_loss(gamma, m) == m - sum(e > 0 for e in eigenvalues)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stepwise.spectrum([[1.0, 2.0], [0.0, 1.0]]), "gamma_matrix must be symmetric"),
        (lambda: stepwise.spectrum([[1.0, np.nan], [np.nan, 1.0]]), "gamma_matrix must be finite"),
        (lambda: stepwise.spectrum(np.ones((2, 3))), "gamma_matrix must be square"),
        (lambda: stepwise.spectrum(np.ones(3)), "gamma_matrix must have 2 dimension"),
        (lambda: stepwise.spectrum(np.eye(2) * 1j), "gamma_matrix must be a real array"),
        (lambda: stepwise.aligned_initialisation(np.ones((3, 1)), np.eye(2)), "weights must have shape"),
        (lambda: stepwise.aligned_initialisation(np.ones((2, 3)), np.eye(2)), "weights .* need d <= m"),
        (lambda: stepwise.singular_values(-1.0, [1.0], [1.0]), "t must be >= 0"),
        (lambda: stepwise.singular_values([[1.0]], [1.0], [1.0]), "t must be a scalar"),
        (lambda: stepwise.singular_values(np.inf, [1.0], [1.0]), "t must be finite"),
        (lambda: stepwise.singular_values(1.0, [-1.0], [1.0]), "s0 must be >= 0"),
        (lambda: stepwise.loss(1.0, [1.0], [1.0, 2.0]), "same d"),
        (lambda: stepwise.step_times([1.0], [1.0], rule="other"), "rule must be"),
        (lambda: stepwise.minimum_loss([1.0], 2), "d must be an integer from 1 to 1"),
        (lambda: stepwise.minimum_loss([1.0], 0), "d must be an integer"),
        (lambda: stepwise.max_learning_rate([-1.0, 0.0]), "no positive eigenvalue: nothing will be learned"),
        (lambda: stepwise.discrete_singular_values(3, 0.0, [1.0], [1.0]), "learning_rate must be > 0"),
        (lambda: stepwise.discrete_singular_values(2.5, 0.1, [1.0], [1.0]), "steps must be a whole number"),
        (lambda: stepwise.initialisation_exponent([1.0, 0.5], 2), "d must be an integer from 1 to 1"),
        (lambda: stepwise.initialisation_exponent([0.5, 1.0], 1), "gamma must be sorted"),
        (lambda: stepwise.initialisation_exponent([0.0, -1.0], 1), "nothing will be learned"),
        (lambda: stepwise.initialisation_exponent([1.0, 0.0, -1.0], 2), "gamma needs d = 2 positive"),
        (lambda: stepwise.flow_time(-1, 0.1), "steps must be >= 0"),
        (lambda: stepwise.flow_time(1, 0.0), "learning_rate must be > 0"),
        (lambda: stepwise.flow_time(1, 0.1, 1.0), "momentum must be < 1"),
        (lambda: stepwise.discrete_singular_values(1, 0.1, [1.0], [1.0], -0.1), "momentum must be >= 0"),
        (lambda: stepwise.expected_step_times(0.0, [1.0]), "scale must be > 0"),
        (lambda: stepwise.expected_step_times(0.1, [0.5, 1.0]), "gamma must be sorted"),
        (lambda: stepwise.top_group([0.5, 1.0], 1), "gamma must be sorted"),
        (lambda: stepwise.top_group([1.0, 0.5], 3), "d must be an integer from 1 to 2"),
        (lambda: stepwise.top_subspace(np.eye(3), 2), "gamma_1 to gamma_3 are all 1"),
        (lambda: stepwise.minimum_norm([]), "gamma must not be empty"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

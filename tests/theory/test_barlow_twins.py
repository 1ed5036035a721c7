"""Constrained Barlow Twins: minima, rates and trajectories against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.profiles import examples
from theory import barlow_twins, stepwise

seeds = st.integers(0, 10**6)


def start(rng, *shape):
    return np.linalg.qr(rng.standard_normal(shape))[0]


def same_span(a, b):
    return np.abs(twin.projector(a) - twin.projector(b)).max()


def best_of(gamma, d, rng, tries=24, steps=3000):
    """Lowest loss and its weights after Riemannian descent from random starts."""
    matrix = np.diag(gamma)
    rate = 0.1 / max(1.0, np.abs(gamma).max()) ** 2
    final = twin.descend_on_grassmann(
        lambda w: twin.barlow_twins_gradient(w, matrix), start(rng, tries, len(gamma), d), rate, steps
    )[-1]
    losses = twin.barlow_twins_loss(final, matrix)
    return losses.min(), final[losses.argmin()]


@pytest.mark.slow
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
    minimum = barlow_twins.minimum(gamma, d)
    assert minimum.regime == regime and abs(minimum.loss - loss) < 1e-14
    trained, w = best_of(gamma, d, np.random.default_rng(12))
    assert abs(trained - loss) < 1e-6
    matrix = np.diag(gamma)
    assert np.abs(np.linalg.eigvalsh(w.T @ matrix @ w)[::-1] - minimum.eigenvalues).max() < 1e-3
    if regime == "mixed":
        assert minimum.indices is None
        with pytest.raises(ValueError, match="both sides of 1"):
            barlow_twins.minimiser(matrix, d)
    else:
        assert same_span(barlow_twins.minimiser(matrix, d), np.eye(len(gamma))[:, minimum.indices]) < 1e-14
        assert same_span(w, barlow_twins.minimiser(matrix, d)) < 1e-4


@given(seeds, st.integers(1, 4), st.integers(0, 3))
def test_no_subspace_is_below_the_minimum(seed, d, more):
    rng = np.random.default_rng(seed)
    gamma = np.sort(rng.uniform(-0.5, 2.5, d + more))[::-1]
    minimum = barlow_twins.minimum(gamma, d)
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
    assert barlow_twins.minimum(gamma / gamma[0], d).regime == "top"
    assert same_span(barlow_twins.minimiser(matrix / gamma[0], d), vectors[:, :d]) < 1e-6


@pytest.mark.slow
def test_random_minima_are_reached_by_training():
    rng = np.random.default_rng(13)
    for _ in range(6):
        m = int(rng.integers(3, 6))
        d, gamma = int(rng.integers(1, m)), np.sort(rng.uniform(0, 2, m))[::-1]
        assert abs(best_of(gamma, d, rng)[0] - barlow_twins.minimum(gamma, d).loss) < 1e-4


@pytest.mark.slow
@given(seeds, st.integers(1, 3), st.integers(0, 2), st.sampled_from([(0.0, 1.0), (1.0, 2.0), (-0.3, 2.0)]))
@examples(12)
def test_the_regimes_are_found_by_training_on_random_spectra(seed, d, more, interval):
    rng = np.random.default_rng(seed)
    gamma = np.sort(rng.uniform(*interval, d + more))[::-1]
    minimum = barlow_twins.minimum(gamma, d)
    if more and interval[0] >= 0:
        assert minimum.regime == ("top" if interval[1] == 1 else "bottom")
    trained, w = best_of(gamma, d, rng, tries=12)
    # near an eigenspace each of d (m - d) coordinates with rate r adds (r/2) e^{-2rt} B^2 to the loss, at most 1/(4 e t)
    t = 3000 * 0.1 / max(1.0, np.abs(gamma).max()) ** 2
    assert -1e-12 < trained - minimum.loss < d * more / (4 * np.e * t) + 1e-12
    c = np.linalg.eigvalsh(w.T @ np.diag(gamma) @ w)[::-1]
    assert np.all(c <= gamma[:d] + 1e-12) and np.all(c >= gamma[more:] - 1e-12)  # Cauchy


@pytest.mark.parametrize(
    "gamma, inside", [([0.9, 0.6, 0.3, -0.2], (0, 1)), ([3.0, 2.0, 1.5, 1.2], (3, 2)), ([2.0, 0.7, 0.4], (1,))]
)
def test_rates_around_an_eigenspace(gamma, inside):
    rng, (m, d) = np.random.default_rng(14), (len(gamma), len(inside))
    outside = [i for i in range(m) if i not in inside]
    rates = barlow_twins.rates(gamma, inside)
    assert rates.shape == (m - d, d)
    b = 1e-5 * rng.standard_normal((m - d, d))
    w0 = np.eye(m)[:, inside] + np.eye(m)[:, outside] @ b
    flow = twin.tangent(lambda w: twin.barlow_twins_gradient(w, np.diag(gamma)))
    w = twin.rk4(flow, np.linalg.qr(w0)[0], 1e-3, 300)[-1]
    later = w[outside] @ np.linalg.inv(w[list(inside)])
    assert np.abs(-np.log(later / b) / 0.3 / rates - 1).max() < 1e-3
    if set(inside) == set(barlow_twins.minimum(gamma, d).indices or ()):
        assert rates.min() > 0
    else:
        assert rates.min() < 0


@pytest.mark.parametrize("gamma", [[0.9, 0.6, 0.3, -0.2], [3.0, 2.0, 1.5, 1.2]])
def test_constrained_barlow_twins_below_and_above_its_learning_rate(gamma):
    rng, matrix = np.random.default_rng(15), np.diag(gamma)
    target = barlow_twins.minimiser(matrix, 2)
    near = np.linalg.qr(target + 1e-3 * rng.standard_normal((4, 2)))[0]
    limit = barlow_twins.max_learning_rate(gamma, 2)
    below, above = (
        twin.descend_on_grassmann(lambda w: twin.barlow_twins_gradient(w, matrix), near, f * limit, 1500)[-1]
        for f in (0.98, 1.02)
    )
    assert same_span(below, target) < 1e-8 and same_span(above, target) > 1e-2
    assert barlow_twins.max_learning_rate([0.5, 0.5], 1) == np.inf
    assert barlow_twins.max_learning_rate([0.5, 0.2], 2) == np.inf


def test_free_and_constrained_barlow_twins_share_the_top_subspace_after_normalisation():
    rng = np.random.default_rng(16)
    gamma_matrix = twin.symmetric(rng, [4.0, 2.0, 0.5, 0.1])
    gamma_matrix = gamma_matrix / stepwise.spectrum(gamma_matrix)[0][0]
    free = stepwise.final_weights(stepwise.aligned_initialisation(1e-6 * rng.standard_normal((4, 2)), gamma_matrix))
    assert same_span(free, barlow_twins.minimiser(gamma_matrix, 2)) < 1e-12


def trained_flow(w, matrix, dt, steps, every):
    """Runge-Kutta, brought back to orthonormal columns every 10 steps: rounding off the constraint can grow."""
    flow, states = twin.tangent(lambda v: twin.barlow_twins_gradient(v, matrix)), [w]
    for step in range(10, steps + 1, 10):
        w = np.linalg.qr(twin.rk4(flow, w, dt, 10)[-1])[0]
        if step % every == 0:
            states.append(w)
    return np.stack(states)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(30)
    matrix, w = twin.symmetric(rng, [2.0, 0.6, -0.4]), start(rng, 3, 2)
    numeric = twin.difference(lambda v: twin.barlow_twins_loss(v, matrix), w)
    assert np.abs(numeric - twin.barlow_twins_gradient(w, matrix)).max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize(
    "gamma", [[0.9, 0.6, 0.3, -0.1], [3.0, 2.0, 1.5, 1.2], [2.0, 1.5, 0.6, 0.2], [1.0, 1.0, 1.0, 1.0]]
)
@pytest.mark.parametrize("d", [1, 3, 4])
def test_whole_trajectories_of_constrained_barlow_twins(gamma, d):
    rng = np.random.default_rng(31)
    matrix, w0 = twin.symmetric(rng, gamma), start(rng, 3, 4, d)
    states = trained_flow(w0, matrix, 2e-3, 1000, every=100)
    t = 0.2 * np.arange(11)
    predicted = barlow_twins.flow(t, w0, matrix)
    assert predicted.shape == (3, 11, 4, d)
    assert np.abs(twin.transpose(predicted) @ predicted - np.eye(d)).max() < 1e-14
    assert same_span(predicted, np.moveaxis(states, 0, 1)) < 1e-8
    assert same_span(predicted[:, 0], w0) < 1e-14
    assert same_span(barlow_twins.flow(1.0, w0, matrix), predicted[:, 5]) < 1e-9  # a scalar
    back = barlow_twins.flow(t[::-1], w0[1] @ (rng.standard_normal((d, d)) + 3 * np.eye(d)), matrix)
    assert same_span(back[::-1], predicted[1]) < 1e-9  # one of the batch, another basis, times in any order


@given(seeds, st.integers(1, 3), st.integers(1, 3))
@examples(8)
def test_trajectories_of_constrained_barlow_twins_on_random_problems(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    matrix, w0 = twin.symmetric(rng, rng.uniform(-1, 2, m)), start(rng, m, d)
    states = trained_flow(w0, matrix, 2e-3, 600, every=200)
    assert same_span(barlow_twins.flow([0.0, 0.4, 0.8, 1.2], w0, matrix), states) < 1e-8


@pytest.mark.parametrize("tiny", [1e-9, 1e-60])
def test_saddles_are_left_when_the_rates_say(tiny):
    gamma, start_at = np.array([0.9, 0.6, 0.3]), np.array([[tiny], [0.0], [1.0]])
    rate = -barlow_twins.rates(gamma, (2,))[0, 0]
    t = np.log(1e-3 / tiny) / rate  # first order in B up to 1e-3
    w = barlow_twins.flow([t, 1.2 * t], start_at, np.diag(gamma))
    assert abs(w[0, 0, 0] / w[0, 2, 0] / 1e-3 - 1) < 1e-5
    assert w[0, 1, 0] == 0 and (tiny > 1e-50 or abs(w[1, 0, 0]) > 0.999)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [[0.9, 0.6, 0.3, -0.1], [3.0, 2.0, 1.5, 1.2]])
def test_late_angles_and_losses_converge_at_the_predicted_rate(gamma):
    rng, d = np.random.default_rng(32), 2
    rate, minimum = barlow_twins.convergence_rate(gamma, d), barlow_twins.minimum(gamma, d)
    inside = list(minimum.indices)
    assert rate == barlow_twins.rates(gamma, inside).min() > 0
    w0 = start(rng, 4, d)
    states = trained_flow(w0, np.diag(gamma), 2e-3, int(round(13 / rate / 2e-3, -2)), every=50)
    t = 0.1 * np.arange(len(states))
    late = (t > 9 / rate) & (t < 12 / rate)
    sine = np.linalg.norm(np.delete(states, inside, axis=1), 2, axis=(-2, -1))
    assert 1e-6 < sine[late].max() < 0.05
    assert abs(np.polyfit(t[late], np.log(sine[late]), 1)[0] / -rate - 1) < 5e-3
    excess = twin.barlow_twins_loss(states, np.diag(gamma)) - minimum.loss
    assert abs(np.polyfit(t[late], np.log(excess[late]), 1)[0] / (-2 * rate) - 1) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("gamma, other", [([1.0, 0.4, 0.1], 0.4), ([2.1, 1.6, 1.0], 1.6)])
def test_a_gamma_of_one_at_the_minimiser_makes_convergence_algebraic(gamma, other):
    assert barlow_twins.convergence_rate(gamma, 1) == 0
    inside = barlow_twins.minimum(gamma, 1).indices[0]
    t = np.array([100.0, 400.0])
    w = barlow_twins.flow(t, np.ones((3, 1)), np.diag(gamma))[..., 0]
    tangent = np.linalg.norm(np.delete(w, inside, axis=1), axis=1) / np.abs(w[:, inside])
    error = np.abs(tangent * np.sqrt(8 * (1 - other) ** 2 * t) - 1)
    assert error[0] < 0.04 and error[1] < 0.8 * error[0]  # it vanishes with the other direction, a power of t


@pytest.mark.slow
def test_a_plane_of_a_gamma_of_one_converges_as_the_root_of_time():
    t = np.array([100.0, 400.0])
    two = barlow_twins.flow(t, start(np.random.default_rng(33), 4, 2), np.diag([1.0, 0.6, 0.2, 0.1]))
    sine = np.linalg.norm(two[:, 2:], 2, axis=(-2, -1))
    assert abs(np.log(sine[1] / sine[0]) / np.log(4) + 0.5) < 0.01


def test_convergence_rates_of_degenerate_problems():
    assert barlow_twins.convergence_rate([0.9, 0.5, 0.5], 2) == 0  # no gap
    assert barlow_twins.convergence_rate([0.9, 0.5, 0.5], 1) > 0.1
    assert barlow_twins.convergence_rate(np.array([0.3, 0.1]) / 0.3, 1) == 0
    assert barlow_twins.convergence_rate([1 + 1e-16, 0.2], 1) == 0
    assert barlow_twins.convergence_rate([0.9, 0.5], 2) == np.inf
    assert abs(barlow_twins.convergence_rate([0.5, 0.2], 1) - 4 * 0.3 * 0.5) < 1e-15


C = np.diag([1.5, 0.1])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: barlow_twins.minimum([0.1, 0.5], 1), "gamma must be sorted"),
        (lambda: barlow_twins.minimum([0.5, 0.1], 3), "d must be an integer from 1 to 2"),
        (lambda: barlow_twins.rates([0.5, 0.1], (0, 0)), "inside must be different"),
        (lambda: barlow_twins.rates([0.5, 0.1], (2,)), "inside must be different"),
        (lambda: barlow_twins.max_learning_rate([1.5, 0.1], 1), "both sides of 1"),
        (lambda: barlow_twins.convergence_rate([1.5, 0.1], 1), "both sides of 1"),
        (lambda: barlow_twins.convergence_rate([0.1, 1.5], 1), "gamma must be sorted"),
        (lambda: barlow_twins.flow(-1.0, np.ones((2, 1)), C), "t must be >= 0"),
        (lambda: barlow_twins.flow(1.0, np.ones((2, 2)), C), "weights need rank 2"),
        (lambda: barlow_twins.flow(1.0, np.ones((3, 1)), C), "to fit gamma_matrix"),
        (lambda: barlow_twins.flow(1.0, np.ones((2, 1)), [[0, 1], [0, 0]]), "gamma_matrix must be symmetric"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

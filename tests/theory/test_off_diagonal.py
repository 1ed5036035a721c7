"""Barlow Twins with lambda != 1: plateaus and step times against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.oracles import stepwise as crossing
from tests.profiles import examples
from theory import off_diagonal, stepwise

D = 5
GAMMA = 0.5 ** np.arange(7)
LAMBDAS = np.array([0.05, 0.3, 0.6, 2.0])
SCALES = np.array([1e-6, 1e-10])


@pytest.fixture(scope="module")
def training():
    """Trained for each lambda, scale and seed: W(0), times, eigenvalues of C and diagonals of C (T, 4, 2, 6, ...)."""
    rng = np.random.default_rng(0)
    shapes = rng.standard_normal((4, GAMMA.size, D))
    w0 = SCALES[:, None, None, None] * shapes
    w, lambda_ = np.broadcast_to(w0, (LAMBDAS.size, *w0.shape)), LAMBDAS[:, None, None, None, None]
    dt, every = 0.05, 4  # rates are at most 8 c_1 gamma_1 = 34
    times, values, diagonals = [], [], []
    gamma_matrix = np.diag(GAMMA)
    for chunk in range(30):
        states = twin.rk4(lambda v: twin.barlow_twins_gradient(v, gamma_matrix, lambda_), w, dt, 1000, every)
        c = twin.transpose(states) @ gamma_matrix @ states
        times.append(chunk * 1000 * dt + dt * every * np.arange(len(states)))
        values.append(np.linalg.eigvalsh(c)[..., ::-1])
        diagonals.append(np.diagonal(c, axis1=-2, axis2=-1))
        w = states[-1]
    return w0, w, *(np.concatenate(part) for part in (times, values, diagonals))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(LAMBDAS.size))
@pytest.mark.parametrize("learned", range(1, D))
def test_training_waits_on_every_plateau(training, place, learned):
    *_, times, values, diagonals = training
    values, diagonals = values[:, place, 1], diagonals[:, place, 1]  # from the smaller scale
    expected = off_diagonal.plateau(D, LAMBDAS[place], learned)
    steps = crossing.first_crossings(times, values, 0.5)
    turning = LAMBDAS[place] == 0.6  # the outputs turn at a rate proportional to |1 - lambda|: some are not done
    slopes = []
    for seed in range(steps.shape[0]):
        begin, end = steps[seed, learned - 1 : learned + 1]
        middle, late = np.searchsorted(times, begin + np.array([0.5, 0.8]) * (end - begin))
        assert np.abs(values[late, seed, :learned] / expected.height - 1).max() < (0.02 if turning else 0.005)
        growth = np.log(values[late, seed, learned] / values[middle, seed, learned]) / (times[late] - times[middle])
        slopes.append(growth / (8 * GAMMA[learned] * expected.slow_down) - 1)
        if LAMBDAS[place] < 0.5:
            assert np.abs(diagonals[late, seed] * D / (learned * expected.height) - 1).max() < 0.02
    assert np.abs(slopes).max() < (0.08 if turning else 0.015)  # the next eigenvalue is already up to 0.04
    assert np.abs(np.median(slopes)) < 0.01


@pytest.mark.slow
def test_step_times_are_late_by_a_time_that_does_not_depend_on_the_scale(training):
    w0, _, times, values, _ = training
    measured = crossing.first_crossings(times, values, 0.5)
    start = stepwise.aligned_initialisation(w0, np.diag(GAMMA))
    for place, lambda_ in enumerate(LAMBDAS):
        predicted = off_diagonal.step_times(start.singular_values, start.gamma, lambda_)
        error = np.abs(predicted / measured[place] - 1)  # (scale, seed, step)
        assert error[0].max() < (0.25 if lambda_ == 0.05 else 0.2)
        assert error[1].max() < 0.12 and error[1].max() < 0.7 * error[0].max()  # log(1e6) / log(1e10) = 0.6
        assert np.median(error[0], axis=0).max() < (0.12 if lambda_ == 0.05 else 0.06)
        # steps within a time of the sampling, 0.2 of about 10, and of the plateau that was not quite reached
        share = (measured[place, 1] - measured[place, 0]) / (predicted[1] - predicted[0])
        assert np.abs(np.median(share, axis=0) - 1).max() < 0.006
        assert np.abs(share - 1).max() < 0.04


@pytest.mark.slow
def test_training_ends_in_the_same_subspace_without_loss(training):
    _, final, *_ = training
    c = twin.transpose(final) @ np.diag(GAMMA) @ final
    assert np.abs(c - np.eye(D)).max() < 0.01  # lambda = 0.05 at the smaller scale is still on its way
    outside = np.linalg.svd(np.linalg.qr(final)[0][..., D:, :], compute_uv=False)[..., 0]
    exponent = stepwise.initialisation_exponent(GAMMA, D)
    assert np.all(outside < 10 * SCALES[:, None] ** exponent)


def plateau_weights(rng, gamma, d, lambda_, learned):
    """Weights on a plateau and the orthonormal outputs (d, k) that they use; None if there is no such Fourier basis."""
    if lambda_ >= 1:
        basis = np.eye(d)[:, rng.permutation(d)[:learned]]
    else:  # a constant and pairs of waves: together of constant modulus
        angles = 2 * np.pi * np.outer(np.arange(d), np.arange(1, (d - 1) // 2 + 1)) / d
        waves = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(d, -1) * np.sqrt(2 / d)
        basis = np.concatenate([np.full((d, 1), d**-0.5), waves], 1)[:, 1 - learned % 2 :][:, :learned]
    if basis.shape[1] < learned:
        return None
    height = off_diagonal.plateau(d, lambda_, learned).height
    w = np.zeros((len(gamma), d))
    w[:learned] = np.sqrt(height / gamma[:learned, None]) * basis.T
    return w, basis


@given(st.integers(0, 10**6), st.integers(2, 6), st.data(), st.floats(0, 3))
def test_the_plateau_is_a_fixed_point_of_training(seed, d, data, lambda_):
    learned = data.draw(st.integers(1, d))
    rng = np.random.default_rng(seed)
    gamma = np.sort(rng.uniform(0.1, 1, d + 2))[::-1]
    found = plateau_weights(rng, gamma, d, lambda_, learned)
    if found is None:
        return
    w, basis = found
    expected = off_diagonal.plateau(d, lambda_, learned)
    assert np.abs(twin.barlow_twins_gradient(w, np.diag(gamma), lambda_)).max() < 1e-12 * expected.height**2
    w[learned] = 1e-6 * (np.eye(d) - basis @ basis.T) @ rng.standard_normal(d)
    velocity = -twin.barlow_twins_gradient(w, np.diag(gamma), lambda_)[learned]
    assert np.abs(velocity - 4 * gamma[learned] * expected.slow_down * w[learned]).max() < 1e-14


@pytest.mark.parametrize("lambda_", [0.3, 2.0])
@pytest.mark.parametrize("learned", [1, 2, 3])
def test_the_plateau_is_the_smallest_loss_of_its_rank(lambda_, learned):
    rng, gamma = np.random.default_rng(1), np.eye(learned)
    level = twin.barlow_twins_loss(plateau_weights(rng, np.ones(learned), 4, lambda_, learned)[0], gamma, lambda_)
    starts = rng.standard_normal((20, learned, 4))
    trained = twin.descend(lambda w: twin.barlow_twins_gradient(w, gamma, lambda_), starts, 0.01, 3000)
    losses = twin.barlow_twins_loss(trained, gamma, lambda_)
    assert losses.min() > level - 1e-9
    assert np.median(losses) < level + 1e-6 and losses.max() < level + 1e-4  # slow where P splits into two blocks


def test_special_plateaus():
    assert off_diagonal.plateau(5, 1.0) == (1.0, 1.0) == off_diagonal.plateau(5, 7.0, 3)
    assert off_diagonal.plateau(5, 0.0, 2) == (2.5, 0.0)
    assert off_diagonal.plateau(5, 0.3, 5) == (1.0, 0.0) == off_diagonal.plateau(1, 2.0)
    height, slow_down = off_diagonal.plateau(8192, 0.0051)  # d and lambda of a published configuration
    assert abs(height - 8192 / (1 + 0.0051 * 8191)) < 1e-9 and abs(slow_down - 0.0051 * height) < 1e-12


small = st.lists(st.tuples(st.floats(1e-8, 1e-2), st.floats(-1, 2)), min_size=1, max_size=5)


@examples(50)
@given(small, st.floats(0.01, 1), st.integers(1, 3))
def test_between_steps_time_runs_slower(values, lambda_, seeds):
    s0, gamma = np.array(values).T
    gamma = np.where(np.abs(gamma) < 1e-3, 0.0, gamma)
    plain, slow = stepwise.step_times(s0, gamma), off_diagonal.step_times(s0, gamma, lambda_)
    assert np.array_equal(np.isinf(plain), np.isinf(slow))
    order, clock, before = np.argsort(plain, kind="stable"), 0.0, 0.0
    for learned, j in enumerate(order):
        if np.isinf(plain[j]):
            break
        pace = lambda_ * len(s0) / (learned + lambda_ * (len(s0) - learned)) if learned else 1.0
        clock, before = clock + (plain[j] - before) / pace, plain[j]
        assert abs(slow[j] - clock) < 1e-9 * clock
    batch = s0 * 0.9 ** np.arange(seeds)[:, None]
    together = off_diagonal.step_times(batch, gamma, lambda_)
    for i in range(seeds):
        assert np.array_equal(together[i], off_diagonal.step_times(batch[i], gamma, lambda_))
    for weight in (1.0, 3.0):
        assert np.allclose(off_diagonal.step_times(s0, gamma, weight), plain, rtol=1e-13, atol=0)


def test_modes_that_never_come():
    assert np.isinf(off_diagonal.step_times([1e-3, 0.0, 1e-3], [1.0, 1.0, -1.0], 0.5)[1:]).all()
    first, second, third = off_diagonal.step_times([1e-3, 1e-4, 1e-3], [1.0, 1.0, 1.0], 0.0)
    assert first == third == stepwise.step_times([1e-3], [1.0])[0] and np.isposinf(second)
    assert np.isinf(off_diagonal.step_times([0.0, 1e-3], [1.0, 0.0], 0.0)).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: off_diagonal.plateau(0, 0.5), "d must be an integer"),
        (lambda: off_diagonal.plateau(3, -0.5), "lambda_ must be >= 0"),
        (lambda: off_diagonal.plateau(3, np.nan), "lambda_ must be finite"),
        (lambda: off_diagonal.plateau(3, 0.5, 0), "learned must be an integer >= 1"),
        (lambda: off_diagonal.plateau(3, 0.5, 4), "learned must be at most d = 3"),
        (lambda: off_diagonal.step_times([1e-3], [1.0], -1.0), "lambda_ must be >= 0"),
        (lambda: off_diagonal.step_times([0.8], [1.0], 0.5), "s0 must be small"),
        (lambda: off_diagonal.step_times([-0.1], [1.0], 0.5), "s0 must be >= 0"),
        (lambda: off_diagonal.step_times([0.1], [1.0, 0.5], 0.5), "same d"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()

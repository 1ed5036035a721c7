"""Power-law spectra: closed laws against sums over modes, and both against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from tests.oracles import dynamics as twin
from tests.profiles import examples
from theory import constrained, scaling, stepwise

ALPHA = 1.5
J = np.arange(1, 100_001.0)


def missing(law, t):
    """(1 - lambda_j(t))^2 of many modes, from `theory.stepwise`: eigenvalues of Barlow Twins with lambda_j(0) = start j^-delta."""
    gamma = law.gamma_1 * J**-law.alpha
    start = np.minimum(
        law.start * J**-law.delta, 0.5
    )  # modes that start high are far from being learned: they count for nothing
    return (1 - stepwise.eigenvalues(t, np.sqrt(start / gamma), gamma)) ** 2


def time_of(law, k):
    """When k modes are learned."""
    return brentq(lambda t: law.learned(t) - k, 1e-3, 1e9, rtol=1e-14)


def laws(alpha, beta):
    yield scaling.barlow_twins(1e-4, 2.0, alpha)
    yield scaling.spectral_contrastive(1e-6, 0.5, alpha)
    for delta in (-0.5, 0.0, 0.7, 2 * alpha):
        yield scaling.PowerLaw(1.0, alpha, 1e-9, delta, beta)


@pytest.mark.long
@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 3.0), (1.0, 2.0), (2.0, 1.5), (0.7, 4.0)])
def test_excess_and_gain_are_sums_over_modes(alpha, beta):
    for law in laws(alpha, beta):
        for k, accuracy in ((4, 0.08), (12, 0.005), (60, 1e-6), (300, 1e-6)):
            t, weights = time_of(law, k), J**-law.beta
            left = missing(law, t)
            if law.beta > 1:
                beyond = J[-1] ** (1 - law.beta) / (law.beta - 1)  # modes after these, not learned either
                assert abs(law.excess(t) / ((weights * left).sum() + beyond) - 1) < accuracy
            if law.beta > 1 or law.beta + law.delta > 1:
                assert abs(law.gained(t) / (weights * (1 - left)).sum() - 1) < accuracy


@given(st.floats(1, 1e6), st.floats(-30, -5), st.floats(0.4, 3), st.floats(-1, 2), st.floats(-1, 4), st.floats(0.1, 10))
@examples(60)
def test_frontier_count_and_exponent_belong_together(t, log_start, alpha, delta, beta, first):
    law = scaling.PowerLaw(first, alpha, 10.0**log_start, delta, beta)
    gamma = law.frontier(t)
    z, r = 8 * gamma * t, delta / alpha
    if z + 2 * r < 2:
        return  # modes that start above their final scale
    log_start_there = np.log(law.start) + r * np.log(gamma / first)
    assert abs(log_start_there + z) < 1e-9 * (z + 1)
    step = stepwise.step_times([np.exp(log_start_there / 2) / np.sqrt(gamma)], [gamma], "paper")[0]
    assert abs(step / t - 1) < 1e-9  # the mode that is being learned now
    k = law.learned(t)
    assert abs(first * k**-alpha / gamma - 1) < 1e-9
    h = 1e-5
    later, before = (np.log(law.learned(t * np.exp(sign * h))) for sign in (1, -1))
    assert abs((1 - beta) * (later - before) / (2 * h) - law.exponent(t)) < 1e-5 * (1 + abs(law.exponent(t)))
    if beta > 1.1:
        slope = np.diff(np.log(law.excess(np.array([t, t * np.exp(1e-3)]))))[0] / 1e-3
        assert abs(slope / law.exponent(t) - 1) < (3 + 10 * (beta - 1) / alpha) * (abs(r) + abs(r) ** 2) / z**2 + 1e-3


def test_scale_and_time_belong_together():
    """Spectra of another size only rescale time and start."""
    at = np.array([10.0, 100.0])
    one, other = (scaling.barlow_twins(1e-3 / np.sqrt(size), size, 1.2).gained(at / size) for size in (1.0, 7.0))
    assert np.abs(other / one - 1).max() < 1e-12
    assert abs(scaling.barlow_twins(1e-3, 1.0, 1.2).gained(10.0) / one[0] - 1) < 1e-14


@pytest.fixture(scope="module")
def training():
    """White views with gamma_j = j^-1.5, both losses from two random starts: outputs, s_0, times, excess and loss (T, seeds)."""
    m, scale, dt, every = 48, 1e-5, 0.08, 50
    gamma = np.arange(1, m + 1) ** -ALPHA
    w = scale * np.random.default_rng(0).standard_normal((2, m, m))
    matrix, eye = np.diag(gamma), np.eye(m)
    contrastive = twin.rk4(lambda v: twin.spectral_contrastive_gradient(v, matrix, eye), w, dt, 2500, every)
    barlow = twin.rk4(lambda v: twin.barlow_twins_gradient(v, matrix), w, dt, 2500, every)
    excess = twin.spectral_contrastive_loss(contrastive, matrix, eye) + (gamma**2).sum()
    return m, scale * np.sqrt(m), dt * every * np.arange(51), excess, twin.barlow_twins_loss(barlow, matrix)


def slopes(at, curves):
    """Exponents of power laws fitted to curves (T, seeds)."""
    return np.polyfit(np.log(at), np.log(curves), 1)[0]


@pytest.mark.long
def test_training_follows_the_power_law_and_its_exponent(training):
    m, s0, at, excess, _ = training
    law, chosen = scaling.spectral_contrastive(s0, 1.0, ALPHA), (at >= 20) & (at <= 100)
    k = law.learned(at[chosen])
    assert 4 < k.min() and k.max() < m / 3
    beyond = m ** (1 - law.beta) / (law.beta - 1)  # modes that these weights do not have
    predicted, measured = law.excess(at[chosen]), excess[chosen] + beyond
    assert (
        np.abs(measured / predicted[:, None] - 1).max() < 0.06
    )  # of the staircase, and s_0^2 falls by a third from mode 4 to 16
    expected, found = slopes(at[chosen], predicted), slopes(at[chosen], measured)
    assert np.abs(found - expected).max() < 0.04
    limit = -(2 - 1 / ALPHA)
    assert (
        expected < limit - 0.09 and np.abs(law.exponent(at[chosen]) - expected).max() < 0.02
    )  # the limit is still far


def test_barlow_twins_learns_modes_as_a_power_of_time(training):
    m, s0, at, _, loss = training
    law, chosen = scaling.barlow_twins(s0, 1.0, ALPHA), at >= 20
    predicted, measured = law.gained(at[chosen]), m - loss[chosen]
    assert np.abs(measured / predicted[:, None] - 1).max() < 0.05
    assert np.abs(slopes(at[chosen], measured) - slopes(at[chosen], predicted)).max() < 0.01


# Orthonormal weights


def spread(gamma, d, occupation):
    """Excess of the trace loss over the top-d subspace, without cancellation."""
    return (gamma[:d] * (1 - occupation[..., :d])).sum(-1) - (gamma[d:] * occupation[..., d:]).sum(-1)


@pytest.mark.long
def test_random_orthonormal_weights_fill_modes_as_fermi_and_dirac_say():
    m, d, seeds = 160, 40, 6
    gamma = np.arange(1, m + 1) ** -1.0
    matrix = -np.diag(gamma)
    w = twin.orthonormal(np.random.default_rng(1), seeds, m, d)
    flow, at, states = twin.tangent(lambda v: twin.trace_gradient(v, matrix)), [0.0], [w]
    for _ in range(16):
        w = np.linalg.qr(twin.rk4(flow, w, 0.25, 10)[-1])[0]
        at.append(at[-1] + 2.5)
        states.append(w)
    measured = (np.stack(states) ** 2).sum(-1)  # (T, seeds, m): v_j^T W W^T v_j
    exact = constrained.grassmann_flow(at, twin.orthonormal(np.random.default_rng(1), seeds, m, d), matrix)
    assert np.abs((exact**2).sum(-1) - np.moveaxis(measured, 0, 1)).max() < 1e-5  # of Runge-Kutta
    predicted = scaling.constrained_occupation(at, gamma, d)
    excess = spread(gamma, d, measured).mean(1)  # standard errors of 0.8 to 2.2 %
    assert np.abs(spread(gamma, d, predicted) / excess - 1).max() < 0.04 and excess[0] > 20 * excess[-1]
    missing = (d - measured[..., :d].sum(-1)).mean(1)
    assert np.abs((d - predicted[:, :d].sum(-1)) / missing - 1).max() < 0.06


@given(st.integers(0, 10**6), st.integers(2, 30), st.floats(0, 1e4))
@examples(40)
def test_occupations_are_shares_that_add_up_and_fall_with_gamma(seed, m, t):
    rng = np.random.default_rng(seed)
    gamma, d = np.sort(rng.standard_normal(m))[::-1], int(rng.integers(1, m))
    p = scaling.constrained_occupation(t, gamma, d)
    assert abs(p.sum() - d) < 1e-9 and p.min() >= 0 and p.max() <= 1 and np.all(np.diff(p) <= 1e-12)
    assert np.abs(scaling.constrained_occupation(0.0, gamma, d) - d / m).max() < 1e-12
    moved = scaling.constrained_occupation(t, gamma + 3, d)
    assert np.abs(moved - p).max() < 1e-9 * (1 + t)
    order = scaling.constrained_occupation([t, t], gamma, d)
    assert np.array_equal(order[0], order[1])
    holes = 1 - scaling.constrained_occupation(t, -gamma[::-1], m - d)[::-1] if d < m else p
    assert np.abs(holes - p).max() < 1e-9 * (1 + t)  # what is not in the span is in its complement


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_excess_of_orthonormal_weights_falls_with_the_square_of_time(alpha):
    m, d = 20_000, 400
    gamma = np.arange(1, m + 1) ** -alpha
    at = np.array([8, 12, 20]) / gamma[d - 1]
    expected = spread(gamma, d, scaling.constrained_occupation(at, gamma, d))
    assert np.abs(scaling.constrained_excess(at, 1.0, alpha, d) / expected - 1).max() < 0.03
    slopes = np.diff(np.log(expected)) / np.diff(np.log(at))
    assert np.abs(slopes + 2).max() < 0.06


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaling.barlow_twins(1e-3, 1.0, 1.0).frontier(0.0), "t must be > 0"),
        (lambda: scaling.barlow_twins(1e-3, 1.0, 1.0).exponent(-1.0), "t must be >= 0"),
        (lambda: scaling.barlow_twins(0.0, 1.0, 1.0), "s0 must be > 0"),
        (lambda: scaling.spectral_contrastive(1e-3, 0.0, 1.0), "gamma_1 must be > 0"),
        (lambda: scaling.barlow_twins(1e-3, 1.0, -1.0), "alpha must be > 0"),
        (lambda: scaling.barlow_twins(2.0, 1.0, 1.0), "start must be < 1"),
        (lambda: scaling.PowerLaw(1.0, 1.0, 1e-3, 1.0, np.nan), "beta must be finite"),
        (lambda: scaling.PowerLaw(1.0, 1.0, 1e-3, 1.0, 1.0).excess(1.0), "beta must be > 1"),
        (lambda: scaling.PowerLaw(1.0, 1.0, 1e-3, 1.0, 1.0).gained(1.0), "beta must be > 1, or < 1"),
        (lambda: scaling.barlow_twins(1e-3, 1.0, 1.0).gained(1.0), "> 1 - delta = 0, got 0"),
        (lambda: scaling.constrained_occupation(1.0, [1.0, 2.0], 1), "sorted in decreasing order"),
        (lambda: scaling.constrained_occupation(1.0, [2.0, 1.0], 2), "d must be an integer from 1 to 1"),
        (lambda: scaling.constrained_excess(0.0, 1.0, 1.0, 3), "t must be > 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

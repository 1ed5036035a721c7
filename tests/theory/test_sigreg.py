"""SIGReg: minima, plateaus, slowed steps and the constrained minimum against training and against sums over slices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import hyp2f1

from tests.oracles import dynamics
from tests.oracles import sigreg as twin
from tests.oracles.regularisation import descend
from tests.oracles.stepwise import first_crossings
from tests.profiles import examples
from theory import sigreg as theory
from theory import stepwise

# The minimum


def test_normality_is_the_distance_of_characteristic_functions():
    t, weights = np.polynomial.hermite_e.hermegauss(80)
    v = np.array([0.0, 0.3, 1.0, 2.5])
    difference = np.exp(-v[:, None] * t**2 / 2) - np.exp(-(t**2) / 2)
    assert np.abs(theory.normality(v) - difference**2 @ weights / weights.sum()).max() < 1e-10  # of the quadrature
    slope = (theory.normality(1e-6) - theory.normality(0.0)) / 1e-6
    assert abs(slope + theory.SLOPE) < 1e-5


def test_the_knots_of_the_published_code_give_the_same_distance():
    """Sixteen knots up to 3, both signs, weights e^{-t^2/2}: sqrt(2 pi) T."""
    t = 3 / 16 * np.arange(1, 17)
    weights = 2 * 3 / 16 * np.exp(-(t**2) / 2) * np.where(t == 3, 0.5, 1)
    v = np.concatenate([[0.0], np.geomspace(1e-3, 100, 40)])
    knots = (np.exp(-v[:, None] * t**2 / 2) - np.exp(-(t**2) / 2)) ** 2 @ weights
    assert np.abs(knots / (np.sqrt(2 * np.pi) * theory.normality(v)) - 1).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_sliced_normality_ends_where_descent_ends(strength):
    rng = np.random.default_rng(1)
    d, noise = 2, np.array([0.02, 0.3, 0.9])
    gamma = np.array([1.0, 0.7, 0.1])
    sigma = np.diag(gamma + noise)
    angles = np.pi * np.arange(64) / 64  # the uniform mean over directions of the plane, exact to rounding
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)

    def loss(w):
        return np.sum(w**2 * noise[:, None], axis=(-2, -1)) + twin.sliced_normality(sigma, strength, directions)(w)

    w = descend(loss, 0.05 * rng.standard_normal((3, d)), 800)
    measured = np.sort(np.linalg.eigvalsh(w.T @ sigma @ w))[::-1]
    alignment = noise / (gamma + noise)
    predicted = theory.variances(alignment[:d], strength)
    assert np.abs(measured - np.sort(predicted)[::-1]).max() < 1e-4  # of descent by central differences, as above
    growing = theory.attraction(gamma + noise, d, strength) > noise / 2
    assert (predicted[0] > 0) == growing[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "y", [[0.7], [1.0, 0.0], [2.0, 0.3, 0.0], [7.85, *[0.0] * 7], list(np.geomspace(0.01, 30, 32))]
)
def test_sliced_normality_is_the_mean_over_slices(y):
    mean, error = twin.sampled_normality(np.array(y), samples=400_000)
    assert abs(theory.sliced_normality(y) - mean) <= 4 * error + 1e-14  # of four standard errors


@given(st.integers(1, 40), st.floats(0, 20))
def test_sliced_normality_of_equal_variances_is_that_of_one_slice(d, y):
    assert abs(theory.sliced_normality(np.full(d, y)) - theory.normality(y)) < 1e-13


@pytest.mark.parametrize(("d", "a", "nu"), [(1, 0.1, 1.0), (4, 0.02, 2.0), (64, 0.002, 5.0), (128, 0.0, 1.0)])
def test_equal_alignments_have_equal_variances_where_the_slope_of_one_slice_says(d, a, nu):
    """All y equal: a = (nu / d) [(1 + 2y)^{-3/2} - (2 + y)^{-3/2}]."""
    y = theory.variances(np.full(d, a), nu)
    equal = brentq(lambda y: a - nu / d * ((1 + 2 * y) ** -1.5 - (2 + y) ** -1.5), 0, 2)
    assert np.abs(y - equal).max() < 1e-6


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=8), st.floats(0.5, 5), st.integers(0, 10**6))
@examples(20)
def test_no_other_variances_are_better_and_the_slope_vanishes(alignment, nu, seed):
    a, rng = np.array(alignment), np.random.default_rng(seed)
    y = theory.variances(a, nu)

    def loss(y):
        return a @ y + nu * theory.sliced_normality(y)

    for other in (
        *(y + 0.1 * rng.standard_normal(a.size) for _ in range(3)),
        rng.uniform(0, 8, a.size),
        0 * y,
        0 * y + 1,
    ):
        assert loss(np.maximum(other, 0)) >= loss(y) - 1e-12
    h = 1e-5
    slope = [(loss(np.maximum(y + h * e, 0)) - loss(np.maximum(y - h * e, 0))) / (2 * h) for e in np.eye(a.size)]
    assert np.all(np.abs(np.where(y > h, slope, 0)) < 1e-8 * (1 + nu))  # of the central differences


@pytest.mark.slow
def test_the_loss_on_sampled_slices_ends_near_the_exact_variances_and_nearer_on_more():
    a, nu = np.array([0.001, 0.01, 0.03, 0.1]), 3.0
    exact = theory.variances(a, nu)
    few, many = (
        np.mean([np.abs(twin.sampled_variances(a, nu, count, seed) - exact).max() for seed in range(5)])
        for count in (1000, 64_000)
    )
    assert many < 0.02 and many < few / 3  # the error falls with the root of the number of slices, by 8 here


@given(st.floats(0.3, 3), st.integers(1, 5), st.floats(0.01, 2))
@examples(30)
def test_the_first_mode_leaves_the_origin_where_its_attraction_says(sigma, d, strength):
    attraction = theory.attraction([sigma], d, strength)[0]
    threshold = 2 * attraction / sigma  # of the alignment a = n / sigma, where b = n / 2
    for factor, alive in ((0.8, True), (1.25, False)):
        y = theory.variances(np.full(d, factor * threshold), strength)
        assert (y.max() > 1e-3) == alive


# Plateaus and steps


D, STRENGTH = 3, 6.0
FIRST = STRENGTH * theory.SLOPE / D  # the pull at the origin
SIGMA = 0.4 ** np.arange(5)
ALIGNMENTS = np.array([0.02, 0.1]) * FIRST  # one for all modes
SLICES = twin.sphere()


def slow_down(pull, alignment, first=FIRST):
    return (pull - alignment) / (first - alignment)


@pytest.fixture(scope="module", params=range(2), ids=["a = 2 %", "a = 10 %"])
def training(request):
    """Trained from a random start of scale 1e-8: alignment, W(0), W(end), times, eigenvalues of S (T, seeds, D)."""
    alignment = ALIGNMENTS[request.param]
    w0 = w = 1e-8 * np.random.default_rng(0).standard_normal((2, SIGMA.size, D))
    noise, dt, every, times, values = alignment * SIGMA, 0.1, 10, [0.0], []
    values.append(np.linalg.eigvalsh(dynamics.transpose(w) @ (SIGMA[:, None] * w))[..., ::-1])
    while len(times) < 900 and not np.all(values[-1] > 0.55 * theory.variances([alignment] * D, STRENGTH)[0]):
        w = dynamics.rk4(lambda v: twin.gradient(v, SIGMA, noise, STRENGTH, SLICES), w, dt, every)[-1]
        times.append(times[-1] + dt * every)
        values.append(np.linalg.eigvalsh(dynamics.transpose(w) @ (SIGMA[:, None] * w))[..., ::-1])
    return alignment, w0, w, np.array(times), np.stack(values)


@pytest.mark.long
def test_training_waits_on_every_plateau_and_the_next_mode_is_as_slow_as_said(training):
    alignment, *_, times, values = training
    final = theory.variances([alignment] * D, STRENGTH)
    steps = first_crossings(times, values[..., :2], final[0] / 2)  # of the first two
    steps = np.concatenate([steps, np.full((2, 1), times[-1])], 1)
    for learned in (1, 2):
        expected = theory.plateau([alignment] * learned, STRENGTH, D)
        for seed, (begin, end) in enumerate(steps[:, learned - 1 : learned + 1]):
            middle, late = np.searchsorted(times, begin + np.array([0.4, 0.7]) * (end - begin))
            assert np.abs(values[late, seed, :learned] / expected.variances - 1).max() < 0.015
            growth = np.log(values[late, seed, learned] / values[middle, seed, learned]) / (times[late] - times[middle])
            assert abs(growth / (4 * SIGMA[learned] * (expected.pull - alignment)) - 1) < 0.01


@pytest.mark.long
def test_the_flow_of_an_aligned_start_is_that_of_training():
    rng, alignment = np.random.default_rng(1), np.array([0.3, 0.1, 0.5]) * FIRST
    sigma, y0 = SIGMA[:3], np.array([[1e-3, 1e-3, 1e-2], [0.5, 0.0, 2.0]])
    turn = dynamics.orthogonal(rng, 3)
    w0 = np.sqrt(y0 / sigma)[..., None] * turn  # diag(s) U^T
    w = dynamics.rk4(lambda v: twin.gradient(v, sigma, alignment * sigma, STRENGTH, SLICES), w0, 0.02, 1500, 250)
    y = sigma * (w**2).sum(-1)
    got = theory.flow(5.0 * np.arange(7), y0, sigma, alignment, STRENGTH)
    assert np.abs(got - np.moveaxis(y, 0, 1)).max() < 1e-6  # of Runge-Kutta and 576 slices
    assert np.array_equal(theory.flow(0.0, y0, sigma, alignment, STRENGTH), y0) and (got[1, :, 1] == 0).all()
    end = theory.flow(300.0, y0[0], sigma, alignment, STRENGTH)
    assert np.abs(end - theory.variances(alignment, STRENGTH)).max() < 1e-5  # one mode is suppressed and still decays


@pytest.mark.long
def test_step_times_against_training_and_the_flow(training):
    alignment, w0, _, times, values = training
    start = stepwise.aligned_initialisation(w0, np.diag((FIRST - alignment) * SIGMA))
    y0 = SIGMA[:D] * start.singular_values**2
    level = theory.variances([alignment] * D, STRENGTH) / 2
    predicted = theory.step_times(y0, SIGMA[:D], [alignment] * D, STRENGTH)
    measured = first_crossings(times, values, level)
    assert np.abs(predicted[:, :2] / measured[:, :2] - 1).max() < 0.05
    assert np.all(predicted < measured) and np.abs(predicted[:, 2] / measured[:, 2] - 1).max() < 0.08
    at = np.linspace(0, 1.2 * times[-1], 2000)
    path = theory.flow(at, y0[0], SIGMA[:D], [alignment] * D, STRENGTH)
    closer = first_crossings(at, path, level)
    assert (
        np.abs(closer[:2] / measured[0, :2] - 1).max() < 0.02
    )  # the step that is left is learned last, in all outputs


@pytest.mark.slow
def test_step_times_are_early_by_a_time_that_does_not_depend_on_the_scale():
    rng, sigma = np.random.default_rng(2), 0.5 ** np.arange(D)
    for share, worst in ((0.01, 0.12), (0.3, 0.07)):
        a, shape = np.full(D, share * FIRST), rng.chisquare(1, (2, D))
        late, errors = [], []
        for scale in (1e-12, 1e-20):
            predicted = theory.step_times(scale * shape, sigma, a, STRENGTH)
            at = np.linspace(0, 1.2 * predicted.max(), 6000)
            path = theory.flow(at, scale * shape, sigma, a, STRENGTH)
            measured = first_crossings(at, np.moveaxis(path, 1, 0), theory.variances(a, STRENGTH) / 2)
            late.append(measured - predicted)
            errors.append(np.abs(predicted / measured - 1).max())
        assert np.abs(late[1] / late[0] - 1).max() < 0.01  # of linear interpolation between records
        assert late[0].min() > 0 and errors[0] < worst and errors[1] < 0.7 * errors[0]  # log(1e12) / log(1e20) = 0.6


def test_the_numbers_of_a_wide_embedding():
    """Eight outputs: heights and rates that training had shown before they were derived."""
    d, nu, a = 8, 32.0, 0.02
    found = [theory.plateau([a] * k, nu, d) for k in range(d + 1)]
    assert [round(p.variances[0], 2) for p in found[1:4]] == [6.95, 3.79, 2.56]
    rates = [slow_down(p.pull, a, nu * theory.SLOPE / d) for p in found]
    assert abs(rates[0] - 1) < 1e-13 and [round(r, 3) for r in rates[1:4]] == [0.356, 0.206, 0.142]
    assert [round(k * p.variances[0], 2) for k, p in enumerate(found) if k] == [
        6.95, 7.57, 7.68, 7.69, 7.67, 7.65, 7.63, 7.61
    ]  # fmt: skip
    assert found[d].pull == 0.0
    strong = [theory.plateau([a] * k, 1e6, d).pull / (1e6 * theory.SLOPE / d) for k in (1, 2, 3)]
    assert [round(r, 3) for r in strong] == [0.341, 0.196, 0.135]


@given(st.integers(2, 16), st.data(), st.floats(0.01, 0.95), st.floats(0.1, 50))
@examples(25)
def test_equal_heights_solve_the_equation_of_one_integral(d, data, share, nu):
    k = data.draw(st.integers(1, d - 1))
    a = share * nu * theory.SLOPE / d
    got = theory.plateau([a] * k, nu, d)
    height = got.variances[0]
    assert np.abs(got.variances - height).max() < 1e-6 * height
    inner, outer = twin.equal_pulls(height, k, d)
    assert abs(nu * inner / a - 1) < 1e-5 and abs(nu * outer / got.pull - 1) < 1e-9
    assert np.all(np.sign(share - 1) == np.sign(a - nu * theory.SLOPE / d)) and got.pull < nu * theory.SLOPE / d
    higher = [twin.equal_pulls(factor * height, k, d)[0] for factor in (0.5, 2, 4, 16)]
    assert nu * higher[0] > a and all(nu * h < a for h in higher[1:])  # one root


def test_the_hypergeometric_form():
    d, nu, a = 8, 32.0, 0.02
    for k in range(1, d):
        got = theory.plateau([a] * k, nu, d)
        h = got.variances[0]

        def pull(b, h=h):
            return nu / d * (hyp2f1(1.5, b, d / 2 + 1, -2 * h) - 2**-1.5 * hyp2f1(1.5, b, d / 2 + 1, -h / 2))

        assert abs(pull(k / 2 + 1) / a - 1) < 1e-7 and abs(pull(k / 2) / got.pull - 1) < 1e-8


@given(st.lists(st.floats(0.0, 1.5), min_size=1, max_size=5), st.integers(0, 3), st.floats(0.5, 20))
@examples(20)
def test_a_plateau_is_the_minimum_of_its_outputs_and_a_fixed_point_of_the_flow(shares, more, nu):
    d = len(shares) + more
    a = np.array(shares) * nu * theory.SLOPE / d
    got = theory.plateau(a, nu, d)
    y = np.concatenate([got.variances, np.zeros(more)])
    sigma, alignment = np.ones(d), np.concatenate([a, np.zeros(more)])
    moved = theory.flow(1.0, y, sigma, alignment, nu)
    assert np.abs(moved - y).max() < 1e-4 * nu * max(1.0, y.max())
    alone = theory.flow(1e-3, np.where(y > 0, y, 1e-8), sigma, alignment, nu)
    if more:
        growth = np.log(alone[-1] / 1e-8) / 1e-3
        assert abs(growth - 4 * got.pull) < 1e-3 * nu
    assert np.all((got.variances > 0) | (a >= 0))
    suppressed = got.variances == 0
    if suppressed.any() and not suppressed.all():
        assert a[suppressed].min() >= a[~suppressed].max() - 1e-9


def test_modes_that_are_never_learned():
    a = np.array([0.1, 5.0, 0.1]) * FIRST
    times = theory.step_times([[1e-9] * 3, [1e-9, 1e-9, 0.0]], SIGMA[:3], a, STRENGTH)
    assert np.isfinite(times).tolist() == [[True, False, True], [True, False, False]]
    assert np.isposinf(theory.step_times([1e-9], [1.0], [1.0], 0.0)).all()
    assert theory.plateau([], STRENGTH, D).pull == pytest.approx(FIRST, rel=1e-13)


# With orthonormal weights


def constrained_loss(w, sigma, noise, strength):
    """The loss by quadrature over 576 slices."""
    u, p = SLICES
    v = (sigma[:, None] * (w @ u.T) ** 2).sum(-2)
    return (noise[:, None] * w**2).sum((-2, -1)) + strength * twin.epps_pulley(v) @ p


@pytest.mark.long
@pytest.mark.parametrize(
    ("sigma", "alignment", "kind"),
    [
        ([1.0, 0.8, 0.5, 0.3, 0.1], 0.0, "top"),
        ([1.0, 0.8, 0.5, 0.3, 0.1], 2.0, "bottom"),
        ([1.0, 0.9, 0.7, 0.3, 0.1], 0.25, "mixed"),
        ([2.3, 1.9, 1.6, 0.6, 0.3, 0.2], 0.02, "mixed"),
    ],
)
def test_the_constrained_minimum_is_where_training_ends(sigma, alignment, kind):
    sigma = np.array(sigma)
    noise = alignment * sigma + 0.1
    w = np.linalg.qr(np.random.default_rng(3).standard_normal((4, sigma.size, 3)))[0]
    w = dynamics.descend_on_grassmann(
        lambda v: twin.gradient(v, sigma, noise, STRENGTH, SLICES), w, 0.15, 2000, every=2000
    )[-1]
    losses = constrained_loss(w, sigma, noise, STRENGTH)
    best = w[losses.argmin()]
    expected = theory.constrained_minimum(sigma, alignment, STRENGTH, 3)
    assert abs(losses.min() - 0.3 - expected.loss) < 1e-5
    c = np.linalg.eigvalsh(best.T @ (sigma[:, None] * best))[::-1]
    assert np.abs(c - expected.eigenvalues).max() < 5e-3  # the slope vanishes there: errors of the loss have a root
    extreme = {"top": sigma[:3], "bottom": sigma[-3:]}
    at = {name: np.array_equal(expected.eigenvalues, values) for name, values in extreme.items()}
    assert at == {name: name == kind for name in extreme}


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 3), st.floats(0, 1))
@examples(25)
def test_no_orthonormal_weights_are_below_the_minimum(seed, d, more, alignment):
    rng = np.random.default_rng(seed)
    sigma = np.sort(rng.uniform(0.05, 2.4, d + more))[::-1]
    got = theory.constrained_minimum(sigma, alignment, STRENGTH, d)
    assert np.all(got.eigenvalues <= sigma[:d]) and np.all(got.eigenvalues >= sigma[more:])
    w = np.linalg.qr(rng.standard_normal((20, d + more, d)))[0]
    for one in np.linalg.eigvalsh(dynamics.transpose(w) @ (sigma[:, None] * w)):
        assert alignment * one.sum() + STRENGTH * theory.sliced_normality(one) >= got.loss - 1e-10
    if alignment == 0 and sigma[0] <= 1:
        assert np.array_equal(got.eigenvalues, sigma[:d])


@pytest.mark.parametrize("inside", [(0, 1, 2), (2, 0, 4), (1, 3, 4)])
def test_rates_around_an_eigenspace(inside):
    rng, alignment = np.random.default_rng(4), np.array([0.1, 0.5, 0.0, 0.3, 0.2])
    outside = [i for i in range(5) if i not in inside]
    rates = theory.constrained_rates(SIGMA, alignment, STRENGTH, inside)
    b = 1e-5 * rng.standard_normal((2, 3))
    start = np.linalg.qr(np.eye(5)[:, inside] + np.eye(5)[:, outside] @ b)[0] @ dynamics.orthogonal(rng, 3)
    flow = dynamics.tangent(lambda w: twin.gradient(w, SIGMA, alignment * SIGMA, STRENGTH, SLICES))
    w = dynamics.rk4(flow, start, 1e-2, 30)[-1]
    later = w[outside] @ np.linalg.inv(w[list(inside)])
    assert np.abs(-np.log(later / b) / 0.3 - rates).max() < 1e-3 * np.abs(rates).max()
    # the Stiefel gradient, W sym(W^T G) taken away, is the same: the mean over slices is blind to rotations
    g = twin.gradient(start, SIGMA, alignment * SIGMA, STRENGTH, SLICES)
    assert np.abs(start.T @ g - g.T @ start).max() < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.normality(-1.0), "variance must be >= 0"),
        (lambda: theory.attraction([1.0], 0, 1.0), "d must be an integer >= 1"),
        (lambda: theory.sliced_normality([-1.0]), "variances must be >= 0"),
        (lambda: theory.variances([-1.0], 1.0), "alignment must be >= 0"),
        (lambda: theory.plateau([0.1, 0.1], 1.0, 1), "alignment must have at most d = 1 entries, got 2"),
        (lambda: theory.plateau([0.1], -1.0, 1), "strength must be >= 0"),
        (lambda: theory.flow(-1.0, [1.0], [1.0], [0.1], 1.0), "t must be >= 0"),
        (lambda: theory.flow(1.0, [-1.0], [1.0], [0.1], 1.0), "y0 must be >= 0"),
        (lambda: theory.flow(1.0, [1.0], [0.0], [0.1], 1.0), "sigma must be > 0"),
        (lambda: theory.flow(1.0, [1.0], [1.0], [0.1, 0.2], 1.0), "sigma and alignment need one shape"),
        (lambda: theory.step_times([1.0], [1.0], [0.0], 1.0), "y0 must be small"),
        (lambda: theory.constrained_minimum([1.0, 2.0], 0.1, 1.0, 1), "sorted in decreasing order"),
        (lambda: theory.constrained_minimum([1.0], 0.1, 1.0, 2), "d must be an integer from 1 to 1"),
        (lambda: theory.constrained_rates([1.0, 0.5], [0.1, 0.1], 1.0, [2]), "inside must be different indices"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

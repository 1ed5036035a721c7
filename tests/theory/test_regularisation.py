"""Final scales under penalties against descent on the matrix losses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from tests.oracles import dynamics
from tests.oracles import regularisation as twin
from tests.profiles import examples
from theory import regularisation as theory

GAMMA = np.array([1.0, 0.6, 0.35, 0.15, 0.05])
NOISE = np.array([0.2, 0.4, 0.1, 0.3, 0.2])
QUARTIC = (
    "barlow_twins",
    "spectral_contrastive",
    "squared_vicreg",
    "linear_contrastive",
    "squared_contrastive",
    "linear_noncontrastive",
    "squared_noncontrastive",
)
PENALTIES = (
    {},
    {"weight_decay": 0.8},
    {"orthogonality": 0.3},
    {"variance": 0.4},
    {"weight_decay": 0.5, "orthogonality": 0.2, "variance": 0.1},
)


def trained_variances(loss, gamma, noise, d, penalties, steps=1500):
    """Eigenvalues of W^T Sigma W, decreasing, after descent from a generic small start in a rotated eigenbasis."""
    rng = np.random.default_rng(0)
    o = dynamics.orthogonal(rng, len(gamma))
    cross, sigma = o @ np.diag(gamma) @ o.T, o @ np.diag(gamma + noise) @ o.T
    total = twin.penalised(loss(cross, sigma), sigma, **penalties)
    w = twin.descend(total, 0.05 * rng.standard_normal((len(gamma), d)), steps)
    return np.sort(np.linalg.eigvalsh(w.T @ sigma @ w))[::-1]


def predicted_variances(x, gain, sigma, d):
    """The d modes of largest gain."""
    chosen = np.argsort(-gain)[:d]
    return np.sort((sigma * x)[chosen])[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("penalties", PENALTIES, ids=lambda p: "+".join(p) or "none")
@pytest.mark.parametrize("name", QUARTIC)
def test_quartic_losses_end_where_descent_ends(name, penalties):
    d, sigma = 3, GAMMA + NOISE
    loss = theory.quartic(name, GAMMA, sigma, beta=0.7)
    x = theory.scales(loss, sigma, **penalties)
    eta, kappa, nu = (penalties.get(key, 0.0) for key in ("weight_decay", "orthogonality", "variance"))
    growth = loss.attraction - eta / 4 + kappa + nu * sigma
    if np.isinf(x).any():
        assert kappa == nu == 0 and growth.max() > 0 and np.array_equal(np.isinf(x), growth > 0)
        return
    if name == "barlow_twins" and not penalties:
        return  # all modes gain the same; where training ends depends on the start (tests of stepwise learning)
    measured = trained_variances(lambda c, s: twin.objective(name, c, s, beta=0.7), GAMMA, NOISE, d, penalties)
    # Descent by central differences stops at gradients of 1e-9 or after its steps: slow modes are not quite there
    assert np.abs(measured - predicted_variances(x, growth * x, sigma, d)).max() < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("penalties", PENALTIES[:-1], ids=lambda p: "+".join(p) or "none")
def test_infonce_ends_where_descent_ends(penalties):
    x = theory.infonce_scales(GAMMA, NOISE, **penalties)
    sigma = GAMMA + NOISE
    eta, kappa, nu = (penalties.get(key, 0.0) for key in ("weight_decay", "orthogonality", "variance"))
    y = sigma * x
    gain = np.log1p(y) / 2 + y / (1 + y) / 2 - (NOISE + eta / 2) * x
    gain += kappa * (1 - (x - 1) ** 2) + nu * (1 - (y - 1) ** 2)
    measured = trained_variances(lambda c, s: twin.objective("infonce", c, s), GAMMA, NOISE, 2, penalties)
    assert np.abs(measured - predicted_variances(x, gain, sigma, 2)).max() < 2e-4


@pytest.mark.slow
def test_two_matrices_at_once_favour_mixed_directions():
    sigma = GAMMA + NOISE
    penalties = PENALTIES[-1]
    loss = twin.penalised(twin.objective("infonce", np.diag(GAMMA), np.diag(sigma)), np.diag(sigma), **penalties)
    aligned = np.zeros((5, 2))
    aligned[[0, 1], [0, 1]] = np.sqrt(theory.infonce_scales(GAMMA, NOISE, **penalties)[:2])
    pushed = aligned + 1e-2 * np.random.default_rng(0).standard_normal((5, 2))
    end = twin.descend(loss, pushed, 800)
    assert 1e-4 < loss(aligned) - loss(end) < 1e-2
    assert np.abs(dynamics.difference(loss, aligned)).max() < 1e-8  # the aligned weights are a saddle


positive = st.floats(0.05, 2)
penalty = st.one_of(st.just(0.0), st.floats(0.01, 2))


@given(
    st.lists(st.tuples(positive, positive), min_size=1, max_size=4), st.sampled_from(QUARTIC), penalty, penalty, penalty
)
def test_scales_are_minima_and_vanish_exactly_where_the_origin_holds_them(modes, name, eta, kappa, nu):
    gamma, noise = np.array(modes).T
    sigma = gamma + noise
    loss = theory.quartic(name, gamma, sigma, beta=0.7)
    x = theory.scales(loss, sigma, weight_decay=eta, orthogonality=kappa, variance=nu)

    def each(x):
        quartic = -2 * loss.attraction * x + loss.curvature * x**2
        return quartic + eta / 2 * x + kappa * (x - 1) ** 2 + nu * (sigma * x - 1) ** 2

    grows = loss.attraction - eta / 4 + kappa + nu * sigma > 0
    assert np.array_equal(x > 0, grows)
    finite = np.isfinite(x)
    assert np.all(finite | (grows & (loss.curvature == 0) & (kappa == 0) & (nu == 0)))
    best = each(np.where(finite, x, 0.0))
    for other in (x * 0.99, x * 1.01, x + 1e-3):
        assert np.all((each(np.where(finite, other, 0.0)) >= best - 1e-12 * (1 + np.abs(best))) | ~finite)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=4), penalty, penalty, penalty)
def test_infonce_scales_solve_the_equation_of_a_minimum(modes, eta, kappa, nu):
    gamma, noise = np.array(modes).T
    sigma = gamma + noise
    x = theory.infonce_scales(gamma, noise, weight_decay=eta, orthogonality=kappa, variance=nu)

    def each(x):
        y = sigma * x
        value = noise * x - np.log1p(y) / 2 - y / (1 + y) / 2
        return value + eta / 2 * x + kappa * (x - 1) ** 2 + nu * (y - 1) ** 2

    assert np.array_equal(x > 0, gamma / 2 - eta / 4 + kappa + nu * sigma > 0)
    for other in (x * 0.99, x * 1.01, x + 1e-3):
        assert np.all(each(other) >= each(x) - 1e-12)


def test_without_noise_infonce_is_unbounded_and_says_so():
    assert np.isinf(theory.infonce_scales([1.0], [0.0])).all()
    assert np.isfinite(theory.infonce_scales([1.0], [0.0], weight_decay=0.1)).all()


def test_normality_is_the_distance_of_characteristic_functions():
    t, weights = np.polynomial.hermite_e.hermegauss(80)
    v = np.array([0.0, 0.3, 1.0, 2.5])
    difference = np.exp(-v[:, None] * t**2 / 2) - np.exp(-(t**2) / 2)
    assert np.abs(theory.normality(v) - difference**2 @ weights / weights.sum()).max() < 1e-10  # of the quadrature
    slope = (theory.normality(1e-6) - theory.normality(0.0)) / 1e-6
    assert abs(slope + theory.NORMALITY_SLOPE) < 1e-5


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

    w = twin.descend(loss, 0.05 * rng.standard_normal((3, d)), 800)
    measured = np.sort(np.linalg.eigvalsh(w.T @ sigma @ w))[::-1]
    alignment = noise / (gamma + noise)
    predicted = theory.sliced_normality_variances(alignment[:d], strength)
    assert np.abs(measured - np.sort(predicted)[::-1]).max() < 1e-4  # of descent by central differences, as above
    growing = theory.sliced_normality_attraction(gamma + noise, d, strength) > noise / 2
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
    y = theory.sliced_normality_variances(np.full(d, a), nu)
    equal = brentq(lambda y: a - nu / d * ((1 + 2 * y) ** -1.5 - (2 + y) ** -1.5), 0, 2)
    assert np.abs(y - equal).max() < 1e-6


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=8), st.floats(0.5, 5), st.integers(0, 10**6))
@examples(20)
def test_no_other_variances_are_better_and_the_slope_vanishes(alignment, nu, seed):
    a, rng = np.array(alignment), np.random.default_rng(seed)
    y = theory.sliced_normality_variances(a, nu)

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
    exact = theory.sliced_normality_variances(a, nu)
    few, many = (
        np.mean([np.abs(twin.sampled_variances(a, nu, count, seed) - exact).max() for seed in range(5)])
        for count in (1000, 64_000)
    )
    assert many < 0.02 and many < few / 3  # the error falls with the root of the number of slices, by 8 here


@given(st.floats(0.3, 3), st.integers(1, 5), st.floats(0.01, 2))
@examples(30)
def test_the_first_mode_leaves_the_origin_where_its_attraction_says(sigma, d, strength):
    attraction = theory.sliced_normality_attraction([sigma], d, strength)[0]
    threshold = 2 * attraction / sigma  # of the alignment a = n / sigma, where b = n / 2
    for factor, alive in ((0.8, True), (1.25, False)):
        y = theory.sliced_normality_variances(np.full(d, factor * threshold), strength)
        assert (y.max() > 1e-3) == alive


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.quartic("simclr", [1.0], [1.0]), "objective must be one of barlow_twins, "),
        (lambda: theory.quartic("barlow_twins", [1.0], [1.0, 2.0]), r"one shape \(m,\)"),
        (lambda: theory.quartic("barlow_twins", [1.0], [0.0]), "sigma must be > 0"),
        (lambda: theory.quartic("squared_vicreg", [1.0], [1.0], beta=-1.0), "beta must be >= 0"),
        (lambda: theory.scales(theory.Quartic(np.ones(1), -np.ones(1)), [1.0]), "curvature must be >= 0"),
        (
            lambda: theory.scales(theory.Quartic(np.ones(1), np.ones(1)), [1.0], weight_decay=-1),
            "weight_decay must be >= 0",
        ),
        (lambda: theory.infonce_scales([0.0], [1.0]), "signal must be > 0"),
        (lambda: theory.infonce_scales([1.0], [-1.0]), "noise must be >= 0"),
        (lambda: theory.infonce_scales([1.0], [1.0], variance=-1.0), "variance must be >= 0"),
        (lambda: theory.normality(-1.0), "variance must be >= 0"),
        (lambda: theory.sliced_normality_attraction([1.0], 0, 1.0), "d must be an integer >= 1"),
        (lambda: theory.sliced_normality([-1.0]), "variances must be >= 0"),
        (lambda: theory.sliced_normality_variances([-1.0], 1.0), "alignment must be >= 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

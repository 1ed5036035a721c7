"""Final scales under penalties against descent on the matrix losses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics
from tests.oracles import regularisation as twin
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
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

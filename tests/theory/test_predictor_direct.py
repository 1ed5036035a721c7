"""Predictors that are set instead of trained, against training of the networks that carry them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics
from tests.oracles import predictor as twin
from tests.profiles import examples
from theory.predictor import direct

LOSSES = ("euclidean", "isoloss", "no_predictor", "no_stop_gradient")


def eigenvalues(w):
    return np.linalg.eigvalsh(w.T @ w)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.0, 1.0))
@examples(5)
def test_eigenvalues_follow_their_equations(loss, seed, exponent, sigma2):
    """A network whose W is not aligned with anything: only W^T W matters where X = I."""
    w = 0.3 * np.random.default_rng(seed).standard_normal((5, 3))
    states = dynamics.rk4(
        lambda v: -twin.set_predictor_rate(v, exponent, sigma2, 0.0, loss), w, 0.0025, 1200, every=400
    )
    measured = np.stack([eigenvalues(one) for one in states])
    found = direct.eigenvalue_flow(np.arange(4.0), measured[0], exponent=exponent, sigma2=sigma2, loss=loss)
    assert np.abs(found.T - measured).max() < 1e-7  # of fourth order in the step
    assert np.array_equal(found[:, 0], measured[0])


@pytest.mark.parametrize("views", [False, True])
def test_features_under_direct_pred_share_their_largest(views):
    """Against the whole network by Runge-Kutta 4: W_p = sqrt(F) + epsilon max(F) I with F = W^T W, or as views show it."""
    rng, sigma2, eta, epsilon = np.random.default_rng(0), np.array([0.0, 0.5, 2.0]), 0.07, 0.3
    start = np.array([0.9, 0.2, 0.4])
    w = np.sqrt(start)[:, None] * dynamics.orthogonal(rng, 3)
    total = np.diag(1 + sigma2)

    def slope(w):
        values, vectors = np.linalg.eigh(w.T @ (total if views else np.eye(3)) @ w)
        p = (vectors * (np.sqrt(values) + epsilon * values.max())) @ vectors.T
        return (w - total @ w @ p) @ p - eta * w

    states = dynamics.rk4(lambda v: -slope(v), w, 0.005, 1200, every=400)
    measured = np.einsum("kij,kij->ki", states, states)
    observed = 1 + sigma2 if views else 1.0
    found = direct.direct_pred_flow(
        2 * np.arange(4.0), start, epsilon=epsilon, sigma2=sigma2, eta=eta, observed=observed
    )
    assert np.abs(found.T - measured).max() < 1e-7
    alone = direct.direct_pred_flow(500.0, start[:1], epsilon=epsilon, sigma2=sigma2[:1], eta=eta)
    assert abs(alone[0] - direct.direct_pred_fixed_points(eta, epsilon=epsilon, sigma2=0.0)[1]) < 1e-9


def test_the_rates_of_the_twin_are_gradients():
    """Finite differences of (1/2) E||W_p W^T x1 - stop(W^T x2)||^2, the predictor set and held, and of its two variants."""
    rng = np.random.default_rng(0)
    w = 0.5 * rng.standard_normal((4, 2))
    values, vectors = np.linalg.eigh(w.T @ w)
    p = (vectors * values**0.5) @ vectors.T
    data = (np.eye(4), 0.3 * np.eye(4))
    held = dynamics.difference(lambda v: twin.loss(v, p, w, *data), w)
    assert np.abs(twin.set_predictor_rate(w, 0.5, 0.3, 0.1, "euclidean") + held + 0.1 * w).max() < 1e-8
    whole = dynamics.difference(lambda v: twin.loss(v, p, v, *data), w)
    assert np.abs(twin.set_predictor_rate(w, 0.5, 0.3, 0.0, "no_stop_gradient") + whole).max() < 1e-8
    plain = dynamics.difference(lambda v: twin.loss(v, np.eye(2), w, *data), w)
    assert np.abs(twin.set_predictor_rate(w, 0.5, 0.3, 0.0, "no_predictor") + plain).max() < 1e-8
    # IsoLoss: (1/2) E||z - stop(z' + z - W_p z)||^2, z = W^T x1 and z' = W^T x2 of explicit views
    one, two = twin.views(rng, 4, 0.3)
    target = two @ w + one @ w - one @ w @ p.T
    iso = dynamics.difference(lambda v: ((one @ v - target) ** 2).sum(1).mean() / 2, w)
    assert np.abs(twin.set_predictor_rate(w, 0.5, 0.3, 0.0, "isoloss") + iso).max() < 1e-7


@given(st.floats(0.05, 1.5), st.sampled_from([0.5, 1.0, 2.0]), st.floats(0, 1))
def test_rates_vanish_at_the_fixed_point_and_have_the_stated_signs(start, exponent, sigma2):
    fixed = direct.eigenvalue_fixed_point(exponent, sigma2)
    for loss in ("euclidean", "isoloss"):
        assert abs(direct.eigenvalue_rate(fixed, exponent=exponent, sigma2=sigma2, loss=loss)) < 1e-14
        rate = direct.eigenvalue_rate(start, exponent=exponent, sigma2=sigma2, loss=loss)
        assert abs(start - fixed) < 1e-6 or np.sign(rate) == np.sign(fixed - start)
    for loss in ("no_predictor", "no_stop_gradient"):
        assert direct.eigenvalue_rate(start, exponent=exponent, sigma2=sigma2, loss=loss) <= 0


def test_isoloss_lets_all_modes_escape_at_one_rate():
    small = np.array([1e-4, 1e-8])
    iso = direct.eigenvalue_rate(small, exponent=0.5, sigma2=0.1, loss="isoloss") / small
    assert np.abs(iso / 2 - 1).max() < 0.02
    euclidean = direct.eigenvalue_rate(small, exponent=0.5, sigma2=0.1, loss="euclidean") / small
    assert abs(euclidean[0] / euclidean[1] - 100) < 2


@pytest.mark.slow
@given(st.floats(0.02, 0.95), st.sampled_from([0.5, 1.0, 1.5]), st.floats(0, 1))
@examples(5)
def test_direct_set_keeps_a_feature_that_starts_above_the_unstable_point(fraction, exponent, sigma2):
    eta = fraction * float(direct.direct_set_threshold(sigma2))
    unstable, stable = direct.direct_set_fixed_points(eta, exponent=exponent, sigma2=sigma2)
    setting = {"exponent": exponent, "sigma2": sigma2, "eta": eta}
    start = np.array([0.98 * unstable, 1.02 * unstable, 0.98 * stable, 1.3 * stable])
    end = direct.direct_set_flow(np.array([0.0, 400.0 / eta]), start, **setting)
    assert np.array_equal(end[:, 0], start)
    if fraction < 0.9:
        assert np.abs(end[1:, 1] - stable).max() < 1e-6 and end[0, 1] < 0.5 * unstable
    # the same from the network: one Euler step of its weights moves the eigenvalues as the flow does
    w = np.sqrt(start[:2]) * dynamics.orthogonal(np.random.default_rng(0), 4)[:, :2]
    rate = twin.set_predictor_rate(w, exponent, sigma2, eta, "euclidean")
    slope = np.diag(rate.T @ w + w.T @ rate)
    h = 1e-5
    around = direct.direct_set_flow(np.array([h, 2 * h]), start[:2], **setting)
    measured = (-3 * start[:2] + 4 * around[:, 0] - around[:, 1]) / (2 * h)
    assert np.abs(measured - slope).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("sigma2", [0.0, 0.4])
def test_the_threshold_to_four_digits(exponent, sigma2):
    """Bisection on the weight decay of a trained feature that starts where a kept one would be largest."""
    low, high = 0.0, 1.0
    for _ in range(16):
        eta = (low + high) / 2
        end = direct.direct_set_flow(2e4, 1.0, exponent=exponent, sigma2=sigma2, eta=eta)
        low, high = (eta, high) if end > 1e-3 else (low, eta)
    assert abs(low / direct.direct_set_threshold(sigma2) - 1) < 1e-4


def copied(x, epsilon, sigma2, eta):
    p = x + epsilon
    return 2 * x * (p * (1 - (1 + sigma2) * p) - eta)


def test_direct_copy_with_epsilon():
    sigma2, eta = 0.3, 0.1
    for epsilon in (0.0, 0.05, 0.4):
        unstable, stable = direct.direct_copy_fixed_points(eta, epsilon=epsilon, sigma2=sigma2)
        for point in (unstable, stable):
            assert abs(copied(point, epsilon, sigma2, eta)) < 1e-14
        assert (unstable == 0) == (epsilon >= direct.direct_set_fixed_points(eta, exponent=1.0, sigma2=sigma2)[0])
        if epsilon == 0.4:  # no start collapses
            assert copied(1e-6, epsilon, sigma2, eta) > 0
        # the network with W_p = F + epsilon I moves so
        w = np.sqrt(0.3) * dynamics.orthogonal(np.random.default_rng(0), 4)[:, :2]
        p = w.T @ w + epsilon * np.eye(2)
        gw, _ = twin.gradients(w, p, w, np.eye(4), sigma2 * np.eye(4))
        rate = -gw - eta * w
        assert np.abs(np.diag(rate.T @ w + w.T @ rate) - copied(0.3, epsilon, sigma2, eta)).max() < 1e-14
    with pytest.raises(ValueError, match="eta must be at most direct_copy_threshold"):
        direct.direct_copy_fixed_points(0.3, epsilon=0.1, sigma2=sigma2)
    with pytest.raises(
        ValueError, match="eta must be at most direct_copy_threshold"
    ):  # epsilon above the upper root: all collapses
        direct.direct_copy_fixed_points(0.05, epsilon=1.2, sigma2=0.0)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.6, 0.8, 1.5])
def test_the_threshold_of_direct_copy(epsilon):
    """Bisection on the weight decay: is there a lambda > 0 that grows? Seen in the sign of the network's own gradient."""
    sigma2, frame = 0.2, dynamics.orthogonal(np.random.default_rng(1), 3)[:, :1]

    def grows(eta):
        for x in np.geomspace(1e-6, 2, 400):
            w = np.sqrt(x) * frame
            gw, _ = twin.gradients(w, w.T @ w + epsilon, w, np.eye(3), sigma2 * np.eye(3))
            if (w * (-gw - eta * w)).sum() > 0:
                return True
        return False

    low, high = 0.0, 1.0
    for _ in range(14):
        eta = (low + high) / 2
        low, high = (eta, high) if grows(eta) else (low, eta)
    assert abs(high - direct.direct_copy_threshold(epsilon, sigma2)) < 2e-4


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=3), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 0.3))
@examples(30)
def test_a_set_predictor_moves_eigenvalues_at_the_stated_rate(lambda_, epsilon, sigma2, eta):
    """DirectPred with epsilon, whose modes meet in max s, and DirectCopy: the gradient of the loss with the predictor held."""
    values = np.array(lambda_)
    w = dynamics.orthogonal(np.random.default_rng(2), 4)[:, : values.size] * np.sqrt(values)
    for p in (direct.direct_pred(values, epsilon), direct.direct_pred(values, epsilon, "code"), values + epsilon):
        gw, _ = twin.gradients(w, np.diag(p), w, np.eye(4), sigma2 * np.eye(4))
        slope = -gw - eta * w
        measured = np.diag(slope.T @ w + w.T @ slope)
        assert np.abs(measured - direct.set_predictor_rate(values, p, sigma2=sigma2, eta=eta)).max() < 1e-13


def test_small_eigenvalues_are_followed_beside_large_ones():
    """IsoLoss is logistic in lambda^a: lambda^a = 1 / (A + (lambda0^{-a} - A) e^{-2 a t}), derived here."""
    start, t, a = np.array([1e-12, 1e-6, 0.5]), np.array([0.0, 2.0, 9.0]), 1.2
    found = direct.eigenvalue_flow(t, start, exponent=0.5, sigma2=0.2, loss="isoloss")
    exact = (a + (start[:, None] ** -0.5 - a) * np.exp(-t)) ** -2.0
    assert np.abs(found / exact - 1).max() < 1e-10


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 0.1, 0.5])
def test_direct_pred_with_epsilon(epsilon):
    sigma2, eta = 0.2, 0.1
    for s in direct.direct_pred_fixed_points(eta, epsilon=epsilon, sigma2=sigma2):
        p = direct.direct_pred(np.array([s]), epsilon)[0]
        assert abs(p - np.sqrt(s) - epsilon * s) < 1e-15
        assert abs(p * (1 - (1 + sigma2) * p) - eta) < 1e-14


def test_the_two_variants_of_direct_pred():
    s = np.array([[4.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert np.array_equal(direct.direct_pred(s, 0.1)[0], [2.4, 1.4, 0.4])
    assert np.allclose(direct.direct_pred(s, 0.1, "code")[0], [1.1, 0.6, 0.1])
    assert np.array_equal(direct.direct_pred(s, 0.0, "code")[1], [1e-4] * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direct.direct_pred([-1.0], 0.1), "s must be >= 0"),
        (lambda: direct.direct_pred([1.0], 0.1, "blog"), "variant must be 'paper' or 'code'"),
        (lambda: direct.direct_set_fixed_points(0.3, exponent=1.0, sigma2=0.0), "eta must be at most the critical one"),
        (lambda: direct.direct_set_flow(1.0, -1.0, exponent=1.0, sigma2=0.0, eta=0.1), "lambda0 must be >= 0"),
        (lambda: direct.direct_set_flow(1.0, 1.0, exponent=0.0, sigma2=0.0, eta=0.1), "exponent must be > 0"),
        (lambda: direct.eigenvalue_rate(1.0, exponent=1.0, sigma2=0.0, loss="byol"), "loss must be one of euclidean"),
        (lambda: direct.eigenvalue_flow(-1.0, 1.0, exponent=1.0, sigma2=0.0, loss="euclidean"), "t must be >= 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

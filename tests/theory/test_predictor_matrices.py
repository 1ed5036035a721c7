"""Matrix flows with a predictor against training of the stop-gradient loss (Tian et al. 2021)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from tests.oracles import dynamics
from tests.oracles import predictor as twin
from tests.profiles import examples
from theory.predictor import matrices, modes

seeds = st.integers(0, 10**6)


def problem(rng, m=5, d=3):
    mean_view = dynamics.symmetric(rng, rng.uniform(0.3, 1.2, m))
    spread = dynamics.symmetric(rng, rng.uniform(0.0, 0.5, m))
    w, a = 0.6 * rng.standard_normal((2, m, d))
    p = 0.4 * rng.standard_normal((d, d)) + 0.5 * np.eye(d)
    return {"mean_view": mean_view, "spread": spread}, w, p, a


def positive(rng, d, low=0.05, high=1.0):
    return dynamics.symmetric(rng, rng.uniform(low, high, d))


def test_the_gradients_of_the_twin_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    data, w, p, a = problem(rng)
    gw, gp = twin.gradients(w, p, a, **data)
    assert np.abs(dynamics.difference(lambda v: twin.loss(v, p, a, **data), w) - gw).max() < 1e-8
    assert np.abs(dynamics.difference(lambda v: twin.loss(w, v, a, **data), p) - gp).max() < 1e-8


def test_the_loss_of_the_twin_is_that_of_views():
    rng = np.random.default_rng(1)
    _, w, p, a = problem(rng, m=4)
    one, two = twin.views(rng, 4, 0.3)
    direct = ((one @ w @ p.T - two @ a) ** 2).sum(1).mean() / 2
    assert abs(direct - twin.loss(w, p, a, np.eye(4), 0.3 * np.eye(4))) < 1e-12


@pytest.mark.parametrize("beta", [None, 0.7])
def test_the_flow_is_training(beta):
    rng = np.random.default_rng(2)
    data, w, p, a = problem(rng)
    settings = {"alpha_p": 1.7, "eta": 0.05, "beta": beta}
    states = twin.train(w, p, a, **data, **settings, dt=0.005, steps=800, every=200)
    found = matrices.flow(np.arange(5.0), w, p, None if beta is None else a, **data, **settings)
    assert np.abs(found.weights - states[0]).max() < 1e-9
    assert np.abs(found.predictor - states[1]).max() < 1e-9
    assert np.abs(found.target - (states[0] if beta is None else states[2])).max() < 1e-9
    scalar = matrices.flow(4.0, w, p, None if beta is None else a, **data, **settings)
    assert np.abs(scalar.weights - found.weights[-1]).max() < 1e-9


def test_batches_of_flows_are_flows():
    rng = np.random.default_rng(3)
    data, w, p, a = problem(rng)
    many = w + 0.1 * rng.standard_normal((2, *w.shape))
    settings = {"alpha_p": 1.0, "eta": 0.1, "beta": 0.3}
    found = matrices.flow([0.0, 1.0], many, p, a, **data, **settings)
    assert found.weights.shape == (2, 2, 5, 3) and found.predictor.shape == (2, 2, 3, 3)
    for k in range(2):
        alone = matrices.flow([0.0, 1.0], many[k], p, a, **data, **settings)
        assert np.abs(found.predictor[k] - alone.predictor).max() < 1e-9
    assert np.array_equal(found.weights[:, 0], many)


@given(seeds, st.floats(0.2, 3), st.floats(0, 0.5), st.sampled_from([None, 0.0, 0.8]))
@examples(15)
def test_the_balance_decays_whatever_the_target(seed, alpha_p, eta, beta):
    rng = np.random.default_rng(seed)
    data, w, p, a = problem(rng)
    t = np.array([0.0, 0.7, 2.0])
    found = matrices.flow(t, w, p, None if beta is None else a, **data, alpha_p=alpha_p, eta=eta, beta=beta)
    balance = matrices.balance(found.weights, found.predictor, alpha_p)
    assert np.abs(balance - np.exp(-2 * eta * t)[:, None, None] * balance[0]).max() < 1e-8


@given(seeds, st.floats(0.3, 2), st.floats(0, 0.3), st.floats(0, 1), st.floats(0.2, 1))
@examples(15)
def test_the_reduced_flow_is_the_full_one_of_a_symmetric_predictor(seed, alpha_p, eta, sigma2, tau):
    """Eqs. (7)-(8) are eqs. (2)-(3) with W_a = tau W and the symmetric part of the predictor's gradient; F and W_p need not commute."""
    rng = np.random.default_rng(seed)
    d = 3
    w = rng.standard_normal((5, d)) / 2
    p = positive(rng, d)

    def slope(state):
        w, p = state[:5], state[5:]
        gw, gp = twin.gradients(w, p, tau * w, np.eye(5), sigma2 * np.eye(5))
        return np.concatenate([-gw - eta * w, -alpha_p * (gp + gp.T) / 2 - eta * p])

    end = twin.rk4(slope, np.concatenate([w, p]), 0.005, 300)[-1]
    found = matrices.symmetric_flow(1.5, p, w.T @ w, tau=tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2)
    assert np.abs(found.predictor - end[5:]).max() < 1e-7
    assert np.abs(found.correlation - end[:5].T @ end[:5]).max() < 1e-7


@given(seeds, st.floats(0.3, 2), st.floats(0, 0.3), st.floats(0, 1), st.sampled_from([None, 0.0, 0.4]))
@examples(30)
def test_the_commutator_obeys_theorem_three(seed, alpha_p, eta, sigma2, predictor_eta):
    rng = np.random.default_rng(seed)
    p, f = dynamics.symmetric(rng, rng.uniform(-1, 1, 4)), positive(rng, 4)
    setting = {"tau": 0.8, "alpha_p": alpha_p, "eta": eta, "sigma2": sigma2, "predictor_eta": predictor_eta}
    h = 1e-4
    around = [matrices.symmetric_flow(t, p, f, **setting) for t in (0.0, h, 2 * h)]
    c = [matrices.commutator(one.correlation, one.predictor) for one in around]
    slope = (-3 * c[0] + 4 * c[1] - c[2]) / (2 * h)  # second order
    k = matrices.commutator_matrix(f, p, **setting)
    assert np.abs(slope + c[0] @ k + k @ c[0]).max() < 1e-5
    # the identity itself, from the derivatives of eqs. (7)-(8)
    a, anti = 1 + sigma2, lambda x, y: x @ y + y @ x
    eta_p = eta if predictor_eta is None else predictor_eta
    dp = -alpha_p / 2 * a * anti(p, f) + alpha_p * 0.8 * f - eta_p * p
    df = -a * anti(p @ p, f) + 0.8 * anti(p, f) - 2 * eta * f
    exact = df @ p + f @ dp - dp @ f - p @ df
    assert np.abs(exact + c[0] @ k + k @ c[0]).max() < 1e-10


def test_the_commutator_stays_below_the_bound():
    rng = np.random.default_rng(5)
    p, f = positive(rng, 4, 0.5, 1.5), positive(rng, 4, 1.0, 2.0)
    setting = {"tau": 0.5, "alpha_p": 1.0, "eta": 0.2, "sigma2": 0.1}
    t = np.linspace(0, 5, 51)
    found = matrices.symmetric_flow(t, p, f, **setting)
    lowest = np.linalg.eigvalsh(matrices.commutator_matrix(found.correlation, found.predictor, **setting)).min()
    size = np.linalg.norm(matrices.commutator(found.correlation, found.predictor), axis=(-2, -1))
    assert lowest > 0.05 and size[-1] > 1e-12
    assert np.all(size <= np.exp(-2 * lowest * t) * size[0] * (1 + 1e-9))


@given(seeds, st.floats(0.3, 2), st.floats(0.01, 0.5), st.floats(0, 1))
@examples(20)
def test_the_optimal_predictor_rests(seed, alpha_p, eta, sigma2):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((5, 3))
    f = w.T @ w
    p = matrices.optimal_predictor(f, tau=0.7, alpha_p=alpha_p, eta=eta, sigma2=sigma2)
    _, gp = twin.gradients(w, p, 0.7 * w, np.eye(5), sigma2 * np.eye(5))
    assert np.abs(alpha_p * gp + eta * p).max() < 1e-12 * (1 + np.abs(f).max())
    singular = matrices.optimal_predictor(np.diag([1.0, 0.0]), tau=1.0, alpha_p=alpha_p, eta=eta, sigma2=sigma2)
    assert singular[1, 1] == 0


@given(seeds)
@examples(10)
def test_without_stop_gradient_everything_collapses_at_the_rates_of_theorem_two(seed):
    rng = np.random.default_rng(seed)
    data, w, p, _ = problem(rng, m=4, d=2)
    h = matrices.no_stop_gradient_matrix(p, **data, eta=0.1)

    def whole(v):  # the gradient passes through both branches
        return twin.loss(v, p, v, **data)

    slope = -dynamics.difference(whole, w) - 0.1 * w
    assert np.abs(slope.ravel() + h @ w.ravel()).max() < 1e-7
    t = np.array([0.0, 1.0, 3.0])
    found = matrices.no_stop_gradient_flow(t, w, p, **data, eta=0.1)
    exact = np.stack([(expm(-h * one) @ w.ravel()).reshape(w.shape) for one in t])
    assert np.abs(found - exact).max() < 1e-12
    lowest = np.linalg.eigvalsh(h)[0]
    assert lowest >= 0.1 - 1e-12
    assert np.all(np.linalg.norm(found, axis=(1, 2)) <= np.exp(-lowest * t) * np.linalg.norm(w) * (1 + 1e-12))


def test_without_a_predictor_everything_collapses():
    rng = np.random.default_rng(6)
    data, w, _, _ = problem(rng)
    states = twin.rk4(
        lambda v: -twin.gradients(v, np.eye(3), v, **data)[0] - 0.2 * v,
        w,
        0.01,
        300,
    )
    found = matrices.no_predictor_flow(np.array([0.0, 1.0, 3.0]), w, spread=data["spread"], eta=0.2)
    assert np.abs(found - states[[0, 100, 300]]).max() < 1e-10
    still = matrices.no_predictor_flow(1e6, w, spread=np.diag([0.0, 1, 1, 1, 1]), eta=0.0)
    assert np.abs(still[0] - w[0]).max() < 1e-14 and np.abs(still[1:]).max() == 0


@pytest.mark.parametrize("decoupled", [False, True])
def test_discrete_training_follows_the_flow_of_its_parameters(decoupled):
    rng = np.random.default_rng(7)
    data, w, p, a = problem(rng)
    errors = []
    for alpha in (0.01, 0.005):
        decay = 0.1 if not decoupled else 0.1 * alpha / 0.5
        found = matrices.flow_parameters(
            learning_rate=alpha,
            predictor_learning_rate=2 * alpha,
            ema_momentum=1 - 0.3 * alpha / 0.5,
            weight_decay=decay,
            momentum=0.5,
            decoupled=decoupled,
        )
        assert np.allclose(found, (2.0, 0.1, 0.3, alpha / 0.5), rtol=1e-12)
        x, q, b, vx, vq = w, p, a, 0 * w, 0 * p
        steps = round(2 / found.step)
        for _ in range(steps):
            gx, gq = twin.gradients(x, q, b, **data)
            coupled = 0.0 if decoupled else decay
            vx, vq = 0.5 * vx + gx + coupled * x, 0.5 * vq + gq + coupled / 2 * q
            shrink = 1 - decay if decoupled else 1.0
            x, q, b = shrink * x - alpha * vx, shrink * q - 2 * alpha * vq, b + 0.3 * alpha / 0.5 * (x - b)
        end = matrices.flow(2.0, w, p, a, **data, alpha_p=2.0, eta=0.1, beta=0.3)
        errors.append(max(np.abs(x - end.weights).max(), np.abs(q - end.predictor).max()))
    assert errors[0] < 0.05 and 1.7 < errors[0] / errors[1] < 2.3  # first order in the learning rate


def test_small_matrices_escape_in_time():
    """On the invariant parabola from p = 1e-5: growth by p / p0 multiplies the tolerance of 1e-12 to about 1e-7."""
    p0, none = 1e-5, np.zeros((2, 2))
    t = float(modes.escape_time(p0, 0.5, eta=0.0, tau=1.0, sigma2=0.0))
    found = matrices.flow(t, p0 * np.eye(2), p0 * np.eye(2), mean_view=np.eye(2), spread=none, alpha_p=1.0, eta=0.0)
    assert np.abs(found.predictor - 0.5 * np.eye(2)).max() < 1e-7 > np.abs(found.weights - 0.5 * np.eye(2)).max()
    setting = {"tau": 1.0, "alpha_p": 1.0, "eta": 0.0, "sigma2": 0.0}
    reduced = matrices.symmetric_flow(t, p0 * np.eye(2), p0**2 * np.eye(2), **setting)
    assert np.abs(reduced.predictor - 0.5 * np.eye(2)).max() < 1e-7
    assert np.abs(reduced.correlation - 0.25 * np.eye(2)).max() < 1e-7


def test_one_coupled_decay_for_both_shrinks_the_predictor_alpha_p_times_as_fast():
    """Weights at 0 leave nothing but the decay: the step of the predictor is 4 alpha (gradient + w W_p), with the w of the weights."""
    setting = {"learning_rate": 1e-3, "predictor_learning_rate": 4e-3, "ema_momentum": 1.0, "weight_decay": 0.1}
    found = matrices.flow_parameters(**setting)
    p = np.eye(2)
    for _ in range(2000):
        p = p - 4e-3 * (twin.gradients(np.zeros((3, 2)), p, np.zeros((3, 2)), np.eye(3), np.eye(3))[1] + 0.1 * p)
    reduced = {"tau": 1.0, "alpha_p": found.alpha_p, "eta": found.eta, "sigma2": 0.0}
    own = found.alpha_p * found.eta
    flow = matrices.symmetric_flow(2.0, np.eye(2), np.zeros((2, 2)), **reduced, predictor_eta=own)
    assert np.abs(flow.predictor - p).max() < 1e-3  # first order in the learning rate
    assert abs(p[0, 0] - np.exp(-0.1 * 2)) > 0.3  # what one eta for both would say


DATA = {"mean_view": np.eye(3), "spread": np.zeros((3, 3))}
REDUCED = {"tau": 1.0, "alpha_p": 1.0, "eta": 0.1, "sigma2": 0.1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: matrices.flow(1.0, np.ones((3, 2)), np.eye(2), np.ones((3, 2)), **DATA, alpha_p=1.0, eta=0.0),
            "target and beta must be given together",
        ),
        (
            lambda: matrices.flow(1.0, np.ones((3, 2)), np.eye(3), **DATA, alpha_p=1.0, eta=0.0),
            "weights, predictor and target need one d",
        ),
        (
            lambda: matrices.flow(
                1.0, np.ones((3, 2)), np.eye(2), **(DATA | {"spread": -np.eye(3)}), alpha_p=1.0, eta=0.0
            ),
            "spread must be positive semi-definite",
        ),
        (lambda: matrices.flow(-1.0, np.ones((3, 2)), np.eye(2), **DATA, alpha_p=1.0, eta=0.0), "t must be >= 0"),
        (lambda: matrices.flow(1.0, np.ones((3, 2)), np.eye(2), **DATA, alpha_p=0.0, eta=0.0), "alpha_p must be > 0"),
        (lambda: matrices.symmetric_flow(1.0, [[0, 1], [0, 0]], np.eye(2), **REDUCED), "predictor must be symmetric"),
        (lambda: matrices.symmetric_flow(1.0, np.eye(3), np.eye(2), **REDUCED), "need one d"),
        (lambda: matrices.optimal_predictor(-np.eye(2), **REDUCED), "correlation must be positive semi-definite"),
        (
            lambda: matrices.optimal_predictor(np.diag([1.0, 0.0]), **(REDUCED | {"eta": 0.0})),
            "correlation must be positive definite where eta = 0",
        ),
        (lambda: matrices.balance(np.ones((3, 2)), np.ones((2, 3)), 1.0), "predictor must be square"),
        (
            lambda: matrices.no_stop_gradient_flow(1.0, np.ones((3, 1)), np.eye(2), **DATA, eta=0.0),
            "weights must fit mean_view and predictor",
        ),
        (
            lambda: matrices.flow_parameters(
                learning_rate=0.1, predictor_learning_rate=0.1, ema_momentum=0.9, weight_decay=0.0, momentum=1.0
            ),
            "momentum must be below 1",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

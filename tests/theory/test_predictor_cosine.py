"""The cosine loss with a predictor against training on central differences of the loss, and its limit against samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics
from tests.oracles import predictor as twin
from tests.profiles import examples
from theory.predictor import cosine, matrices, modes

seeds = st.integers(0, 10**6)


def problem(rng, m=3, d=2):
    """Any weights, predictor and target, on data that is not isotropic."""
    mean_view = dynamics.symmetric(rng, rng.uniform(0.3, 1.2, m))
    spread = dynamics.symmetric(rng, rng.uniform(0.05, 0.5, m))
    w, a = rng.standard_normal((2, m, d))
    return {"mean_view": mean_view, "spread": spread}, w, np.eye(d) + 0.5 * rng.standard_normal((d, d)), a


def aligned(rng, d=3):
    """Modes on or above the parabola, and their data."""
    lambda_d, alpha_p = rng.uniform(0.3, 1.0, d), rng.uniform(0.5, 2)
    p = rng.uniform(0.2, 1.0, d)
    w = np.sqrt(p**2 / alpha_p + rng.uniform(0, 0.5, d) * rng.integers(0, 2))
    return {"lambda_d": lambda_d, "lambda_s": lambda_d + rng.uniform(0, 0.5, d)}, p, w, alpha_p


def diagonal(lambda_d, lambda_s):
    return {"mean_view": np.diag(lambda_d), "spread": np.diag(lambda_s - lambda_d)}


@pytest.mark.parametrize("beta", [None, 0.7])
def test_the_flow_is_training(beta):
    data, w, p, a = problem(np.random.default_rng(0))
    setting = {"alpha_p": 1.7, "eta": 0.1, "beta": beta}
    rows = np.concatenate([w, p, a])
    end = twin.rk4(lambda x: twin.cosine_slope(x, 3, 2, **data, **setting), rows, 0.02, 100)[-1]
    found = cosine.flow([0.0, 2.0], w, p, None if beta is None else a, **data, **setting)
    assert np.abs(found.weights[1] - end[:3]).max() < 1e-7 and np.abs(found.predictor[1] - end[3:5]).max() < 1e-7
    assert np.abs(found.target[1] - (end[:3] if beta is None else end[5:])).max() < 1e-7
    assert np.array_equal(found.weights[0], w)
    alone = cosine.flow(2.0, w, p, None if beta is None else a, **data, **setting)
    assert np.abs(alone.predictor - found.predictor[1]).max() < 1e-12


def test_the_loss_is_the_mean_cosine_of_samples_in_many_dimensions():
    """Norms of Gaussian features fluctuate by d^{-1/2}, the loss by its square. 2,000 pairs: standard error 0.003 and less."""
    errors = []
    for d in (4, 64):
        rng = np.random.default_rng(d)
        shared, one, two = rng.standard_normal((3, 2000, d))
        w, p = rng.standard_normal((d, d)) / d**0.5, np.eye(d) + rng.standard_normal((d, d)) / (2 * d**0.5)
        a, b = (shared + 0.5 * one) @ w @ p.T, (shared + 0.5 * two) @ w
        mean = -((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
        errors.append(abs(mean - twin.cosine_loss(w, p, w, np.eye(d), 0.25 * np.eye(d))))
    assert errors[1] < 0.01 and errors[1] < errors[0]


def test_the_loss_is_exact_where_norms_are_the_same_for_all_samples():
    """Signs as inputs and diagonal weights: the gradients of the mean cosine are those of the flow."""
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    p, w = np.array([0.3, 0.8, 0.5]), np.array([0.7, 0.4, 1.1])

    def mean(p, w, target):
        a, b = signs @ np.diag(w * p), signs @ np.diag(target)
        return -((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()

    r = np.diag(cosine.residual(np.diag(w), np.diag(p), np.diag(w), np.eye(3), np.eye(3)))
    assert np.abs(dynamics.difference(lambda v: mean(v, w, w), p) + r * w).max() < 1e-8
    assert np.abs(dynamics.difference(lambda v: mean(p, v, w), w) + r * p).max() < 1e-8


@given(seeds, st.floats(0, 0.4), st.sampled_from([None, 0.0, 0.8]))
@examples(10)
def test_norms_decay_as_without_a_loss(seed, eta, beta):
    data, w, p, a = problem(np.random.default_rng(seed))
    t = np.array([0.0, 0.5, 1.5])
    found = cosine.flow(t, w, p, None if beta is None else a, **data, alpha_p=1.3, eta=eta, beta=beta)
    for values in (found.weights, found.predictor):
        sizes = np.linalg.norm(values, axis=(1, 2))
        assert np.abs(sizes / (np.exp(-eta * t) * sizes[0]) - 1).max() < 1e-8
    balance = matrices.balance(found.weights, found.predictor, 1.3)
    assert np.abs(balance - np.exp(-2 * eta * t)[:, None, None] * balance[0]).max() < 1e-8


@given(seeds, st.floats(0.05, 0.6))
@examples(10)
def test_weight_decay_stretches_time_and_nothing_else(seed, eta):
    data, w, p, _ = problem(np.random.default_rng(seed))
    with_decay = cosine.flow(1.5, w, p, **data, alpha_p=1.3, eta=eta)
    without = cosine.flow(cosine.stretched_time(1.5, eta), w, p, **data, alpha_p=1.3, eta=0.0)
    assert np.abs(np.exp(1.5 * eta) * with_decay.weights - without.weights).max() < 1e-8
    assert np.abs(np.exp(1.5 * eta) * with_decay.predictor - without.predictor).max() < 1e-8
    assert cosine.stretched_time(1.5, 0.0) == 1.5 and abs(cosine.stretched_time(1.5, 1e-9) - 1.5) < 1e-8


@given(seeds, st.sampled_from([None, 0.5]))
@examples(10)
def test_aligned_modes_end_at_their_rest(seed, beta):
    modes_, p, w, alpha_p = aligned(np.random.default_rng(seed))
    end = cosine.rest(p, w, **modes_, alpha_p=alpha_p)
    still = cosine.residual(*(np.diag(v) for v in (end.w, end.w_p, end.w)), *(np.diag(v) for v in modes_.values()))
    assert np.abs(still).max() < 1e-14
    slowest = cosine.rest_rates(end.w_p, end.w, lambda_s=modes_["lambda_s"], kappa=end.kappa, alpha_p=alpha_p)[-2]
    found = cosine.flow(
        25 / slowest + (0 if beta is None else 60),
        np.diag(w),
        np.diag(p),
        None if beta is None else 0.3 * np.diag(w),
        **diagonal(**modes_),
        alpha_p=alpha_p,
        eta=0.0,
        beta=beta,
    )
    assert np.abs(np.diag(found.predictor) - end.w_p).max() < 1e-5
    assert np.abs(np.diag(found.weights) - end.w).max() < 1e-5


@given(seeds)
@examples(20)
def test_rates_are_the_eigenvalues_at_rest(seed):
    modes_, p, w, alpha_p = aligned(np.random.default_rng(seed))
    end = cosine.rest(p, w, **modes_, alpha_p=alpha_p)
    offset, data = end.w**2 - end.w_p**2 / alpha_p, [np.diag(v) for v in modes_.values()]

    def slope(p):  # on the surface of the conserved balance
        w = np.diag(np.sqrt(offset + p**2 / alpha_p))
        return alpha_p * np.diag(cosine.residual(w, np.diag(p), w, *data).T @ w)

    matrix = np.array([(slope(end.w_p + h) - slope(end.w_p - h)) / 2e-6 for h in 1e-6 * np.eye(3)]).T
    exact = np.sort(-np.linalg.eigvals(matrix).real)[::-1]
    found = cosine.rest_rates(end.w_p, end.w, lambda_s=modes_["lambda_s"], kappa=end.kappa, alpha_p=alpha_p)
    assert np.abs(found - exact).max() < 1e-7


def test_no_weight_decay_collapses_single_modes_where_the_l2_loss_loses_all():
    rng = np.random.default_rng(4)
    modes_, p, w, alpha_p = aligned(rng)
    eta = 1.5 * float(modes.anisotropic_critical_eta(**modes_).max())
    setting = {**diagonal(**modes_), "alpha_p": alpha_p, "eta": eta}
    t = 3.0 / eta
    squared = np.diag(matrices.flow(8 * t, np.diag(w), np.diag(p), **setting).weights)
    assert np.abs(squared).max() < 1e-6 * np.abs(w).min()
    end = cosine.rest(p, w, **modes_, alpha_p=alpha_p)
    found = cosine.flow(t, np.diag(w), np.diag(p), **setting)
    assert np.abs(np.exp(eta * t) * np.diag(found.weights) - end.w).max() < 0.01
    assert np.abs(np.exp(eta * t) * np.diag(found.predictor) - end.w_p).max() < 0.01


DATA = {"mean_view": np.eye(3), "spread": np.zeros((3, 3)), "alpha_p": 1.0, "eta": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine.flow(1.0, np.ones((3, 2)), np.eye(2), np.ones((3, 2)), **DATA), "must be given together"),
        (lambda: cosine.flow(1.0, np.ones((3, 2)), np.eye(3), **DATA), "need one d"),
        (lambda: cosine.flow(1.0, np.zeros((3, 2)), np.eye(2), **DATA), "predictor and weights must have features"),
        (lambda: cosine.flow(1.0, np.ones((3, 2)), np.eye(2), np.zeros((3, 2)), beta=0.1, **DATA), "target must have"),
        (lambda: cosine.flow(1.0, np.ones((3, 2)), np.eye(2), **(DATA | {"spread": np.eye(2)})), "need one shape"),
        (lambda: cosine.stretched_time(-1.0, 0.1), "t must be >= 0"),
        (lambda: cosine.rest([1.0], [0.5], lambda_d=1.0, lambda_s=1.0, alpha_p=1.0), "w must be on or above"),
        (lambda: cosine.rest([-1.0], [2.0], lambda_d=1.0, lambda_s=1.0, alpha_p=1.0), "w_p must be > 0"),
        (
            lambda: cosine.rest_rates([1.0, 1.0], [1.0, 0.0], lambda_s=1.0, kappa=1.0, alpha_p=1.0),
            "and no zeros",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""One mode without symmetry against training of the blocks it stands for, and what its states of rest say of full training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import predictor as twin
from tests.profiles import examples
from theory.predictor import asymmetric, modes

seeds = st.integers(0, 10**6)


def problem(rng):
    """Complex w_p, w, w_a and data whose decay leaves a fixed point."""
    start = rng.standard_normal((3, 2)) @ [1, 1j]
    lambda_d, lambda_s, alpha_p = rng.uniform(0.5, 1.5, 3)
    eta = rng.uniform(0.05, 0.9) * float(modes.anisotropic_critical_eta(lambda_d, lambda_s))
    return start, {"lambda_d": lambda_d, "lambda_s": lambda_s, "alpha_p": alpha_p, "eta": eta}


def moments(lambda_d, lambda_s):
    return {"mean_view": np.diag(lambda_d), "spread": np.diag(np.subtract(lambda_s, lambda_d))}


def slope(state, lambda_d, lambda_s, alpha_p, eta, beta):
    """Real velocity (6,) of (w_p, w, w_a), from the gradients of the blocks: W is the transpose of what maps x to f."""
    p, w, a = (twin.plane(z) for z in state[:3] + 1j * state[3:])
    data = {"mean_view": lambda_d * np.eye(2), "spread": (lambda_s - lambda_d) * np.eye(2)}
    gw, gp = twin.gradients(w.T, p, w.T if beta is None else a.T, **data)
    moved = [-alpha_p * gp - eta * p, -gw.T - eta * w, 0 * a if beta is None else beta * (w - a)]
    for block in moved:  # still a rotation times a size
        assert abs(block[0, 0] - block[1, 1]) < 1e-12 and abs(block[0, 1] + block[1, 0]) < 1e-12
    return np.array([block[0, 0] for block in moved] + [block[1, 0] for block in moved])


@pytest.mark.parametrize("beta", [None, 0.7])
def test_the_flow_is_training_of_the_blocks(beta):
    (p, w, a), setting = problem(np.random.default_rng(0))
    start = np.concatenate([[p, w, a], [p, w, a]])
    start = np.concatenate([start[:3].real, start[3:].imag])
    states = twin.rk4(lambda x: slope(x, beta=beta, **setting), start, 0.01, 300)[::100]
    found = asymmetric.flow(np.arange(4.0), p, w, None if beta is None else a, beta=beta, **setting)
    for k, values in enumerate((found.w_p, found.w)):
        assert np.abs(values - (states[:, k] + 1j * states[:, k + 3])).max() < 1e-8
    assert np.abs(found.w_a - (found.w if beta is None else states[:, 2] + 1j * states[:, 5])).max() < 1e-8
    alone = asymmetric.flow(3.0, p, w, None if beta is None else a, beta=beta, **setting)
    assert np.shape(alone.w) == () and abs(alone.w_p - found.w_p[-1]) < 1e-10


def test_batches_are_flows_and_real_numbers_are_the_symmetric_mode():
    setting = {"lambda_d": 1.0, "lambda_s": 1.2, "alpha_p": 1.3, "eta": 0.1}
    found = asymmetric.flow([0.0, 2.0], [0.3, 0.3j], [[0.5], [0.8]], **setting)
    assert found.w_p.shape == (2, 2, 2)
    alone = asymmetric.flow(2.0, 0.3j, 0.8, **setting)
    assert abs(found.w_p[1, 1, 1] - alone.w_p) < 1e-9
    known = modes.mode_flow(2.0, 0.3, 0.25, tau=1.0, alpha_p=1.3, eta=0.1, sigma2=0.2)
    assert abs(found.w_p[0, 0, 1] - known.p) < 1e-9 and abs(abs(found.w[0, 0, 1]) ** 2 - known.s) < 1e-9


@given(seeds, st.sampled_from([None, 0.0, 0.8]))
@examples(15)
def test_the_balance_decays_and_phases_turn_nothing(seed, beta):
    rng = np.random.default_rng(seed)
    (p, w, a), setting = problem(rng)
    t, turn = np.array([0.0, 0.7, 2.0]), np.exp(1j * rng.uniform(0, 6))
    found = asymmetric.flow(t, p, w, None if beta is None else a, beta=beta, **setting)
    balance = np.abs(found.w) ** 2 - np.abs(found.w_p) ** 2 / setting["alpha_p"]
    assert np.abs(balance - np.exp(-2 * setting["eta"] * t) * balance[0]).max() < 1e-9
    turned = asymmetric.flow(t, p, turn * w, None if beta is None else turn * a, beta=beta, **setting)
    assert np.abs(turned.w_p - found.w_p).max() < 1e-9 and np.abs(turned.w - turn * found.w).max() < 1e-9


@given(seeds)
@examples(15)
def test_the_antisymmetric_part_decays_at_its_rate(seed):
    """log |Im w_p| falls by the integral of alpha_p lambda_s |w|^2 + eta; by Simpson's rule, 16 times closer with half the step."""
    (p, w, _), setting = problem(np.random.default_rng(seed))
    t = np.linspace(0, 1, 401)
    found = asymmetric.flow(t, p, w, **setting)
    rate = setting["alpha_p"] * setting["lambda_s"] * np.abs(found.w) ** 2 + setting["eta"]
    integral = (rate[:-2:2] + 4 * rate[1:-1:2] + rate[2::2]).sum() * (t[1] - t[0]) / 3
    assert abs(found.w_p[-1].imag - found.w_p[0].imag * np.exp(-integral)) < 1e-7


@given(seeds, st.one_of(st.none(), st.floats(0.01, 3)), st.booleans())
@examples(30)
def test_rates_are_the_eigenvalues_of_the_flow_at_rest(seed, beta, upper):
    (_, _, _), setting = problem(np.random.default_rng(seed))
    data = {k: setting[k] for k in ("lambda_d", "lambda_s", "eta")}
    p = float(modes.anisotropic_fixed_points(**data)[int(upper)])
    w = p / np.sqrt(setting["alpha_p"])
    state = np.array([p, w, w, 0, 0, 0])
    assert np.abs(slope(state, beta=beta, **setting)).max() < 1e-13
    h = 1e-6
    columns = [
        (slope(state + h * e, beta=beta, **setting) - slope(state - h * e, beta=beta, **setting)) / (2 * h)
        for e in np.eye(6)
    ]
    kept = [0, 1, 3, 4] if beta is None else list(range(6))
    exact = np.sort(np.linalg.eigvals(np.array(columns).T[np.ix_(kept, kept)]).real)
    rates = asymmetric.rest_rates(p, beta=beta, **data)
    assert np.abs(np.sort(np.append(np.concatenate(rates), 0.0)) - exact).max() < 1e-7
    assert rates.turning.max() < 0 and (rates.along.max() < 0) == upper


@given(seeds, st.one_of(st.none(), st.floats(0.05, 3)), st.floats(0.2, 2))
@examples(30)
def test_a_direction_takes_over_at_its_rate(seed, beta, other):
    """The velocity of a small weight and target in a direction that the output does not see, from the full gradients."""
    rng = np.random.default_rng(seed)
    _, setting = problem(rng)
    data = {k: setting[k] for k in ("lambda_d", "lambda_s", "eta")}
    p = float(modes.anisotropic_fixed_points(**data)[1])
    entering = {"lambda_d": other * setting["lambda_d"], "lambda_s": rng.uniform(2, 3)}
    both = moments([setting["lambda_d"], entering["lambda_d"]], [setting["lambda_s"], entering["lambda_s"]])
    held = p / np.sqrt(setting["alpha_p"])

    def velocity(v, v_a):
        w, a = np.array([[held], [v]]), np.array([[held], [v if beta is None else v_a]])
        gw = twin.gradients(w, np.array([[p]]), a, **both)[0]
        return np.array([-gw[1, 0] - setting["eta"] * v, (beta or 0.0) * (v - v_a)])

    matrix = np.array([velocity(1e-6, 0.0), velocity(0.0, 1e-6)]).T / 1e-6
    exact = matrix[0, 0] if beta is None else np.linalg.eigvals(matrix).real.max()
    found = asymmetric.takeover_rate(p, beta=beta, eta=setting["eta"], **entering)
    assert abs(found - exact) < 1e-9
    pull = entering["lambda_d"] * p - entering["lambda_s"] * p**2
    assert (found > 0) == (pull > setting["eta"])


def test_training_ends_with_the_most_predictable_directions():
    """Two outputs, four directions: the start sees the two of largest lambda_d, whose lambda_d / lambda_s are the smallest."""
    lambda_d, lambda_s = np.array([1.2, 1.0, 0.8, 0.6]), np.array([2.4, 1.8, 1.1, 0.7])
    rho = lambda_d / lambda_s
    rng = np.random.default_rng(3)
    w = np.zeros((4, 2))
    w[0, 0], w[1, 1] = rho[0], rho[1]
    w = w + 1e-3 * rng.standard_normal((4, 2))
    p = np.diag(rho[:2]) + 0.1 * rng.standard_normal((2, 2))  # not symmetric
    data = moments(lambda_d, lambda_s)
    states = twin.train(w, p, w, **data, alpha_p=1.0, eta=0.0, beta=None, dt=0.1, steps=4000, every=4000)
    end, predictor = states[0][-1], states[1][-1]
    for held in (0, 1):
        rates = asymmetric.takeover_rate(rho[held], lambda_d=lambda_d, lambda_s=lambda_s, eta=0.0)
        assert np.array_equal(rates > 1e-12, rho > rho[held])
    assert np.abs(end[:2]).max() < 1e-6 < 0.1 < np.linalg.svd(end[2:])[1].min()
    assert np.abs(np.sort(np.linalg.eigvals(predictor).real) - np.sort(rho[2:])).max() < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: asymmetric.flow(1.0, 1.0, 1.0, 1.0, **s), "w_a and beta must be given together"),
        (lambda s: asymmetric.flow(1.0, 1.0, np.nan, **s), "w must be finite"),
        (lambda s: asymmetric.flow(1.0, 1.0, 1.0, **(s | {"lambda_s": 0.0})), "lambda_s must be > 0"),
        (lambda s: asymmetric.flow(-1.0, 1.0, 1.0, **s), "t must be >= 0"),
        (lambda s: asymmetric.rest_rates(0.5, lambda_d=1.0, lambda_s=1.0, eta=0.1), "w_p must be a fixed point"),
        (lambda s: asymmetric.rest_rates(-0.5, lambda_d=1.0, lambda_s=1.0, eta=0.1), "w_p must be > 0"),
        (lambda s: asymmetric.takeover_rate(0.5, lambda_d=-1.0, lambda_s=1.0, eta=0.1), "lambda_d must be >= 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call({"lambda_d": 1.0, "lambda_s": 1.0, "alpha_p": 1.0, "eta": 0.1})

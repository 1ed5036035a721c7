"""One mode with a predictor: flows, fixed points, escape times, moving average (Tian et al. 2021)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from tests.oracles import dynamics
from tests.oracles import predictor as twin
from tests.profiles import examples
from theory.predictor import matrices, modes

seeds = st.integers(0, 10**6)
setting = st.fixed_dictionaries(
    {"tau": st.floats(0.3, 1.5), "alpha_p": st.floats(0.2, 3), "eta": st.floats(0, 0.3), "sigma2": st.floats(0, 1)}
)


@given(seeds, setting)
@examples(20)
def test_modes_are_the_eigenvalues_of_the_matrix_flow(seed, setting):
    rng = np.random.default_rng(seed)
    vectors = dynamics.orthogonal(rng, 3)
    p, s = rng.uniform(-0.5, 1, 3), rng.uniform(0, 1, 3)
    t = np.array([0.0, 0.5, 2.0])
    whole = matrices.symmetric_flow(t, (vectors * p) @ vectors.T, (vectors * s) @ vectors.T, **setting)
    found = modes.mode_flow(t, p, s, **setting)
    assert found.p.shape == (3, 3)
    for values, matrix in ((found.p, whole.predictor), (found.s, whole.correlation)):
        assert np.abs(np.diagonal(vectors.T @ matrix @ vectors, axis1=1, axis2=2).T - values).max() < 1e-8
    assert np.array_equal(found.tau, np.broadcast_to(setting["tau"], (3, 3)))


def test_the_derivatives_are_those_of_the_loss():
    """W = vectors sqrt(s), W_p = diag(p), W_a = tau W: one step of the stop-gradient flow, mode by mode."""
    rng = np.random.default_rng(0)
    d, tau, alpha_p, eta, sigma2 = 3, 0.8, 1.7, 0.1, 0.4
    p, s = rng.uniform(0, 1, d), rng.uniform(0.1, 1, d)
    w = dynamics.orthogonal(rng, 5)[:, :d] * np.sqrt(s)
    gw, gp = twin.gradients(w, np.diag(p), tau * w, np.eye(5), sigma2 * np.eye(5))
    dw = -gw - eta * w
    dp, ds = modes.mode_derivatives(p, s, tau=tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2)
    assert np.abs(np.diag(-alpha_p * gp - eta * np.diag(p)) - dp).max() < 1e-14
    assert np.abs(np.diag(dw.T @ w + w.T @ dw) - ds).max() < 1e-14


def test_a_target_that_follows_is_the_moving_average_of_the_weights():
    """Eq. (13) against the full flow with W_a, started proportional to W in an aligned network: it stays so."""
    rng = np.random.default_rng(1)
    p, s, tau = np.array([0.4, 0.7]), np.array([0.3, 0.6]), 0.5
    w = dynamics.orthogonal(rng, 4)[:, :2] * np.sqrt(s)
    t = np.linspace(0, 6, 7)
    whole = matrices.flow(
        t, w, np.diag(p), tau * w, mean_view=np.eye(4), spread=0.3 * np.eye(4), alpha_p=1.3, eta=0.05, beta=0.4
    )
    found = modes.mode_flow(t, p, s, tau=tau, alpha_p=1.3, eta=0.05, sigma2=0.3, beta=0.4)
    f = np.swapaxes(whole.weights, -1, -2) @ whole.weights
    assert np.abs(np.diagonal(f, axis1=1, axis2=2).T - found.s).max() < 1e-8
    target = np.diagonal(np.swapaxes(whole.target, -1, -2) @ whole.weights, axis1=1, axis2=2).T
    assert np.abs(target - found.tau * found.s).max() < 1e-8
    assert found.tau[:, -1].min() > 0.8


def slow_weights(t, p, s, *, tau, alpha_p, eta, sigma2, beta, steps=20_000):
    """(w_p, w, w_a) by Runge-Kutta 4 with a fixed step: eqs. (104)-(106) written out."""

    def slope(x):
        w_p, w, w_a = x
        r = w_a - w_p * w * (1 + sigma2)
        return np.array([alpha_p * r * w - eta * w_p, w_p * r - eta * w, beta * (w - w_a)])

    x, h = np.array([p, np.sqrt(s), tau * np.sqrt(s)]), t / steps
    for _ in range(steps):
        a = slope(x)
        b = slope(x + h / 2 * a)
        c = slope(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c))
    return x


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("eta", [0.0, 0.05])
def test_a_weight_that_crosses_zero_is_followed(beta, eta):
    """tau = w_a / w diverges on the way; the flow of the weights does not."""
    start = {"p": -0.9, "s": 0.3, "tau": 1.0}
    rest = {"alpha_p": 0.2, "eta": eta, "sigma2": 0.1, "beta": beta}
    t = np.linspace(0, 3, 4)
    found = modes.mode_flow(t, start["p"], start["s"], tau=start["tau"], **rest)
    assert (found.tau < 0).any() and (found.s > 0).all()
    for k, at in enumerate(t):
        w_p, w, w_a = slow_weights(at, **start, **rest)
        assert abs(found.p[k] - w_p) < 1e-10
        assert abs(found.s[k] - w**2) < 1e-10
        assert abs(found.tau[k] * w - w_a) < 1e-10


@pytest.mark.long
@pytest.mark.parametrize("t", [3.0, [0.0, 1.0, 3.0]])
def test_a_weight_that_comes_close_to_zero_is_followed_at_single_times_too(t):
    found = modes.mode_flow(t, -0.31109788, 0.01264842, tau=1, alpha_p=1, eta=0, sigma2=0, beta=0)
    w_p, w, w_a = slow_weights(3.0, -0.31109788, 0.01264842, tau=1, alpha_p=1, eta=0, sigma2=0, beta=0)
    last = [np.atleast_1d(v)[-1] for v in found]
    assert np.abs(np.array(last) - [w_p, w**2, w_a / w]).max() < 1e-9 * abs(w_a / w)


def test_a_flow_that_blows_up_is_refused_at_a_single_time_too():
    for t in (1e3, [0.0, 1e3]):
        with pytest.raises(ValueError, match="t must end before the solution blows up"):
            modes.integrate(lambda _, x: x**2, np.ones(1), np.atleast_1d(np.asarray(t)), np.ones(1))


@given(seeds, setting, st.one_of(st.none(), st.floats(0, 1)))
@examples(20)
def test_the_offset_decays_with_the_sign_of_the_derivation(seed, setting, beta):
    rng = np.random.default_rng(seed)
    p, s, t = rng.uniform(-0.5, 1, 4), rng.uniform(0, 1, 4), np.array([0.0, 1.0, 3.0])
    found = modes.mode_flow(t, p, s, **setting, beta=beta)
    c = modes.offset(found.p, found.s, setting["alpha_p"])
    assert np.abs(c - np.exp(-2 * setting["eta"] * t) * (s - p**2 / setting["alpha_p"])[:, None]).max() < 1e-8


@given(setting, st.floats(0.02, 0.98))
def test_fixed_points_rest_and_have_the_stated_jacobians(setting, fraction):
    tau, alpha_p, sigma2 = setting["tau"], setting["alpha_p"], setting["sigma2"]
    eta = fraction * float(modes.critical_eta(tau, sigma2))
    lower, upper = modes.fixed_points(eta, tau=tau, sigma2=sigma2)
    a = 1 + sigma2
    assert abs(lower + upper - tau / a) < 1e-14 and abs(lower * upper - eta / a) < 1e-15
    for p in (lower, upper):
        point = {"tau": tau, "alpha_p": alpha_p, "eta": eta, "sigma2": sigma2}
        assert np.abs(modes.mode_derivatives(p, p**2 / alpha_p, **point)).max() < 1e-14
        j = modes.jacobian(p, p**2 / alpha_p, **point)
        across, along = modes.jacobian_eigenvalues(p, eta=eta, sigma2=sigma2)
        scale = np.abs(j).max()
        expected = np.sort([across, along])
        assert np.abs(np.sort(np.linalg.eigvals(j).real) - expected).max() < 1e-6 * scale  # sqrt(eps) where they meet
        assert abs(np.trace(j) - expected.sum()) < 1e-14 * scale * 10
        h = 1e-6
        columns = [
            (
                np.array(modes.mode_derivatives(p + h * i, p**2 / alpha_p + h * (1 - i), **point))
                - np.array(modes.mode_derivatives(p - h * i, p**2 / alpha_p - h * (1 - i), **point))
            )
            / (2 * h)
            for i in (1, 0)
        ]
        assert np.abs(np.stack(columns, 1) - j).max() < 1e-8 * (1 + scale)
    assert modes.jacobian_eigenvalues(upper, eta=eta, sigma2=sigma2)[1] < 0
    assert modes.jacobian_eigenvalues(lower, eta=eta, sigma2=sigma2)[1] > 0
    at_zero = np.linalg.eigvals(modes.jacobian(0.0, 0.0, tau=tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2))
    assert np.allclose(np.sort(at_zero), np.sort(modes.jacobian_eigenvalues(0.0, eta=eta, sigma2=sigma2)))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_at_the_critical_decay_the_fixed_points_vanish(factor):
    critical = modes.critical_eta(0.9, 0.3)
    p = 0.9 / (2 * 1.3)  # where they meet
    end = modes.mode_flow(2000.0, 1.2 * p, (1.2 * p) ** 2, tau=0.9, alpha_p=1.0, eta=factor * critical, sigma2=0.3)
    assert (end.s > 1e-2) == (factor < 1)
    lower, upper = modes.fixed_points(critical, tau=0.9, sigma2=0.3)
    assert abs(lower - p) < 1e-15 and abs(upper - p) < 1e-15
    with pytest.raises(ValueError, match=r"eta must be at most the critical one.*every mode collapses"):
        modes.fixed_points([0.01, 1.1 * critical], tau=0.9, sigma2=0.3)


@given(
    st.floats(0.3, 1.5),
    st.floats(0, 1),
    st.one_of(st.just(0.0), st.floats(0.05, 0.95)),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
@examples(60)
def test_escape_times_are_those_of_the_flow(tau, sigma2, fraction, start, end):
    """To 1e-10, in every interval between fixed points, against the flow from p0 for that time."""
    eta = fraction * float(modes.critical_eta(tau, sigma2))
    lower, upper = (float(v) for v in modes.fixed_points(eta, tau=tau, sigma2=sigma2))
    start, end = min(start, end), max(start, end)
    cases = [(lower + start * (upper - lower), lower + end * (upper - lower)), (upper * (1 + end), upper * (1 + start))]
    cases.append((-upper * end, -upper * start))
    if eta > 0:
        cases.append((lower * end, lower * start))
    for p0, p1 in cases:
        t = float(modes.escape_time(p0, p1, eta=eta, tau=tau, sigma2=sigma2))
        if t > 200 or t == 0:
            continue
        reached = float(modes.parabola_flow(t, p0, eta=eta, tau=tau, sigma2=sigma2))
        speed = abs(reached * (reached * (tau - (1 + sigma2) * reached) - eta))
        assert abs(reached - p1) <= 1e-10 * max(1.0, t) * max(speed, 1.0)


@pytest.mark.parametrize("eta", [1e-4, 1e-8, 1e-12, 1e-15, 0.2, 0.25 - 1e-4, 0.25 - 1e-9, 0.25, 0.25 + 1e-9, 0.26, 3.0])
def test_escape_times_keep_their_digits_where_fixed_points_come_close(eta):
    """Against adaptive quadrature of dt = dp / [p^2 (1 - p) - eta p], with the polynomial in the form p (eta_c - eta + ...)."""
    lower, upper = (float(v) for v in modes.fixed_points(min(eta, 0.25), tau=1.0, sigma2=0.0))
    cases = [
        (max(0.1, lower + 0.3 * (upper - lower)), lower + 0.9 * (upper - lower)),
        (1.3, upper + 0.1),
        (-0.1, -0.01),
    ]
    if eta >= 0.25:  # nothing lies between the fixed points, or there are none
        cases[0] = (0.51, 0.5 + 1e-3)
    if eta > 0.25:
        cases.append((2.0, 0.1))
    if eta > 0.1:
        cases.append((0.9 * lower, 0.1))
    for start, end in cases:
        t = quad(lambda p: -1 / (p * ((p - 0.5) ** 2 - (0.25 - eta))), start, end, epsabs=0, epsrel=1e-12, limit=200)[0]
        assert abs(modes.escape_time(start, end, eta=eta, tau=1.0, sigma2=0.0) / t - 1) < 1e-10


@pytest.mark.parametrize("p0", [1e-3, 1e-5, 1e-6])
def test_a_small_mode_escapes_in_time_beside_a_large_one(p0):
    """Growth by p / p0 multiplies the tolerance of 1e-12; nothing of the large mode's scale enters."""
    t = modes.escape_time(p0, 0.5, eta=0.0, tau=1.0, sigma2=0.0)
    start = np.array([p0, 1.0])
    together = modes.mode_flow(float(t), start, start**2, tau=1.0, alpha_p=1.0, eta=0.0, sigma2=0.0)
    assert abs(together.p[0] / 0.5 - 1) < 1e-12 * 0.5 / p0 + 1e-9
    assert abs(together.s[0] / 0.25 - 1) < 2e-12 * 0.5 / p0 + 1e-9
    assert abs(modes.parabola_flow(float(t), p0, eta=0.0, tau=1.0, sigma2=0.0) / 0.5 - 1) < 1e-12 * 0.5 / p0 + 1e-9


@pytest.mark.long
def test_a_mode_comes_back_from_far_below_rounding():
    """From p > tau / A under little decay s falls by 100 orders before p has decayed; the parabola then draws it to p_+."""
    eta = 2e-3
    found = modes.mode_flow(np.linspace(0, 40 / eta, 4001), 1.5, 1e-3, tau=1.0, alpha_p=1.0, eta=eta, sigma2=0.0)
    assert found.s.min() < 1e-40 and found.s[-1] > 0.9
    assert np.all(found.s > 0) and abs(found.p[-1] - modes.fixed_points(eta, tau=1.0, sigma2=0.0)[1]) < 1e-9
    still = modes.mode_flow([0.0, 3.0], 0.4, 0.0, tau=1.0, alpha_p=1.0, eta=0.1, sigma2=0.0)  # s = 0 stays
    assert np.all(still.s == 0) and abs(still.p[1] - 0.4 * np.exp(-0.3)) < 1e-12


def test_the_escape_is_algebraic():
    p0 = np.array([1e-2, 1e-3, 1e-4])
    t = modes.escape_time(p0, 0.5, eta=0.0, tau=1.0, sigma2=0.0)
    assert np.all(np.abs(t * p0 - 1) < 0.1) and abs(t[2] * p0[2] - 1) < 2e-3


@given(seeds, st.floats(0.1, 2), st.floats(0, 0.2))
@examples(15)
def test_the_moving_average_of_eq_15_is_that_of_eq_13(seed, beta, eta):
    rng = np.random.default_rng(seed)
    p0, t = rng.uniform(0.3, 0.9), np.linspace(0, 10, 401)
    # tau(0) = 0 on the parabola: eq. (13) holds from there
    found = modes.mode_flow(t, p0, p0**2 / 1.5, tau=0.0, alpha_p=1.5, eta=eta, sigma2=0.2, beta=beta)
    rebuilt = modes.ema_from_predictor(t, found.p, beta)
    keep = found.p > 1e-3
    assert keep.sum() > 10 and np.abs(rebuilt - found.tau)[keep].max() < 1e-6
    constant = modes.ema_from_predictor(t, np.full((2, 401), 0.7), beta)
    assert np.abs(constant - (1 - np.exp(-beta * t))).max() < 1e-13


@given(seeds, setting)
@examples(30)
def test_the_alignment_margin_is_an_eigenvalue_of_the_commutator_matrix(seed, setting):
    rng = np.random.default_rng(seed)
    p, s = rng.uniform(-1, 1, 3), rng.uniform(0, 1, 3)
    margin = modes.alignment_margin(p, s, **setting)
    k = matrices.commutator_matrix(np.diag(s), np.diag(p), **setting)
    assert np.abs(margin - np.diag(k)).max() < 1e-14 * 10


@given(st.floats(0.1, 1), st.floats(0.5, 2), st.floats(0.05, 0.95), st.floats(0.3, 2))
def test_anisotropic_fixed_points_rest(lambda_d, lambda_s, fraction, alpha_p):
    eta = fraction * float(modes.anisotropic_critical_eta(lambda_d, lambda_s))
    for w_p in modes.anisotropic_fixed_points(lambda_d, lambda_s, eta):
        w = w_p / np.sqrt(alpha_p)
        rates = modes.anisotropic_derivatives(
            w_p, w, w, lambda_d=lambda_d, lambda_s=lambda_s, alpha_p=alpha_p, beta=0.7, eta=eta
        )
        assert np.abs(rates).max() < 1e-14


def test_the_anisotropic_derivatives_are_those_of_the_loss():
    w, w_p, w_a, lambda_d, lambda_s = 0.7, 0.4, 0.5, 0.6, 1.1
    gw, gp = twin.gradients(
        np.array([[w]]), np.array([[w_p]]), np.array([[w_a]]), np.array([[lambda_d]]), np.array([[lambda_s - lambda_d]])
    )
    found = modes.anisotropic_derivatives(
        w_p, w, w_a, lambda_d=lambda_d, lambda_s=lambda_s, alpha_p=1.5, beta=0.3, eta=0.1
    )
    assert np.allclose(found, (-1.5 * gp[0, 0] - 0.1 * w_p, -gw[0, 0] - 0.1 * w, 0.3 * (w - w_a)), atol=1e-15)


FULL = {"tau": 1.0, "alpha_p": 1.0, "eta": 0.1, "sigma2": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modes.mode_flow(1.0, 1.0, -1.0, **FULL), "s0 must be >= 0"),
        (lambda: modes.mode_flow(-1.0, 1.0, 1.0, **FULL), "t must be >= 0"),
        (lambda: modes.mode_flow(1.0, 1.0, 1.0, **(FULL | {"alpha_p": 0.0})), "alpha_p must be > 0"),
        (lambda: modes.mode_derivatives(1.0, np.nan, **FULL), "s must be finite"),
        (lambda: modes.fixed_points(0.1, tau=0.0, sigma2=0.0), "tau must be > 0"),
        (lambda: modes.fixed_points(-0.1, tau=1.0, sigma2=0.0), "eta must be >= 0"),
        (
            lambda: modes.escape_time(0.1, 0.5, eta=0.3, tau=1.0, sigma2=0.0),
            "p1 must lie on the way.*p1 = 0.5 with fixed points at 0$",
        ),
        (
            lambda: modes.escape_time(0.8, 0.4, eta=0.25, tau=1.0, sigma2=0.0),
            "p1 must lie on the way.*fixed points at 0, 0.5$",
        ),
        (
            lambda: modes.escape_time(0.1, 0.5, eta=0.16, tau=1.0, sigma2=0.0),
            "p1 must lie on the way.*fixed points at 0, 0.2, 0.8",
        ),
        (lambda: modes.escape_time(0.3, 0.9, eta=0.16, tau=1.0, sigma2=0.0), "p1 must lie on the way"),
        (lambda: modes.escape_time(0.5, 0.3, eta=0.0, tau=1.0, sigma2=0.0), "p1 must lie on the way"),
        (lambda: modes.escape_time(0.0, 0.5, eta=0.0, tau=1.0, sigma2=0.0), "p1 must lie on the way"),
        (
            lambda: modes.ema_from_predictor([0.0, 1.0, 1.0, 2.0], np.ones(4), 1.0),
            "t must be at least 4 times that increase",
        ),
        (lambda: modes.ema_from_predictor(np.arange(4.0), np.ones(5), 1.0), "must fit t"),
        (lambda: modes.ema_from_predictor(np.arange(4.0), np.zeros(4), 1.0), "p must be > 0"),
        (lambda: modes.anisotropic_fixed_points(0.5, 1.0, 0.1), r"eta must be at most lambda_d\^2"),
        (lambda: modes.anisotropic_fixed_points(0.0, 1.0, 0.1), "lambda_d must be > 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

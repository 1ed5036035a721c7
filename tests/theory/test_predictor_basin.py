"""Which starts collapse: the separatrix against integration of single modes to late times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tests.profiles import examples
from theory.predictor import basin, modes

seeds = st.integers(0, 10**6)


def collapses_slowly(p, s, *, tau, alpha_p, eta, sigma2):
    """Integrate (p, log s) until the fate is clear; log s, since trajectories pass s = 1e-10 and survive."""
    a = 1 + sigma2

    def slope(_, state):
        p, log_s = state
        slack = tau - a * p
        pull = alpha_p * np.exp(min(log_s, 50.0)) * slack  # s stays far below that; steps that are tried may not
        return [pull - eta * p, 2 * p * slack - 2 * eta]

    found = solve_ivp(slope, (0, 150 / eta), [p, np.log(s)], method="LSODA", rtol=1e-11, atol=1e-12)
    assert found.success
    return found.y[1, -1] < 2 * np.log(modes.fixed_points(eta, tau=tau, sigma2=sigma2)[0]) - np.log(alpha_p) - 5


@pytest.mark.slow
@given(seeds)
@examples(10)
def test_verdicts_are_those_of_integration(seed):
    rng = np.random.default_rng(seed)
    tau, alpha_p, sigma2 = rng.uniform(0.3, 1.5), rng.uniform(0.3, 3), rng.uniform(0, 1)
    setting = {"tau": tau, "alpha_p": alpha_p, "sigma2": sigma2}
    setting["eta"] = rng.uniform(0.03, 0.95) * float(modes.critical_eta(tau, sigma2))
    unit = tau / (1 + sigma2)
    p, s = unit * rng.uniform(-1.5, 3, 8), unit**2 / alpha_p * rng.uniform(0, 2, 8)
    assert basin.collapses(p, s, **setting).tolist() == [
        collapses_slowly(a, b, **setting) for a, b in zip(p, s, strict=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize("eta", [0.02, 0.1, 0.2])
def test_on_the_parabola_the_fate_flips_at_the_lower_fixed_point(eta):
    setting = {"tau": 1.0, "alpha_p": 0.7, "eta": eta, "sigma2": 0.1}
    lower, _ = modes.fixed_points(eta, tau=1.0, sigma2=0.1)
    p = lower * np.array([0.98, 1 - 1e-9, 1 + 1e-9, 1.02])
    assert basin.collapses(p, p**2 / 0.7, **setting).tolist() == [True, True, False, False]


@pytest.mark.slow
def test_the_separatrix_is_a_trajectory_that_ends_in_the_saddle():
    for eta in (0.01, 0.1, 0.18):
        setting = {"tau": 0.9, "alpha_p": 1.4, "eta": eta, "sigma2": 0.05}
        line = basin.separatrix(**setting, extent=(-3.0, 3.0, 0.0, 3.0))
        lower, upper = modes.fixed_points(eta, tau=0.9, sigma2=0.05)
        distance = np.abs(line - (lower, lower**2 / 1.4)).max(1)
        saddle = int(distance.argmin())
        assert distance[saddle] < 1e-6 and line[:, 0].min() < -0.5 and line[:, 0].max() > upper
        p, s = line[:: max(1, len(line) // 12)].T  # two sides of the line have two fates
        assert basin.collapses(p, s * (1 - 1e-5), **setting).all()
        assert not basin.collapses(p, s * (1 + 1e-5), **setting).any()
        # against an independent integration forward from the line: it comes within 1e-4 of the saddle
        for p, s in line[[saddle // 2, (saddle + len(line)) // 2]]:
            t = np.linspace(0, 40 / eta, 4001)
            path = modes.mode_flow(t, p, s, **setting)
            assert np.hypot(path.p - lower, path.s - lower**2 / 1.4).min() < 1e-4


def backwards(h, sign, at):
    """P and dP/dC of the separatrix at log|C| = `at`, tau = alpha_p = 1, sigma2 = 0: eq. (11) backwards in time, C by its exact law."""
    saddle = 2 * h / (1 + np.sqrt(1 - 4 * h))
    slope = -h / saddle / (3 * h - saddle**2)  # dP/dC of the stable eigenvector
    start = 1e-6 * saddle**2  # off by the square of 1e-6, relative, and backwards in time the separatrix attracts

    def rate(log_c, p):
        return -((sign * np.exp(log_c) + p**2) * (1 - p) - h * p) / (2 * h)

    settings = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-15}
    found = solve_ivp(rate, (np.log(start), at[-1]), [saddle + slope * sign * start], t_eval=at, **settings)
    p = found.y[0]
    return p, rate(at, p) / (sign * np.exp(at))


@pytest.mark.slow
@pytest.mark.parametrize("h", [1e-4, 4e-4, 0.01, 0.1, 0.24])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_separatrix_is_exact_to_a_hundred_millionth(h, sign):
    """Starts to the left and to the right of an independently integrated separatrix, a distance of 2e-8 of its scale."""
    scale = (2 * h / (1 + np.sqrt(1 - 4 * h))) ** 2
    # C > 0 while it ends beyond P = -0.3; C < 0 while S = C + P^2 keeps 7 digits
    c = scale * (np.array([1e-4, 1e-2, 0.1, 0.5, 1.0, 2.0]) if sign > 0 else np.array([1e-4, 1e-2, 0.1, 0.3]))
    p, steepness = backwards(h, sign, np.log(c))
    away = 2e-8 * np.sqrt(scale) * (1 + np.abs(steepness) * np.sqrt(scale))
    for side in (-1, 1):
        start = p + side * away
        verdict = basin.collapses(start, sign * c + start**2, tau=1.0, alpha_p=1.0, eta=h, sigma2=0.0)
        assert np.all(verdict == (side < 0))


@pytest.mark.slow
@pytest.mark.parametrize("eta", [1e-8, 1e-6, 2e-5, 2e-4, 4e-4])
def test_under_a_small_decay_starts_beyond_a_long_dive_survive(eta):
    """s falls by up to 1 / eta factors of e on the way, and comes back."""
    setting = {"tau": 1.0, "alpha_p": 1.0, "eta": eta, "sigma2": 0.0}
    p, s = np.array([0.9, 1.5, 1.2, 1.5, 2.4, 2.8, -0.5, -0.5]), np.array([0.05, 0.3, 1e-3, 1e-3, 0.2, 3.0, 0.24, 0.26])
    slowly = [collapses_slowly(a, b, **setting) for a, b in zip(p, s, strict=True)]
    assert basin.collapses(p, s, **setting).tolist() == slowly
    assert 2 < sum(slowly) < 6


@pytest.mark.slow
@pytest.mark.parametrize("h", [1e-9, 1e-7, 1e-5])
def test_under_a_vanishing_decay_the_basin_ends_at_minus_four_and_at_pi_h_squared(h):
    """C > 0: near the saddle, for P and sqrt(C) of order h, P_sep = h x cot x with x = sqrt(C) / h, which ends at x = pi.
    C < 0: S ~ 0 from P0 = sqrt(-C) on, and log S comes back where 2 P - P^2 does, at P = 2 - P0 > 0."""
    setting = {"tau": 1.0, "alpha_p": 1.0, "eta": h, "sigma2": 0.0}
    for c, fates in (((1 - 1e-3) * (np.pi * h) ** 2, True), ((1 + 1e-3) * (np.pi * h) ** 2, False)):
        p = -1e4 * h
        assert basin.collapses(p, c + p**2, **setting) == fates
    for factor, fate in ((1 - 100 * h, False), (1 + 100 * h, True)):
        p = np.array([2.001, 2.01, 2.5, 10.0, 1e3])
        assert (basin.collapses(p, p**2 - 4 * factor, **setting) == fate).all()
    p, s = basin.separatrix(**setting, extent=(2.01, 10.0, 0.0, 1e4)).T
    assert p.size > 100 and np.all(np.abs(s - p**2 + 4) < 1e-6 * s + 100 * h)


@pytest.mark.slow
def test_at_the_critical_decay_the_double_fixed_point_holds_one_side():
    assert not basin.collapses(0.8, 0.64, tau=1.0, alpha_p=1.0, eta=0.25, sigma2=0.0)
    for tau, alpha_p, sigma2 in ((1.0, 1.0, 0.0), (0.9, 1.7, 0.3), (0.7, 0.4, 1 / 3)):
        setting = {"tau": tau, "alpha_p": alpha_p, "sigma2": sigma2, "eta": float(modes.critical_eta(tau, sigma2))}
        double, rng = tau / (2 * (1 + sigma2)), np.random.default_rng(2)
        p = double * np.array([0.5, 1 - 1e-6, 1 + 1e-6, 1.7])
        assert basin.collapses(p, p**2 / alpha_p, **setting).tolist() == [True, True, False, False]
        p, s = double * rng.uniform(-1, 3, 60), double**2 / alpha_p * rng.uniform(0, 4, 60)
        line = basin.separatrix(**setting, extent=(-double, 3 * double, 0.0, 4 * double**2 / alpha_p))
        near = np.abs(line[None] - np.stack([p, s], -1)[:, None]).max(-1).min(-1) < 0.05 * double
        # p - double falls like 1 / t on the side that is held, the mode exponentially on the other
        end = modes.mode_flow(400 / setting["eta"], p[~near], s[~near], **setting)
        verdict = basin.collapses(p[~near], s[~near], **setting)
        assert np.array_equal(verdict, end.p < double / 2) and 10 < verdict.sum() < verdict.size - 10
        assert basin.collapses(p, s, **(setting | {"eta": np.nextafter(setting["eta"], 1)})).all()
        assert not basin.collapses(p, s, **(setting | {"eta": np.nextafter(setting["eta"], 0)})).all()


@pytest.mark.parametrize("sigma2", [0.0, 0.5])
def test_without_decay_the_exact_rule_holds(sigma2):
    rng = np.random.default_rng(3)
    setting = {"tau": 0.8, "alpha_p": 1.3, "eta": 0.0, "sigma2": sigma2}
    edge = 0.8 / (1 + sigma2)
    p, s = rng.uniform(-1, 3 * edge, 60), rng.uniform(1e-3, 1.5, 60)
    c = s - p**2 / 1.3
    clear = (np.abs(c) > 0.02) & (np.abs(c + edge**2 / 1.3) > 0.02)
    end = modes.mode_flow(400.0, p[clear], s[clear], **setting)
    verdict = basin.collapses(p[clear], s[clear], **setting)
    assert np.array_equal(verdict, end.s < 1e-3) and 5 < verdict.sum() < len(verdict) - 5
    line = basin.separatrix(**setting, extent=(-1.0, 2.0, 0.0, 1.0))
    assert np.all(np.where(line[:, 0] < 0, line[:, 1] - line[:, 0] ** 2 / 1.3, 0) < 1e-14)
    # the sufficient condition of the paper is not necessary
    assert not basin.collapses(0.2, 0.01, **setting) and 0.01 < 0.2**2 / 1.3


@pytest.mark.slow
def test_shapes_settings_and_edges():
    p, s = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 1, 4))
    verdict = basin.collapses(p, s, tau=1.0, alpha_p=1.0, eta=0.1, sigma2=0.0)
    assert verdict.shape == (4, 5) and verdict.dtype == bool
    assert verdict[0].all()  # s = 0
    taus, etas = np.linspace(0.5, 1.5, 4), np.linspace(0.01, 0.6, 5)
    many = basin.collapses(0.3, 0.2, tau=taus[:, None], alpha_p=1.0, eta=etas, sigma2=0.0)
    each = [
        [bool(basin.collapses(0.3, 0.2, tau=tau, alpha_p=1.0, eta=eta, sigma2=0.0)) for eta in etas] for tau in taus
    ]
    assert many.tolist() == each
    assert basin.collapses(5.0, 100.0, tau=1.0, alpha_p=1.0, eta=0.25 * (1 + 1e-15), sigma2=0.0)
    assert np.all(np.diff(many.astype(int), axis=1) >= 0) and np.all(np.diff(many.astype(int), axis=0) <= 0)


@pytest.mark.slow
@given(seeds, st.floats(0.3, 3), st.floats(0.3, 3))
@examples(4)
def test_units_do_not_matter(seed, alpha_p, tau):
    rng = np.random.default_rng(seed)
    p, s, h = rng.uniform(-1, 2, 20), rng.uniform(0, 2, 20), rng.uniform(0.01, 0.24)
    plain = basin.collapses(p, s, tau=1.0, alpha_p=1.0, eta=h, sigma2=0.0)
    unit = tau / 1.5
    scaled = basin.collapses(
        unit * p, unit**2 / alpha_p * s, tau=tau, alpha_p=alpha_p, eta=h * tau**2 / 1.5, sigma2=0.5
    )
    assert np.array_equal(plain, scaled)


FULL = {"tau": 1.0, "alpha_p": 1.0, "eta": 0.1, "sigma2": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: basin.collapses(0.1, -0.1, **FULL), "s0 must be >= 0"),
        (lambda: basin.collapses(np.inf, 0.1, **FULL), "p0 must be finite"),
        (lambda: basin.collapses(0.1, 0.1, **(FULL | {"tau": 0.0})), "tau must be > 0"),
        (lambda: basin.collapses(0.1, 0.1, **(FULL | {"eta": 1e-10})), "eta must be 0 or at least"),
        (lambda: basin.separatrix(**(FULL | {"eta": 1e-10}), extent=(0, 1, 0, 1)), "eta must be 0 or at least"),
        (
            lambda: basin.separatrix(**(FULL | {"eta": 0.3}), extent=(0, 1, 0, 1)),
            "eta must be at most the critical one, 0.25",
        ),
        (lambda: basin.separatrix(**FULL, extent=(1, 0, 0, 1)), "extent must be"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

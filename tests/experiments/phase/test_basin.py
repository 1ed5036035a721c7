"""The map of collapse: its boundary against closed forms, its horizon and steps, what blows up, and what a run leaves."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import theory
from grassmann_ssl.experiments.phase import basin as experiment
from grassmann_ssl.experiments.phase import fates
from grassmann_ssl.experiments.phase.basin import BasinConfig, boundary, predict, schedule, simulate_cells
from grassmann_ssl.experiments.phase.modes import modes
from grassmann_ssl.report.phase.basin import page
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome
from grassmann_ssl.training import simulate

CPU = torch.device("cpu")


def corners(config):
    return predict(config, *np.meshgrid(*config.edges))


@pytest.mark.slow
def test_the_boundary_of_settings_is_the_closed_form_for_a_start_on_the_parabola():
    """From (p0, p0^2 / alpha_p) a mode collapses iff p0 < p_-, that is eta > p0 (tau - A p0) where tau > 2 A p0, else eta > critical."""
    p0, alpha_p, a = 0.15, 2.0, 1.25
    config = BasinConfig(axes="eta-tau", cells=10, start=(p0, p0**2 / alpha_p), alpha_p=alpha_p)
    points = boundary(config, corners(config)).reshape(-1, 2)
    eta, tau = points.T
    expected = np.where(tau > 2 * a * p0, p0 * (tau - a * p0), tau**2 / (4 * a))
    slope = np.where(tau > 2 * a * p0, p0, tau / (2 * a))  # of eta along tau
    x, y = config.edges
    edge = max(x[1] - x[0], slope.max() * (y[1] - y[0]))
    assert len(points) > 14 and np.abs(eta - expected).max() < 2**-13 * edge


@pytest.mark.slow
def test_the_boundary_of_starts_is_the_separatrix():
    config = BasinConfig(cells=20)
    ends = boundary(config, corners(config)).reshape(-1, 2)
    curve = theory.predictor.basin.separatrix(tau=1.0, alpha_p=1.0, eta=0.15, sigma2=0.25, extent=(-0.8, 1.6, 0, 1.2))
    p, s = curve[np.argsort(curve[:, 0])].T
    x, y = config.edges
    steepest = np.abs(np.gradient(s, p)).max()
    reach = 2**-13 * (y[1] - y[0] + steepest * (x[1] - x[0]))
    assert len(ends) > 40 and np.abs(np.interp(ends[:, 0], p, s) - ends[:, 1]).max() < reach


@pytest.mark.slow
@given(
    st.floats(0.2, 1.5),
    st.floats(0.1, 15),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    st.floats(0, 2),
    st.floats(-2, 3),
    st.floats(1e-3, 5),
)
def test_steps_are_short_against_the_fastest_eigenvalue_on_the_way(tau, alpha_p, eta, sigma2, p, s):
    settings = {"tau": tau, "alpha_p": alpha_p, "eta": eta, "sigma2": sigma2}
    until = 5.0
    steps = fates.even_steps(until, np.array([p]), np.array([s]), **settings)
    state = {"p": torch.tensor([p], dtype=torch.float64), "s": torch.tensor([s], dtype=torch.float64)}
    run = simulate(modes, state, settings, step=until / steps, steps=steps, log_every=1)
    ps, ss = run["p"][:, 0].numpy(), run["s"][:, 0].numpy()
    a, slack = 1 + sigma2, tau - (1 + sigma2) * ps
    jacobian = np.array(
        [[-alpha_p * a * ss - eta, alpha_p * slack], [2 * ss * (slack - a * ps), 2 * (ps * slack - eta)]]
    )
    fastest = np.abs(np.linalg.eigvals(np.moveaxis(jacobian, -1, 0))).max()
    assert steps % 2 == 0 and until / steps * fastest < 1.4 * fates.STEP_TIMES_RATE


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eta": 0.0},
        {"eta": 0.4},
        {"alpha_p": 3.0, "sigma2": 0.0, "eta": 0.05, "tau": 0.7},
        {"axes": "eta-tau"},
        {"axes": "eta-tau", "start": (0.4, 0.02), "alpha_p": 2.0},
    ],
    ids=str,
)
def test_verdicts_differ_only_in_cells_that_the_boundary_crosses(settings, tmp_path):
    config = BasinConfig(cells=16, out=tmp_path / "run", **settings)
    outcome = run(config)
    counts = outcome.record["counts"]
    assert counts["differing_not_crossed"] == 0 and counts["blown_up"] == 0
    assert counts["differing"] <= counts["crossed"] < 0.4 * counts["cells"]
    beyond = settings.get("eta") == 0.4
    assert counts["collapsed"] == counts["cells"] if beyond else 0 < counts["collapsed"] < counts["cells"]
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    different = frame["collapsed"] != frame["collapsed_predicted"]
    assert not (different & ~frame["crossed"]).any() and len(frame) == 16**2
    assert any("beyond the critical" in finding.quantity for finding in outcome.findings) == beyond


@pytest.mark.long
def test_memory_does_not_change_the_map():
    config = BasinConfig(cells=64)
    until, steps = schedule(config)
    whole = simulate_cells(config, until, steps, torch.device("cpu"))
    small = simulate_cells(BasinConfig(cells=64, memory=1), until, steps, torch.device("cpu"))
    assert np.array_equal(whole.p, small.p) and np.array_equal(whole.s, small.s)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"eta": 0.02}, {"axes": "eta-tau", "start": (-0.1, 0.3)}],
    ids=str,
)
def test_four_horizons_change_no_verdict_but_on_the_boundary(settings):
    config = BasinConfig(cells=10, **settings)
    until, steps = schedule(config)
    one, four = (simulate_cells(config, k * until, k * steps, CPU).collapsed.reshape(10, 10) for k in (1, 4))
    c = corners(config)
    mixed = np.stack([c[1:, 1:], c[1:, :-1], c[:-1, 1:], c[:-1, :-1]])
    crossed = mixed.any(0) & ~mixed.all(0)
    assert not ((one != four) & ~crossed).any()


def test_ends_are_those_of_an_integrator_of_high_order():
    config = BasinConfig(cells=8)
    until, steps = schedule(config)
    found = simulate_cells(config, until, steps, CPU)
    column, row = np.meshgrid(*((edges[1:] + edges[:-1]) / 2 for edges in config.edges))

    def slopes(_, state):
        p, s = state
        return [s * (1 - 1.25 * p) - 0.15 * p, 2 * p * s * (1 - 1.25 * p) - 0.3 * s]

    exact = np.array(
        [
            solve_ivp(slopes, (0, until), start, method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
            for start in zip(column.ravel(), row.ravel(), strict=True)
        ]
    )
    # A step of half the fastest time constant is off by (1/2)^5 / 120 while that decays; the saddle multiplies what comes near it.
    assert np.abs(np.stack([found.p, found.s], -1) - exact).max() < 1e-3
    assert np.median(np.abs(found.p - exact[:, 0])) < 1e-6


def test_every_cell_has_its_own_time():
    """Equal steps to a time of its own are what a simulation to that one time gives."""
    settings = {"alpha_p": 1.5, "sigma2": 0.1, "steps": 40, "device": CPU, "memory": 1}
    p, s, eta, tau = np.array([0.3, -0.2]), np.array([0.2, 0.4]), np.array([0.05, 0.1]), np.array([1.0, 0.7])
    both = fates.fates(p, s, eta=eta, tau=tau, until=np.array([6.0, 11.0]), **settings)
    for k, until in enumerate((6.0, 11.0)):
        alone = fates.fates(p[k : k + 1], s[k : k + 1], eta=float(eta[k]), tau=float(tau[k]), until=until, **settings)
        assert abs(both.p[k] - alone.p[0]) < 1e-14 and abs(both.s[k] - alone.s[0]) < 1e-14


@pytest.mark.slow
def test_cells_that_blow_up_are_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(fates, "STEP_TIMES_RATE", 12.0)
    outcome = run(BasinConfig(cells=10, p_range=(-3.0, 4.0), s_range=(0.0, 9.0), out=tmp_path / "run"))
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    blown = int(frame["blown_up"].sum())
    assert 0 < blown == outcome.record["counts"]["blown_up"] and not (frame["blown_up"] & frame["collapsed"]).any()
    assert any("blew up" in line.quantity and line.measured == str(blown) for line in outcome.findings)
    assert outcome.record["counts"]["differing"] == int(
        ((frame["collapsed"] != frame["collapsed_predicted"]) & ~frame["blown_up"]).sum()
    )


@pytest.mark.slow
def test_a_wrong_theory_is_found_out(tmp_path, monkeypatch):
    """The requirement can fail: a boundary for another weight decay leaves differing cells that it does not cross."""
    collapses = theory.predictor.basin.collapses
    monkeypatch.setattr(
        theory.predictor.basin, "collapses", lambda p, s, **given: collapses(p, s, **(given | {"eta": 0.13}))
    )
    outcome = run(BasinConfig(cells=32, out=tmp_path / "run"))
    assert outcome.record["counts"]["differing_not_crossed"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"eta": 0.0}, {"eta": 0.4}, {"axes": "eta-tau"}], ids=str)
def test_a_stored_run_can_be_drawn_again(settings, tmp_path):
    config = BasinConfig(cells=8, out=tmp_path / "run", **settings)
    run(config)
    folder = tmp_path / "run"
    drawn = page(Outcome.load(folder))
    assert [section.name for section in drawn.sections] == ["basin"]
    assert (folder / "basin.svg").stat().st_size > 10_000
    html = (folder / "report.html").read_text()
    assert "<svg" in html and "http" not in html
    assert ("no boundary" in drawn.sections[0].caption) == (settings.get("eta") == 0.4)


def test_what_cannot_be_simulated_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="use a weight decay eta of 0 or a larger one"):
        run(BasinConfig(cells=16, eta=1e-6, out=tmp_path / "run"))
    assert not any(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(BasinConfig(cells=8, out=tmp_path / "run"))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_progress_counts_every_step_of_every_cell(tmp_path):
    seen, totals = [], []

    def progress(total):
        totals.append(total)
        return lambda label, n=1: seen.append(n)

    config = BasinConfig(cells=8, out=tmp_path / "run")
    run(config, progress)
    assert totals == [sum(seen)] == [64 * schedule(config)[1]]

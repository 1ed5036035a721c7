"""Flow fields: the plane w_a = w is the plane of modes, a fast target is an equal one, and findings notice a wrong rule."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.experiments.phase import flow_fields as experiment
from grassmann_ssl.experiments.phase.flow_fields import (
    FlowFieldsConfig,
    as_modes,
    equal_target,
    following_target,
)
from grassmann_ssl.experiments.phase.modes import modes
from grassmann_ssl.run import run
from grassmann_ssl.training import simulate

numbers = st.floats(-2, 2)
positive = st.floats(0.1, 2)


@given(numbers, numbers, positive, positive, positive, st.floats(0, 1))
def test_with_an_equal_target_the_square_of_the_weight_is_a_mode(w_p, w, lambda_s, share, alpha_p, eta):
    """d(w^2)/dt = 2 w dw/dt, in units of time 1 / lambda_s; and a following target that is equal has the same slopes."""
    lambda_d = min(share, 1.0) * lambda_s
    config = FlowFieldsConfig(lambda_s=lambda_s, lambda_d=lambda_d, alpha_p=alpha_p, eta=(eta,))
    p, x = (torch.tensor([v], dtype=torch.float64) for v in (w_p, w))
    settings = {"lambda_d": lambda_d, "lambda_s": lambda_s, "alpha_p": alpha_p, "eta": eta}
    slopes = equal_target(p, x, **settings)
    scaled = modes(p, x**2, **as_modes(config, eta))
    size = 1e-14 * (1 + lambda_s) * (1 + alpha_p) * (1 + abs(w_p)) ** 2 * (1 + abs(w)) ** 2 * (1 + eta)
    assert abs(slopes["w_p"] - lambda_s * scaled["p"]).item() < size
    assert abs(2 * x * slopes["w"] - lambda_s * scaled["s"]).item() < 4 * size
    followed = following_target(p, x, x, **settings, beta=0.7)
    assert abs(followed["w_p"] - slopes["w_p"]).item() < size and abs(followed["w"] - slopes["w"]).item() < size
    assert followed["w_a"].item() == 0


def test_a_fast_target_is_an_equal_one():
    settings = {"lambda_d": 0.5, "lambda_s": 1.0, "alpha_p": 1.3, "eta": 0.03}
    start = {"w_p": torch.tensor([0.4, -0.3], dtype=torch.float64), "w": torch.tensor([0.5, 0.6], dtype=torch.float64)}
    equal = simulate(equal_target, start, settings, step=1e-3, steps=500)
    lag = []
    for beta in (100.0, 200.0):
        state, own = start | {"w_a": start["w"]}, settings | {"beta": beta}
        followed = simulate(following_target, state, own, step=1e-3, steps=500)
        lag.append((followed["w"][-1] - equal["w"][-1]).abs().max().item())
    # The target lags by (dw/dt) / beta, with dw/dt below 0.1 here, so that half the lag remains at twice the rate.
    assert 1e-6 < lag[0] < 0.1 / 100 and 1.9 < lag[0] / lag[1] < 2.1


@pytest.mark.slow
def test_beyond_the_critical_weight_decay_everything_collapses_whatever_the_target(tmp_path):
    config = FlowFieldsConfig(eta=(0.1,), target=0.8, starts=(5, 4), alpha_p=0.6, out=tmp_path / "run")
    outcome = run(config)
    assert abs(outcome.record["eta_critical"] - 1 / 16) < 1e-15
    for panel in outcome.record["panels"]:
        assert panel["collapsed"] == panel["trajectories"] == 20 and panel["end_error"] is None
    lines = [line for line in outcome.findings if line.quantity.startswith("collapse")]
    assert len(lines) == 2 and all("all collapse" in line.predicted for line in lines)
    assert lines[1].agreement == "as predicted"


@pytest.mark.slow
def test_ends_are_the_fixed_points_of_anisotropic_data(tmp_path):
    """w_p* = (l_d + sqrt(l_d^2 - 4 eta l_s)) / (2 l_s), w = +- w_p* / sqrt(alpha_p); the numbers below by hand."""
    config = FlowFieldsConfig(
        eta=(0.1,), lambda_s=2.0, lambda_d=1.0, alpha_p=4.0, beta=0.5, starts=(4, 2), seed=3, out=tmp_path / "run"
    )
    outcome = run(config)
    assert max(panel["conservation_error"] for panel in outcome.record["panels"]) < 1e-4
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    alive = frame[~frame["collapsed"]]
    upper = (1 + 0.2**0.5) / 4
    assert alive["following"].sum() > 2 and (~alive["following"]).sum() > 2
    assert np.abs(alive["end_w_p"] - upper).max() < 1e-5
    assert np.abs(np.abs(alive["end_w"]) - upper / 2).max() < 1e-5
    assert not frame[frame["panel"] == 0]["following"].any() and frame[frame["panel"] == 1]["following"].all()


@pytest.mark.slow
def test_a_wrong_rule_is_found_out(tmp_path, monkeypatch):
    right = experiment.equal_target

    def wrong(w_p, w, **settings):
        slopes = right(w_p, w, **settings)
        return slopes | {"w": slopes["w"] / 2}

    monkeypatch.setattr(experiment, "equal_target", wrong)
    monkeypatch.setattr(experiment, "TARGETS", ("equal",))
    outcome = run(FlowFieldsConfig(eta=(0.03,), starts=(4, 4), out=tmp_path / "run"))
    (panel,) = outcome.record["panels"]
    assert panel["conservation_error"] > 0.02 and panel["differing"] > 0

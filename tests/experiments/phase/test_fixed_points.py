"""Ends against weight decay: closed forms, settings at the edge, and findings that notice a wrong rule."""

import numpy as np
import pandas as pd
import pytest

from grassmann_ssl.experiments.phase import fates
from grassmann_ssl.experiments.phase.fixed_points import FixedPointsConfig
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError


@pytest.mark.slow
def test_no_weight_decay_is_zero_or_critical(tmp_path):
    """5 weight decays up to twice the critical one would put the third on it."""
    outcome = run(FixedPointsConfig(out=tmp_path / "run", tau=(1.0,), alpha_p=(1.0,), etas=5, beyond=2.0))
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    critical = outcome.record["panels"][0]["eta_critical"]
    assert critical == pytest.approx(1 / 5) and frame["eta"].min() > 0
    assert np.abs(frame["eta"] - critical).min() > 0.05 * critical
    assert len(frame) == 10 and frame["above"].sum() == 5


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.02, 0.3])
def test_ends_are_the_roots_of_the_cubic(offset, tmp_path):
    config = FixedPointsConfig(out=tmp_path / "run", tau=(0.8,), alpha_p=(0.5, 3.0), sigma2=0.6, etas=6, offset=offset)
    run(config)
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    for _, row in frame.iterrows():
        a, alpha_p = 1.6, (0.5, 3.0)[int(row["panel"])]
        roots = np.roots([a, -0.8, row["eta"]])  # of the slope over p, on the parabola
        real = sorted(roots.real) if np.isreal(roots).all() else None
        expected = real[1] if real and row["above"] else 0.0
        assert abs(row["end_p"] - expected) < 1e-5 and abs(row["end_s"] - expected**2 / alpha_p) < 1e-5
        assert row["collapsed"] == (expected == 0)
        start = (real[0] if real else 0.25) + (1 if row["above"] else -1) * offset * 0.5
        assert row["start_p"] == pytest.approx(start, abs=1e-12)


@pytest.mark.slow
def test_a_wrong_rule_is_found_out(tmp_path, monkeypatch):
    right = fates.modes

    def wrong(p, s, *, eta, **settings):
        return right(p, s, eta=1.1 * eta, **settings)

    monkeypatch.setattr(fates, "modes", wrong)
    outcome = run(FixedPointsConfig(out=tmp_path / "run", tau=(1.0,), alpha_p=(1.0,), etas=12))
    panel = outcome.record["panels"][0]
    assert panel["upper_error"] > 1e-3 and panel["starts_above_surviving"] < panel["starts_above"]
    assert any(finding.agreement == "not in between" for finding in outcome.findings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": (1.0, 2.0), "alpha_p": (1.0, 1.0, 1.0)}, "tau must give 1 number or 3, one a panel, got 2"),
        ({"beyond": 1.0}, "beyond must be finite and > 1"),
        ({"etas": 3}, "etas must be finite and >= 4"),
        ({"offset": 0.0}, "offset must be finite and > 0"),
        ({"tau": ()}, "tau must not be empty"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        FixedPointsConfig(**settings)

"""Phase portraits: starts and paths, panels, and findings that notice a wrong rule."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from grassmann_ssl.experiments.phase import portraits as experiment
from grassmann_ssl.experiments.phase.paths import DRAWN, even_along, scattered
from grassmann_ssl.experiments.phase.portraits import PortraitsConfig
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError


def test_there_is_one_start_in_every_cell():
    x, y = scattered((-1.0, 2.0), (0.0, 1.0), (6, 4), torch.Generator().manual_seed(3))
    column, row = np.floor((x + 1) / 3 * 6), np.floor(y * 4)
    assert sorted(zip(row, column, strict=True)) == [(i, j) for i in range(4) for j in range(6)]


def test_points_of_a_path_are_evenly_spread_along_it():
    angle = np.linspace(0, np.pi / 2, 4000)[:, None] ** np.array([1.0, 1.3])  # the second at a varying speed
    angle /= angle[-1] / (np.pi / 2)
    paths = even_along(np.cos(angle), np.sin(angle))
    expected = np.linspace(0, np.pi / 2, DRAWN)
    assert paths.shape == (2, DRAWN, 2)
    assert np.abs(paths - np.stack([np.cos(expected), np.sin(expected)], -1)).max() < 1e-6


def test_a_path_that_rests_stays_where_it_is():
    assert np.array_equal(even_along(np.full((5, 1), 0.3), np.zeros((5, 1)))[0], np.tile([0.3, 0.0], (DRAWN, 1)))


def test_panels_broadcast_and_misfits_are_named():
    config = PortraitsConfig(tau=(1.0, 0.5), eta=(0.02,), alpha_p=(1.0, 3.0), sigma2=0.1)
    assert config.panels() == [
        {"tau": 1.0, "eta": 0.02, "alpha_p": 1.0, "sigma2": 0.1},
        {"tau": 0.5, "eta": 0.02, "alpha_p": 3.0, "sigma2": 0.1},
    ]
    with pytest.raises(ConfigError, match="tau must give 1 number or 3, one a panel, got 2"):
        PortraitsConfig(tau=(1.0, 0.5))
    with pytest.raises(ConfigError, match="eta must not be empty"):
        PortraitsConfig(eta=())
    with pytest.raises(ConfigError, match="s_range must run from a smaller to a larger"):
        PortraitsConfig(s_range=(1.0, 1.0))


SMALL = {"eta": (0.0, 0.15, 0.4), "alpha_p": (1.0, 2.0, 1.0), "starts": (7, 5)}


@pytest.mark.slow
def test_trajectories_end_where_theory_says(tmp_path):
    outcome = run(PortraitsConfig(out=tmp_path / "run", **SMALL))
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    assert len(frame) == 3 * 35 and (frame["collapsed"] == frame["predicted"]).all()
    decayed, beyond = frame[frame["panel"] == 1], frame[frame["panel"] == 2]
    assert 0 < decayed["collapsed"].sum() < 35 and beyond["collapsed"].all()
    alive = decayed[~decayed["collapsed"]]  # p*_+ = 0.6 for tau = 1, A = 1.25, eta = 0.15; s = p^2 / alpha_p
    assert np.abs(alive["end_p"] - 0.6).max() < 1e-3 and np.abs(alive["end_s"] - 0.18).max() < 1e-3
    still = frame[(frame["panel"] == 0) & ~frame["collapsed"]]
    # Without weight decay survivors end on the line p = tau / A, s = c + p^2.
    c = still["s"] - still["p"] ** 2
    assert np.abs(still["end_p"] - 0.8).max() < 1e-2 and np.abs(still["end_s"] - (c + still["end_p"] ** 2)).max() < 1e-4
    assert any("all: η > 0.2" in finding.predicted for finding in outcome.findings)
    assert all(outcome.arrays[f"path_{k}"].shape == (35, DRAWN, 2) for k in range(3))
    # 0.7 of a time constant a step while the fastest rate decays: (0.35)^5 / 120 each
    assert max(panel["conservation_error"] for panel in outcome.record["panels"]) < 1e-4


@pytest.mark.slow
def test_a_wrong_rule_is_found_out(tmp_path, monkeypatch):
    right = experiment.modes

    def wrong(p, s, **settings):
        slopes = right(p, s, **settings)
        return {"p": slopes["p"], "s": slopes["s"] / 2}

    monkeypatch.setattr(experiment, "modes", wrong)
    outcome = run(PortraitsConfig(out=tmp_path / "run", eta=(0.15,), starts=(9, 7)))
    panel = outcome.record["panels"][0]
    assert panel["differing"] > 0 and panel["conservation_error"] > 0.05


QUICK = {"eta": (0.15,), "starts": (4, 3)}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_the_folder_is_whole(tmp_path):
    first, second = (run(PortraitsConfig(out=tmp_path / name, **QUICK)) for name in "ab")
    assert all(np.array_equal(first.metrics[name], second.metrics[name]) for name in first.metrics)
    other = run(PortraitsConfig(out=tmp_path / "c", **QUICK, seed=2))
    assert any(not np.array_equal(first.metrics[name], other.metrics[name]) for name in first.metrics)
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["experiment"] == "phase-portraits"
    assert {"portraits.svg", "report.html", "arrays.safetensors"} <= {path.name for path in (tmp_path / "a").iterdir()}
    with pytest.raises(ConfigError, match="holds another run"):
        run(PortraitsConfig(out=tmp_path / "a"))

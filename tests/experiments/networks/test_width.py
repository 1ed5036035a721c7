"""`width` as its users see it: the laws within the error of the learning rate, the run folder, and refusals before any work."""

import json

import geoopt
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

import theory
from grassmann_ssl.experiments.networks.layers import descend
from grassmann_ssl.experiments.networks.width import WidthConfig, factors, width
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.objectives import trace_loss
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError
from tests.oracles import dynamics as twin

SMALL = {"data": "gaussian", "dim": 3, "hidden": (3, 6, 12), "seeds": 3, "rates": (0.2, 0.1), "horizon": 20.0}


def product_loss(matrix):
    return lambda first, second: trace_loss(weights=first @ second, matrix=matrix)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run(WidthConfig(out=tmp_path_factory.mktemp("width") / "run", **SMALL))


@pytest.fixture
def problem():
    """C (7, 7) with eigenvalues of both signs, and starts (4, 7, 2)."""
    rng = np.random.default_rng(1)
    matrix = torch.as_tensor(twin.symmetric(rng, [-0.5, -0.3, -0.1, 0.0, 0.1, 0.2, 0.4]))
    return matrix, torch.linalg.qr(torch.as_tensor(rng.standard_normal((4, 7, 2))))[0]


def run_layers(matrix, layers, manifold, rate, horizon):
    end = descend(
        product_loss(matrix), layers, [manifold("polar")] * 2, learning_rate=rate, steps=round(horizon / rate),
        observe=lambda step, weights: None,
    )  # fmt: skip
    return (end[0] @ end[1]).numpy()


def distance(a, b):
    return np.linalg.norm(twin.projector(a) - twin.projector(b), 2, axis=(-2, -1)).max()


# --- training several layers --------------------------------------------------------------------------------------


def test_free_layers_take_plain_gradient_steps():
    rng = np.random.default_rng(2)
    matrix, first, second = (
        twin.symmetric(rng, [-1.0, 0.5, 2.0]),
        rng.standard_normal((3, 4)),
        rng.standard_normal((4, 2)),
    )
    seen = []
    end = descend(
        product_loss(torch.as_tensor(matrix)), [torch.as_tensor(first)[None], torch.as_tensor(second)[None]],
        [geoopt.Euclidean()] * 2, learning_rate=0.01, steps=3, observe=lambda step, weights: seen.append(step),
    )  # fmt: skip
    for _ in range(3):
        gradient = 2 * matrix @ first @ second
        first, second = first - 0.01 * gradient @ second.T, second - 0.01 * first.T @ gradient
    assert np.abs(end[0][0].numpy() - first).max() < 1e-14 and np.abs(end[1][0].numpy() - second).max() < 1e-14
    assert seen == [0, 1, 2, 3]


def test_training_ends_where_it_is_asked_to():
    steps, weights = [], torch.ones(1, 2, 1)
    descend(
        lambda w: w.square().sum((-2, -1)), [weights], [geoopt.Euclidean()], learning_rate=0.1, steps=9,
        observe=lambda step, seen: step == 4, on_step=lambda: steps.append(1),
    )  # fmt: skip
    assert len(steps) == 4


@pytest.mark.parametrize("hidden", [2, 5, 7])
def test_every_width_starts_from_the_same_product(problem, hidden):
    starts = problem[1]
    first, second = factors(starts, hidden, torch.Generator().manual_seed(3))
    assert first.shape == (4, 7, hidden) and second.shape == (4, hidden, 2)
    for w in (first, second):
        assert torch.dist(w.mT @ w, torch.eye(w.shape[-1], dtype=w.dtype).expand(4, -1, -1)) < 1e-13
    assert torch.dist(first @ second, starts) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [2, 4, 7])
def test_in_the_grassmann_metric_the_error_is_of_first_order_for_every_width(problem, hidden):
    matrix, starts = problem
    layers = factors(starts, hidden, torch.Generator().manual_seed(4))
    exact = theory.constrained.grassmann_flow(3.0, starts.numpy(), matrix.numpy())
    coarse, fine = (distance(run_layers(matrix, layers, Grassmann, rate, 3.0), exact) for rate in (0.02, 0.01))
    # First order: 2 up to terms of relative size lr * |lambda| = 0.01.
    assert coarse / fine == pytest.approx(2, abs=0.1) and fine < 0.01 * 3.0


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "speed"), [(2, 1.0), (7, 1.5)])
def test_in_the_euclidean_metric_the_two_ends_are_one_layer_and_one_and_a_half_times_faster(problem, hidden, speed):
    matrix, starts = problem
    layers = factors(starts, hidden, torch.Generator().manual_seed(5))
    exact, other = (
        theory.constrained.grassmann_flow(3.0 * s, starts.numpy(), matrix.numpy()) for s in (speed, 2.5 - speed)
    )
    coarse, fine = (run_layers(matrix, layers, Stiefel, rate, 3.0) for rate in (0.02, 0.01))
    assert distance(coarse, exact) / distance(fine, exact) == pytest.approx(2, abs=0.1)
    assert distance(fine, exact) < 0.03 * distance(fine, other)


@pytest.mark.slow
def test_in_the_euclidean_metric_other_widths_follow_the_flow_of_their_span(problem):
    matrix, starts = problem
    layers = factors(starts, 4, torch.Generator().manual_seed(6))
    exact = theory.two_layer.stiefel_product_flow(3.0, *(w.numpy() for w in layers), matrix.numpy())
    coarse, fine = (distance(run_layers(matrix, layers, Stiefel, rate, 3.0), exact) for rate in (0.02, 0.01))
    assert coarse / fine == pytest.approx(2, abs=0.1) and fine < 0.02


# --- what a run finds ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_width_follows_one_law_to_first_order(outcome):
    grassmann, limit = outcome.record["grassmann"], outcome.record["max_learning_rate"]
    worst = np.array(grassmann["max_projector_error"])
    assert worst.shape == (3, 2) and np.all(np.abs(np.array(grassmann["order"]) - 1) < 0.1)
    assert worst[:, -1].max() < 0.1 / limit  # first order with a constant of one in units of the stability limit
    # Widths differ to second order only: the polar retraction turns no basis.
    assert grassmann["max_difference_between_widths"] < 0.1 * worst[:, -1].max()
    assert np.allclose(outcome.arrays["projector_errors"].max((1, 2)), worst[:, -1])
    assert outcome.arrays["projector_errors"][:, 0].max() < 1e-12


@pytest.mark.slow
def test_the_other_metric_depends_on_the_width(outcome):
    stiefel, grassmann = outcome.record["stiefel"], outcome.record["grassmann"]
    error = max(stiefel["max_projector_error"])
    assert error < 0.15 / outcome.record["max_learning_rate"]
    assert stiefel["max_difference_between_widths"] > 5 * error
    speed = {name: np.array(values) for name, values in stiefel["median_speed"].items()}
    assert speed["law"][0] == pytest.approx(1, abs=2e-3) and speed["law"][-1] == pytest.approx(1.5, abs=5e-3)
    assert np.all(np.diff(speed["law"]) > 0.005)
    assert np.abs(speed["stiefel"] / speed["law"] - 1).max() < 0.05 and np.abs(speed["grassmann"] - 1).max() < 0.05
    assert np.ptp(speed["grassmann"]) < 2e-3
    assert grassmann["max_difference_between_widths"] < 0.1 * stiefel["max_difference_between_widths"]


@pytest.mark.slow
def test_angles_and_coordinates_follow_their_rates(outcome):
    grassmann, arrays = outcome.record["grassmann"], outcome.arrays
    assert grassmann["max_angle_error"] <= np.max(grassmann["max_projector_error"]) * 1.6  # angle / sine, at most pi/2
    assert grassmann["rate_ratio"] == pytest.approx(1, abs=0.1 / outcome.record["max_learning_rate"])
    eigenvalues = np.array(outcome.record["data"]["eigenvalues"])
    assert arrays["exact_decay_rates"].shape == (9, 3) and arrays["decay_rates"].shape == (3, 9, 3)
    assert arrays["exact_decay_rates"][2, 1] == pytest.approx(2 * (eigenvalues[5] - eigenvalues[1]))
    assert arrays["exact_decay_rates"].min() == pytest.approx(2 * outcome.record["data"]["gap"])
    assert (
        np.abs(arrays["occupations"] - arrays["exact_occupations"]).max() < 2 * grassmann["max_projector_error"][0][-1]
    )
    assert arrays["exact_occupations"].sum(-1).max() <= 3 + 1e-12 and arrays["exact_occupations"][-1, :3].min() > 0.9


@pytest.mark.slow
def test_the_free_layer_collapses_at_the_predicted_slope(outcome):
    free, arrays = outcome.record["free"], outcome.arrays
    eigenvalues = outcome.record["data"]["eigenvalues"]
    assert free["slope"]["predicted"] == pytest.approx(-2 * (eigenvalues[1] - eigenvalues[0]))
    assert free["slope"]["measured"] == pytest.approx(free["slope"]["at_learning_rate"], rel=0.02)
    assert free["final_effective_rank"] == pytest.approx(free["exact_final_effective_rank"], abs=0.02)
    assert free["final_effective_rank"] < 1.1 and free["mean_cosine"][2] > 0.95 > free["mean_cosine"][3]
    assert free["sign_agreement"] > 0.95
    assert arrays["cosines"].shape == (4, 60, 60) and np.abs(arrays["cosines"]).max() < 1 + 1e-12


@pytest.mark.slow
def test_a_learning_rate_beyond_the_limit_is_a_stated_result(tmp_path):
    settings = SMALL | {"rates": (5.0,), "hidden": (3, 4), "seeds": 2}
    beyond = run(WidthConfig(out=tmp_path / "run", **settings))
    assert beyond.record["max_learning_rate"] < 5.0 and "beyond it" in beyond.findings[0].agreement
    assert beyond.record["grassmann"]["order"] == [None, None]


@pytest.mark.slow
def test_one_output_and_one_width_leave_no_gaps(tmp_path):
    alone = run(WidthConfig(out=tmp_path / "run", **SMALL | {"dim": 1, "hidden": (4,), "horizon": 2.0, "seeds": 1}))
    assert alone.record["grassmann"]["max_difference_between_widths"] is None
    assert alone.record["free"]["slope"]["predicted"] is None and "size_ratio" not in alone.arrays
    assert "not reached in this run" in " ".join(f.measured or "" for f in alone.findings)


# --- what a run leaves --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_run_folder_is_complete_and_open(outcome):
    folder = outcome.folder
    assert {path.name for path in folder.iterdir()} == {
        ".files.json", "run.json", "config.toml", "metrics.parquet", "arrays.safetensors", "report.html",
        "projector.svg", "modes.svg", "metrics.svg", "cosines.svg", "collapse.svg",
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "width" and record["config"]["hidden"] == [3, 6, 12]
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert set(metrics["hidden"]) == {3, 6, 12} and set(metrics["rate"]) == {0.2, 0.1} and metrics["time"].max() == 20
    assert metrics.notna().all().all()
    assert metrics["projector_error_max"].max() == pytest.approx(np.max(record["grassmann"]["max_projector_error"]))
    arrays = load_file(folder / "arrays.safetensors")
    assert all(np.isfinite(values).all() for values in arrays.values()) and arrays["angles"].shape[0] == 3
    html = (folder / "report.html").read_text()
    assert "our settings" in html and '<svg class="panel"' in html and "http" not in html


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    settings = SMALL | {"hidden": (3, 5), "rates": (0.2,), "horizon": 4.0}
    runs = [width(WidthConfig(seed=seed, **settings)) for seed in (4, 4, 5)]
    assert all(np.array_equal(runs[0].arrays[name], runs[1].arrays[name]) for name in runs[0].arrays)
    assert not np.array_equal(runs[0].arrays["angles"], runs[2].arrays["angles"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "faces"}, "data: unknown data set 'faces'; known are digits"),
        ({"objective": "barlow_twins"}, "objective: unknown trace loss 'barlow_twins'"),
        ({"dim": 0}, "dim must be finite and >= 1, got 0"),
        ({"seeds": 0}, "seeds must be finite and >= 1"),
        ({"hidden": ()}, "hidden must not be empty"),
        ({"hidden": (2, 6)}, "hidden must be finite and >= 3, got 2"),
        ({"hidden": (6, 3)}, "hidden must increase"),
        ({"rates": (0.1, 0.2)}, "rates must decrease"),
        ({"rates": (0.0,)}, "rates must be finite and > 0, got 0"),
        ({"rates": (30.0,)}, "rates must be at most horizon = 20"),
        ({"horizon": float("inf")}, "horizon must be finite"),
        ({"spectrum": (-1.0,)}, "spectrum must be finite and >= 0"),
        ({"hidden": (3, 13)}, "hidden must be at most the input dimension m = 12 of gaussian"),
        ({"dim": 12, "hidden": (12,)}, "dim must be below the input dimension m = 12"),
        ({"spectrum": (0.0, 0.0, 0.0, 0.0)}, "cross-moment|input dimension"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(WidthConfig(out=tmp_path / "run", **SMALL | settings))
    assert list(tmp_path.iterdir()) == []

"""The stepwise experiment: step times of every loss and source against theory, kernels against features, bad settings."""

import json

import numpy as np
import pandas as pd
import pytest

import theory
from grassmann_ssl.experiments.linear import stepwise as experiment
from grassmann_ssl.experiments.linear.stepwise import StepwiseConfig
from grassmann_ssl.experiments.linear.stepwise_laws import quartic
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError
from tests.experiments.progress import Interrupting


def trained(tmp_path, **settings):
    return run(StepwiseConfig(out=tmp_path / "run", **({"seeds": 3, "dim": 4} | settings)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "barlow_twins", "share": 0.02},
        {"loss": "spectral_contrastive", "share": 0.02},
        {"loss": "squared_vicreg", "beta": 0.5, "share": 0.02},
        {"loss": "spectral_contrastive", "data": "gaussian", "noise": 0.4, "share": 0.02},
        {"loss": "squared_vicreg", "beta": 0.5, "data": "gaussian", "noise": 0.4, "share": 0.02},
        {"loss": "infonce", "data": "gaussian", "noise": 0.4, "share": 0.02},
        {"loss": "barlow_twins", "data": "photos", "share": 0.02},
        {"loss": "barlow_twins", "data": "extent_bias", "dim": 2, "noise": 0.3, "share": 0.05, "init_scale": 1e-3},
    ],
    ids=lambda settings: "-".join(str(v) for v in settings.values()),
)
def test_step_times_are_within_three_per_cent(settings, tmp_path):
    outcome = trained(tmp_path, **settings)
    times = outcome.record["step_times"]
    # 5 % where the settings make the learning rate cost that much. On photos two modes rise almost together in some seeds: while
    # they mix, the sorted eigenvalues keep a distance, and single steps are off by 9 %.
    which, limit = ("median_error", 0.03) if settings.get("data") == "photos" else ("worst_error", 0.03)
    assert times["not_seen"] == 0 and times[which] < (0.05 if settings["share"] == 0.05 else limit)
    assert times["worst_error"] > 1e-5  # training is discrete, and starts at a finite scale: it cannot be exact
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    known = outcome.record["times"]
    assert np.allclose(np.abs(frame["measured"] / frame[known] - 1).max(), times["worst_error"])
    # rule of the columns: predicted is what a closed form says, not the flow that is trained
    commuting = settings["loss"] == "barlow_twins" or settings.get("data") == "gaussian"
    assert known == ("predicted" if commuting else "integrated") and ("predicted" in frame) == commuting
    finding = outcome.findings[0]
    assert (finding.predicted is not None) == commuting == ("integration of the same flow" not in finding.quantity)
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("no independent prediction" in page) == (not commuting)


def test_where_moments_commute_the_closed_form_is_the_integrated_flow_and_elsewhere_it_is_not_used():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    gamma, noise = np.array([0.5, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.2, 0.15])
    cross, second = ((turn * values) @ turn.T for values in (gamma, gamma + noise))
    start = 1e-6 * rng.standard_normal((2, 4, 3))
    law = quartic(cross, second, start)
    integrated = theory.losses.quartic_step_times(start, cross, second)
    assert law.closed and np.abs(np.sort(law.times) / np.sort(integrated) - 1).max() < 0.02  # of the small start
    assert np.allclose(np.sort(law.curves(np.array([1e4]))[0])[::-1], law.heights)
    turned = second + 1e-3 * np.diag([1.0, 0, 0, 0])
    crossing = (turn * np.array([0.6, 1.2, 0.2, 0.2])) @ turn.T  # the second mode is fast and ends low
    for moment in (turned, crossing):
        other = quartic(cross, moment, start)
        assert not other.closed and other.curves is None


@pytest.mark.slow
def test_the_settings_of_the_requirement(tmp_path):
    """On digits: five seeds and eight modes of each loss within 3 %."""
    for k, loss in enumerate(("spectral_contrastive", "squared_vicreg")):
        outcome = run(StepwiseConfig(out=tmp_path / str(k), loss=loss, seeds=5, dim=8, share=0.02))
        assert outcome.record["step_times"]["worst_error"] < 0.03 and outcome.record["step_times"]["not_seen"] == 0


@pytest.mark.slow
def test_a_finite_learning_rate_costs_its_share(tmp_path):
    errors = [
        trained(tmp_path / str(share), data="gaussian", noise=0.3, share=share, dim=2).record["step_times"][
            "median_error"
        ]
        for share in (0.01, 0.04)
    ]
    assert 2 < errors[1] / errors[0] < 6 and errors[0] < 0.01


@pytest.mark.slow
def test_off_diagonal_weights_slow_the_steps_and_raise_the_plateau(tmp_path):
    outcome = trained(
        tmp_path,
        data="gaussian",
        barlow_lambda=0.3,
        spectrum=(1.0, 0.5, 0.25, 0.12, 0.02),
        dim=3,
        init_scale=1e-7,
        share=0.03,
    )
    (plateau,) = [f for f in outcome.findings if f.quantity.startswith("first plateau")]
    assert abs(float(plateau.measured) / float(plateau.predicted) - 1) < 0.01
    assert outcome.record["first_plateau"]["seeds"] == 3 and plateau.agreement == "read in 3 of 3 seeds"
    assert outcome.record["step_times"]["median_error"] < 0.06  # leading order in log(1/scale)


@pytest.mark.slow
def test_a_plateau_between_steps_that_overlap_is_not_read(tmp_path):
    outcome = trained(
        tmp_path, data="gaussian", barlow_lambda=0.3, spectrum=(1.0, 0.8, 0.7, 0.1), dim=3, init_scale=1e-3, share=0.05
    )
    (plateau,) = [f for f in outcome.findings if f.quantity.startswith("first plateau")]
    assert plateau.measured is None and plateau.agreement.startswith("read in 0 of 3 seeds")


@pytest.mark.slow
def test_a_kernel_method_is_predicted_from_its_kernel(tmp_path):
    outcome = trained(tmp_path, model="random_features", dim=2, features=64, pairs=60, share=0.03, init_scale=1e-8)
    assert outcome.record["kernel"]["closed_form_error"] < 1e-8
    assert outcome.record["kernel"]["trained_error"] < 0.2
    assert outcome.record["step_times"]["median_error"] < 0.03
    assert (tmp_path / "run" / "held_out.svg").stat().st_size > 5000
    arrays = outcome.arrays
    assert arrays["held_out_trained"].shape == (60, 2)


@pytest.mark.slow
def test_the_a_priori_times_are_those_of_the_draw(tmp_path):
    outcome = trained(tmp_path, data="gaussian", noise=0.2, seeds=20, dim=3)
    # The cloud of embeddings has one more dimension after each step, and is drawn from the folder.
    cloud, stills = outcome.arrays["cloud"], outcome.arrays["cloud_stills"]
    spread = cloud.var(1) / cloud[-1].var(0)
    assert [int((spread[k] > 0.5).sum()) for k in stills] == [0, 1, 2, 3]
    assert outcome.arrays["cloud_time"][stills[1]] == pytest.approx(outcome.arrays["cloud_steps"][:2].mean(), rel=0.05)
    assert (
        "a point; t = " in (tmp_path / "run" / "report.html").read_text() and (tmp_path / "run" / "growth.svg").exists()
    )
    said, times = outcome.record["a_priori"], outcome.arrays["measured_times"]
    # the largest of 3 standardised deviations of a mean over 20 seeds, and a bias of up to 1 of the finite learning rate
    assert said["worst_deviation"] < 4
    away = np.abs(times.mean(0) - said["mean"]) / (np.array(said["standard_deviation"]) / 20**0.5)
    assert said["worst_deviation"] == pytest.approx(away.max(), rel=1e-12)
    # the standard deviation of the draws themselves, from 20 of them to 30 %, three standard errors or so
    assert times.std(0, ddof=1) == pytest.approx(said["standard_deviation"], rel=0.5)


@pytest.mark.slow
def test_the_folder_and_repeatability(tmp_path):
    first = trained(tmp_path / "a", data="gaussian", dim=2, share=0.05)
    second = trained(tmp_path / "b", data="gaussian", dim=2, share=0.05)
    assert np.array_equal(first.metrics["measured"], second.metrics["measured"])
    folder = tmp_path / "a" / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "stepwise" and record["step_times"] == first.record["step_times"]
    assert {"staircase.svg", "step_times.svg", "report.html"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="holds another run"):
        trained(tmp_path / "a", data="gaussian")


@pytest.mark.long
def test_equal_eigenvalues_are_compared_as_a_group(tmp_path, monkeypatch):
    population = experiment.population
    monkeypatch.setattr(
        experiment, "moments_of", lambda data: population(StepwiseConfig(spectrum=(1.0, 0.5, 0.5, 0.1)))
    )
    outcome = trained(tmp_path, data="gaussian", spectrum=(1.0, 0.5, 0.5, 0.1), dim=2, share=0.05)
    (group,) = [f for f in outcome.findings if f.quantity == "subspace"]
    assert "gamma_2 to gamma_3" in group.predicted and "subspace_angle" not in outcome.record


def stopped(at, **settings):
    small = {"data": "gaussian", "seeds": 2, "dim": 2, "share": 0.1, "init_scale": 1e-2, "spectrum": (1.0, 0.6, 0.2)}
    return experiment.stepwise(StepwiseConfig(**small | settings), Interrupting(at))


def test_an_interrupted_run_claims_nothing_of_the_end():
    outcome = stopped(108)  # of 182, between the two steps
    times, due = outcome.arrays["measured_times"], outcome.arrays["predicted_times"] < outcome.arrays["time"][-1]
    assert outcome.interrupted == "after step 107 of 182"
    assert np.isfinite(times[due]).all() and np.isinf(times[~due]).all() and due.sum(0).tolist() == [2, 0]
    (finding,) = outcome.findings
    assert finding.agreement.endswith("; 2 predicted after the end") and "not seen" not in finding.agreement
    step_times = outcome.record["step_times"]
    errors = np.abs(times / outcome.arrays["predicted_times"] - 1)[due]
    assert step_times["not_seen"] == 0 and step_times["worst_error"] == errors.max()
    assert outcome.record["a_priori"]["worst_deviation"] is None and "subspace_angle" not in outcome.record
    plateau = {finding.quantity for finding in stopped(60, barlow_lambda=2.0).findings}
    assert plateau == {"step times, 2 seeds x 2 modes"}


def test_an_interrupted_run_compares_no_trained_kernel():
    outcome = stopped(40, model="random_features", features=16, pairs=20)
    assert outcome.interrupted and "held_out_trained" not in outcome.arrays and "kernel" not in outcome.record


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "cifar"}, "data must be one of digits, photos"),
        ({"loss": "simclr"}, "loss must be one of barlow_twins"),
        ({"model": "resnet"}, "model must be one of linear"),
        ({"loss": "infonce"}, "infonce of the population is known for gaussian data"),
        ({"model": "random_features", "loss": "squared_vicreg"}, "the kernel form is that of barlow_twins"),
        ({"share": 0.2}, "share must be finite and <= 0.1|share must be finite and > 0 and <= 0.1"),
        ({"noise": -1.0}, "noise must be"),
        ({"spectrum": (1.0, 0.0)}, "spectrum must be finite and > 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        StepwiseConfig(**settings)


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 65}, "dim = 65 is larger than the input dimension m = 64"),
        ({"data": "extent_bias", "dim": 9, "noise": 0.5}, "dim = 9 is above|needs .* gradient steps"),
        ({"loss": "squared_vicreg", "beta": 20.0, "dim": 20}, "the number of dimensions that do not collapse"),
        ({"model": "random_features", "pairs": 10_000}, "pairs must be at most 8985"),
        ({"data": "gaussian", "dim": 12, "share": 1e-4}, "gradient steps, more than 200,000"),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, **settings)
    assert not (tmp_path / "run").exists()

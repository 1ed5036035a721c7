"""The comparison as its users see it: the promised numbers on digits, the run folder, and refusals before any work."""

import json
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import theory
from grassmann_ssl import cli
from grassmann_ssl.audit import Rule
from grassmann_ssl.experiments.linear import judged
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.experiments.linear.measure import collapse_slope
from grassmann_ssl.experiments.linear.predictions.predict import PREDICTED
from grassmann_ssl.experiments.linear.summary import table
from grassmann_ssl.objectives import trace_loss
from grassmann_ssl.report.terminal import summary
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome
from grassmann_ssl.training import ARMS, train_full_batch
from tests.commands import command
from tests.experiments.progress import Interrupting
from tests.readme import SEEDS

OBJECTIVES = tuple(PREDICTED)
TRACE = OBJECTIVES[2:]
UNBOUNDED = OBJECTIVES[2:5]
EPS = np.finfo(float).eps
ARMS_TRAINED = [(name, arm) for name in OBJECTIVES for arm in ("free", "grassmann")]


@pytest.fixture(scope="module")
def digits(demo):
    """The run of `make demo`, with the default settings, as its folder holds it."""
    _, folder = demo
    out = folder / CompareConfig().folder
    return Outcome.load(out), out


def small(out, **changes):
    settings = {"objectives": ("linear_contrastive",), "seeds": 2, "steps": 60, "dim": 3, "init_scales": (), "out": out}
    return CompareConfig(**(settings | changes))


# --- what the demo must reach on digits ---------------------------------------------------------------------------


@pytest.mark.slow
def test_step_times_are_within_three_per_cent_in_every_seed(digits):
    agreement = digits[0].record["agreement"]["barlow_twins"]["step_times"]
    assert agreement["beyond_horizon"] == 0 and np.shape(agreement["measured"]) == (SEEDS, 8)
    assert agreement["max_relative_error"] < 0.03
    error = np.abs(np.array(agreement["measured"]) / np.array(agreement["predicted"]) - 1)
    assert error.max() == pytest.approx(agreement["max_relative_error"])


@pytest.mark.slow
def test_constrained_barlow_twins_finds_the_predicted_subspace(digits):
    subspace = digits[0].record["agreement"]["barlow_twins"]["subspace"]
    assert subspace["grassmann"]["max_principal_angle"] < 1e-3
    assert 1e-3 < subspace["free"]["median_principal_angle"] < 0.5


@pytest.mark.slow
def test_the_final_angle_of_free_barlow_twins_follows_the_law(digits):
    law = digits[0].record["agreement"]["barlow_twins"]["initialisation_law"]
    gamma = digits[0].record["data"]["gamma"]
    assert law["predicted_exponent"] == pytest.approx(1 - gamma[8] / gamma[7])
    assert abs(law["measured_exponent"] - law["predicted_exponent"]) < 0.03
    assert np.all(np.diff(law["median_angles"]) < 0)  # scales run from large to small


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACE)
def test_free_trace_losses_collapse_and_the_constraint_prevents_it(digits, name):
    arms = digits[0].record["arms"][name]
    assert arms["free"]["collapsed"] is True and arms["free"]["collapsed_seeds"] == SEEDS
    assert arms["grassmann"]["collapsed"] is False and arms["grassmann"]["collapsed_seeds"] == 0
    assert arms["free"]["kind"] == ("dimensional" if name in UNBOUNDED else "complete")
    assert digits[0].record["agreement"][name]["flow"]["max_projector_error"] <= 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", UNBOUNDED)
def test_the_collapse_slope_is_as_predicted(digits, name):
    assert digits[0].record["agreement"][name]["collapse_slope"]["relative_error"] < 0.02
    slope = digits[0].record["agreement"][name]["collapse_slope"]
    # What is left of the difference is the finite learning rate.
    assert slope["measured"] == pytest.approx(slope["at_learning_rate"], rel=2e-3)
    assert digits[0].record["arms"][name]["free"]["effective_rank"] < 1.01


@pytest.mark.slow
def test_a_slope_that_is_not_reached_is_null_with_the_reason(digits):
    slope = digits[0].record["agreement"]["squared_noncontrastive"]["collapse_slope"]
    assert slope["relative_error"] is None and "does not reach the asymptotic regime" in slope["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["barlow_twins", "spectral_contrastive"])
def test_losses_with_a_scale_do_not_collapse(digits, name):
    for arm in ("free", "grassmann"):
        assert digits[0].record["arms"][name][arm]["kind_of_seed"] == ["none"] * SEEDS


@pytest.mark.slow
def test_spectral_contrastive_reaches_the_predicted_minimiser_as_far_as_its_start_lets_it(digits):
    subspace = digits[0].record["agreement"]["spectral_contrastive"]["subspace"]
    assert subspace["free"]["median_principal_angle"] < 0.5
    assert subspace["grassmann"]["max_principal_angle"] is None and "no closed form" in subspace["grassmann"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_stay_orthonormal(digits, name):
    arms = digits[0].record["arms"][name]
    assert arms["grassmann"]["orthonormality_error"] <= 1e-13 and arms["free"]["orthonormality_error"] is None


# --- what a run leaves --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_run_folder_is_complete_and_open(digits):
    outcome, out = digits
    assert {p.name for p in out.iterdir()} == {
        ".files.json",
        "run.json",
        "config.toml",
        "metrics.parquet",
        "arrays.safetensors",
        "report.html",
        "staircase.svg",
        "initialisation_law.svg",
        *(f"{name}.svg" for name in OBJECTIVES),
    }
    result = json.loads((out / "run.json").read_text())
    assert result == json.loads(json.dumps(outcome.record))
    assert {"config", "versions", "git_commit", "device", "wall_time_s", "collapse_rule", "arms", "agreement"} <= set(
        result
    )
    assert result["config"]["objectives"] == list(OBJECTIVES) and result["interrupted"] is None

    metrics = pd.read_parquet(out / "metrics.parquet")
    last = metrics[(metrics.objective == "barlow_twins") & (metrics.arm == "free") & (metrics.step == 6000)]
    assert len(last) == SEEDS
    assert last.effective_rank.median() == pytest.approx(result["arms"]["barlow_twins"]["free"]["effective_rank"])
    eigenvalues = np.stack(last.cross_eigenvalues)
    assert eigenvalues.shape == (SEEDS, 8) and np.abs(eigenvalues - 1).max() < 1e-2  # C = I is reached
    for column in (
        "loss",
        "gradient_norm",
        "log_norm",
        "rankme",
        "participation_ratio",
        "orthonormality_error",
        "principal_angle",
    ):
        assert metrics[column].dtype == float

    arrays = load_file(out / "arrays.safetensors")
    w, gamma = arrays["weights/barlow_twins/free"], arrays["moments/cross"]
    c = w.mT @ gamma @ w
    assert torch.linalg.eigvalsh(c).flip(-1).numpy() == pytest.approx(eigenvalues)


@pytest.mark.slow
def test_the_report_stands_alone_and_opens_with_the_verdicts(digits):
    html = (digits[1] / "report.html").read_text()
    assert html.count("<figure>") == len(OBJECTIVES) + 2
    assert "http" not in html and "<link" not in html and "<script" not in html
    assert html.index(">Verdicts</h2>") < html.index("<figure>")
    assert str(Rule()) in unescape(html)  # the rule behind the verdicts
    for name in OBJECTIVES:
        assert f'<h2 id="{name}">' in html


# --- the equations behind it --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_flow_error_is_of_first_order_in_the_learning_rate(tmp_path):
    errors = []
    for k, lr in enumerate((0.08, 0.04, 0.02)):
        config = small(tmp_path / str(k), objectives=("linear_noncontrastive",), arms=("grassmann",), dim=8, seeds=4, lr=lr,
                       steps=round(20 / lr))  # fmt: skip
        errors.append(run(config).record["agreement"]["linear_noncontrastive"]["flow"]["max_projector_error"])
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.abs(ratios - 2).max() < 0.1  # the next order contributes O(lr lambda), 4 % at lr = 0.08


def test_the_discrete_law_is_exact_for_the_projected_step_and_not_for_the_riemannian_one():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(10, 10, dtype=torch.float64, generator=generator)
    matrix, start = (a + a.T) / 4, torch.linalg.qr(torch.randn(10, 3, dtype=torch.float64, generator=generator))[0]
    differences = []
    for lr, steps in ((0.02, 50), (0.01, 100)):
        law = torch.as_tensor(theory.constrained.orthogonal_iteration(steps, start.numpy(), matrix.numpy(), lr))
        projected = start
        for _ in range(steps):
            projected = torch.linalg.qr(projected - 2 * lr * matrix @ projected)[0]
        assert (projected @ projected.T - law @ law.T).abs().max() < 1e-12
        trained = train_full_batch(
            lambda w: trace_loss(weights=w, matrix=matrix), start, ARMS["grassmann"](), learning_rate=lr, steps=steps
        )
        riemannian = trained.weights[-1]
        differences.append(float((riemannian @ riemannian.T - law @ law.T).abs().max()))
    # O(lr^2) a step: over a fixed time the difference halves with the learning rate.
    assert differences[1] > 1e-4 and 1.8 < differences[0] / differences[1] < 2.2


@pytest.mark.slow
def test_barlow_twins_that_ends_before_its_last_step_is_unfinished_and_not_collapsed(tmp_path):
    """The same run to four ends: the verdict follows the steps that theory puts before the end."""
    settings = {"data": "gaussian", "spectrum": (1.0, 0.6, 0.3, 0.1), "init_scale": 1e-6, "lr": 0.02}
    for steps, learned, kind in (
        (100, 0, "unfinished"),
        (450, 1, "unfinished"),
        (700, 2, "unfinished"),
        (1600, 3, "none"),
    ):
        folder = tmp_path / str(steps)
        outcome = run(small(folder, objectives=("barlow_twins",), arms=("free",), steps=steps, **settings))
        end = outcome.record["arms"]["barlow_twins"]["free"]
        assert (
            end["kind_of_seed"] == [kind] * 2
            and end["steps_learned"] == [learned] * 2
            and end["steps_predicted"] == [3, 3]
        )
        assert end["collapsed"] is False and end["collapsed_seeds"] == 0
        times = np.array(outcome.record["agreement"]["barlow_twins"]["step_times"]["predicted"])
        assert (times < end["horizon"]).sum(1).tolist() == [learned] * 2
        said = outcome.table.rows[0][2]
        assert said == (f"unfinished 2/2: {learned} of 3 steps" if kind == "unfinished" else "none 2/2")
        assert ("unfinished: theory puts" in outcome.table.note) == (kind == "unfinished")
        assert said in (folder / "report.html").read_text()


@pytest.mark.long
def test_the_constraint_guarantees_what_the_weights_at_the_end_have(tmp_path):
    record = run(small(tmp_path / "run", objectives=("barlow_twins",), steps=5)).record
    error = record["arms"]["barlow_twins"]["grassmann"]["orthonormality_error"]
    assert f"guarantees is the rank of W (‖WᵀW − I‖ at most {error:.2g} at the end)" in table(record).note
    record["arms"]["barlow_twins"]["grassmann"]["orthonormality_error"] = 1.5
    assert "The constraint guarantees nothing: ‖WᵀW − I‖ is 1.5 at the end." in table(record).note
    del record["arms"]["barlow_twins"]["grassmann"]
    assert "guarantees" not in table(record).note


def test_collapse_slope_needs_the_asymptotic_regime():
    time = np.linspace(0, 10, 101)
    singular = np.stack([np.ones((101, 1)), np.exp(-2.0 * time)[:, None]], -1)
    assert collapse_slope(time, singular) == pytest.approx([-2.0])
    assert collapse_slope(time[:20], singular[:20]) is None
    assert collapse_slope(time, singular[..., :1]) is None


@pytest.mark.slow
def test_photos_run_too(tmp_path):
    result = run(small(tmp_path / "run", data="photos", objectives=OBJECTIVES)).record
    assert set(result["arms"]) == set(OBJECTIVES)


def rows_of(outcome, objective):
    """The metrics of each arm of an objective, over stored steps and seeds."""
    metrics, arms = outcome.metrics, {}
    for arm in outcome.record["arms"][objective]:
        own = (metrics["objective"] == objective) & (metrics["arm"] == arm)
        seeds = int(metrics["seed"][own].max()) + 1
        arms[arm] = {name: column[own].reshape(-1, seeds, *column.shape[1:]) for name, column in metrics.items()}
    return arms


@pytest.fixture(scope="module", params=[1, 12])
def edge(request, tmp_path_factory):
    """A run at the smallest and at the largest dimension: gaussian data have m = 12."""
    out = tmp_path_factory.mktemp("edge") / "run"
    return run(small(out, data="gaussian", objectives=OBJECTIVES, dim=request.param, init_scales=(1e-3, 1e-4)))


@pytest.mark.slow
def test_edge_dimensions_train_every_arm(edge):
    dim = edge.record["config"]["dim"]
    for name, arm in ARMS_TRAINED:
        record = edge.record["arms"][name][arm]
        rows, weights = rows_of(edge, name)[arm], edge.arrays[f"weights/{name}/{arm}"]
        assert weights.shape == (2, 12, dim) and np.isfinite(weights).all()
        assert rows["singular_values"].shape == (61, 2, dim) and np.isfinite(rows["singular_values"]).all()
        early = "unfinished" if name == "barlow_twins" else "complete"  # 60 steps from weights of 1e-5
        assert record["kind_of_seed"] == ["none" if arm == "grassmann" else early] * 2
        for rank in ("effective_rank", "rankme", "weight_effective_rank"):
            assert 1 - EPS <= record[rank] <= dim * (1 + 10 * EPS)
        if arm == "grassmann":
            # ||W^T W - I||_F has d^2 entries, each a sum of 12 products.
            assert record["orthonormality_error"] <= 12 * dim * EPS
            assert record["weight_effective_rank"] == pytest.approx(dim, rel=12 * EPS)
    assert sum(len(arms) for arms in edge.record["arms"].values()) == 2 * len(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACE)
def test_edge_dimensions_follow_the_trace_losses(edge, name):
    """Free: 60 times I - 2 lr C, to the rounding of 60 products. Constrained: the exact flow, to first order in the learning rate."""
    matrix, agreement = edge.arrays[f"trace_matrix/{name}"], edge.record["agreement"][name]
    learning_rate, init_scale = edge.record["arms"][name]["free"]["learning_rate"], edge.record["config"]["init_scale"]
    step = np.eye(12) - 2 * learning_rate * matrix
    exact = np.linalg.matrix_power(step, 60) @ (init_scale * edge.arrays["weights/initial_draw"])
    norm = np.exp(rows_of(edge, name)["free"]["log_norm"][-1])
    end = norm[:, None, None] * edge.arrays[f"weights/{name}/free"]
    assert np.linalg.norm(end - exact) <= 60 * 12 * EPS * np.linalg.norm(exact)

    flow, subspace = agreement["flow"], agreement["subspace"]["grassmann"]
    rate = edge.record["learning_rates"][name]["grassmann"]
    # A step errs by (lr (lambda_m - lambda_1))^2, and there are 1 / that many to a time of order one; on one point nothing moves.
    bound = 12 * EPS if edge.record["config"]["dim"] == 12 else rate["default"] / rate["limit"]
    assert flow["max_projector_error"] <= bound
    # Largest principal angles obey the triangle inequality.
    between = np.arcsin(flow["max_projector_error"])
    assert abs(subspace["max_principal_angle"] - subspace["expected_max_principal_angle"]) <= between + 12 * EPS


@pytest.mark.slow
@pytest.mark.parametrize("edge", [1], indirect=True)
def test_one_dimension_has_one_mode(edge):
    gamma, agreement = edge.record["data"]["gamma"], edge.record["agreement"]
    for name in TRACE:
        assert agreement[name]["collapse_slope"] == {
            "predicted": None, "measured": None, "relative_error": None, "reason": "d = 1 has no sigma_2"
        }  # fmt: skip
    for name, arm in ARMS_TRAINED:
        for rank in ("effective_rank", "rankme", "weight_effective_rank", "live_dimensions"):
            assert edge.record["arms"][name][arm][rank] == 1
    law, times = agreement["barlow_twins"]["initialisation_law"], agreement["barlow_twins"]["step_times"]
    assert law["predicted_exponent"] == pytest.approx(1 - gamma[1] / gamma[0], rel=1e-14)
    assert np.shape(law["angles"]) == (2, 2) and np.all(np.diff(law["median_angles"]) < 0)
    # Discrete steps grow by log(1 + lr / limit) for lr / limit: half of it, 1.2 %, to first order.
    rate = edge.record["learning_rates"]["barlow_twins"]["free"]
    assert max(law["step_time_errors"]) < rate["default"] / rate["limit"]
    # One mode, c = gamma s^2 with dc/dt = 8 gamma c (1 - c), reaches 1/2 at log((1 - c0) / c0) / 8 gamma.
    leading = np.linalg.eigh(edge.arrays["moments/cross"])[1][:, -1]
    c0 = gamma[0] * (edge.record["config"]["init_scale"] * leading @ edge.arrays["weights/initial_draw"][..., 0].T) ** 2
    assert np.ravel(times["predicted"]) == pytest.approx(np.log((1 - c0) / c0) / (8 * gamma[0]), rel=1e-12)
    assert times["beyond_horizon"] == 2 and times["measured"] == [[None], [None]] and "raise steps" in times["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("edge", [12], indirect=True)
def test_all_dimensions_leave_the_constraint_one_point(edge):
    """d = m: W W^T = I at every step, and each loss is that of any rotation."""
    gamma, agreement = np.array(edge.record["data"]["gamma"]), edge.record["agreement"]
    losses = {"barlow_twins": np.square(gamma - 1).sum()}
    losses |= {name: np.trace(edge.arrays[f"trace_matrix/{name}"]) for name in TRACE}
    losses["spectral_contrastive"] = np.square(edge.arrays["moments/second"]).sum() - 2 * gamma.sum()
    for name in OBJECTIVES:
        rows, weights = rows_of(edge, name)["grassmann"], edge.arrays[f"weights/{name}/grassmann"]
        # Traces of products: sums of 12 x 12 terms.
        assert np.abs(rows["loss"] - losses[name]).max() <= 12 * 12 * EPS * abs(losses[name])
        assert np.linalg.norm(weights @ np.swapaxes(weights, -2, -1) - np.eye(12), axis=(-2, -1)).max() <= 12 * 12 * EPS
        assert rows["orthonormality_error"].max() <= 12 * 12 * EPS  # at every step; W is square, so that W W^T = I too
        subspace = agreement[name]["subspace"]["grassmann"]
        assert name == "spectral_contrastive" or subspace["max_principal_angle"] <= 12 * EPS
    assert "initialisation_law" not in agreement["barlow_twins"]  # it needs gamma_{d + 1}
    times = agreement["barlow_twins"]["step_times"]
    assert np.shape(times["predicted"]) == (2, 12) and times["beyond_horizon"] == 24
    for name in TRACE:
        low, next_low = np.linalg.eigvalsh(edge.arrays[f"trace_matrix/{name}"])[:2]
        slope = agreement[name]["collapse_slope"]
        assert slope["predicted"] == pytest.approx(-2 * (next_low - low), rel=1e-9)
        assert slope["measured"] is None and "does not reach the asymptotic regime" in slope["reason"]


@pytest.mark.slow
def test_float32_stays_orthonormal(tmp_path):
    result = run(small(tmp_path / "run", dtype="float32", steps=1000, arms=("grassmann",))).record
    assert result["arms"]["linear_contrastive"]["grassmann"]["orthonormality_error"] <= 1e-6


@pytest.mark.slow
def test_float32_fits_the_law_only_above_its_rounding(tmp_path):
    config = small(tmp_path / "run", objectives=("barlow_twins",), arms=("free",), data="gaussian", dtype="float32",
                   init_scales=(1e-2, 1e-4, 1e-9))  # fmt: skip
    law = run(config).record["agreement"]["barlow_twins"]["initialisation_law"]
    assert law["fitted_scales"] == [1e-2, 1e-4] and law["measured_exponent"] is not None


@pytest.mark.slow
def test_stiefel_takes_what_the_grassmannian_refuses(tmp_path):
    config = small(tmp_path / "run", objectives=("barlow_twins",), arms=("free", "stiefel"), barlow_lambda=0.3)
    result = run(config).record
    assert set(result["arms"]["barlow_twins"]) == {"free", "stiefel"}
    assert "lambda other than 1" in result["agreement"]["barlow_twins"]["step_times"]["reason"]
    assert result["agreement"]["barlow_twins"]["subspace"]["free"]["max_principal_angle"] is None


@pytest.mark.slow
def test_runs_repeat_to_the_bit(tmp_path):
    first, second = (run(small(tmp_path / name)) for name in "ab")
    for one, other in ((first.arrays, second.arrays), (first.metrics, second.metrics)):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.slow
def test_a_diverging_run_says_so(tmp_path):
    config = small(
        tmp_path / "run", objectives=("barlow_twins",), arms=("free",), lr=50.0, init_scale=1.0, allow_unstable=True
    )
    record = run(config).record["arms"]["barlow_twins"]["free"]
    assert record["collapsed"] is None and "diverged" in record["reason"]


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED = {
    "--data mnist": "unknown data set 'mnist'; known are digits, photos, gaussian",
    "--objectives barlow": "unknown objective 'barlow'; known are barlow_twins",
    "--objectives barlow_twins barlow_twins": "names one twice",
    "--arms sphere": "unknown arm 'sphere'; known are free, grassmann, stiefel",
    "--dim 0": "dim must be finite and >= 1, got 0",
    "--dim 65": "dim = 65 is larger than the input dimension m = 64",
    "--seeds 0": "seeds must be finite and >= 1, got 0",
    "--steps 0": "steps must be finite and >= 1, got 0",
    "--lr nan": "lr must be finite and > 0, got nan",
    "--lr 0.6": "above the stability limit",
    "--init-scale 0": "init_scale must be finite and > 0, got 0.0",
    "--noise -1": "noise must be finite and not negative",
    "--data gaussian --spectrum 1 nan": "spectrum must be finite",
    "--device cuda:99": "device: cuda:99 is not there",
    "--device abacus": "is not a torch device",
    "--barlow-lambda 0.5": "barlow_twins with barlow_lambda = 0.5 is not rotation-invariant",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_input_is_one_line_and_exit_code_two(tmp_path, arguments):
    done = command("compare", *arguments.split(), "--out", str(tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert REFUSED[arguments] in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_output_folder_with_a_run_is_refused_and_replaced_when_asked(tmp_path):
    run(small(tmp_path / "run"))
    with pytest.raises(ConfigError, match="--overwrite"):
        run(small(tmp_path / "run"))
    run(small(tmp_path / "run", overwrite=True, seeds=1))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["seeds"] == 1


@pytest.mark.slow
def test_an_unstable_learning_rate_runs_when_asked(tmp_path):
    with pytest.raises(ConfigError, match="oscillate; lower it, or run it all the same with allow_unstable = True"):
        run(small(tmp_path / "run", objectives=("barlow_twins",), lr=0.51))
    run(small(tmp_path / "run", objectives=("barlow_twins",), arms=("grassmann",), lr=30.0, allow_unstable=True))


@pytest.mark.slow
def test_the_command_line_writes_prints_and_explains(tmp_path):
    done = command(
        "compare",
        "--objectives",
        "linear_contrastive",
        "--seeds",
        "2",
        "--steps",
        "300",
        "--out",
        str(tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    assert (
        "linear_contrastive  grassmann" in done.stdout and f"report: {tmp_path / 'run' / 'report.html'}" in done.stdout
    )
    explained = command("compare", "--help").stdout
    for option in (
        "--data",
        "--objectives",
        "--dim",
        "--seeds",
        "--steps",
        "--lr",
        "--init-scale",
        "--device",
        "--dtype",
        "--out",
    ):
        assert option in explained
    assert "fraction of each arm's stability limit" in " ".join(explained.replace("│", " ").split())


@pytest.mark.long
def test_an_interrupt_keeps_what_was_recorded(tmp_path):
    out = tmp_path / "run"
    result = run(small(out), Interrupting(101)).record
    assert result["interrupted"] == "linear_contrastive, arm grassmann, after step 40 of 60"
    assert json.loads((out / "run.json").read_text())["interrupted"] == result["interrupted"]
    assert set(pd.read_parquet(out / "metrics.parquet").arm) == {"free", "grassmann"}
    assert "This run was interrupted" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_interrupt_after_one_step_can_be_drawn(tmp_path, objective):
    outcome = run(small(tmp_path / "run", objectives=(objective,), data="gaussian"), Interrupting(2))
    assert outcome.interrupted == f"{objective}, arm free, after step 1 of 60"
    assert list(outcome.metrics["step"]) == [0, 0, 1, 1] and (tmp_path / "run" / f"{objective}.svg").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arms", [("free", "grassmann"), ("grassmann",)])
def test_the_page_draws_all_logged_steps_and_the_metrics_hold_some(tmp_path, arms, monkeypatch):
    """The same run with all steps in its metrics: its rows are those stored, and the curves are statistics of all rows."""
    settings = {"objectives": OBJECTIVES, "data": "gaussian", "arms": arms, "seeds": 4}
    few = run(small(tmp_path / "few", **settings, steps=90), page=False)
    monkeypatch.setattr(judged, "STORED", 10**6)
    every = run(small(tmp_path / "every", **settings, steps=90), page=False)
    assert np.unique(every.metrics["step"]).tolist() == list(range(91))
    kept = np.isin(every.metrics["step"], range(0, 91, 2))
    for name, values in every.metrics.items():
        np.testing.assert_array_equal(few.metrics[name], values[kept])
    for name in OBJECTIVES:
        for arm, rows in rows_of(every, name).items():
            start = f"course/{name}/{arm}/"
            drawn = {key.removeprefix(start): one for key, one in few.arrays.items() if key.startswith(start)}
            bands = {part: rows[part] for part in ("loss", "effective_rank", "principal_angle")}
            if name in TRACE:
                bands["loss"] = rows["loss"] * (3 / np.square(rows["singular_values"]).sum(-1))
            for part, values in bands.items():
                low, one, other, high = np.sort(values, 1).T
                np.testing.assert_allclose(drawn.pop(part), [low, (one + other) / 2, high], rtol=4 * EPS)
            spectrum = "covariance_eigenvalues"
            if arm == "free" and name != "spectral_contrastive":
                spectrum = "cross_eigenvalues" if name == "barlow_twins" else "singular_values"
            for part, column in (("time", "time"), ("first_loss", "loss"), ("first_spectrum", spectrum)):
                np.testing.assert_array_equal(drawn.pop(part), rows[column][:, 0])
            assert not drawn


@pytest.mark.slow
def test_an_interrupt_before_the_first_step_of_an_arm_leaves_it_out(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(small(tmp_path / "none"), Interrupting(1))
    assert not (tmp_path / "none").exists()
    outcome = run(small(tmp_path / "run"), Interrupting(61))
    assert outcome.interrupted == "in linear_contrastive, arm grassmann, which is left out, part 2 of 2"
    assert set(outcome.record["arms"]["linear_contrastive"]) == {"free"}
    assert set(outcome.metrics["arm"]) == {"free"} and "weights/linear_contrastive/grassmann" not in outcome.arrays


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "said"),
    [
        (
            101,
            "interrupted: linear_contrastive, arm grassmann, after step 40 of 60; what was recorded until then is kept",
        ),
        (0, "interrupted, nothing was recorded"),
    ],
)
def test_the_command_line_says_that_it_was_interrupted(tmp_path, monkeypatch, capsys, at, said):
    arguments = "compare --objectives linear_contrastive --seeds 2 --steps 60 --dim 3 --init-scales --out"
    monkeypatch.setattr("sys.argv", ["grassmann-ssl", *arguments.split(), str(tmp_path / "run")])
    monkeypatch.setattr(cli, "progress", Interrupting(at))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130 and said in "".join(capsys.readouterr())
    assert (tmp_path / "run").exists() == (at > 0)


@pytest.mark.slow
def test_the_table_and_the_findings_are_in_the_record_and_are_printed(digits):
    outcome, out = digits
    assert outcome.table == Outcome.load(out).table and len(outcome.table.rows) == 2 * len(OBJECTIVES)
    assert outcome.table.header == ("objective", "arm", "collapse", "eff. rank", "angle [rad]", "against theory")
    row = outcome.table.rows[4]
    assert row[:4] == ("linear_contrastive", "free", f"dimensional {SEEDS}/{SEEDS}", "1")
    error = outcome.record["agreement"]["linear_contrastive"]["collapse_slope"]["relative_error"]
    assert row[5] == f"collapse slope: within {100 * error:.2g} %"
    found = {finding.quantity: finding for finding in outcome.findings}
    law = outcome.record["agreement"]["barlow_twins"]["initialisation_law"]
    assert found["barlow_twins, free: law of the final angle"].measured == f"∝ α^{law['measured_exponent']:.3f}"
    times = np.array(outcome.record["agreement"]["barlow_twins"]["step_times"]["predicted"])
    first, last = np.median(times, axis=0)[[0, -1]]
    assert found["barlow_twins, free: step times"].predicted == f"t = {first:.3g} to {last:.3g}"
    printed, html = summary(outcome), (out / "report.html").read_text()
    for words in (f"dimensional {SEEDS}/{SEEDS}", row[5], "barlow_twins, free: law of the final angle"):
        assert words in printed and words in html
    assert printed.index(f"dimensional {SEEDS}/{SEEDS}") < printed.index("law of the final angle")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"arms": ("free", "stiefel"), "barlow_lambda": 0.3}, {"arms": ("grassmann",)}]
)
def test_what_theory_draws_is_in_the_arrays(tmp_path, settings):
    """The curves that the page draws, against theory from the stored start."""
    config = small(tmp_path / "run", data="gaussian", objectives=OBJECTIVES, **settings)
    outcome = run(config)
    start, time = config.init_scale * outcome.arrays["weights/initial_draw"], {}
    for name in OBJECTIVES:
        time[name] = outcome.arrays[f"course/{name}/{next(iter(outcome.record['arms'][name]))}/time"]
    expected = {}
    if "free" in config.arms:
        if config.barlow_lambda == 1:
            aligned = theory.stepwise.aligned_initialisation(start, outcome.arrays["moments/cross"])
            s, gamma = aligned.singular_values, aligned.gamma
            expected["step_times/barlow_twins"] = theory.stepwise.step_times(s, gamma)
            expected["loss/barlow_twins"] = theory.stepwise.loss(time["barlow_twins"], s[0], gamma)
            expected["eigenvalues/barlow_twins"] = theory.stepwise.eigenvalues(time["barlow_twins"], s[0], gamma)
        moments = outcome.arrays["moments/cross"], outcome.arrays["moments/second"]
        expected["spectrum/spectral_contrastive"] = theory.landscape.quartic_minimiser(*moments, 3)[0]
        for name in TRACE:
            matrix = outcome.arrays[f"trace_matrix/{name}"]
            direction, _ = theory.constrained.free_flow(time[name], start[0] / np.linalg.norm(start[0]), matrix)
            expected[f"singular_values/{name}"] = np.linalg.svd(direction, compute_uv=False)
    stored = {name for name in outcome.arrays if name.startswith("predicted_") and "subspace" not in name}
    assert stored == {f"predicted_{name}/free" for name in expected}
    for name, values in expected.items():
        assert outcome.arrays[f"predicted_{name}/free"] == pytest.approx(values, rel=1e-9)

"""The phase experiments on whole networks: rules against autograd, flows against theory, what is kept and what is lost."""

import numpy as np
import pytest
import torch

import theory
from grassmann_ssl.experiments.phase import directpred
from grassmann_ssl.experiments.phase.alignment import AlignmentConfig
from grassmann_ssl.experiments.phase.commutator import CommutatorConfig, slowest_decay
from grassmann_ssl.experiments.phase.directpred import DirectPredConfig
from grassmann_ssl.experiments.phase.ema import EmaConfig
from grassmann_ssl.experiments.phase.networks import aligned, correlation, modes_of, settings, trained
from grassmann_ssl.experiments.phase.sweeps import SweepsConfig
from grassmann_ssl.experiments.phase.symmetry import SymmetryConfig, parts
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError
from tests.oracles.predictor import rk4

CPU = torch.device("cpu")


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(weights, predictor, target, variance):
    """Of J = (1/2) E ||W_p W^T x1 - stop(W_a^T x2)||^2, X = I and X' = diag(variance), by autograd."""
    w, p = (v.clone().requires_grad_() for v in (weights, predictor))
    prediction = w @ p.mT
    loss = ((1 + variance)[:, None] * prediction**2).sum() / 2 - (prediction * target).sum()
    return torch.autograd.grad(loss, (w, p))


def test_the_rule_is_the_gradient_of_the_loss():
    w, p, a, variance = draw(2, 5, 3), draw(2, 3, 3, seed=1), draw(2, 5, 3, seed=2), draw(2, 5, seed=3).abs()
    cells = settings(CPU, alpha_p=[1.5, 0.5], eta=[0.1, 0.2], beta=[0.3, 0.4])
    slope = trained(w, p, a, variance=variance, **cells)
    for n, (alpha_p, eta, beta) in enumerate(((1.5, 0.1, 0.3), (0.5, 0.2, 0.4))):
        gw, gp = gradients(w[n], p[n], a[n], variance[n])
        assert (slope["weights"][n] + gw + eta * w[n]).abs().max() < 1e-13
        assert (slope["predictor"][n] + alpha_p * gp + eta * p[n]).abs().max() < 1e-13
        assert (slope["target"][n] - beta * (w[n] - a[n])).abs().max() < 1e-13
    cells = settings(CPU, alpha_p=[1.0, 1.0], eta=[0.0, 0.0], tau=[0.7, 0.7], symmetric=[0.0, 1.0])
    slope = trained(w, p, variance=variance, **cells)
    gw, gp = gradients(w[1], p[1], 0.7 * w[1], variance[1])
    assert (slope["predictor"][1] + (gp + gp.mT) / 2).abs().max() < 1e-13 and "target" not in slope
    assert (slope["weights"][1] + gw).abs().max() < 1e-13


def test_a_predictor_that_is_set_carries_no_gradient():
    w, variance = draw(1, 4, 4) / 2, draw(1, 4, seed=3).abs()
    f = w[0].mT @ w[0]
    slope = directpred.direct_copy(w, variance=variance, **settings(CPU, eta=[0.1]))
    gw, _ = gradients(w[0], f, w[0], variance[0])
    assert (slope["weights"][0] + gw + 0.1 * w[0]).abs().max() < 1e-13
    average = draw(1, 4, 4, seed=5)
    average = average @ average.mT
    values, vectors = torch.linalg.eigh(average[0])
    predictor = (vectors * (values.sqrt() + 0.2 * values.max())) @ vectors.mT  # eq. (18)
    slope = directpred.direct_pred(w, average, variance=variance, epsilon=0.2, rate=3.0, **settings(CPU, eta=[0.1]))
    gw, _ = gradients(w[0], predictor, w[0], variance[0])
    assert (slope["weights"][0] + gw + 0.1 * w[0]).abs().max() < 1e-13
    seen = w[0].mT @ torch.diag(1 + variance[0]) @ w[0]  # E f f^T over views
    assert (slope["average"][0] - 3 * (seen - average[0])).abs().max() < 1e-13


def test_batches_have_the_slopes_of_the_flow_in_the_mean():
    config = DirectPredConfig(batch=200_000, epsilon=0.2, rho=0.4, learning_rate=0.1)
    w, variance = draw(1, 4, 4) / 2, draw(1, 4, seed=3).abs()
    average = w.mT @ w + 0.1 * torch.eye(4, dtype=torch.float64)
    shared = {"variance": variance} | settings(CPU, eta=[0.1])
    sampled = directpred.on_batches(config, torch.Generator().manual_seed(0))(w, average, **shared)
    exact = directpred.direct_pred(w, average, epsilon=0.2, rate=6.0, **shared)
    for name, value in sampled.items():
        assert (value - exact[name]).abs().max() < 0.02 * exact[name].abs().max(), (
            name
        )  # 1 / sqrt(200,000), some ten times


def test_aligned_networks_have_the_modes_they_were_given():
    p, s = np.array([[0.3, 0.9], [0.1, 0.2]]), np.array([[0.5, 0.1], [0.2, 0.7]])
    start = aligned(p, s, 6, torch.Generator().manual_seed(0))
    assert np.abs(modes_of(start.predictor[None], start.vectors)[0] - p).max() < 1e-14
    assert np.abs(modes_of(correlation(start.weights)[None], start.vectors)[0] - s).max() < 1e-14
    f, q = correlation(start.weights), start.predictor
    assert (f @ q - q @ f).abs().max() < 1e-14


@pytest.mark.slow
def test_eigenspaces_align_and_discrete_training_follows_the_flow_to_first_order(tmp_path):
    outcome = run(AlignmentConfig(out=tmp_path / "run", seeds=3, dim=3, inputs=5))
    coarse, fine = outcome.record["flow_errors"]
    assert coarse < 0.01 and 1.8 < coarse / fine < 2.2
    assert min(outcome.record["final_cosine"].values()) > 0.9999
    assert outcome.record["final_asymmetry"]["symmetric"] < 1e-15 < outcome.record["final_asymmetry"]["regular"] < 1e-3
    assert np.all(outcome.arrays["cosine"] <= 1 + 1e-12)


@pytest.mark.slow
def test_modes_follow_their_equations_in_every_setting(tmp_path):
    outcome = run(SweepsConfig(out=tmp_path / "run", until=20.0))
    finer = run(SweepsConfig(out=tmp_path / "finer", until=20.0, learning_rate=0.005))
    for name, error in outcome.record["errors"].items():
        assert error < 0.01 and 1.7 < error / finer.record["errors"][name] < 2.3


@pytest.mark.slow
def test_each_sweep_has_modes_that_survive_and_modes_that_collapse(tmp_path, monkeypatch):
    """Observations of Tian et al.: weight decay (4, 5), a slow target (10) and a slow predictor (1) let modes collapse."""
    outcome = run(SweepsConfig(out=tmp_path / "run", learning_rate=0.02))
    survivors = outcome.record["survivors"]
    assert survivors["eta"] == {"predicted": [3, 3, 2, 1, 0], "measured": [3, 3, 2, 1, 0], "same": True}
    assert survivors["beta"]["measured"] == survivors["alpha_p"]["measured"] == [3, 2, 1]
    assert survivors["beta"]["same"] and survivors["alpha_p"]["same"]
    flow = theory.predictor.modes.mode_flow

    def wrong(*args, eta, **settings):
        return flow(*args, eta=eta / 2, **settings)

    monkeypatch.setattr(theory.predictor.modes, "mode_flow", wrong)
    noticed = run(SweepsConfig(out=tmp_path / "wrong", learning_rate=0.02))
    assert not any(sweep["same"] for sweep in noticed.record["survivors"].values())
    assert noticed.record["errors"]["p"] > 0.05


@pytest.mark.long
def test_the_target_follows_by_eq_13(tmp_path):
    outcome = run(EmaConfig(out=tmp_path / "run", runs=3, until=20.0))
    assert (
        outcome.record["error"] < 2e-3
        and outcome.record["tau_error"] < 0.02
        and outcome.record["integral_error"] < 1e-6
    )
    assert outcome.arrays["measured"].min() >= 0 and np.isfinite(outcome.arrays["measured"]).all()
    assert outcome.arrays["measured"][1:].min() < 0.9999  # the modes differ
    assert min(outcome.record["error"], outcome.record["tau_error"]) > 1e-5  # training is discrete: it cannot be exact


@pytest.mark.long
def test_a_wrong_prediction_of_the_target_is_noticed(tmp_path, monkeypatch):
    """tau a tenth too large: the difference that is reported is a tenth of the largest tau."""
    flow = theory.predictor.modes.mode_flow

    def wrong(*args, **settings):
        right = flow(*args, **settings)
        return right._replace(tau=1.1 * right.tau)

    honest = run(EmaConfig(out=tmp_path / "honest", runs=1, until=10.0))
    monkeypatch.setattr(theory.predictor.modes, "mode_flow", wrong)
    outcome = run(EmaConfig(out=tmp_path / "wrong", runs=1, until=10.0))
    assert honest.record["tau_error"] < 0.02 and 0.05 < outcome.record["tau_error"] < 0.15
    assert outcome.record["integral_error"] > 0.05 > 1e-6 > honest.record["integral_error"]


@pytest.mark.long
def test_the_antisymmetric_part_dies_out_as_predicted(tmp_path):
    outcome = run(SymmetryConfig(out=tmp_path / "run", seeds=2, until=20.0))
    assert max(outcome.record["errors"]) < 1e-6 and outcome.record["balance_drift"] < 1e-7
    antisymmetric = outcome.arrays["measured_antisymmetric"]
    assert np.all(antisymmetric[-1] < 1e-3 * antisymmetric[0])
    matrix = np.array([[1.0, 2.0], [0.0, 1.0]])
    assert np.allclose(np.ravel(parts(matrix[None])), (2.0, np.sqrt(2.0)))


def test_the_bound_of_theorem_3_is_attained_where_k_is_a_constant_multiple_of_the_identity():
    """d[F, W_p]/dt = -[F, W_p] K - K [F, W_p], integrated: K = k I decays at 2 k."""
    time, k, start = np.linspace(0, 3, 7), 0.4, np.array([[0.0, 0.5], [-0.5, 0.0]])
    exact = rk4(lambda c: -(c @ (k * np.eye(2)) + k * np.eye(2) @ c), start, 0.01, 300)[::50]
    size = np.linalg.norm(exact, axis=(-2, -1))
    bound = slowest_decay(time, np.full((7, 1), k), size[:1])
    assert np.abs(bound[:, 0] / size - 1).max() < 1e-8
    rising = slowest_decay(time, np.linspace(k, 2 * k, 7)[:, None], size[:1])  # the smallest K counts
    assert np.array_equal(rising, bound)


@pytest.mark.slow
def test_the_commutator_obeys_its_flow_and_its_bound(tmp_path):
    outcome = run(CommutatorConfig(out=tmp_path / "run", seeds=2, until=10.0))
    assert outcome.record["error"] < 1e-7 and outcome.record["broken"] == 0 and outcome.record["held"] > 4
    apart = np.abs(outcome.arrays["measured"] - outcome.arrays["predicted"]).max()
    assert outcome.record["error"] == apart > 1e-14  # Runge-Kutta 4 is not exact
    assert outcome.record["grew"] > 0  # large tau and little decay: it shoots up first
    assert outcome.findings[2].agreement == "as predicted"


@pytest.mark.slow
def test_features_are_kept_as_predicted(tmp_path):
    """Both starts, below and above thresholds: flows exactly, SGD up to what its noise pushes over an edge."""
    outcome = run(
        DirectPredConfig(out=tmp_path / "run", seeds=1, eta=(0.05, 0.11, 0.21, 0.3), start=(1.0, 0.25), until=120.0)
    )
    for name, arm in outcome.record["arms"].items():
        assert arm["features"] == 32 and 0 < arm["kept"] < 32
        assert arm["as_predicted"] >= (30 if name == "directpred_sgd" else 32), name
        assert (
            arm["strength_error"] < (0.3 if name == "directpred_sgd" else 0.02) and arm["median_strength_error"] < 0.05
        )
    predicted = outcome.arrays["predicted"] > 1e-3
    assert (
        predicted[:, 0].sum((1, 2)) > predicted[:, 1].sum((1, 2))
    ).all()  # the second start is on both sides of the basin
    assert "predicted" not in outcome.findings[-1].measured and outcome.findings[-1].measured.startswith(
        "trained: between 0.21 and 0.3"
    )


@pytest.mark.long
def test_where_every_feature_is_dropped_the_run_says_so(tmp_path):
    config = DirectPredConfig(
        out=tmp_path / "run", seeds=1, eta=(0.5, 0.6), variance=(0.0,), start=(0.3,), until=20.0, batch=8
    )
    for arm in run(config).record["arms"].values():
        assert arm["kept"] == 0 and arm["as_predicted"] == arm["features"] == 2


def test_networks_that_blow_up_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"step must be lower, got 0\.2: networks of the arm directpred blew up"):
        run(
            DirectPredConfig(
                out=tmp_path / "run", seeds=1, eta=(0.1,), start=(1.0,), step=0.2, learning_rate=0.1, until=40.0
            )
        )


@pytest.mark.slow
def test_a_wrong_prediction_of_the_features_kept_is_noticed(tmp_path, monkeypatch):
    settings = {"seeds": 1, "eta": (0.1, 0.2), "variance": (0.0, 1.0), "until": 60.0, "start": (1.0,), "batch": 32}
    honest = run(DirectPredConfig(out=tmp_path / "honest", **settings))
    predict = directpred.predict
    monkeypatch.setattr(directpred, "predict", lambda config, etas: predict(config, etas / 2))
    wrong = run(DirectPredConfig(out=tmp_path / "wrong", **settings))
    for name, arm in honest.record["arms"].items():
        assert arm["features"] == 4 and arm["as_predicted"] == 4 > wrong.record["arms"][name]["as_predicted"]
        assert wrong.record["arms"][name]["strength_error"] > 0.05


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (AlignmentConfig, {"inputs": 2}, "inputs must be finite and >= 5"),
        (SweepsConfig, {"eta": (0.1,)}, "eta needs at least two values"),
        (
            SweepsConfig,
            {"learning_rate": 0.5},
            "learning_rate must be finite and > 0 and <= 0.1|learning_rate must be finite and <= 0.1",
        ),
        (EmaConfig, {"gamma_a": (1.5,)}, "gamma_a must be finite"),
        (SymmetryConfig, {"seeds": 0}, "seeds must be finite and >= 1"),
        (CommutatorConfig, {"tau": ()}, "tau must not be empty"),
        (DirectPredConfig, {"variance": (-0.1,)}, "variance must be finite and >= 0"),
        (
            DirectPredConfig,
            {"rho": 0.0, "learning_rate": 0.02},
            "step must be at most 0.05, 2.5 learning_rate / .1 - rho., .* got 0.1",
        ),
    ],
)
def test_bad_settings_are_named(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)

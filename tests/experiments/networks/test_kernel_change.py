"""`kernel-change` as its users see it: kernels against Jacobians, exponents, the lazy time, the run folder, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from grassmann_ssl.experiments.networks import relu_kernels
from grassmann_ssl.experiments.networks.kernel_arms import (
    ARMS,
    Arm,
    Task,
    exact_change,
    growth_rates,
    predicted_exponent,
    train,
)
from grassmann_ssl.experiments.networks.kernel_change import (
    KernelChangeConfig,
    draw_start,
    draw_task,
    kernel_change,
    loss_of_outputs,
    quadratic_form,
)
from grassmann_ssl.nn import empirical_ntk
from grassmann_ssl.objectives import TRACE_LOSSES, trace
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Run
from tests.experiments.progress import Counted

SMALL = {
    "widths": (16, 32),
    "seeds": 2,
    "triplets": 6,
    "horizon": 2.0,
    "free_time": 0.5,
    "spectrum": (1.0, 0.5, 0.2, 0.1),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Two widths a factor of 8 apart: what an exponent needs, for less than the default."""
    config = KernelChangeConfig(widths=(64, 512), out=tmp_path_factory.mktemp("kernel") / "run")
    return run(config)


def network(seed=1, n=7, m=4, h=11, d=3, seeds=2):
    """Inputs (n, m) and weights with orthonormal columns, Q (S, h, m) and W2 (S, h, d)."""
    generator = torch.Generator().manual_seed(seed)
    x, q, w = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((n, m), (seeds, h, m), (seeds, h, d))
    )
    return x, torch.linalg.qr(q)[0], torch.linalg.qr(w)[0]


def model(x, q, w):
    """The network as its definition says."""
    return w.shape[-2] ** 0.5 * torch.relu(x @ q.mT) @ w


def jacobian_kernel(x, q, w, constrained):
    jacobians = torch.func.jacrev(model, argnums=(1, 2))(x, q, w)
    kernel = 0
    for jacobian, weights in zip(jacobians, (q, w), strict=True):
        if constrained:
            jacobian = jacobian - weights @ (weights.T @ jacobian)
        kernel = kernel + torch.einsum("iakl,jbkl->ijab", jacobian, jacobian)
    return kernel / len(w)


class Network(torch.nn.Module):
    def __init__(self, q, w):
        super().__init__()
        self.q, self.w = torch.nn.Parameter(q), torch.nn.Parameter(w)

    def forward(self, x):
        return model(x, self.q, self.w)


# --- the kernels --------------------------------------------------------------------------------------------------


def test_outputs_are_those_of_the_network():
    x, q, w = network()
    f = relu_kernels.outputs(relu_kernels.features(x, q), w)
    assert max(torch.dist(f[s], model(x, q[s], w[s])) for s in range(2)) < 1e-13


@pytest.mark.parametrize("constrained", [False, True])
def test_the_tangent_kernel_is_that_of_the_jacobians(constrained):
    x, q, w = network()
    kernel = relu_kernels.neural_tangent_kernel(x, q, w, constrained)
    assert kernel.shape == (2, 7, 7, 3, 3)
    for s in range(2):
        exact = jacobian_kernel(x, q[s], w[s], constrained)
        assert (kernel[s] - exact).abs().max() < 1e-13 * exact.abs().max() * 100


def test_the_tangent_kernel_is_the_empirical_one():
    x, q, w = network()
    exact = empirical_ntk(Network(q[0], w[0]), x)
    kernel = relu_kernels.neural_tangent_kernel(x, q, w, False)[0]
    assert (kernel - exact / len(w[0])).abs().max() < 1e-12


def test_the_constrained_last_layer_sees_only_what_it_may_change():
    x, q, w = network()
    phi = relu_kernels.features(x, q)
    complement = torch.eye(11, dtype=torch.float64) - w @ w.mT
    assert torch.dist(relu_kernels.last_layer_kernel(phi, w, True), phi @ complement @ phi.mT) < 1e-13
    assert torch.dist(relu_kernels.last_layer_kernel(phi, w, False), phi @ phi.mT) < 1e-13


@pytest.mark.parametrize("name", ["supervised", "both"])
def test_outputs_move_by_the_kernel(name):
    """One small step of training: (f(t) - f(0)) / t = -Theta dL/df. It holds t, lr / h, both layers and the projections together."""
    arm, (x, q, w), rate = ARMS[name], network(n=6), 1e-6
    targets = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    task = Task(x, {arm.loss: lambda f: (f - targets).square().sum((-2, -1))}, torch.zeros(6, 6, dtype=torch.float64))
    before, after = (
        model(x, one[0][0], one[1][0]) for one in ((q, w), train(task, (q, w), arm, rate, 1, lambda: None))
    )
    kernel = relu_kernels.neural_tangent_kernel(x, q, w, arm.constrained)[0]
    velocity = -torch.einsum("ijab,jb->ia", kernel, 2 * (before - targets))
    # The step is of second order in rate = 1e-6; differences of outputs of order 1 are right to 1e-16 / 1e-6.
    assert torch.dist((after - before) / rate, velocity) < 1e-4 * velocity.norm()


# --- the task and its laws ----------------------------------------------------------------------------------------


def trace_task(name, x, count):
    loss = loss_of_outputs(name, count)
    return Task(x, {"trace": loss}, quadratic_form(loss, len(x)))


@pytest.mark.parametrize("name", TRACE_LOSSES)
def test_trace_losses_are_quadratic_in_the_outputs(name):
    x, q, w = network(n=12)
    task, f = trace_task(name, x, 4), model(x, q[0], w[0])
    views = dict(zip(("z", "z_positive", "z_negative"), f.split(4), strict=True))
    if name.endswith("noncontrastive"):
        del views["z_negative"]
    direct = getattr(trace, name)(**views)
    assert torch.allclose(task.losses["trace"](f[None])[0], direct, rtol=1e-13)
    assert torch.allclose((f.T @ task.graph * f.T).sum(), direct, rtol=1e-12)
    assert torch.equal(task.graph, task.graph.T)


@pytest.mark.slow
def test_the_last_layer_follows_the_exact_flow_to_first_order():
    x, q, w = network(n=12, h=20)
    task, arm = trace_task("linear_contrastive", x, 4), ARMS["last"]
    exact = exact_change(task, (q, w), 4.0)
    errors = []
    for rate in (0.02, 0.01):
        phi, end = relu_kernels.features(x, q), train(task, (q, w), arm, rate, round(4 / rate), lambda: None)
        assert end[0] is q
        kernels = [relu_kernels.last_layer_kernel(phi, v, True) for v in (end[1], w)]
        change = torch.linalg.matrix_norm(kernels[0] - kernels[1]) / torch.linalg.matrix_norm(kernels[1])
        errors.append(np.abs(change.numpy() - exact).max())
    assert exact.min() > 0.1 and errors[0] / errors[1] == pytest.approx(2, abs=0.15) and errors[1] < 0.01


def test_growth_is_that_of_the_linearised_outputs():
    """df/dt = -2 Theta A f with the frozen kernel: its fastest mode, by the eigenvalues of the unsymmetric matrix."""
    x, q, w = network(n=12, h=20)
    task = trace_task("squared_contrastive", x, 4)
    kernel = relu_kernels.neural_tangent_kernel(x, q, w, False)
    for s, rate in enumerate(growth_rates(task, (q, w))):
        flow = -2 * torch.einsum("ijab,jk->iakb", kernel[s], task.graph).reshape(36, 36)
        assert -2 * rate == pytest.approx(torch.linalg.eigvals(flow).real.max().item(), rel=1e-10)
    assert np.array_equal(growth_rates(trace_task("squared_noncontrastive", x, 4), (q, w)), [0, 0])


# --- what a run finds ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "last", "whole"), [("supervised", 0.1, 0.12), ("barlow_twins", 0.2, 0.2), ("free", 0.25, 0.2)]
)
def test_without_constraint_the_kernel_changes_less_in_wider_networks(outcome, arm, last, whole):
    """Slopes -1 and -3/4: the tolerances are three standard errors of six networks, and tell both from 0, -1/2 and each other's."""
    fits = outcome.record["arms"][arm]
    assert fits["last_layer"]["slope"] == pytest.approx(-1, abs=last)
    assert fits["whole"]["slope"] == pytest.approx(-0.75, abs=whole)
    assert fits["movement"]["slope"] == pytest.approx(-0.5, abs=0.15)
    assert fits["switched"]["slope"] == pytest.approx(-0.5, abs=0.15)
    assert fits["last_layer"]["standard_error"] < 0.15 and fits["diverged_widths"] == []


@pytest.mark.slow
def test_the_whole_kernel_of_relu_networks_changes_more_slowly_with_the_width_than_that_of_its_last_layer(outcome):
    fits = outcome.record["arms"]["supervised"]
    errors = np.hypot(fits["whole"]["standard_error"], fits["last_layer"]["standard_error"])
    assert fits["whole"]["slope"] - fits["last_layer"]["slope"] > 3 * errors


@pytest.mark.slow
def test_supervised_changes_are_those_of_plain_gradient_descent(outcome, tmp_path):
    """The network as its definition says, from the run's own draws: they decide the size, which theory gives up to a factor only.

    What differs is rounding: of the order of eps a step, relative to the kernel, which training towards a minimum does not amplify.
    """
    config = KernelChangeConfig(widths=(64, 512), out=tmp_path / "again")
    run = Run(config)
    generator, steps = run.generator(), round(config.horizon / config.lr)
    task = draw_task(config, run, generator)
    nothing = torch.zeros(1, len(task.views), config.dim, dtype=torch.float64)
    assert task.losses["supervised"](nothing).item() == pytest.approx(3, rel=1e-14)  # targets of mean square 1, d = 3
    for i, h in enumerate(config.widths):
        start = draw_start(config, h, task, generator)
        weights = start
        for _ in range(steps):
            weights = [w.detach().requires_grad_() for w in weights]
            gradients = torch.autograd.grad(task.losses["supervised"](model(task.views, *weights)).sum(), weights)
            weights = [w - config.lr / h * g for w, g in zip(weights, gradients, strict=True)]
        then, now = (torch.relu(task.views @ q.mT) @ torch.relu(task.views @ q.mT).mT for q in (start[0], weights[0]))
        change = torch.linalg.matrix_norm(now - then) / torch.linalg.matrix_norm(then)
        measured = outcome.arrays["last_layer"][list(ARMS).index("supervised"), i]
        assert measured == pytest.approx(change.detach().numpy(), rel=0, abs=steps * np.finfo(float).eps)
        assert outcome.record["arms"]["supervised"]["last_layer"]["median"][i] == np.median(measured)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["last", "both"])
def test_under_the_constraint_the_change_does_not_vanish(outcome, arm):
    fits = outcome.record["arms"][arm]
    for measure in ("last_layer", "movement"):
        assert abs(fits[measure]["slope"]) < 0.1 and min(fits[measure]["median"]) > 0.4
    if arm == "both":
        assert abs(fits["whole"]["slope"]) < 0.1 and abs(fits["switched"]["slope"]) < 0.1
    else:
        assert set(fits) == {"last_layer", "movement", "diverged_widths"}
        assert outcome.record["exact_last"]["max_difference"] < 0.01
        assert np.allclose(outcome.record["exact_last"]["median"], fits["last_layer"]["median"], atol=0.01)


@pytest.mark.slow
def test_the_free_trace_loss_stays_lazy_for_a_time_that_grows_as_log_width(outcome):
    lazy = outcome.record["laziness"]
    assert lazy["predicted_slope"] == pytest.approx(-1 / (4 * lazy["lambda"])) and lazy["lambda"] < 0
    for name in ("left_fit", "diverged_fit"):
        # Half the rate, log(h) / (2 |lambda|), would be 100 % away.
        error = abs(lazy[name]["slope"] - lazy["predicted_slope"])
        assert error < 3 * lazy[name]["standard_error"] < 0.7 * lazy["predicted_slope"]
    assert np.all(np.array(lazy["diverged"]) > np.array(lazy["left"]))


@pytest.mark.slow
def test_findings_state_prediction_and_measurement(outcome):
    by_name = {finding.quantity: finding for finding in outcome.findings}
    assert by_name["last-layer kernel, supervised"].predicted == "h^-1"
    assert by_name["whole tangent kernel, Barlow Twins"].predicted == "h^-0.75"
    assert by_name["last-layer weights, trace loss, W₁ and W₂ constrained"].predicted == "h^0"
    assert len(by_name) == len(outcome.findings) == 20


@pytest.mark.slow
def test_divergence_is_stated_and_left_out_of_fits(tmp_path):
    config = KernelChangeConfig(
        out=tmp_path / "run", **SMALL | {"widths": (16, 4096), "horizon": 6.0, "free_time": 6.0}
    )
    outcome = run(config)
    free, lazy = outcome.record["arms"]["free"], outcome.record["laziness"]
    assert free["diverged_widths"][0] == 16 and free["last_layer"]["median"][0] is None
    assert free["last_layer"]["slope"] is None and free["switched"]["slope"] is None
    assert lazy["diverged"][0] < 6 and any(
        "networks diverged before t = 6 at h = 16" in f.measured for f in outcome.findings
    )
    assert not any(np.isnan(values).any() for values in outcome.arrays.values())
    assert "diverged" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_loss_without_growing_modes_stays_lazy_even_under_the_constraint(tmp_path):
    settings = SMALL | {"objective": "squared_noncontrastive", "widths": (64, 512), "seeds": 6, "horizon": 5.0}
    outcome = run(KernelChangeConfig(out=tmp_path / "run", **settings))
    lazy, last = outcome.record["laziness"], outcome.record["arms"]["last"]
    assert lazy["predicted_slope"] is None and lazy["lambda"] == 0 and lazy["left"] == [None, None]
    assert last["movement"]["slope"] == pytest.approx(-0.5, abs=0.1) and last["last_layer"]["slope"] == pytest.approx(
        -1, abs=0.35
    )
    assert "no growing mode" in outcome.findings[-1].predicted
    stated = "at fewer than two widths in all networks; at no h do most networks diverge"
    assert outcome.findings[-1].measured == stated


def test_predictions_know_their_validity():
    free, fixed, both = (
        Arm("", "", moves, constrained) for moves, constrained in ((True, False), (False, True), (True, True))
    )
    assert [predicted_exponent(arm, "last_layer", True) for arm in (free, fixed, both)] == [-1, 0, 0]
    assert [predicted_exponent(arm, "movement", False) for arm in (free, fixed, both)] == [-0.5, -0.5, None]


# --- what a run leaves --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_run_folder_is_complete_and_open(outcome):
    folder = outcome.folder
    assert {path.name for path in folder.iterdir()} == {
        ".files.json", "run.json", "config.toml", "metrics.parquet", "arrays.safetensors", "report.html",
        "kernels.svg", "movement.svg", "laziness.svg",
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "kernel-change" and set(record["arms"]) == set(ARMS)
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert len(metrics) == 5 * 2 * 6 and np.isfinite(metrics.drop(columns="arm")).all().all()
    rows = metrics[(metrics.arm == "supervised") & (metrics.width == 512)]
    assert rows.last_layer.median() == pytest.approx(record["arms"]["supervised"]["last_layer"]["median"][1])
    arrays = load_file(folder / "arrays.safetensors")
    assert not any(np.isnan(values).any() for values in arrays.values()) and arrays["left"].shape == (2, 6)
    html = (folder / "report.html").read_text()
    assert "our settings" in " ".join(html.split()) and '<svg class="panel"' in html and "http" not in html


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    runs = [kernel_change(KernelChangeConfig(seed=seed, **SMALL)) for seed in (4, 4, 5)]
    assert all(np.array_equal(runs[0].arrays[name], runs[1].arrays[name]) for name in runs[0].arrays)
    assert not np.array_equal(runs[0].arrays["whole"], runs[2].arrays["whole"])


@pytest.mark.slow
def test_progress_counts_every_step_of_training_that_diverges_early(tmp_path):
    progress = Counted()
    outcome = run(KernelChangeConfig(out=tmp_path / "run", **SMALL | {"horizon": 20.0}), progress)
    assert progress.totals == [sum(progress.done)] and np.isfinite(outcome.arrays["diverged"]).all(1).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "faces"}, "data: unknown data set 'faces'; known are digits"),
        ({"objective": "barlow_twins"}, "objective: unknown trace loss 'barlow_twins'"),
        ({"dim": 0}, "dim must be finite and >= 1, got 0"),
        ({"seeds": 1}, "seeds must be finite and >= 2"),
        ({"triplets": 0}, "triplets must be finite and >= 1"),
        ({"widths": (3, 32)}, "widths must be finite and >= 4, got 3"),
        ({"widths": (16,)}, "widths must be two or more, increasing"),
        ({"widths": (32, 16)}, "widths must be two or more, increasing"),
        ({"lr": 0.0}, "lr must be finite and > 0"),
        ({"lr": 0.6}, "lr must be at most free_time = 0.5"),
        ({"free_time": 3.0}, "free_time must be finite and > 0 and <= 2, got 3"),
        ({"horizon": float("nan")}, "horizon must be finite"),
        ({"spectrum": (1.0,) * 20}, "widths must be at least the input dimension m = 20 of gaussian, got 16"),
        ({"triplets": 30_000}, "triplets must be at most the 20000 of gaussian"),
        ({"spectrum": (0.0, -1.0)}, "spectrum must be finite and >= 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(KernelChangeConfig(out=tmp_path / "run", **SMALL | settings))
    assert list(tmp_path.iterdir()) == []

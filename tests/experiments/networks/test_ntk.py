"""The experiment `ntk`: networks against their tangent kernels, what limits the agreement, starts, bad settings."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import functional_call, jacrev

import theory
from grassmann_ssl.experiments.networks import ntk as experiment
from grassmann_ssl.experiments.networks import tangent_networks as networks
from grassmann_ssl.experiments.networks.ntk import NtkConfig
from grassmann_ssl.nn.ntk import not_scalar, scalar_kernel
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError

GROUPED, INDEPENDENT = range(2)


def trained(tmp_path, **settings):
    small = {"pairs": 24, "dim": 2, "widths": (16, 128), "seeds": 4, "init_scale": 1e-3}
    return run(NtkConfig(out=tmp_path / "run", **(small | settings)))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ntk"), widths=(16, 64, 256))


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def centre(start, seeds=2, m=5, h=12, d=3):
    return networks.centre(start, seeds, m, h, d, torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_networks_step_when_their_kernel_says_the_better_the_wider(outcome):
    errors = outcome.record["grouped"]["step_times"]
    median = errors["prediction"]["median_error"]
    # The kernel changes by 1/h: 16 times the width, 16 times less, within a factor of 3 for the draw of eight steps.
    assert median[2] < median[0] / 5 and median[2] < 0.003
    assert errors["prediction"]["not_seen"] == [0, 0, 0]
    assert errors["prediction"]["worst_error"][2] < 0.01
    assert errors["prediction"]["worst_error"][2] > 1e-5  # a network is not its kernel


@pytest.mark.slow
def test_with_a_scalar_kernel_the_linearised_network_is_the_closed_form_of_a_small_start(outcome):
    grouped = outcome.record["grouped"]
    # What a start of 1e-3 leaves out; where two modes rise together in a network, single steps are off by 4 %.
    assert max(grouped["step_times"]["closed_form"]["median_error"]) < 0.001
    independent = outcome.record["independent"]["step_times"]["closed_form"]
    assert min(independent["median_error"][:2]) > 30 * max(grouped["step_times"]["closed_form"]["median_error"])


@pytest.mark.slow
def test_subspaces_agree_the_better_the_wider(outcome):
    angles = outcome.record["grouped"]["angles"]
    assert angles["linearised"]["median"][2] < angles["linearised"]["median"][0] / 3
    assert angles["linearised"]["median"][2] < 0.05
    total = outcome.arrays["angles"][GROUPED]  # (widths, kinds, S): an angle is at most the sum of two others
    prediction, _, linearised, closed_form = np.moveaxis(total, 1, 0)
    assert np.all(prediction <= linearised + closed_form + 1e-9)


@pytest.mark.slow
def test_the_kernel_after_training_predicts_narrow_networks_better(outcome):
    """What the network learned is in the kernel that it ended with: where the kernel changes most."""
    angles = outcome.record["grouped"]["angles"]
    assert outcome.record["grouped"]["kernel_change"]["median"][0] > 0.3
    assert angles["afterwards"]["median"][0] < angles["prediction"]["median"][0]


@pytest.mark.slow
def test_kernels_change_and_couple_outputs_with_the_predicted_exponents(outcome):
    for start in networks.STARTS:
        change = outcome.record[start]["kernel_change"]["median"]
        assert 2.8 < change[1] / change[2] < 5  # 4 for four times the width
    assert outcome.arrays["off_diagonal"][GROUPED].max() < 1e-13
    assert outcome.record["grouped"]["off_diagonal"]["exponent"] is None
    x = draw(6, 5)
    shares = [
        not_scalar(networks.tangent_kernels(x, centre("independent", 40, h=h))).square().mean().sqrt()
        for h in (64, 1024)
    ]
    assert 3.4 < shares[0] / shares[1] < 4.6  # 4 for 16 times the width; 40 networks


@pytest.mark.slow
def test_a_smaller_start_asks_for_a_wider_network(tmp_path):
    """Coupled outputs push late modes up before their time: by more of it, the smaller the start."""
    early, angles = [], []
    for scale in (1e-3, 1e-8):
        found = trained(tmp_path / str(scale), widths=(32,), seeds=8, init_scale=scale)
        predicted, linearised, *_ = np.moveaxis(found.arrays["times"][:, 0], 1, 0)
        early.append(np.median(linearised / predicted - 1, axis=1)[:, 1])  # second step, (starts,)
        angles.append(dict(zip(experiment.ANGLES, np.median(found.arrays["angles"][GROUPED, 0], -1), strict=True)))
    # With a scalar kernel the linearised network finds the predicted subspace as the start shrinks, the network does not.
    assert angles[1]["closed_form"] < angles[0]["closed_form"] / 4 and angles[1]["closed_form"] < 0.05
    assert angles[1]["prediction"] > 3 * angles[1]["closed_form"]
    assert early[1][INDEPENDENT] < -0.05 and early[1][INDEPENDENT] < early[0][INDEPENDENT] - 0.03
    assert np.abs(np.array(early)[:, GROUPED]).max() < 0.01


def test_coordinates_from_outputs_alone_are_the_weights_of_a_linear_model():
    """K = X X^T, outputs X W: step times are those of W and Gamma."""
    x, weights = draw(20, 6), 1e-4 * draw(2, 6, 2, seed=1)
    cross = (x[:10].T @ x[10:] + x[10:].T @ x[:10]) / 20
    config = NtkConfig(dim=2, share=0.01)
    found = experiment.predict(config, (x @ x.T).expand(2, 20, 20), x @ weights)
    aligned = theory.stepwise.aligned_initialisation(weights.numpy(), cross.numpy())
    exact = np.sort(theory.stepwise.step_times(aligned.singular_values, aligned.gamma), -1)
    assert np.abs(found.times / exact - 1).max() < 0.006  # share / 2 for the learning rate, and the interpolation
    kernels = (x @ x.T)[..., None, None] * torch.eye(2, dtype=torch.float64)
    coupled = experiment.coupled_times(kernels.expand(2, 20, 20, 2, 2), x @ weights, found)
    assert np.abs(coupled / found.times - 1).max() < 0.001
    fine = experiment.predict(NtkConfig(dim=2, share=0.005), (x @ x.T).expand(2, 20, 20), x @ weights)
    assert np.abs(fine.times / exact - 1).max() < 0.6 * np.abs(found.times / exact - 1).max()


@pytest.mark.slow
def test_the_full_kernel_says_when_coupled_networks_step(outcome):
    """What limits the scalar kernel is the coupling, which the full one has; widths 16 and 64, 8 steps each. The widest come to the error
    of the learning rate, 1 %, which is all there is without coupling."""
    errors = {name: np.array(one["median_error"]) for name, one in outcome.record["independent"]["step_times"].items()}
    assert np.all(errors["coupled"][:2] < errors["prediction"][:2] / 3)
    predicted, _, _, coupled = outcome.arrays["times"][GROUPED, 2]
    assert np.abs(coupled / predicted - 1).max() < 0.02


def test_a_grouped_start_has_a_scalar_kernel_and_the_units_of_an_independent_one():
    x = draw(7, 5)
    kernels = networks.tangent_kernels(x, centre("grouped"))
    scalar = scalar_kernel(kernels)
    assert (kernels - scalar[..., None, None] * torch.eye(3, dtype=torch.float64)).abs().max() < 1e-13
    many = {start: networks.centre(start, 1, 5, 12_000, 3, torch.Generator().manual_seed(0)) for start in networks.STARTS}  # fmt: skip
    wide = [scalar_kernel(networks.tangent_kernels(x, weights)) for weights in many.values()]
    assert ((wide[0] - wide[1]).norm() / wide[0].norm()) < 0.05  # 4,000 different units: 1 / sqrt(4000), a few times
    assert all(abs(float(weights.last.square().mean()) - 1) < 0.02 for weights in many.values())
    blocks = many["grouped"].last.reshape(4000, 3, 3) / 3**0.5
    assert (blocks.mT @ blocks - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    assert blocks.mean(0).abs().max() < 0.05  # uniform: no entry has a mean, 3.5 standard errors of 0.58 / sqrt(4000)


@pytest.mark.parametrize("start", networks.STARTS)
def test_initial_outputs_are_those_of_the_tangent_space(start):
    x, middle = draw(4, 5), centre(start)
    near = networks.near(middle, 1e-6, torch.Generator().manual_seed(3))
    moved = [(b - a) / 1e-6 for a, b in zip(middle, near, strict=True)]
    _, exact = torch.autograd.functional.jvp(lambda u, v: networks.outputs(x, u, v), tuple(middle), tuple(moved))
    found = (networks.outputs(x, *near) - networks.outputs(x, *middle)) / 1e-6
    assert (found - exact).abs().max() < 1e-4  # the second order, 1e-6 times a few tens


def test_the_root_of_the_kernel_trains_as_the_linearised_network():
    """One step of gradient descent on f_0 + R omega and on f_0 + J delta moves the outputs alike."""
    x, middle = draw(4, 5), centre("independent", seeds=1)
    model = networks.Network(middle.first[0], middle.last[0])
    parameters = dict(model.named_parameters())
    parts = jacrev(lambda p: functional_call(model, p, (x,)))(parameters)
    jacobian = torch.cat([part.flatten(2) for part in parts.values()], -1).flatten(0, 1).detach()  # (n d, parameters)
    root = networks.roots(networks.tangent_kernels(x, middle))[0]
    slope = draw(12, seed=5)
    assert (root @ root.T @ slope - jacobian @ jacobian.T @ slope).abs().max() < 1e-12


def test_equal_eigenvalues_are_compared_as_a_group():
    # Three copies of one coordinate pair of equal views: gamma = (1, 1, 1) / 3 for each of them.
    modes = experiment.modes_of(np.tile(np.eye(3), (2, 2)), 2)
    assert experiment.top_modes(modes, 2) == range(3) and experiment.top_span(modes, 2).shape == (6, 3)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), "no positive eigenvalue: nothing will be learned"),
        (np.ones((2, 2)), "dim = 2 is above 1, the number of positive eigenvalues"),
    ],
)
def test_what_is_never_learned_is_refused(kernel, message):
    with pytest.raises(ConfigError, match=message):
        experiment.modes_of(kernel, 2)


@pytest.mark.slow
def test_the_folder_and_repeatability(tmp_path):
    quick = {"widths": (4, 8), "seeds": 2, "pairs": 12, "init_scale": 1e-2, "data": "photos"}
    first, second = (trained(tmp_path / name, **quick) for name in "ab")
    assert np.array_equal(first.metrics["trained"], second.metrics["trained"])
    folder = tmp_path / "a" / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "ntk" and record["grouped"] == first.record["grouped"]
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert len(frame) == 2 * 2 * 2 * 2 and set(frame["start"]) == set(networks.STARTS)
    assert {"staircase.svg", "step_times.svg", "agreement.svg", "report.html"} <= {p.name for p in folder.iterdir()}
    assert "http" not in (folder / "report.html").read_text().replace("http://www.w3.org", "")
    with pytest.raises(ConfigError, match="holds another run"):
        trained(tmp_path / "a", **quick)


@pytest.mark.slow
def test_one_width_and_one_output(tmp_path):
    found = trained(tmp_path, widths=(6,), dim=1, seeds=1, pairs=8)
    assert found.record["grouped"]["kernel_change"]["exponent"] is None
    assert found.arrays["times"].shape == (2, 1, 4, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "gaussian"}, "data must be one of digits, photos, got 'gaussian'"),
        ({"widths": (16, 33)}, "widths must be increasing multiples of dim = 2"),
        ({"widths": (32, 16)}, "widths must be increasing multiples of dim = 2"),
        ({"widths": ()}, "widths must not be empty"),
        ({"pairs": 0}, "pairs must be finite and >= 1"),
        ({"init_scale": 0.0}, "init_scale must be finite and > 0"),
        ({"share": 0.9}, "share must be finite and > 0 and <= 0.5"),
        ({"pairs": 20_000}, "pairs must be at most 17970 for digits, got 20000"),
        ({"share": 1e-4}, "gradient steps, more than 20,000"),
    ],
)
def test_bad_settings_are_named_before_any_training(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "train", None)
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, **settings)
    assert not (tmp_path / "run").exists()

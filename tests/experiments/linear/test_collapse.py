"""The collapse experiment: verdicts against closed forms, the population it trains on, what it leaves, what it refuses."""

import json
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from grassmann_ssl.audit import Rule
from grassmann_ssl.experiments.linear import collapse as experiment
from grassmann_ssl.experiments.linear.collapse import CONSTRAINTS, CollapseConfig
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError

SMALL = {
    "seeds": 3,
    "spectrum": (1.0, 0.7, 0.4, 0.2),
    "dim": 2,
    "noise": (0.2, 1.5),
    "steps": 400,
    "slices": 16,
    "sliced_normality": 1.0,
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run(CollapseConfig(out=tmp_path_factory.mktemp("collapse") / "run", **SMALL))


def cells(outcome, **chosen):
    return [cell for cell in outcome.record["cells"] if all(cell[key] == value for key, value in chosen.items())]


@pytest.mark.slow
def test_every_seed_off_the_boundary_ends_as_predicted(outcome):
    judged = [cell for cell in outcome.record["cells"] if cell["predicted_kind"] and not cell["on_boundary"]]
    assert len(judged) > 60
    for cell in judged:
        assert cell["kinds"][cell["predicted_kind"]] == cell["seeds"], cell
        assert cell["as_predicted"] == cell["converged"], cell
    constrained = [cell for cell in judged if cell["constraint"] in ("stiefel", "grassmann")]
    assert sum(cell["converged"] for cell in constrained) > 0.75 * sum(cell["seeds"] for cell in constrained) > 40
    kinds = {cell["predicted_kind"] for cell in judged}
    assert kinds == {"none", "dimensional", "complete"}  # the test sees all of them


@pytest.mark.slow
def test_final_spectra_are_the_predicted_ones(outcome):
    config = CollapseConfig(**SMALL)
    inputs = config.inputs()
    checked = 0
    for name in config.objectives:
        for constraint in ("free", "weight_decay", "orthogonality", "variance"):
            predicted = experiment.predicted_variances(config, inputs, name, constraint)
            if name == "barlow_twins" and constraint != "weight_decay":
                continue  # its modes gain (nearly) the same: it stays long where it arrives first
            measured = outcome.arrays[f"variances/{name}/{constraint}"]
            for b, level in enumerate(cells(outcome, objective=name, constraint=constraint)):
                determined = level["predicted_effective_rank"] is not None and np.isfinite(predicted[b]).all()
                if level["on_boundary"] or not determined or level["predicted_kind"] == "complete":
                    continue
                # 3e-3: gaps between growth rates of a few per cent leave e^{-gap t} of the start behind
                assert np.abs(measured[b] - predicted[b]).max() < 3e-3 * predicted[b].max(), (name, constraint, b)
                checked += 1
    assert checked > 20


@pytest.mark.slow
def test_constraints_hold_whatever_the_objective(outcome):
    for constraint in ("stiefel", "grassmann"):
        assert all(cell["collapse_probability"] == 0 for cell in cells(outcome, constraint=constraint))
        inputs = CollapseConfig(**SMALL).inputs()
        for name in CollapseConfig().objectives:  # Cauchy's interlacing
            variances = outcome.arrays[f"variances/{name}/{constraint}"]
            assert np.all(variances >= inputs.sigma[:, None, -2:] - 1e-12)
            assert np.all(variances <= inputs.sigma[:, None, :2] + 1e-12)


CONSTRAINED = SMALL | {"constraints": ("stiefel", "grassmann")}


@pytest.mark.long
def test_the_constrained_minimisers_are_those_of_descent_from_many_starts():
    """The lowest of 20 descents has the predicted spectrum; the alignment loss, which is constant, has no prediction."""
    config = CollapseConfig(**CONSTRAINED)
    inputs, rng = config.inputs(), np.random.default_rng(0)
    for name in config.objectives:
        predicted = experiment.predicted_variances(config, inputs, name, "grassmann")
        values = {}
        for _ in range(200):
            w = torch.as_tensor(np.linalg.qr(rng.standard_normal((2, 1, 4, 2)))[0])
            loss = experiment.loss_of(config, inputs.moments(torch.device("cpu")), name, "grassmann")(w)
            values.setdefault("others", []).append(loss[:, 0].numpy())
        if predicted is None:
            assert name == "squared_noncontrastive" and np.ptp(values["others"], axis=0).max() < 1e-12
            continue
        top = torch.eye(4, dtype=torch.float64)[:, :2].expand(2, 1, 4, 2)
        best = experiment.loss_of(config, inputs.moments(torch.device("cpu")), name, "grassmann")(top)[:, 0].numpy()
        assert np.array_equal(predicted, inputs.sigma[:, :2]) and np.all(np.array(values["others"]) > best)


@pytest.mark.long
def test_after_one_step_nothing_has_converged_and_nothing_is_as_predicted(tmp_path):
    outcome = run(CollapseConfig(out=tmp_path / "run", **(CONSTRAINED | {"steps": 1})))
    judged = [
        cell for cell in outcome.record["cells"] if cell["predicted_kind"]
    ]  # all but the alignment loss, which has no gradient
    assert len(judged) == 20 and all(cell["converged"] == cell["as_predicted"] == 0 for cell in judged)
    assert [finding.agreement for finding in outcome.findings] == ["no seed converged"] * 2


@pytest.mark.slow
def test_a_wrong_prediction_under_a_constraint_is_noticed(tmp_path, monkeypatch):
    """The worst case of interlacing, the smallest d variances, is what no run under the constraint could have failed."""
    for name in ("stiefel", "grassmann"):
        worst = replace(CONSTRAINTS[name], predicted=lambda config, inputs, limits: inputs.sigma[:, -config.dim :])
        monkeypatch.setitem(CONSTRAINTS, name, worst)
    outcome = run(
        CollapseConfig(out=tmp_path / "run", objectives=("barlow_twins",), **(CONSTRAINED | {"noise": (0.2,)}))
    )
    assert all(cell["kinds"]["none"] == 3 == cell["converged"] and cell["as_predicted"] == 0 for cell in cells(outcome))
    assert all("0 of 3 seeds as predicted" in finding.agreement for finding in outcome.findings)


@pytest.mark.long
def test_a_wrong_kind_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "predict", lambda *_: [("complete", 0.0)])
    settings = SMALL | {"noise": (0.2,), "constraints": ("variance",), "objectives": ("squared_vicreg",)}
    (cell,) = cells(run(CollapseConfig(out=tmp_path / "run", **settings)))
    assert cell["kinds"]["none"] == cell["converged"] == 3 and cell["as_predicted"] == 0


def test_what_moves_as_fast_as_ever_has_not_settled():
    t = torch.arange(0, 21, dtype=torch.float64)
    path = torch.stack([t, torch.exp(-t), torch.sin(t), 1 + 1e-16 * torch.sin(t)], -1)[..., None, None]
    assert experiment.settled(10 * t, path).tolist() == [False, True, False, True]


@pytest.mark.long
def test_the_predictor_holds_below_the_critical_decay_and_not_above(tmp_path):
    # gamma_1^2 / (4 sigma_1) = 0.25 / (1 + noise^2)^2 of the largest mode: 0.231 and 0.024
    config = CollapseConfig(
        objectives=("squared_noncontrastive",),
        constraints=("predictor",),
        predictor_decay=0.03,
        out=tmp_path / "run",
        **(SMALL | {"steps": 3000}),
    )
    weak, strong = cells(run(config), constraint="predictor")
    assert weak["predicted_kind"] == "none" and weak["kinds"]["none"] == 3
    assert strong["predicted_kind"] == "complete" and strong["kinds"]["complete"] == 3


@pytest.mark.slow
def test_wilson_intervals_contain_the_frequency_and_stay_in_the_unit_interval(outcome):
    for cell in outcome.record["cells"]:
        low, high = cell["wilson_95"]
        assert 0 <= low <= cell["collapse_probability"] <= high <= 1
    assert cells(outcome, constraint="grassmann")[0]["wilson_95"][1] == pytest.approx(0.5615, abs=1e-4)  # 0 of 3


def test_the_gradient_with_a_predictor_is_that_of_the_loss_with_its_target_stopped():
    config = CollapseConfig(**(SMALL | {"noise": (0.5,), "seeds": 1}), predictor_decay=0.0)
    moments = config.inputs().moments(torch.device("cpu"))
    cross, second = moments.cross[0, 0], moments.second[0, 0]
    draw = torch.randn(1, 1, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = experiment.train_predictor(
        CollapseConfig(**(SMALL | {"steps": 1, "noise": (0.5,), "seeds": 1}), predictor_decay=0.0),
        moments,
        torch.linalg.qr(draw)[0],
        0.1,
        lambda: None,
    )[1][-1]
    w = torch.linalg.qr(draw[0, 0])[0].requires_grad_()
    target, predictor = w.detach(), torch.eye(2, dtype=torch.float64)
    # J = (1/2) E||W_p z - stop(z')||^2, of which only the terms with a gradient
    p = w @ predictor.mT
    loss = (p.mT @ second @ p).trace() / 2 - (p.mT @ cross @ target).trace()
    (gradient,) = torch.autograd.grad(loss, w)
    assert (one[0, 0] - (w - 0.1 * gradient)).abs().max() < 1e-14


@pytest.mark.slow
def test_a_random_start_may_miss_the_stable_solution_of_a_predictor(tmp_path):
    """At noise 0.5 the fourth mode is just alive: from nearby all seeds keep it, of random starts some do not."""
    settings = {"objectives": ("squared_noncontrastive",), "constraints": ("predictor",), "noise": (0.5, 0.7)}
    outcome = run(CollapseConfig(out=tmp_path / "run", seeds=8, **settings), page=False)
    narrow, above = cells(outcome)
    assert [cell["predicted_kind"] for cell in (narrow, above)] == ["none", "dimensional"]
    assert [cell["near_solution"]["as_predicted"] for cell in (narrow, above)] == [8, 8]
    assert 0 < narrow["as_predicted"] < 8 == above["as_predicted"]
    random, near = outcome.findings
    assert near.quantity == "predictor, started near the predicted solution: cells that collapse"
    assert near.predicted == near.measured == "1 of 2" and near.agreement == "16 of 16 seeds as predicted"
    assert f"{8 + narrow['as_predicted']} of 16 seeds as predicted" in random.agreement


def test_slices_are_whole_bases():
    u = experiment.directions(CollapseConfig(**SMALL))
    assert u.shape == (16, 2)
    assert (u.mT @ u - 8 * torch.eye(2, dtype=u.dtype)).abs().max() < 1e-13


def test_judging():
    kinds, ranks, live = experiment.judge(
        np.array([[1.0, 1.0], [1.0, 1e-6], [1e-7, 1e-7], [np.inf, np.inf]]), 1.0, np.zeros(4)
    )
    assert kinds == ["none", "dimensional", "complete", "diverged"]
    assert ranks[0] == pytest.approx(2) and 1 <= ranks[1] < 1.001 and list(ranks[2:]) == [0, 0]
    assert live.tolist() == [2, 1, 0, 0]


@pytest.mark.slow
def test_the_folder(outcome):
    folder = outcome.folder
    record = json.loads((folder / "run.json").read_text())
    assert {"verdicts.svg", "ranks.svg", "report.html", "metrics.parquet", "arrays.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    table = pd.read_parquet(folder / "metrics.parquet")
    pairs = 6 * 7 + 1
    assert len(record["cells"]) == 2 * pairs and len(table) == 2 * pairs * 3
    assert load_file(folder / "arrays.safetensors")["gamma"].shape == (2, 4)
    again, same = (experiment.collapse(CollapseConfig(**(SMALL | {"steps": 20}))) for _ in range(2))
    assert again.record["cells"] == same.record["cells"]
    assert len(outcome.findings) == 9  # one of each constraint, and of the predictor near its solution
    assert record["collapse_rule"] == str(Rule()) and str(Rule()) in unescape((folder / "report.html").read_text())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ("simclr",)}, "objectives must be different ones of barlow_twins"),
        ({"constraints": ()}, "constraints must be different ones of free, .* got none"),
        (
            {"constraints": ("predictor",), "objectives": ("infonce",)},
            "predictor applies to squared_noncontrastive only, which is not",
        ),
        ({"noise": (-1.0,)}, "noise must be finite and >= 0"),
        ({"spectrum": (1.0, 0.0)}, "spectrum must be finite and > 0"),
        ({"dim": 8}, "dim must be below the input dimension 8, got 8"),
        ({"seeds": 0}, "seeds must be finite and >= 1"),
        ({"weight_decay": float("inf")}, "weight_decay must be finite"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        CollapseConfig(**settings)

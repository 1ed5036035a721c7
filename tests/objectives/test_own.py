"""Objectives of the user: how they are called, what is measured of them, and that what they keep is part of the training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl import pretrain
from grassmann_ssl.objectives import EMBEDDING_LOSSES, check_objective, objective
from grassmann_ssl.objectives.own import own_objective


class Scaled(nn.Module):
    """A loss with a parameter, a buffer and what a training calls beside it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, out0, out1, margin=0.1):
        self.calls += 1
        return self.scale * (out0 - out1).square().sum(1).mean() + margin + (self.scale - 1) ** 2


class Regressing(nn.Module):
    def forward(self, prediction, target):
        return (prediction - target.detach()).square().mean()


OPTIONAL = """
from torch import nn
def own(z, z_positive, first=0.0):
    return (z - z_positive).square().sum(1).mean() + first * z[:, 0].square().sum()
class Own(nn.Module):
    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight
    def forward(self, z, z_positive):
        return self.weight * (z - z_positive).square().sum(1).mean()
"""


@pytest.mark.parametrize(
    "name", [n for n in EMBEDDING_LOSSES if not objective(n).triplets and not objective(n).stateful]
)
def test_what_is_measured_is_what_is_declared(name):
    known = objective(name)
    loss = known.loss
    if known.needs_predictor or known.predictive:

        def own(prediction, target, projection):
            return loss(prediction=prediction, target=target, projection=projection)
    else:

        def own(z, z_positive):
            return loss(z=z, z_positive=z_positive)

    found = own_objective(own, dim=5)
    assert (found.rotation_invariant, found.directional) == (known.rotation_invariant, known.directional)
    assert found.predictive == known.predictive
    assert own_objective(known.function, dim=5).name == name or isinstance(known.function, type)


@given(st.integers(1, 9), st.integers(0, 3))
def test_a_loss_of_one_coordinate_sees_rotations(dim, k):
    def own(a, b):
        return a[:, k % dim].square().mean() + (a - b).square().mean()

    assert own_objective(own, dim=dim).rotation_invariant == (dim == 1)
    assert own_objective(lambda a, b: (a - b).square().mean(), dim=dim).rotation_invariant


def test_options_are_those_with_a_default():
    def own(z, z_positive, temperature=0.5):
        return (z - z_positive).square().mean() / temperature

    found = own_objective(own, dim=3).bind(temperature=0.1)
    z = torch.eye(3)
    assert found.loss(z=z, z_positive=0 * z) == pytest.approx(1 / 3 / 0.1)
    with pytest.raises(ValueError, match="own has no setting 'margin'"):
        found.bind(margin=1)


def test_options_of_a_named_loss_are_part_of_what_is_measured(tmp_path, monkeypatch):
    (tmp_path / "optional.py").write_text(OPTIONAL)
    monkeypatch.syspath_prepend(tmp_path)
    assert own_objective("optional:own", dim=3).rotation_invariant
    found = own_objective("optional:own:first=2", dim=3)
    assert not found.rotation_invariant and found.name == "optional:own:first=2"
    z = torch.eye(3)
    assert found.loss(z=z, z_positive=z) == pytest.approx(2.0)
    assert own_objective("optional:Own:weight=0.5", dim=3).new(3)(z=z, z_positive=0 * z) == 0.5
    assert check_objective("optional:own:first=2").loss == "optional:own:first=2"
    assert check_objective("optional:Own:weight=0.5").rotation_invariant
    for text in ("optional:own:second=1", "optional:Own:second=1"):
        with pytest.raises(ValueError, match=f"{text[:12]} has no option 'second': it takes "):
            own_objective(text, dim=3)


def test_what_a_loss_keeps_and_trains_is_part_of_the_training(tmp_path):
    x = torch.rand(32, 6)
    loss = Scaled()
    settings = {"steps": 4, "records": 2, "hidden": 8, "dim": 3, "progress": False}
    outcome = pretrain(nn.Linear(6, 8), [(x, x + 0.1)], loss, **settings)
    assert outcome.record["config"]["objective"] == "Scaled"
    assert loss.calls == 4 and abs(float(loss.scale.detach()) - 2) > 0.01  # not by what was measured before
    assert pretrain(nn.Linear(6, 8), [(x, x + 0.1)], Regressing(), predictor="linear", **settings) is not None


def test_a_loss_may_be_written_for_float32_and_change_its_embeddings():
    def own(a, b):
        return ((a.mul_(2) - 2 * b) @ torch.eye(3)).square().sum(1).mean()

    def other(a, b):
        return ((a - b) @ torch.ones(3, 1)).square().sum(1).mean()

    assert own_objective(own, dim=3).rotation_invariant and not own_objective(own, dim=3).directional
    assert not own_objective(other, dim=3).rotation_invariant


def test_a_class_is_made_and_an_objective_stays_as_it_is():
    assert own_objective(Regressing, dim=4).predictive
    assert own_objective(objective("vicreg"), dim=4) is not None
    with pytest.raises(ValueError, match=r"Linear\(\) cannot be made: .*; give one that is made already"):
        own_objective(nn.Linear, dim=4)


def test_a_loss_with_random_numbers_is_measured_with_the_same_ones():
    def sliced(a, b):
        u = torch.randn(a.shape[1], 1, dtype=a.dtype)
        return ((a - b) @ u).square().mean() / u.norm() ** 2

    state = torch.get_rng_state()
    assert not own_objective(sliced, dim=4).rotation_invariant
    assert torch.equal(torch.get_rng_state(), state)

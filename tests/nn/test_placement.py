"""Where constraints go: real encoders with heads, square and grouped layers, and what cannot be constrained."""

import pytest
import torch
from torch import nn

from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.nn import constrain, constraints
from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.nn.heads import projector
from grassmann_ssl.nn.placement import constrain_model, layers_at, square_layers


def off(weight):
    """How far a weight is from orthonormal rows, or columns where there are more rows."""
    matrix = weight.detach().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return (matrix @ matrix.T - torch.eye(len(matrix))).abs().max()


def free_weights(model):
    held = constraints(model)
    return {name: p.detach().clone() for name, p in model.named_parameters() if name not in held}


@pytest.mark.parametrize(("where", "count"), [("last", 1), ("linear", 2), ("conv", 3)])
@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()], ids=repr)
def test_only_the_layers_of_the_place_change(where, count, manifold):
    torch.manual_seed(0)
    model = nn.Sequential(encoder("conv", in_channels=1, image_size=8), projector(256, (32, 8)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    names = constrain_model(model, manifold, where=where)
    assert len(names) == count and names == layers_at(model, where)
    assert list(constraints(model)) == [f"{name}.weight" for name in names]
    for name in names:
        assert off(model.get_submodule(name).weight) < 10 * torch.finfo(torch.float32).eps
    assert all(torch.equal(before[name], value) for name, value in free_weights(model).items())
    model(torch.rand(5, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_convolutions_of_a_residual_network():
    with torch.device("meta"):
        model = encoder("resnet50", in_channels=3, image_size=32)
    square = square_layers(model, "conv")
    assert square == ["layer1.0.conv1"]  # 64 -> 64 by 1 x 1; the others have more inputs or outputs
    names = constrain_model(model, Grassmann(), where="conv")
    assert set(names) | set(square) == set(layers_at(model, "conv")) and not set(names) & set(square)
    assert len(names) == 52
    with pytest.raises(ValueError, match="no layer for where = 'last'"):
        constrain_model(model, Grassmann())


def test_square_and_grouped_layers_stay_free():
    torch.manual_seed(0)
    grouped = nn.Sequential(nn.Conv2d(2, 4, 1, groups=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 2))
    model = nn.Sequential(grouped, nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 5), nn.Linear(5, 5))
    assert square_layers(model, "linear") == ["2", "4"] and square_layers(model, "conv") == ["0.1"]
    assert square_layers(model, "last") == ["4"]
    assert constrain_model(model, Grassmann(), where="linear") == ["3"]
    assert constrain_model(model, Grassmann(), where="conv") == ["0.2"]
    assert set(constraints(model)) == {"3.weight", "0.2.weight"}


def test_square_layers_are_no_matter_on_the_stiefel_manifold():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    assert constrain_model(model, Stiefel(), where="linear") == ["0", "1"]


def test_a_layer_by_its_whole_name():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    assert layers_at(model, "0") == ["0"] and constrain_model(model, Grassmann(), where="0") == ["0"]
    with pytest.raises(ValueError, match=r"where must be one of last, linear, conv, or a pattern .*'1'"):
        layers_at(model, "1")


def test_layers_that_are_on_it_already_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert constrain_model(model, Grassmann()) == ["2"]
    weight = model[2].weight.detach().clone()
    for _ in range(2):
        assert constrain_model(model, Grassmann(), where="linear") == ["0", "2"]
        assert torch.equal(model[2].weight, weight) and len(constraints(model)) == 2


@pytest.mark.parametrize(
    ("model", "where", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "last", r"layer 1, weight \(2, 2\): .* square matrix"),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), "linear", "are square, and .* single point: 0, 1"),
        (
            nn.Sequential(constrain(nn.Linear(3, 2), manifold=Stiefel())),
            "last",
            r"layer 0, weight \(2, 3\): .* already on a manifold",
        ),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "conv", "no layer for where = 'conv'"),
        (nn.Sequential(nn.Linear(3, 2)), "first", "where must be one of last, linear, conv, or a pattern .*'first'"),
    ],
)
def test_what_cannot_be_constrained_is_named(model, where, message):
    with pytest.raises(ValueError, match=message):
        constrain_model(model, Grassmann(), where=where)

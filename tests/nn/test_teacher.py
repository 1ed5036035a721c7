"""Teachers: averages of free weights, geodesics of constrained ones, and where constraints are placed."""

import itertools
import math

import pytest
import torch
from torch import nn

from grassmann_ssl.manifolds import Grassmann, Stiefel, geodesic_ema, principal_angles
from grassmann_ssl.nn import constrain, constraints
from grassmann_ssl.nn.feature_orthonormal import feature_orthonormal
from grassmann_ssl.nn.placement import constrain_model, layers_at
from grassmann_ssl.nn.teacher import Teacher, cosine_momentum


def network(seed=0, manifold=None):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    # In float64 from the start: a weight that is orthonormal to float32 moves by 1e-8 when it is first projected.
    return nn.Sequential(body, nn.Linear(16, 8), constrain(nn.Linear(8, 3).double(), manifold=manifold)).double()


def wander(model, step):
    """A new point for every weight, near the last one; constrained ones stay on their manifold."""
    manifolds = constraints(model)
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.copy_(manifolds[name].projx(p + noise) if name in manifolds else p + noise)
        model(torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()], ids=repr)
def test_a_teacher_is_the_slow_average_and_stays_on_the_manifold(manifold):
    model = network(manifold=manifold)
    teacher = Teacher(model)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(60):
        wander(model, step)
        teacher.update(model, 0.9)
        for name, value in model.state_dict().items():
            if name == "2.weight":
                continue
            average[name] = 0.9 * average[name] + 0.1 * value if value.dtype.is_floating_point else value.clone()
    for name, value in teacher.model.state_dict().items():
        if name != "2.weight":
            assert (value - average[name]).abs().max() < 1e-13, name
    weight = teacher.model[2].weight
    assert (weight @ weight.T - torch.eye(3, dtype=torch.float64)).abs().max() < 10 * torch.finfo(torch.float64).eps
    assert (weight - model[2].weight).abs().max() > 1e-3
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_constrained_weight_moves_along_the_geodesic():
    model = network()
    teacher = Teacher(model)
    start = teacher.model[2].weight.detach().clone()
    wander(model, 0)
    teacher.update(model, 0.75)
    end = model[2].weight.detach()
    expected = geodesic_ema(start.T, end.T, 0.75)
    assert principal_angles(teacher.model[2].weight.T, expected).max() < 1e-7
    whole = principal_angles(start.T, end.T)
    part = principal_angles(start.T, teacher.model[2].weight.T)
    assert (part - 0.25 * whole).abs().max() < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()], ids=repr)
def test_a_model_that_rests_is_reached_with_its_basis(manifold):
    model = network(manifold=manifold)
    teacher = Teacher(model)
    for step in range(20):  # round a loop, which turns bases against each other
        wander(model, step)
        teacher.update(model, 0.9)
    angle = torch.linalg.matrix_norm(teacher.model[2].weight - model[2].weight)
    assert angle > 0.01
    for _ in range(400):
        teacher.update(model, 0.9)
    assert (teacher.model[2].weight - model[2].weight).abs().max() < 1e-13
    assert (teacher.model[1].weight - model[1].weight).abs().max() < 1e-13


def test_a_teacher_turns_with_the_model():
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))[0]
    one, other = network(), network()
    with torch.no_grad():
        other[2].weight.copy_(q @ one[2].weight)
    first, second = Teacher(one), Teacher(other)
    for step in range(10):
        wander(one, step)
        with torch.no_grad():
            other[2].weight.copy_(q @ one[2].weight)
        first.update(one, 0.8)
        second.update(other, 0.8)
    assert (q @ first.model[2].weight - second.model[2].weight).abs().max() < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthonormal_after_many_updates(dtype):
    torch.manual_seed(0)
    rows, columns = constrain(nn.Linear(24, 6, dtype=dtype)), constrain(nn.Linear(4, 12, dtype=dtype))
    kernel = constrain(nn.Conv2d(2, 5, 3, dtype=dtype))
    model = nn.ModuleList([rows, columns, kernel])
    teacher = Teacher(model)
    manifolds = constraints(model)
    assert len(manifolds) == 3
    generator = torch.Generator().manual_seed(1)
    for step in range(200):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in manifolds:
                    noise = torch.randn(p.shape, dtype=dtype, generator=generator)
                    p.copy_(manifolds[name].projx(p + 0.2 * noise))
        teacher.update(model, cosine_momentum(step, 200, 0.9))
    for name, layout in manifolds.items():
        point = layout.to_point(teacher.model.get_parameter(name).detach())
        gram = point.mT @ point
        assert (gram - torch.eye(len(gram), dtype=dtype)).abs().max() < 10 * torch.finfo(dtype).eps, name
        assert (point - layout.to_point(model.get_parameter(name).detach())).abs().max() > 0.01


def test_momentum_one_keeps_and_zero_copies():
    model = network()
    teacher = Teacher(model)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wander(model, 0)
    teacher.update(model, 1.0)
    weights = [name for name in before if "num_batches" not in name and name != "model.2.weight"]
    assert (teacher.model[2].weight - before["model.2.weight"]).abs().max() < 1e-14
    assert all((teacher.state_dict()[name] - before[name]).abs().max() < 1e-14 for name in weights)
    teacher.update(model, 0.0)
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    assert (teacher.model.eval()(x) - model.eval()(x)).abs().max() < 1e-12
    assert (teacher.model[2].weight - model[2].weight).abs().max() < 1e-13  # its basis, too
    with pytest.raises(ValueError, match=r"momentum must be from 0 to 1, got 1\.5"):
        teacher.update(model, 1.5)
    with pytest.raises(ValueError, match=r"lacks \['0.0.bias'.* give its .module"):
        teacher.update(nn.Sequential(model), 0.5)
    with pytest.raises(ValueError, match=r"it has \['3.weight'\] besides"):
        teacher.update(nn.Sequential(*model, nn.Linear(3, 1, bias=False)), 0.5)


def test_a_teacher_is_restored():
    model, other = network(), network(seed=4)
    teacher, restored = Teacher(model), Teacher(other)
    wander(model, 0)
    teacher.update(model, 0.5)
    restored.load_state_dict(teacher.state_dict())
    wander(model, 1)
    for one in (teacher, restored):
        one.update(model, 0.5)
    for a, b in zip(teacher.state_dict().values(), restored.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_teacher_of_a_feature_orthonormal_layer_shares_its_metric():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), feature_orthonormal(nn.Linear(8, 3, bias=False))
    ).double()
    teacher = Teacher(model)
    for step in range(20):
        x = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        model(x), teacher(x)
        with torch.no_grad():
            model[0].weight.add_(0.05 * torch.randn(8, 6, dtype=torch.float64))
        model[2].follow()
        teacher.update(model, 0.8)
        weight, metric = teacher.model[2].weight.detach(), teacher.model[2].metric
        assert torch.equal(metric, model[2].metric)
        assert (weight @ metric @ weight.T - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    other = Teacher(model)
    other.load_state_dict(teacher.state_dict())


def test_the_schedule_of_the_momentum():
    values = [cosine_momentum(step, 100, 0.99) for step in range(101)]
    assert values[0] == 0.99 and values[-1] == 1.0 and all(a <= b for a, b in itertools.pairwise(values))
    assert abs(values[50] - 0.995) < 1e-15 and math.isfinite(cosine_momentum(0, 0, 0.5))


def model_of_layers():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())
    return nn.Sequential(first, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def test_places():
    assert layers_at(model_of_layers(), "last") == ["3"] and layers_at(model_of_layers(), "linear") == ["1", "3"]
    assert layers_at(model_of_layers(), "conv") == ["0.0"]
    model = model_of_layers()
    assert constrain_model(model, Grassmann(), where="linear") == ["3"]  # the square one stays free
    assert set(constraints(model)) == {"3.weight"}
    model = model_of_layers()
    assert constrain_model(model, Stiefel(), where="linear") == ["1", "3"]
    model = model_of_layers()
    assert constrain_model(model, Grassmann(), where="conv") == ["0.0"]
    weight = model[0][0].weight.flatten(1)
    assert (weight @ weight.T - torch.eye(4)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers_at(model_of_layers(), "all"), "where must be one of last, linear, conv, or a pattern"),
        (lambda: layers_at(nn.Sequential(nn.Linear(3, 2)), "conv"), "no layer for where = 'conv'"),
        (
            lambda: constrain_model(nn.Sequential(nn.Linear(3, 3)), Grassmann()),
            r"layer 0, weight \(3, 3\): .* square matrix",
        ),
        (
            lambda: constrain_model(nn.Sequential(nn.Linear(3, 3)), Grassmann(), where="linear"),
            "are square, .* single point: 0",
        ),
    ],
)
def test_bad_places_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

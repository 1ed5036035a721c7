"""Averaged models: torch's numbers for free weights, points of the manifold for constrained ones."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from grassmann_ssl.manifolds import Grassmann, Stiefel, frechet_mean, geodesic_ema, principal_angles
from grassmann_ssl.nn import AveragedModel, constrain, constraints
from grassmann_ssl.nn.feature_orthonormal import feature_orthonormal
from tests.nn.test_teacher import network, wander


def held(model):
    weight = dict(model.named_parameters())[next(iter(constraints(model)))]
    return weight.detach().as_subclass(torch.Tensor).clone()


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()], ids=repr)
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.8])
def test_free_weights_are_those_of_torch_and_the_others_on_their_manifold(decay, use_buffers, manifold):
    model = network(manifold=manifold)
    ours = AveragedModel(model, decay=decay, use_buffers=use_buffers)
    average = None if decay is None else swa_utils.get_ema_multi_avg_fn(decay)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=use_buffers)
    for step in range(30):
        wander(model, step)
        ours.update_parameters(model)
        theirs.update_parameters(model)
        if not step:
            assert torch.equal(held(ours.module).round(decimals=12), held(model).round(decimals=12))
    assert isinstance(ours, swa_utils.AveragedModel) and int(ours.n_averaged) == 30
    for (name, mine), other in zip(ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True):
        assert name == "2.weight" or torch.equal(mine, other), name
    for average, limit in ((ours, 1e-14), (theirs, None)):
        w = held(average.module)
        error = (w @ w.T - torch.eye(3, dtype=torch.float64)).abs().max()
        assert error <= limit if limit else error > 1e-2
    # A checkpoint is torch's, and the statistics of a batch norm are made as torch makes them.
    fresh = AveragedModel(network(seed=7, manifold=manifold))
    fresh.load_state_dict(ours.state_dict())
    assert torch.equal(held(fresh.module), held(ours.module)) and int(fresh.n_averaged) == 30
    swa_utils.update_bn([torch.randn(4, 1, 4, 4, dtype=torch.float64)], ours)


def test_the_moving_average_goes_along_geodesics_and_the_mean_is_that_of_subspaces():
    models = [network() for _ in range(40)]
    for step, model in enumerate(models):
        wander(model, step)
    ema, swa = AveragedModel(models[0], decay=0.7), AveragedModel(models[0])
    expected = held(models[0]).T
    for model in models:
        ema.update_parameters(model)
        swa.update_parameters(model)
        if model is not models[0]:
            expected = geodesic_ema(expected, held(model).T, 0.7)
    assert principal_angles(held(ema.module).T, expected).max() <= 1e-12
    points = torch.stack([held(model).T for model in models])
    mean, spread = frechet_mean(points).mean, principal_angles(points, points[:1]).max()
    # The inductive mean is the Frechet mean up to curvature times the square of the spread, over the number of points.
    assert principal_angles(held(swa.module).T, mean).max() <= float(spread) ** 3 / 2
    linear = swa_utils.AveragedModel(models[0])
    for model in models:
        linear.update_parameters(model)
    off = held(linear.module) @ held(linear.module).T - torch.eye(3, dtype=torch.float64)
    assert off.abs().max() > 1e-2  # what torch's own average does to the weight


def test_it_follows_the_metric_of_a_feature_orthonormal_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), feature_orthonormal(nn.Linear(6, 3))).double()
    average = AveragedModel(model, decay=0.5)
    for _ in range(5):
        with torch.no_grad():
            model(torch.randn(20, 5, dtype=torch.float64))
            model[1].follow()
            model[1].weight.copy_(
                model[1].weight.manifold.projx(model[1].weight + 0.1 * torch.randn(3, 6, dtype=torch.float64))
            )
        average.update_parameters(model)
        w, b = held(average.module), average.module[1].metric
        assert torch.equal(b, model[1].metric)
        assert (w @ b @ w.T - torch.eye(3, dtype=torch.float64)).abs().max() <= 1e-12


def test_wrapped_models_and_bad_input():
    model = constrain(nn.Linear(6, 3).double())
    average = AveragedModel(model)
    wrapped = nn.Sequential(copy.deepcopy(model))  # another prefix, as DistributedDataParallel has
    average.update_parameters(wrapped)
    assert (held(average.module) - held(model)).abs().max() <= 1e-14
    with pytest.raises(ValueError, match=r"decay must be from 0 to 1, got 1\.5"):
        AveragedModel(model, decay=1.5)

"""Joint embedding of two views and of more: which pairs of views are compared."""

import itertools

import pytest
import torch
from torch import nn

from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.nn.teacher import Teacher


def distance(*, z, z_positive):
    """Not symmetric, so that the order within a pair is seen."""
    return (z * torch.arange(1, 4) - z_positive).square().mean()


def regression(*, prediction, target, projection):
    return (prediction * torch.arange(1, 4) - target.detach()).square().mean() + projection.sum()


def crops(*sides):
    return [torch.rand(5, 2, side, side, dtype=torch.float64) for side in sides]


def method(loss, **settings):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(2, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return JointEmbedding(encoder, nn.Linear(4, 3), loss, **settings).double()


@pytest.mark.parametrize("sides", [(6, 6), (6, 6, 6), (6, 6, 4), (6, 6, 4, 3, 4), (6, 4, 6, 6)])
def test_the_loss_is_the_mean_over_pairs_with_a_whole_view(sides):
    one, views = method(distance), crops(*sides)
    z = [one.projector(one.encoder(x)) for x in views]
    whole = [k for k, side in enumerate(sides) if side == sides[0]]
    pairs = [(i, j) for i, j in itertools.product(whole, range(len(sides))) if j > i or (j not in whole)]
    assert len(pairs) == len(whole) * (len(whole) - 1) // 2 + len(whole) * (len(sides) - len(whole))
    expected = torch.stack([distance(z=z[i], z_positive=z[j]) for i, j in pairs]).mean()
    assert torch.allclose(one(*views), expected, rtol=1e-14)


@pytest.mark.parametrize("sides", [(6, 6), (6, 6, 4, 3)])
@pytest.mark.parametrize("teacher", [False, True])
def test_targets_are_whole_views_of_the_teacher(sides, teacher):
    one, views = method(regression, stop_gradient=True), crops(*sides)
    one.predictor = nn.Linear(3, 3).double()
    if teacher:
        one.teacher = Teacher(one.online)
        with torch.no_grad():
            one.online.projector.weight.mul_(2)
    z = [one.projector(one.encoder(x)) for x in views]
    target = [one.teacher(x) for x in views] if teacher else z
    pairs = [(i, j) for i in range(len(sides)) for j in range(2) if i != j]
    terms = [regression(prediction=one.predictor(z[i]), target=target[j], projection=z[i]) for i, j in pairs]
    assert torch.allclose(one(*views), torch.stack(terms).mean(), rtol=1e-14)

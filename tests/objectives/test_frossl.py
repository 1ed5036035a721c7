"""FroSSL against sums over rows, and where it is known. What holds of every objective is tested of it with the others."""

import math

import numpy as np
import pytest
import torch

from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.objectives import objective
from grassmann_ssl.objectives.frossl import frossl
from tests.objectives.declared import draw, slopes


def oracle(z, zp, invariance):
    """As the authors' code for many views has it: rows of length sqrt(d), moments divided by their traces, distances from the mean view."""
    d = z.shape[1]
    views = [np.stack([math.sqrt(d) * row / math.sqrt(row @ row) for row in v]) for v in (z, zp)]
    mean, loss = (views[0] + views[1]) / 2, 0.0
    for view in views:
        moment = sum(np.outer(row, row) for row in view)
        moment = moment / np.trace(moment)
        loss += 2 * math.log(math.sqrt(np.sum(moment**2))) + invariance * np.mean((view - mean) ** 2)
    return loss


@pytest.mark.parametrize("invariance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (1, 3), (6, 1)])
def test_value_and_gradient_are_those_of_the_sums(shape, invariance):
    z = draw(*shape).requires_grad_()
    zp = z.detach() + draw(*shape, seed=1)
    value = frossl(z=z, z_positive=zp, invariance=invariance)
    rows = z.detach().numpy(), zp.numpy()
    assert abs(value.item() - oracle(*rows, invariance)) < 1e-13
    (gradient,) = torch.autograd.grad(value, z)
    assert np.abs(gradient.numpy() - slopes(lambda z: oracle(z, rows[1], invariance), rows[0])).max() < 1e-7


@pytest.mark.parametrize("n", [1, 3])
def test_it_is_least_for_equal_isotropic_views_and_zero_at_a_point(n):
    basis = torch.linalg.qr(draw(6, 6))[0].repeat(n, 1)
    assert abs(frossl(z=basis, z_positive=3 * basis) + 2 * math.log(6)) < 1e-14
    point = basis[:1].repeat(4, 1)
    assert abs(frossl(z=point, z_positive=point)) < 1e-14
    assert frossl(z=point, z_positive=-point) == pytest.approx(2.0, abs=1e-14)


def test_it_trains_by_name():
    assert TrainConfig(objective="frossl", constraint="grassmann").objective == "frossl"
    with pytest.raises(ValueError, match=r"unknown objective 'frosl': .*; did you mean frossl\?"):
        objective("frosl")
    with pytest.raises(ValueError, match="invariance must not be negative, got -1"):
        objective("frossl", invariance=-1)

"""DCL and DCLW against sums over pairs. What holds of every objective is tested of it with the others."""

import numpy as np
import pytest
import torch

from grassmann_ssl.objectives import objective
from grassmann_ssl.objectives.dcl import dcl
from grassmann_ssl.objectives.nt_xent import nt_xent
from tests.objectives.declared import draw, slopes
from tests.oracles import contrastive as oracles


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (2, 3), (6, 1)])
def test_value_and_gradient_are_those_of_the_pairs(shape, temperature):
    z, zp = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    value = dcl(z=z, z_positive=zp, temperature=temperature)
    rows = z.detach().numpy(), zp.numpy()
    assert abs(value.item() - oracles.dcl(*rows, temperature)) < 1e-13 / temperature
    expected = slopes(lambda z: oracles.dcl(z, rows[1], temperature), rows[0])
    assert np.abs(torch.autograd.grad(value, z)[0].numpy() - expected).max() < 1e-6 / temperature


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_weights_of_dclw_are_those_of_the_paper_and_have_no_gradient(sigma):
    z, zp = draw(7, 4), draw(7, 4, seed=1)
    u, v = (torch.nn.functional.normalize(x).requires_grad_() for x in (z, zp))
    value = dcl(z=u, z_positive=v, sigma=sigma)
    assert abs(value.item() - oracles.dcl(z.numpy(), zp.numpy(), sigma=sigma)) < 1e-12
    weight = 2 - 7 * ((u * v).sum(1) / sigma).softmax(0).detach()
    by_weights = dcl(z=u, z_positive=v) + ((1 - weight) * torch.nn.functional.cosine_similarity(u, v)).mean() / 0.1
    for got, expected in zip(torch.autograd.grad(value, (u, v)), torch.autograd.grad(by_weights, (u, v)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_it_is_nt_xent_without_the_positive_below():
    """NT-Xent adds log(1 + e^{positive - negatives}), here next to nothing: positives are opposite."""
    z = draw(9, 4)
    assert float(nt_xent(z=z, z_positive=-z, temperature=0.02) - dcl(z=z, z_positive=-z, temperature=0.02)) < 1e-6


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"sigma must be positive, got 0\.0"):
        objective("dcl", sigma=0.0)
    assert objective("dcl", sigma=None).options["sigma"] is None

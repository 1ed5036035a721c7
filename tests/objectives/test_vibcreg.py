"""VIbCReg against sums over samples. What holds of every objective is tested of it with the others."""

import numpy as np
import pytest
import torch

from grassmann_ssl.objectives.vibcreg import vibcreg
from tests.objectives.declared import draw, slopes
from tests.objectives.noncontrastive_cases import views
from tests.oracles import noncontrastive as oracles


@pytest.mark.parametrize("weights", [(25.0, 25.0, 200.0), (2.0, 3.0, 4.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (6, 1)])
def test_value_and_gradient_are_those_of_the_samples(shape, weights):
    z, zp = views(*shape)
    z.requires_grad_()
    settings = dict(zip(("invariance", "variance", "covariance"), weights, strict=True))
    value = vibcreg(z=z, z_positive=zp, **settings)
    rows = z.detach().numpy(), zp.numpy()
    assert abs(value.item() - oracles.vibcreg(*rows, *weights)) < 1e-12
    expected = slopes(lambda z: oracles.vibcreg(z, rows[1], *weights), rows[0])
    assert np.abs(torch.autograd.grad(value, z)[0].numpy() - expected).max() < 1e-6


def test_correlations_forget_the_scale_of_dimensions():
    z, zp = views(12, 5)
    scales = torch.logspace(-3, 3, 5, dtype=torch.float64)
    settings = {"invariance": 0.0, "variance": 0.0}
    plain, scaled = (vibcreg(z=z * s, z_positive=zp * s, **settings) for s in (1, scales))
    assert abs(plain - scaled) < 1e-12 * plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dimension_without_a_spread_has_no_correlations(dtype):
    """Rounding is none: 1.7 less its mean may be 1e-16, which would be normalised to a column like any other."""
    z, zp = (v.to(dtype) for v in views(23, 4))
    z[:, 0] = zp[:, 0] = 1.7
    z[:, 1] = zp[:, 1] = 0
    z.requires_grad_()
    loss = vibcreg(z=z, z_positive=zp, invariance=0.0, variance=0.0)
    expected = vibcreg(z=z[:, 2:], z_positive=zp[:, 2:], invariance=0.0, variance=0.0) * 4 / 16
    assert abs(loss - expected) < 1e-5
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all() and (gradient[:, :2] == 0).all()


def test_float32_keeps_the_digits_of_weak_correlations():
    z, zp = draw(4096, 6), draw(4096, 6, seed=1)
    made = {dtype: z.to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64)}
    gradients = {
        dtype: torch.autograd.grad(vibcreg(z=v, z_positive=zp.to(dtype), invariance=0.0, variance=0.0), v)[0]
        for dtype, v in made.items()
    }
    exact = gradients[torch.float64]
    assert (gradients[torch.float32] - exact).norm() < 1e-3 * exact.norm()

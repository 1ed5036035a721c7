"""MMCR against the eigenvalues of its moment, and where it is known. What holds of every objective is tested of it with the others."""

import math

import numpy as np
import pytest
import torch

from grassmann_ssl.objectives.mmcr import mmcr
from tests.objectives.declared import draw, slopes


def oracle(z, zp):
    """The trace of the square root of C C^T by its eigenvalues, row by row."""
    rows = [(a / math.sqrt(a @ a) + b / math.sqrt(b @ b)) / 2 for a, b in zip(z, zp, strict=True)]
    products = np.array([[a @ b for a in rows] for b in rows])
    return -sum(math.sqrt(max(0.0, value)) for value in np.linalg.eigvalsh(products)) / math.sqrt(len(rows))


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (1, 3), (6, 1)])
def test_value_and_gradient_are_those_of_the_eigenvalues(shape):
    z, zp = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    value = mmcr(z=z, z_positive=zp)
    rows = z.detach().numpy(), zp.numpy()
    # Of the eigenvalues that are zero, rounding leaves the root
    assert abs(value.item() - oracle(*rows)) < 1e-13 + max(0, shape[0] - shape[1]) * 1e-7
    if shape[0] <= shape[1]:
        expected = slopes(lambda z: oracle(z, rows[1]), rows[0])
        assert np.abs(torch.autograd.grad(value, z)[0].numpy() - expected).max() < 1e-7


def test_its_gradient_is_that_of_differences_where_there_are_more_rows_than_dimensions():
    views = draw(7, 3).requires_grad_(), draw(7, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, z_positive: mmcr(z=z, z_positive=z_positive), views)


def test_it_is_least_for_equal_isotropic_views_and_minus_one_at_a_point():
    basis = torch.linalg.qr(draw(6, 6))[0].repeat(3, 1)
    assert abs(mmcr(z=basis, z_positive=3 * basis) + math.sqrt(6)) < 1e-14
    point = basis[:1].repeat(4, 1).requires_grad_()
    value = mmcr(z=point, z_positive=point)
    assert abs(value + 1) < 1e-14 and torch.autograd.grad(value, point)[0].isfinite().all()
    assert abs(mmcr(z=basis, z_positive=-basis)) < 1e-14

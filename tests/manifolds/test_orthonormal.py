"""The polar factor of a Gram matrix against the inverse root by eigenvalues, where its steps are only just enough."""

import math

import pytest
import torch

from grassmann_ssl.manifolds.orthonormal import polar_factor, quintic_steps


def longest_of(steps, dtype):
    """The largest length that so many steps are enough for, to a millionth."""
    low, high = 0.0, math.pi
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if quintic_steps(middle, dtype) <= steps else (low, middle)
    return low


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("share", [(1.0, 0.0, 0.0), (3**-0.5,) * 3])
def test_the_polar_factor_is_the_inverse_root_at_the_longest_step(steps, share, dtype):
    longest = longest_of(steps, dtype)
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    values = 1 + (longest * torch.tensor(share, dtype=torch.float64)) ** 2
    gram, expected = ((basis * one) @ basis.T for one in (values, values.rsqrt()))
    for length in (longest, None):
        found = polar_factor(gram.to(dtype), longest, length)
        # Each of a few products of 3 x 3 matrices of norm about 1 rounds by 3 eps.
        assert (found.double() - expected).abs().max() <= 16 * torch.finfo(dtype).eps

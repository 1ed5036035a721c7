"""The polar factor of a Gram matrix against the inverse root by eigenvalues, where its steps are only just enough; Cholesky's factor."""

import math

import pytest
import torch

from grassmann_ssl.manifolds.orthonormal import KEPT, cholesky_factor, polar_factor, quintic_steps


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


@pytest.mark.parametrize("p", [3, KEPT + 1])
def test_the_cholesky_factor_wherever_it_is_first_asked_for(p):
    """A kept identity that inference, a transform or a device left behind would be refused, or wrong, later on."""
    z = torch.randn(2 * p, p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def error(factor):
        return (factor.mT @ z.mT @ z @ factor - torch.eye(p, dtype=torch.float64)).abs().max()

    bound = 50 * p * torch.finfo(torch.float64).eps * torch.linalg.cond(z) ** 2
    for _ in range(2):
        with torch.inference_mode():
            assert error(cholesky_factor(z.mT @ z)) <= bound
        with torch.device("meta"):
            factor = cholesky_factor(z.mT @ z)
        assert error(factor) <= bound
        gram = (z.mT @ z).requires_grad_()
        cholesky_factor(gram).sum().backward()
        assert torch.isfinite(gram.grad).all()
        both = torch.func.vmap(cholesky_factor)(torch.stack([gram.detach()] * 2))
        assert error(both[1]) <= bound

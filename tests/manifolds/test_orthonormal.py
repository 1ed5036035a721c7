"""The polar factor of a Gram matrix against the inverse root by eigenvalues, where its steps are only just enough; Cholesky's factor."""

import inspect
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


# Sides that no other test has, so that what is kept is made here.
@pytest.mark.long
@pytest.mark.parametrize(("p", "first"), [(61, "inference"), (62, "meta"), (KEPT + 1, "meta")])
def test_the_cholesky_factor_wherever_it_is_first_asked_for(p, first):
    """A kept identity that inference or a default device left behind would be refused, or wrong, later on."""
    z = torch.randn(2 * p, p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def error(factor):
        return (factor.mT @ z.mT @ z @ factor - torch.eye(p, dtype=torch.float64)).abs().max()

    bound = 50 * p * torch.finfo(torch.float64).eps * torch.linalg.cond(z) ** 2
    contexts = {"inference": torch.inference_mode(), "meta": torch.device("meta")}
    for name in (first, "inference", "meta"):
        with contexts[name]:
            factor = cholesky_factor(z.mT @ z)
        assert error(factor) <= bound
        gram = (z.mT @ z).requires_grad_()
        cholesky_factor(gram).sum().backward()
        assert torch.isfinite(gram.grad).all()
        compiled = torch.compile(inspect.unwrap(cholesky_factor), backend="eager", fullgraph=True)
        assert error(compiled(z.mT @ z)) <= bound
        both = torch.func.vmap(cholesky_factor)(torch.stack([gram.detach()] * 2))
        assert error(both[1]) <= bound

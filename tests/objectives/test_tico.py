"""TiCo against sums over rows, batch after batch. What holds of every objective with a state is tested of it with the others."""

import numpy as np
import pytest
import torch

from tests.objectives.stateful import made, numbers, stepped, views
from tests.oracles import stateful as oracles


@pytest.mark.parametrize(("beta", "rho"), [(0.9, 20.0), (0.5, 2.0), (0.0, 1.0)])
def test_values_and_moments_are_those_of_the_rows(beta, rho):
    loss, moment = made("tico", 4, beta=beta, rho=rho), np.zeros((4, 4))
    for step in range(4):
        batch = views(6, 4, seed=step)
        value = stepped(loss, batch)
        expected, moment = oracles.tico(*numbers(batch), moment, beta, rho)
        assert abs(value.item() - expected) < 1e-13 * rho
        assert np.abs(loss.moment.numpy() - moment).max() < 1e-15


def test_with_the_moment_of_the_batch_its_gradient_is_that_of_a_squared_norm():
    """Of alignment and (rho / 2) ||B||_F^2: the moment has no gradient, and neither have targets."""
    z, zp = (views(6, 4)[name].requires_grad_() for name in ("prediction", "target"))
    value = made("tico", 4, beta=0.0, rho=3.0)(prediction=z, target=zp)
    u, v = (torch.nn.functional.normalize(x) for x in (z, zp))
    by_norm = 1.5 * (u.T @ u / 6).square().sum() - (u * v.detach()).sum() / 6
    own, no_target = torch.autograd.grad(value, (z, zp), allow_unused=True)
    assert no_target is None and (own - torch.autograd.grad(by_norm, z)[0]).abs().max() < 1e-15


def test_its_first_step_is_rotation_invariant():
    batch, q = views(6, 4), torch.linalg.qr(views(4, 4)["target"])[0]
    first = stepped(made("tico", 4), batch)
    assert abs(stepped(made("tico", 4), {name: z @ q for name, z in batch.items()}) - first) < 1e-13 * first

"""SwAV against sums over rows. What holds of every objective with a state is tested of it with the others."""

import numpy as np
import pytest
import torch

from grassmann_ssl.objectives.swav import codes
from tests.objectives.declared import draw, slopes
from tests.objectives.noncontrastive_cases import views
from tests.objectives.stateful import made
from tests.oracles import stateful as oracles


@pytest.mark.parametrize(("n", "k"), [(8, 3), (5, 9), (6, 6)])
@pytest.mark.parametrize("settings", [(0.1, 0.05), (1.0, 0.5)])
def test_values_and_gradients_are_those_of_the_rows(n, k, settings):
    """The codes have no gradient."""
    temperature, epsilon = settings
    loss = made("swav", 4, prototypes=k, temperature=temperature, epsilon=epsilon)
    z, zp = (v.requires_grad_() for v in views(n, 4))
    value = loss(z=z, z_positive=zp)
    rows = [v.detach().numpy() for v in (z, zp, loss.prototypes)]
    codes = [oracles.swav_codes(v, rows[2], epsilon) for v in rows[:2]]
    expected = oracles.swav(*rows, temperature, *codes)
    assert abs(value.item() - expected) < 1e-12 * max(1, expected)
    for k, gradient in enumerate(torch.autograd.grad(value, (z, zp, loss.prototypes))):
        found = slopes(lambda v: oracles.swav(*rows[:k], v, *rows[k + 1 :], temperature, *codes), rows[k])  # noqa: B023
        assert np.abs(gradient.numpy() - found).max() < 1e-6


def test_prototypes_share_the_rows():
    q = codes(draw(40, 5), 0.5, iterations=100)
    assert (q.sum(1) - 1).abs().max() < 1e-14 and (q.sum(0) - 8).abs().max() < 1e-6
    rounds = codes(draw(40, 5), 0.5)
    assert (rounds.sum(1) - 1).abs().max() < 1e-14


def test_only_the_directions_of_prototypes_count_and_they_are_trained():
    loss = made("swav", 4)
    z, zp = views(9, 4)
    value = loss(z=z, z_positive=zp)
    (gradient,) = torch.autograd.grad(value, loss.prototypes)
    assert gradient.abs().max() > 0 and (gradient * loss.prototypes).sum(1).abs().max() < 1e-12
    with torch.no_grad():
        loss.prototypes.mul_(torch.linspace(0.5, 3, 128, dtype=torch.float64)[:, None])
    assert abs(loss(z=z, z_positive=zp) - value) < 1e-13

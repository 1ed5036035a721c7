"""Predictors in closed form on linear data: where training ends is where the theory of predictors says."""

import numpy as np
import pytest
import torch
from torch import nn

import theory
from grassmann_ssl.nn import DirectPredictor, JointEmbedding
from grassmann_ssl.objectives import objective


def views(noise, n=120):
    """Two views x + e, x + e' with E x x^T = I, E e e^T = diag(noise), and no cross-moments, exactly."""
    m = len(noise)
    draw = torch.randn(n, 3 * m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, e, other = (torch.linalg.qr(draw)[0] * n**0.5).chunk(3, 1)
    scale = torch.as_tensor(noise, dtype=torch.float64).sqrt()
    return x + scale * e, x + scale * other


def end(kind, noise, decay, steps=1000, lr=0.05, start=0.9, **settings):
    """Eigenvalues of F where gradient descent with weight decay ends; L is twice the J of the theory, and so is its decay."""
    m = len(noise)
    encoder = nn.Linear(m, m, bias=False).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.diag(torch.as_tensor(start, dtype=torch.float64).expand(m)))
    loss = objective("euclidean").loss
    predictor = DirectPredictor(m, kind=kind, rho=0.5, **settings).double()
    method = JointEmbedding(encoder, nn.Identity(), loss, predictor=predictor)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=lr, weight_decay=2 * decay)
    x, x_positive = views(noise)
    for _ in range(steps):
        method(x, x_positive).backward()
        optimizer.step()
        optimizer.zero_grad()
        predictor.update()
    return torch.linalg.eigvalsh(predictor.correlation).flip(0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3])
def test_directpred_ends_at_its_fixed_point(eps):
    found = end("directpred", [0.25] * 4, decay=0.12, eps=eps)
    _, expected = theory.predictor.direct.direct_pred_fixed_points(0.12, epsilon=eps, sigma2=0.25)
    assert np.abs(found / expected - 1).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_directset_keeps_what_the_theory_keeps_and_where(alpha):
    noise = np.array([0.0, 0.25, 0.8, 2.0])
    # W_p starts with the eigenvalues p, F with p^(1 / alpha): above the unstable point, and not so far above that a step passes it.
    p = np.array([0.9, 0.7, 0.45, 0.4])
    start = np.sqrt(p ** (1 / alpha) / (1 + noise))
    found = end("directset", noise, decay=0.12, eps=0.0, alpha=alpha, start=start)
    kept = theory.predictor.direct.direct_set_threshold(noise) > 0.12
    assert kept.tolist() == [True, True, True, False]
    _, expected = theory.predictor.direct.direct_set_fixed_points(0.12, exponent=alpha, sigma2=noise[kept])
    assert np.abs(found[:3] / np.sort(expected)[::-1] - 1).max() < 0.02
    assert found[3] < 1e-6

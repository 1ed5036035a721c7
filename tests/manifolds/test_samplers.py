"""geoopt's Markov chains on the Grassmannian, against importance sampling from the uniform distribution."""

from functools import cache

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel
from grassmann_ssl.manifolds.base import RETRACTIONS
from tests.manifolds.cases import ALL, cases

WEIGHTS = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64)
M = Grassmann("exponential")


def log_density(x):
    """The matrix Bingham density exp(tr X^T A X)."""
    return (x * (WEIGHTS[:, None] * x)).sum((-2, -1))


def moment(x):
    return x.detach().as_subclass(torch.Tensor) @ x.detach().mT


@cache
def mean_projector():
    """E[X X^T] of the density, by importance sampling from the uniform one."""
    torch.manual_seed(0)
    uniform = M.random(1_000_000, 4, 2, dtype=torch.float64)
    weights = log_density(uniform.as_subclass(torch.Tensor)).exp()
    return (weights[:, None, None] * moment(uniform)).sum(0) / weights.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "chains", "steps"),
    [
        (lambda p: geoopt.samplers.RSGLD(p, epsilon=5e-3), 1500, 750),
        (lambda p: geoopt.samplers.RHMC(p, epsilon=0.02, n_steps=30), 800, 50),
        (lambda p: geoopt.samplers.SGRHMC(p, epsilon=1e-3, n_steps=100, alpha=0.1), 1500, 20),
    ],
    ids=["RSGLD", "RHMC", "SGRHMC"],
)
def test_samplers_find_the_mean_projector_of_a_bingham_density(make, chains, steps):
    expected = mean_projector()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # the accept step of RHMC
    x = geoopt.ManifoldParameter(M.random(chains, 4, 2, dtype=torch.float64), manifold=M)
    sampler, found, burn = make([x]), torch.zeros(4, 4, dtype=torch.float64), steps // 5
    for step in range(steps):
        sampler.step(lambda: log_density(x).sum())
        if step >= burn:
            found += moment(x).mean(0) / (steps - burn)
    assert (found - expected).norm() <= 0.01 * expected.norm()
    assert M.check_point_on_manifold(x.detach(), atol=1e-12)


@given(cases(dtypes=ALL), st.floats(0, 1.5))
def test_a_reversible_step_goes_back(case, length):
    x, u = case.point(), case.horizontal(length)
    y, v = M.retr_transp(x, u, u)
    back, w = M.retr_transp(y, -v, v)
    bound = 20 * case.eps * case.n * case.p
    assert (back - x).abs().max() <= bound and (w - u).abs().max() <= bound
    # along the tangent part of what is not tangent
    ambient = case.ambient() / case.ambient().norm()
    y, v = M.retr_transp(x, ambient, ambient)
    assert (y - M.expmap(x, M.proju(x, ambient))).abs().max() <= bound
    assert M.check_vector_on_tangent(y, v)


def test_only_reversible_manifolds_say_so():
    assert [Grassmann(r).reversible for r in RETRACTIONS] == [r == "exponential" for r in RETRACTIONS]
    assert geoopt.Scaled(M, 2.0).reversible and geoopt.ProductManifold((M, (4, 2)), (M, (3, 1))).reversible
    b = torch.eye(4)
    assert not any(m("exponential").reversible for m in (Stiefel, lambda r: GeneralizedGrassmann(b, r)))

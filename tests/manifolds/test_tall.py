"""Matrices of a hundred thousand rows and more, in float32, against float64."""

import geoopt
import pytest
import torch
from torch import nn

from grassmann_ssl.manifolds import Grassmann, Stiefel, distance, principal_angles, procrustes
from grassmann_ssl.manifolds.tall import ROWS, column_norms, inner_products, norm, triangle
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import RiemannianSGD
from tests.manifolds.cases import ALL, orthonormality_error, wide

SIZES = (ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 5 * ROWS + 7)
MANIFOLDS = [
    kind(retraction) for kind in (Grassmann, Stiefel) for retraction in ("cholesky-qr", "polar", "exponential")
]


def gaussian(*size, dtype=torch.float32, seed=0):
    return torch.randn(*size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_sums_by_blocks_are_the_sums(n, dtype):
    u, v = gaussian(2, n, 3, dtype=dtype), gaussian(2, dtype=dtype, seed=1)[:, None, None] + gaussian(n, 2, dtype=dtype)
    tolerance = 20 * torch.finfo(dtype).eps
    exact = wide(u).mH @ wide(v)
    assert (inner_products(u, v) - exact).abs().max() <= tolerance * n and inner_products(u, v).dtype == dtype
    transposed = u.mT.contiguous().mT
    assert (inner_products(transposed, v) - exact).abs().max() <= tolerance * n
    length = torch.linalg.matrix_norm(wide(u))
    assert (norm(u) / length - 1).abs().max() <= tolerance and norm(u, keepdim=True).shape == (2, 1, 1)
    assert (column_norms(u) / torch.linalg.vector_norm(wide(u), dim=-2) - 1).abs().max() <= tolerance
    r = wide(triangle(u))
    assert (r.mH @ r - wide(u).mH @ wide(u)).abs().max() <= 5 * tolerance * n  # reflections of a block round more


@pytest.mark.parametrize("n", SIZES[1:3])
def test_sums_by_blocks_have_derivatives(n):
    u, v = (gaussian(n, 2, dtype=torch.float64, seed=k).requires_grad_() for k in (0, 1))
    for function in (
        lambda u, v: inner_products(u, v).square().sum(),
        lambda u, v: norm(u - v),
        lambda u, v: column_norms(u * v).sum(),
    ):
        ours = torch.autograd.grad(function(u, v), (u, v))
        h, step = [gaussian(n, 2, dtype=torch.float64, seed=k) for k in (2, 3)], 1e-5
        ahead, behind = (function(*(a + s * step * d for a, d in zip((u, v), h, strict=True))) for s in (1, -1))
        along = sum((a * d).sum() for a, d in zip(ours, h, strict=True))
        assert abs(along / ((ahead - behind) / (2 * step)) - 1) <= 1e-6
    zero = torch.zeros(n, 2, requires_grad=True)
    assert torch.autograd.grad(norm(zero), zero)[0].count_nonzero() == 0


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_operations_are_as_exact_with_a_million_rows(manifold):
    n, p = 10**6, 4
    x = manifold.random(n, p, generator=torch.Generator().manual_seed(0)).as_subclass(torch.Tensor)
    u = manifold.proju(x, gaussian(n, p, seed=1))
    u = u / norm(u)
    ends = [manifold.projx(u), manifold.retr(x, u), manifold.expmap(x, u), x]
    assert max(map(orthonormality_error, ends)) <= 1e-6
    assert all(manifold.check_point_on_manifold(end, atol=1e-6) for end in ends)
    assert float((wide(x).mT @ wide(Grassmann().proju(x, u))).abs().max()) <= 1e-7
    y = ends[1]
    exact = Grassmann().dist(wide(x), wide(y))
    for found in (Grassmann().dist(x, y), distance(x, y), Grassmann().norm(x, Grassmann().logmap(x, y))):
        assert abs(found / exact - 1) <= 1e-6
    assert (principal_angles(x, y) - principal_angles(wide(x), wide(y))).abs().max() <= 1e-6
    assert (procrustes(x, y)[1] - procrustes(wide(x), wide(y))[1]).abs().max() <= 1e-6


def test_points_that_another_library_made_are_points():
    # The sums of another library are off by up to sqrt(n) eps.
    tall, small = (torch.linalg.qr(gaussian(n, 3))[0] for n in (200_000, 20))
    off = 1 + 1e-5
    assert Grassmann().check_point_on_manifold(off * tall) and not Grassmann().check_point_on_manifold(off * small)
    assert not Grassmann().check_point_on_manifold(off**4 * tall)


def test_embeddings_of_many_rows_train():
    table = constrain(nn.Embedding(100_000, 8))
    optimizer = RiemannianSGD(table, lr=1e-3, momentum=0.9)
    for step in range(3):
        (table(torch.arange(step, 1000 + step)) * gaussian(8, seed=step)).sum().backward()
        optimizer.step()
    assert orthonormality_error(table.weight.detach()) <= 4e-6  # 0.4e-6 to 1.7e-6 from 25 starts
    constrain(nn.Embedding(100_000, 8)).load_state_dict(table.state_dict())


@pytest.mark.slow
def test_steps_with_a_million_rows_stay_on_the_manifold():
    # Every step corrects the last one's error; after 1000 steps it was no larger.
    manifold = Grassmann()
    generator = torch.Generator().manual_seed(0)
    x = geoopt.ManifoldParameter(manifold.random(10**6, 8, generator=generator), manifold=manifold)
    optimizer = RiemannianSGD([x], lr=1e-4, momentum=0.9)
    noise = gaussian(10**6 + 150, 8, seed=1)
    for step in range(150):
        x.grad = noise[step : step + 10**6]
        optimizer.step()
    assert orthonormality_error(x.detach()) <= 4e-6
    assert manifold.check_point_on_manifold(x.detach(), atol=4e-6)

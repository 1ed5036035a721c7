"""geoopt's own optimizers, parameters and products work with our manifolds unchanged."""

import geoopt
import pytest
import torch

from grassmann_ssl.manifolds import Grassmann, Stiefel
from tests.manifolds.cases import orthonormality_error, subspace_error

MANIFOLDS = [Grassmann(), Stiefel()]


def rayleigh(n=12, batch=(2,)):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, n, dtype=torch.float64, generator=generator)
    q = torch.linalg.qr(a)[0]
    matrix = (q * torch.linspace(1, 4, n, dtype=torch.float64)) @ q.T
    return matrix, torch.randn(*batch, n, 3, dtype=torch.float64, generator=generator), q[:, :3]


def minimise(manifold, start, matrix, make, steps, noise=0.0):
    generator = torch.Generator().manual_seed(1)
    w = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
    optimizer = make([w])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (w * (matrix.to(w.dtype) @ w)).sum()
        if noise:
            loss = loss + noise * (w * torch.randn(w.shape, dtype=w.dtype, generator=generator)).sum()
        loss.backward()
        optimizer.step()
    return w.detach()


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}], ids=["plain", "momentum", "nesterov"]
)
def test_sgd_reaches_the_bottom_eigenspace(manifold, settings):
    matrix, start, expected = rayleigh()
    w = minimise(
        manifold, manifold.projx(start), matrix, lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, **settings), 1500
    )
    assert subspace_error(w, expected) < 1e-13
    assert orthonormality_error(w) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_adam_descends_to_its_noise_floor(manifold):
    matrix, start, expected = rayleigh()
    w = minimise(manifold, manifold.projx(start), matrix, lambda p: geoopt.optim.RiemannianAdam(p, lr=0.01), 2000)
    assert subspace_error(w, expected) < 0.02  # a constant learning rate of 0.01 keeps it that far
    assert orthonormality_error(w) < 1e-13


def trajectories_from_two_bases(momentum, lr, steps):
    """Difference of the subspaces reached from X and from X Q."""
    matrix, start, _ = rayleigh()
    start = Grassmann().projx(start)
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]

    def make(parameters):
        return geoopt.optim.RiemannianSGD(parameters, lr=lr, momentum=momentum)

    return subspace_error(*(minimise(Grassmann(), s, matrix, make, steps) for s in (start, start @ q)))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_trajectory_does_not_see_the_basis(momentum):
    assert trajectories_from_two_bases(momentum, 0.02, 200) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_noisy_steps_stay_orthonormal_without_stabilising(manifold, dtype, limit):
    matrix, start, _ = rayleigh(24, ())
    w = minimise(manifold, manifold.projx(start.to(dtype)), matrix,
                 lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, momentum=0.9), 3000, noise=1.0)  # fmt: skip
    assert orthonormality_error(w) <= limit and w.dtype == dtype


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_scaled_and_product(manifold):
    x = manifold.random(7, 2, dtype=torch.float64)
    u = manifold.proju(x, torch.randn(7, 2, dtype=torch.float64))
    scaled = geoopt.Scaled(manifold, 2.0)
    torch.testing.assert_close(scaled.expmap(x, u), manifold.expmap(x, u / 2))
    torch.testing.assert_close(scaled.retr_transp(x, u, u)[0], manifold.retr(x, u / 2))
    if isinstance(manifold, Grassmann):
        v = u / manifold.norm(x, u)
        torch.testing.assert_close(scaled.dist(x, scaled.expmap(x, v)), scaled.norm(x, v))
        torch.testing.assert_close(scaled.logmap(x, scaled.expmap(x, v)), v)
        y, w = manifold.random(7, 2, dtype=torch.float64), manifold.random_tangent(x)
        torch.testing.assert_close(scaled.cdist(x[None], y[None])[0, 0], 2 * manifold.dist(x, y))
        torch.testing.assert_close(scaled.geodesic(0.3, x, y), manifold.geodesic(0.3, x, y))
        torch.testing.assert_close(scaled.parallel_transport(x, y, u), manifold.parallel_transport(x, y, u))
        torch.testing.assert_close(scaled.sectional_curvature(x, u, w), manifold.sectional_curvature(x, u, w) / 4)
        torch.testing.assert_close(scaled.retr(x, scaled.inverse_retr(x, manifold.retr(x, u))), manifold.retr(x, u))
    product = geoopt.ProductManifold((manifold, (7, 2)), (geoopt.Sphere(), 4))
    point = product.random(3, product.n_elements, dtype=torch.float64)
    assert orthonormality_error(product.take_submanifold_value(point, 0)) < 1e-12


def test_parameters_of_equal_manifolds_match():
    parameter = geoopt.ManifoldParameter(Grassmann().random(6, 2), manifold=Grassmann())
    assert parameter.manifold == Grassmann()

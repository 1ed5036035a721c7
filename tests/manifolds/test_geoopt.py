"""geoopt's own optimizers, parameters and products work with our manifolds unchanged."""

import math

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, Validated, WeightLayout
from grassmann_ssl.manifolds.base import RETRACTIONS
from grassmann_ssl.optim import RiemannianSGD
from tests.manifolds.cases import ALL, cases, orthonormality_error, subspace_error
from tests.profiles import examples

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


@pytest.mark.long
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_trajectory_does_not_see_the_basis(momentum):
    assert trajectories_from_two_bases(momentum, 0.02, 200) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_noisy_steps_stay_orthonormal_without_stabilising(manifold, dtype, limit):
    matrix, start, _ = rayleigh(24, ())
    w = minimise(manifold, manifold.projx(start.to(dtype)), matrix,
                 lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, momentum=0.9), 1000, noise=1.0)  # fmt: skip
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
        assert manifold.injectivity_radius() == math.pi / 2
        for twice in (scaled, geoopt.Scaled(WeightLayout(manifold, transpose=True), 2.0)):
            assert abs(twice.injectivity_radius() - math.pi) <= 1e-6
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


def with_metric(retraction="cholesky-qr", dtype=torch.float64, n=7):
    a = torch.randn(n, 3 * n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return GeneralizedGrassmann(a @ a.mH / (3 * n), retraction)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("kind", [Grassmann, Stiefel, with_metric])
def test_every_result_is_contiguous(kind, retraction, batch, dtype):
    # Products flatten points by view, stabilize writes into storage, FSDP takes contiguous parameters only.
    manifold = with_metric(retraction, dtype) if kind is with_metric else kind(retraction)
    x, y = (manifold.random(*batch, 7, 3, dtype=dtype).as_subclass(torch.Tensor) for _ in range(2))
    e = torch.randn_like(x)
    v = manifold.proju(x, e)
    u = 0.1 * v / manifold.norm(x, v, keepdim=True)
    arguments = {
        "projx": (e,), "proju": (x, e), "egrad2rgrad": (x, e), "ehess2rhess": (x, e, e, u), "retr": (x, u), "expmap": (x, u),
        "logmap": (x, y), "transp": (x, y, v), "retr_transp": (x, u, v), "expmap_transp": (x, u, v), "transp_follow_retr": (x, u, v),
        "transp_follow_expmap": (x, u, v), "parallel_transport": (x, y, v), "inverse_retr": (x, y), "geodesic": (0.3, x, y),
        "random_tangent": (x,), "carry": (x, v), "whiten": (x,), "unwhiten": (x,), "sharp": (e,), "flat": (e,), "origin": tuple(x.shape),
    }  # fmt: skip
    for name, values in arguments.items():
        if not hasattr(manifold, name) or (kind is Stiefel and name == "logmap"):
            continue
        results = getattr(manifold, name)(*values)
        for result in results if isinstance(results, tuple) else (results,):
            assert result.is_contiguous(), name


@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_a_metric_in_products_and_under_stabilize(retraction):
    manifold = with_metric(retraction)
    product = geoopt.ProductManifold((manifold, (7, 2)), (geoopt.Sphere(), 4))
    point = product.projx(torch.randn(3, product.n_elements, dtype=torch.float64))
    assert manifold.check_point_on_manifold(product.take_submanifold_value(point, 0), atol=1e-12)
    for make in (
        lambda p: geoopt.optim.RiemannianSGD(p, lr=0.1, momentum=0.9, stabilize=1),
        lambda p: geoopt.optim.RiemannianAdam(p, lr=0.1, stabilize=1),
        lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    ):
        x = geoopt.ManifoldParameter(manifold.random(7, 3), manifold=manifold)
        optimizer = make([x])
        for _ in range(3):
            optimizer.zero_grad()
            (x * torch.arange(21.0).reshape(7, 3)).sum().backward()
            optimizer.step()
            getattr(optimizer, "stabilize", lambda: None)()
        assert x.is_contiguous() and manifold.check_point_on_manifold(x.detach(), atol=1e-12)


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("kind", [Grassmann, Stiefel, with_metric])
@examples(30)
@given(cases(dtypes=ALL), st.floats(0, 1.2))
def test_transport_along_a_retraction_is_that_of_the_step(kind, retraction, case, length):
    manifold = with_metric(retraction, case.dtype, case.n) if kind is with_metric else kind(retraction)
    x = manifold.projx(case.point())
    u, v = (length / case.p * manifold.proju(x, case.ambient(3)), manifold.proju(x, case.ambient(4)))
    expected = manifold.retr_transp(x, u, v)[1]
    assert torch.equal(manifold.transp_follow_retr(x, u, v), expected)
    assert torch.equal(geoopt.Scaled(manifold, 2.0).transp_follow_retr(x, 2 * u, v), expected)
    rows = WeightLayout(manifold, transpose=True)
    assert (rows.transp_follow_retr(x.mT, u.mT, v.mT).mT - expected).abs().max() <= 50 * case.eps * (
        1 + v.abs().max()
    ) * case.n
    loose = Validated(manifold, atol=1e-2, rtol=1e-2)
    assert torch.equal(loose.transp_follow_retr(x, u, v), expected)

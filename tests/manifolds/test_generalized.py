"""The B-metric: every operation is that of Grassmann on L^H X, B = L L^H."""

import math

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, distance, frechet_mean
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import RiemannianSGD
from tests.manifolds.cases import ALL, cases, subspace_error, wide
from tests.profiles import examples

G = Grassmann()


def problem(case, retraction="cholesky-qr"):
    """A B of condition about 10, and points and vectors in whitened coordinates."""
    a = wide(case.gaussian(case.n, 3 * case.n, k=9))
    b = (a @ a.mH / (3 * case.n)).to(case.dtype)
    manifold = GeneralizedGrassmann((b + b.mH) / 2, retraction)

    def out(v):  # from whitened coordinates
        return torch.linalg.solve(wide(manifold.factor).mH, wide(v)).to(case.dtype)

    def back(v):
        return wide(manifold.factor).mH @ wide(v)

    return manifold, out, back


def bound(case):
    # eps times the number of roundings times the condition of the change of coordinates
    return 100 * case.eps * case.n * case.p


@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
@examples(50)
@given(cases(dtypes=ALL), st.floats(0, 1.2))
def test_every_operation_is_the_ordinary_one_in_whitened_coordinates(retraction, case, length):
    manifold, out, back = problem(case, retraction)
    plain = Grassmann(retraction)
    condition = math.sqrt(float(manifold.condition.max()))
    tolerance = bound(case) * condition
    x, u, v = (
        case.point(),
        case.horizontal(length / (1 if retraction == "exponential" else 1 + case.p)),
        G.proju(case.point(), case.ambient(4)),
    )
    y = G.retr(x, case.horizontal(0.5, k=6))
    scale = 1 + float(v.abs().max())
    points = {
        "expmap": (manifold.expmap(out(x), out(u)), G.expmap(x, u)),
        "retr": (manifold.retr(out(x), out(u)), plain.retr(x, u)),
        "logmap": (manifold.logmap(out(x), out(y)), G.logmap(x, y)),
        "proju": (manifold.proju(out(x), out(case.ambient(5))), G.proju(x, case.ambient(5))),
        "transp": (manifold.transp(out(x), out(y), out(v)), G.transp(x, y, v)),
        "retr_transp": (manifold.retr_transp(out(x), out(u), out(v))[1], plain.retr_transp(x, u, v)[1]),
        "expmap_transp": (manifold.expmap_transp(out(x), out(u), out(v))[1], G.expmap_transp(x, u, v)[1]),
        "parallel": (manifold.parallel_transport(out(x), out(y), out(v)), G.parallel_transport(x, y, v)),
        "inverse_retr": (manifold.inverse_retr(out(x), out(y)), G.inverse_retr(x, y)),
        "geodesic": (manifold.geodesic(0.3, out(x), out(y)), G.geodesic(0.3, x, y)),
    }
    for name, (ours, plain_result) in points.items():
        assert (back(ours) - wide(plain_result)).abs().max() <= tolerance * scale, name
    numbers = {
        "dist": (manifold.dist(out(x), out(y)), G.dist(x, y)),
        "inner": (manifold.inner(out(x), out(u), out(v)), G.inner(x, u, v)),
        "norm": (manifold.norm(out(x), out(v)), G.norm(x, v)),
    }
    for name, (ours, plain_result) in numbers.items():
        assert (ours - plain_result).abs().max() <= tolerance * scale, name
    assert manifold.check_point_on_manifold(out(x)) and manifold.check_vector_on_tangent(out(x), out(u))
    assert orthonormal(manifold, manifold.projx(case.ambient(8))) <= tolerance
    in_place, carried = out(x), out(v)
    manifold.step_(in_place, out(u), carried)
    end, moved = manifold.retr_transp(out(x), out(u), out(v))
    assert (in_place - end).abs().max() <= tolerance * scale
    assert (manifold.proju(in_place, carried) - moved).abs().max() <= tolerance * scale


def orthonormal(manifold, x):
    return float((x.mH @ manifold.b @ x - torch.eye(x.shape[-1])).abs().max())


@given(cases(dtypes=(torch.float64, torch.complex128)))
def test_gradients_and_hessians_are_those_of_the_whitened_loss(case):
    manifold, out, back = problem(case)
    a = case.gaussian(case.n, case.n, k=11)
    a = a + a.mH
    x, u = case.point(), case.horizontal(1.0)
    w = out(x)
    egrad, ehess = 2 * a @ w, 2 * a @ out(u)
    unwhiten = torch.linalg.inv(manifold.factor)
    white = unwhiten @ a @ unwhiten.mH
    scale = bound(case) * float(manifold.condition.max()) * (1 + float(white.abs().max()))
    assert (back(manifold.egrad2rgrad(w, egrad)) - G.egrad2rgrad(x, 2 * white @ x)).abs().max() <= scale
    expected = G.ehess2rhess(x, 2 * white @ x, 2 * white @ u, u)
    assert (back(manifold.ehess2rhess(w, egrad, ehess, out(u))) - expected).abs().max() <= scale


@pytest.mark.parametrize("kind", ["grassmann", "stiefel", "generalized"])
@given(cases(dtypes=ALL))
def test_products_of_projections_need_no_projection(kind, case):
    manifold, out, _ = problem(case)
    if kind != "generalized":
        manifold, out = (G if kind == "grassmann" else Stiefel()), lambda v: v
    x = out(case.point())
    v = torch.stack([case.ambient(k) for k in (3, 4, 5)])
    projected = [manifold.proju(x, a) for a in v]
    expected = torch.stack([torch.stack([manifold.inner(x, a, b).sum() for a in projected]) for b in projected])
    found = manifold.tangent_products(x, v)
    # Products of vectors of this squared length in the metric, each rounded to eps a few times.
    size = max(float(manifold.inner(x, a).sum()) for a in v)
    scale = 50 * case.eps * size * (float(manifold.condition.max()) if kind == "generalized" else 1.0)
    assert found.dtype == x.real.dtype and (found - expected).abs().max() <= scale


@given(cases(dtypes=ALL))
def test_points_are_taken_along_when_b_is_replaced(case):
    manifold, out, _ = problem(case)
    x, u = out(case.point()), out(case.horizontal(1.0))
    manifold.replace(manifold.b + 2 * torch.eye(case.n, dtype=case.dtype))
    y, v = manifold.carry(x, u)
    tolerance = bound(case) * float(manifold.condition.max())
    assert orthonormal(manifold, y) <= tolerance and manifold.check_vector_on_tangent(y, v)
    assert subspace_error(torch.linalg.qr(y)[0], torch.linalg.qr(x)[0]) <= tolerance
    # the same velocity of the subspace: what the two lifts differ by lies in the subspace
    basis = torch.linalg.qr(x)[0]
    turn = torch.linalg.lstsq(x, y).solution
    difference = v - u @ turn
    assert (difference - basis @ (basis.mH @ difference)).abs().max() <= tolerance * 10


def test_functions_of_subspaces_take_whitened_points():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 30, dtype=torch.float64, generator=generator)
    manifold = GeneralizedGrassmann(a @ a.mT / 30)
    centre = manifold.random(8, 2, generator=generator).as_subclass(torch.Tensor)
    u = 0.3 * manifold.random_tangent(centre, generator=generator)
    points = torch.stack([manifold.expmap(centre, t * u) for t in (-1.0, 0.5, 0.5)])
    mean = manifold.unwhiten(frechet_mean(manifold.whiten(points)).mean)
    assert manifold.dist(mean, centre) <= 1e-12
    far = distance(manifold.whiten(points[0]), manifold.whiten(points[1]))
    assert abs(far - manifold.dist(points[0], points[1])) <= 1e-13


def test_embeddings_have_unit_covariance():
    torch.manual_seed(0)
    data = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    manifold = GeneralizedGrassmann(data.mT @ data / 500)
    w = manifold.random(12, 4)
    z = data @ w.as_subclass(torch.Tensor)
    torch.testing.assert_close(z.mT @ z / 500, torch.eye(4, dtype=torch.float64))
    origin = manifold.origin(12, 4)
    assert orthonormal(manifold, origin.as_subclass(torch.Tensor)) <= 1e-12 and isinstance(
        origin, geoopt.ManifoldTensor
    )
    assert "condition" in repr(manifold) and manifold == GeneralizedGrassmann(manifold.b) and manifold != Grassmann()


def test_a_b_that_is_no_metric_is_refused():
    good = torch.eye(3, dtype=torch.float64)
    for b, message in (
        (
            torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)),
            r"smallest eigenvalue is 0 \(largest 2\); B \+ r I with a ridge r >= 3e-08",
        ),
        (torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)), "smallest eigenvalue is -0.5"),
        (good + torch.triu(torch.ones(3, 3), 1), "must be Hermitian"),
        (torch.ones(3, 2), r"must have shape \(\.\.\., n, n\), got \(3, 2\)"),
        (good * float("nan"), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            GeneralizedGrassmann(b)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        GeneralizedGrassmann(torch.eye(3, dtype=torch.int64))
    ridge = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)) + 3e-8 * good
    assert float(GeneralizedGrassmann(ridge).condition) < 1.1e8
    manifold = GeneralizedGrassmann(good)
    with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 3, p\)"):
        manifold.random(4, 2)
    with pytest.raises(TypeError, match=r"must have the dtype of B, torch\.float64, got torch\.float32"):
        manifold.check_point_on_manifold(torch.eye(3)[:, :2])
    batch = GeneralizedGrassmann(torch.stack([good, 2 * good]))
    assert batch.random(2, 3, 1).shape == (2, 3, 1) and batch.condition.shape == (2,)


def test_b_goes_where_its_module_goes():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            a = torch.randn(6, 60, generator=torch.Generator().manual_seed(0))
            self.manifold = GeneralizedGrassmann(a @ a.mT / 60)
            self.weight = geoopt.ManifoldParameter(self.manifold.random(6, 2), manifold=self.manifold)

    model = Model().double()
    b, factor = model.manifold.b, model.manifold.factor
    assert b.dtype == factor.dtype == model.weight.dtype == torch.float64
    assert (factor @ factor.mH - b).abs().max() <= 1e-15  # not the rounded factor of float32
    assert model.manifold.check_point_on_manifold(model.weight.detach(), atol=1e-6)
    assert model.manifold.check_point_on_manifold(model.manifold.random(6, 2), atol=1e-14)
    model.float()
    assert model.manifold.b.dtype == model.manifold.random(6, 2).dtype == torch.float32
    model.half()
    assert torch.equal(model.manifold.b, b.float()) and model.manifold.factor.dtype == torch.float32
    assert model.to("meta").manifold.factor.is_meta
    steep = GeneralizedGrassmann(torch.diag(torch.logspace(0, -10, 6, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"smallest eigenvalue is 1e-10 .* a ridge"):
        steep.float()


def test_b_follows_the_dtype_of_a_constrained_layer():
    layer = constrain(torch.nn.Linear(6, 2), manifold=GeneralizedGrassmann(torch.diag(torch.arange(1.0, 7.0))))
    layer.double()
    optimizer = RiemannianSGD(layer, lr=0.1)
    layer(torch.ones(6, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert layer.weight.manifold.manifold.b.dtype == torch.float64
    assert layer.weight.manifold.check_point_on_manifold(layer.weight.detach(), atol=1e-13)


def test_b_is_hermitian_to_the_last_bit():
    """Products are so up to rounding: 16 eps of float32 are no longer rounding once a module is float64."""
    a = torch.randn(6, 60, generator=torch.Generator().manual_seed(0))
    b = a @ a.mT / 60
    b[0, 1] *= 1 + 4 * torch.finfo(torch.float32).eps
    manifold = GeneralizedGrassmann(b)
    assert torch.equal(manifold.b, manifold.b.mT) and manifold.double().b.dtype == torch.float64
    manifold.float().follow(b)
    assert torch.equal(manifold.b, manifold.b.mT)
    assert torch.equal(GeneralizedGrassmann(manifold.b).b, manifold.b)

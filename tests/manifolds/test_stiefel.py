"""The Stiefel manifold with the Euclidean and with the canonical metric."""

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import CanonicalStiefel, Grassmann, Stiefel, stiefel
from grassmann_ssl.manifolds.checks import check_gradient, check_hessian, check_manifold, check_retraction
from grassmann_ssl.manifolds.pymanopt import solve
from grassmann_ssl.optim import RiemannianSGD
from tests.manifolds.cases import ALL, Case, cases, orthonormality_error, wide
from tests.oracles import grassmann as oracle
from tests.profiles import examples

S = Stiefel()
C = CanonicalStiefel()
BOTH = pytest.mark.parametrize("manifold", [S, C], ids=str)


def bound(case, factor=20):
    return factor * case.eps * case.n * case.p


def tangent(case, length=1.0, k=3):
    u = S.proju(case.point(), case.ambient(k))
    return u * length / torch.linalg.matrix_norm(u, 2, keepdim=True).clamp_min(1e-30)


@given(cases())
def test_projection_is_orthogonal_onto_the_tangent_space(case):
    x, a, b = case.point(), case.ambient(3), case.ambient(4)
    u = S.proju(x, a)
    scale = 1 + float(a.abs().max() * b.abs().max())
    skew = x.mT @ u
    assert (skew + skew.mT).abs().max() <= bound(case) * scale
    assert (S.proju(x, u) - u).abs().max() <= bound(case) * scale
    assert (S.inner(x, a - u, S.proju(x, b))).abs().max() <= bound(case) * scale


@BOTH
@examples(30)
@given(cases(dtypes=(torch.float64,)), st.floats(0, 2))
def test_exp_follows_the_geodesic_equation(manifold, case, length):
    case = Case((), case.n, case.p, case.dtype, case.seed)
    x, u = case.point(), tangent(case, length)
    expected = oracle.stiefel_geodesic(x.numpy(), u.numpy(), steps=300, canonical=manifold is C)
    assert (
        np.abs(manifold.expmap(x, u).numpy() - expected).max() <= 1e-8
    )  # RK4 with 300 steps: (2/300)^4 times a constant


@given(cases(), st.floats(0, 2))
def test_exp_and_retraction_stay_on_the_manifold(case, length):
    x, u = case.point(), tangent(case, length)
    for end in (S.expmap(x, u), S.retr(x, u)):
        assert end.dtype == case.dtype and orthonormality_error(end) <= bound(case) * (1 + length**2)
        assert S.check_point_on_manifold(end)


@pytest.mark.parametrize("shape", [(8, 3), (9, 1), (4, 4)])
def test_retraction_is_of_first_order(shape):
    # On Stiefel the QR retraction agrees with exp to first order: the error falls with the square of the step.
    case = Case((4,), *shape, torch.float64, 0)
    x, u = case.point(), tangent(case)
    steps = [0.02, 0.01, 0.005]
    errors = [(S.retr(x, h * u) - S.expmap(x, h * u)).abs().max() for h in steps]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.abs(slopes - (3 if shape[1] == 1 else 2)).max() < 0.1  # the sphere's is of second order


@given(cases(), st.floats(0, 1.4))
def test_horizontal_geodesics_are_those_of_the_grassmannian(case, length):
    x, u = case.point(), case.horizontal(length)
    assert (S.expmap(x, u) - Grassmann().expmap(x, u)).abs().max() <= bound(case)


def test_a_point_broadcasts_against_vectors_and_back():
    one, many = Case((), 7, 3, torch.float64, 0), Case((4,), 7, 3, torch.float64, 1)
    x, v = one.point(), S.proju(many.point(), one.ambient())
    for end in (S.expmap, S.retr):
        u = S.proju(x, many.ambient())
        torch.testing.assert_close(end(x, u), torch.stack([end(x, row) for row in u]))
        for i in range(4):
            torch.testing.assert_close(end(many.point(), v[0])[i], end(many.point()[i], v[0]))


def test_random_points_are_uniform():
    x = S.random(20_000, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # Entries have mean 0 and variance 1/n; a sign left to the factorization would show in the mean of the first row.
    assert x.mean(0).abs().max() < 6 / np.sqrt(3 * 20_000)
    assert (x.square().mean(0) - 1 / 3).abs().max() < 6 * 0.3 / np.sqrt(20_000)


def near(manifold, case, length, k=3):
    """A tangent vector of this length in the metric of the manifold."""
    u = S.proju(case.point(), case.ambient(k))
    size = manifold.norm(case.point(), u, keepdim=True)
    return torch.where(size > 1e-6, u * (length / size.clamp_min(1e-30)), 0)


@pytest.mark.slow
@BOTH
@examples(30)
@given(cases(dtypes=ALL), st.floats(0, 1.5))
def test_log_inverts_exp_and_its_norm_is_the_distance(manifold, case, length):
    x, u = case.point(), near(manifold, case, length)
    y = manifold.expmap(x, u)
    found = manifold.logarithm(x, y)
    assert found.converged.all() and found.gap.max() <= 1e-12 and found.iterations <= 60
    # 1e-13 is the gap at which the search stops, and the inverse is conditioned like 1 at these lengths.
    tolerance = bound(case) + 1e-12
    assert (found.tangent - u).abs().max() <= tolerance and found.tangent.dtype == case.dtype
    assert torch.equal(manifold.logmap(x, y), found.tangent)
    assert (manifold.dist(x, y) - manifold.norm(x, u)).abs().max() <= tolerance
    assert (manifold.dist(x, y) - manifold.dist(y, x)).abs().max() <= tolerance
    torch.testing.assert_close(manifold.dist2(x, y, keepdim=True), manifold.dist(x, y, keepdim=True).square())
    for i in range(3 if case.batch == (3,) else 0):
        assert (manifold.logmap(x[i], y[i]) - found.tangent[i]).abs().max() <= tolerance


@pytest.mark.long
def test_a_search_that_fails_says_so(monkeypatch):
    x = S.random(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).as_subclass(torch.Tensor)
    opposite = x * torch.tensor([1.0, 1.0, -1.0])  # of the other orientation: as far as it gets
    for manifold in (S, C):
        found = manifold.logarithm(x, torch.stack([x, opposite]), max_iterations=2)
        assert found.converged.tolist() == [True, False] and found.iterations == 2 and found.gap[1] > 0.1
    square = torch.eye(3, dtype=torch.float64)
    monkeypatch.setattr(stiefel, "MAX_ITERATIONS", 20)
    for operation in (S.logmap, C.logmap, S.dist, C.dist):
        with pytest.raises(ArithmeticError, match=r"no geodesic of .* found in 20 iterations.*`logarithm` returns"):
            operation(square, square * torch.tensor([1.0, 1.0, -1.0]))  # O(3) has two components


@given(cases(dtypes=ALL))
def test_projx_is_the_nearest_point(case):
    a = case.ambient()
    x = S.projx(a)
    left, values, right = torch.linalg.svd(wide(a), full_matrices=False)
    condition = float((values[..., 0] / values[..., -1]).max())
    assert (x - left @ right).abs().max() <= bound(case) * condition
    assert orthonormality_error(x) <= bound(case, 8) and x.is_contiguous()
    assert (S.projx(case.point()) - case.point()).abs().max() <= bound(case)
    assert (torch.linalg.matrix_norm(a - x) <= torch.linalg.matrix_norm(a - Grassmann().projx(a)) + bound(case)).all()


def test_projx_of_matrices_without_full_rank_is_a_point():
    for a in (torch.zeros(5, 3), torch.ones(5, 3), torch.eye(5)[:, :3]):
        assert S.check_point_on_manifold(S.projx(a), atol=1e-6)


@given(cases(dtypes=ALL))
def test_the_canonical_metric_counts_rotations_half(case):
    x = case.point()
    u, v = (S.proju(x, case.ambient(k)) for k in (3, 4))
    expected = S.inner(x, u, v) - S.inner(x, x.mH @ u, x.mH @ v) / 2
    tolerance = bound(case) * (1 + float(u.abs().max() + v.abs().max())) ** 2
    assert (C.inner(x, u, v) - expected).abs().max() <= tolerance
    assert (C.norm(x, u).square() - C.inner(x, u)).abs().max() <= tolerance
    # <grad f, V> = Re tr(G^H V) for every tangent V
    g = case.ambient(5)
    gradient = C.egrad2rgrad(x, g)
    assert (C.inner(x, gradient, v) - S.inner(x, g, v)).abs().max() <= tolerance * (1 + g.abs().max())
    assert C.check_vector_on_tangent(x, gradient, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_canonical_metric_keeps_its_promises(retraction, dtype):
    manifold = CanonicalStiefel(retraction)
    case = Case((2,), 8, 3, dtype, 0)
    x, a, c = case.point(), case.gaussian(8, 8)[0], torch.arange(1.0, 4.0, dtype=torch.float64)
    a = (a + a.mH) / 2

    def loss(x):  # sees the basis, and does not vanish to second order anywhere
        return (x.conj() * (a @ x) * c).real.sum((-2, -1)) + (x * x).real.sum((-2, -1)) + x.real.pow(3).sum((-2, -1))

    generator = torch.Generator().manual_seed(1)
    check_gradient(loss, manifold, x, raises=True, generator=generator)
    check_hessian(loss, manifold, x, raises=True, generator=generator)
    check_manifold(manifold, x, raises=True, generator=generator)
    if retraction != "cholesky-qr":
        order = 2 if retraction == "exponential" else 1
        assert check_retraction(manifold, x, order=order, generator=generator).ok


@pytest.mark.long
def test_optimizers_and_solvers_run_on_the_canonical_metric():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    target = torch.linalg.qr(a)[0][:, :3]
    start = C.random(9, 3, dtype=torch.float64, generator=generator)

    def loss(x):
        return (x - target).square().sum()

    assert solve(loss, C, start).cost <= 1e-12
    for make in (geoopt.optim.RiemannianSGD, RiemannianSGD):
        x = geoopt.ManifoldParameter(start.as_subclass(torch.Tensor).clone(), manifold=C)
        optimizer = make([x], lr=0.1, momentum=0.5)
        for _ in range(300):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
        assert loss(x) <= 1e-10 and C.check_point_on_manifold(x.detach(), atol=1e-12)
    assert CanonicalStiefel() == C != S and CanonicalStiefel("polar") != C and "cholesky-qr" in repr(C)

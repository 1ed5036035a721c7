"""The Grassmannian: equivariance, inverses, isometries, accuracy at the edges, agreement with peers and textbook formulas."""

import math

import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, Validated, distance, principal_angles
from tests.manifolds.cases import ALL, Case, cases, orthonormality_error, subspace_error, wide
from tests.oracles import grassmann as oracle

G = Grassmann()
lengths = st.floats(0, 1.5)
# Below, a bound is a small multiple of eps times n p: the number of roundings in the products involved.


def bound(case, factor=20):
    return factor * case.eps * case.n * case.p


@given(cases(dtypes=ALL), lengths)
def test_every_operation_is_equivariant(case, length):
    x, u, v, q = case.point(), case.horizontal(length), G.proju(case.point(), case.ambient(4)), case.rotation()
    y = G.retr(x, case.horizontal(0.7, k=6))
    scale = 1 + float(v.abs().max())
    pairs = {
        "proju": (G.proju(x @ q, case.ambient() @ q), G.proju(x, case.ambient()) @ q),
        "retr": (G.retr(x @ q, u @ q), None),
        "expmap": (G.expmap(x @ q, u @ q), G.expmap(x, u) @ q),
        "transp": (G.transp(x @ q, y @ q, v @ q), G.transp(x, y, v) @ q),
        "parallel": (G.transp_follow_expmap(x @ q, u @ q, v @ q), G.transp_follow_expmap(x, u, v) @ q),
    }
    assert subspace_error(pairs.pop("retr")[0], G.retr(x, u)) <= bound(case)
    for name, (left, right) in pairs.items():
        assert (left - right).abs().max() <= bound(case) * scale, name
    assert (G.inner(x @ q, u @ q, v @ q) - G.inner(x, u, v)).abs().max() <= bound(case) * scale
    # log and dist do not see the basis of their second argument at all
    # (the logarithm is well conditioned only away from the cut locus, and here angles stay below atan(0.7))
    assert (G.logmap(x @ q, y) - G.logmap(x, y) @ q).abs().max() <= bound(case)
    assert (G.dist(x, y @ q) - G.dist(x, y)).abs().max() <= bound(case)


@given(cases(dtypes=ALL), lengths)
def test_log_inverts_exp_and_its_norm_is_the_distance(case, length):
    x, u = case.point(), case.horizontal(length)
    y = G.expmap(x, u)
    # At a largest angle of 1.5 the inverse is conditioned like 1 / cos(1.5) = 14.
    assert (G.logmap(x, y) - u).abs().max() <= 14 * bound(case)
    assert (G.dist(x, y) - G.norm(x, u)).abs().max() <= bound(case)
    assert subspace_error(G.expmap(x, G.logmap(x, y)), y) <= bound(case)


@given(cases(dtypes=ALL))
def test_distance_is_a_metric(case):
    x, y, z = case.point(), case.point(1), case.point(2)
    assert (G.dist(x, y) - G.dist(y, x)).abs().max() <= bound(case)
    assert (G.dist(x, z) <= G.dist(x, y) + G.dist(y, z) + bound(case)).all()
    assert G.dist(x, x).max() <= bound(case, 5)  # no sqrt(eps) floor
    torch.testing.assert_close(G.dist2(x, y), G.dist(x, y).square())
    assert G.dist(x, y, keepdim=True).shape == (*case.batch, 1, 1)


@given(cases(dtypes=ALL), lengths)
def test_parallel_transport_is_an_isometry_and_moves_the_velocity_along(case, length):
    x, u = case.point(), case.horizontal(length)
    v, w = (G.proju(x, case.ambient(k)) for k in (4, 5))
    y, moved = G.expmap_transp(x, u, v)
    scale = 1 + float(G.norm(x, v).max() * G.norm(x, w).max())
    assert (G.inner(y, moved, G.transp_follow_expmap(x, u, w)) - G.inner(x, v, w)).abs().max() <= bound(case) * scale
    assert (y.mH @ moved).abs().max() <= bound(case) * scale
    # The end velocity of the geodesic is that of the geodesic back, reversed.
    velocity = G.transp_follow_expmap(x, u, u)
    assert subspace_error(G.expmap(y, -velocity), x) <= bound(case)
    back = G.transp_follow_expmap(y, -velocity, moved)
    assert (back - v).abs().max() <= 4 * bound(case) * scale


@given(cases(dtypes=(torch.float64,)), lengths)
def test_exp_and_transport_equal_the_textbook(case, length):
    case = Case((), case.n, case.p, case.dtype, case.seed)
    x, u = case.point(), case.horizontal(length)
    v = G.proju(x, case.ambient(4))
    arrays = x.numpy(), u.numpy(), v.numpy()
    assert np.abs(G.expmap(x, u).numpy() - oracle.exp(*arrays[:2])).max() <= bound(case)
    expected = oracle.parallel_transport(*arrays)
    assert np.abs(G.transp_follow_expmap(x, u, v).numpy() - expected).max() <= bound(case) * (
        1 + np.abs(expected).max()
    )
    y = G.retr(x, case.horizontal(0.9, k=6))
    assert np.abs(G.logmap(x, y).numpy() - oracle.log(arrays[0], y.numpy())).max() <= bound(case)


@pytest.mark.parametrize("shape", [(8, 3), (9, 1), (5, 2), (4, 4)])
def test_retraction_agrees_with_exp_to_third_order(shape):
    case = Case((4,), *shape, torch.float64, 0)
    x, u = case.point(), case.horizontal(1.0)
    steps = [0.1, 0.05, 0.025]
    errors = [subspace_error(G.retr(x, h * u), G.expmap(x, h * u)) for h in steps]
    if shape == (4, 4):
        assert max(errors) < 1e-14  # one point only
        return
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.abs(slopes - 3).max() < 0.1


@given(cases(dtypes=ALL), st.floats(0, 1.5))
def test_retraction_spans_what_qr_and_polar_span(case, length):
    x, u = case.point(), case.horizontal(length)
    y = G.retr(x, u)
    assert subspace_error(y, torch.linalg.qr(wide(x + u))[0]) <= bound(case)
    left, _, right = torch.linalg.svd(wide(x + u), full_matrices=False)
    assert subspace_error(y, left @ right) <= bound(case)
    assert (torch.diagonal(x.mH @ y, dim1=-2, dim2=-1).real > 0).all()  # no column flips its sign


@given(cases(dtypes=ALL), st.sampled_from([1e-3, 1.0, 1e2, 1e4, 1e8]))
def test_retraction_of_any_step_is_orthonormal(case, length):
    x, u = case.point(), case.horizontal(length)
    u = (
        u * (torch.arange(case.p) == 0)
    ) @ case.rotation()  # rank one, in no column alone: the worst case for its length
    y = G.retr(x, u)
    assert torch.isfinite(y).all()
    # eps cond^2, up to the length at which steps are shortened, where cond^2 = eps^{-1/2}
    assert orthonormality_error(y) <= 10 * case.p * case.eps * min(1 + length**2, case.eps**-0.5)


@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
@given(cases(dtypes=ALL), lengths)
def test_carried_vectors_turn_with_the_basis(retraction, case, length):
    manifold = Grassmann(retraction)
    x, u, v, q = case.point(), case.horizontal(length), G.proju(case.point(), case.ambient(4)), case.rotation()
    y, moved = manifold.retr_transp(x, u, v)
    scale = 1 + float(v.abs().max())
    assert (y.mH @ moved).abs().max() <= bound(case) * scale
    y_q, moved_q = manifold.retr_transp(x @ q, u @ q, v @ q)
    turn = y.mH @ y_q
    assert (y @ turn - y_q).abs().max() <= bound(case)
    assert (moved @ turn - moved_q).abs().max() <= bound(case) * scale
    if retraction != "exponential":
        # Up to the fourth order in the step it is the projection in the basis that polar retraction keeps.
        polar = Grassmann("polar").retr(x, u)
        expected = G.proju(y, v @ (polar.mH @ y))
        assert (moved - expected).abs().max() <= (length**4 + bound(case)) * scale
    in_place, carried = x.clone(), v.clone()
    manifold.step_(in_place, u / 3, carried, 3.0)
    assert (in_place - y).abs().max() <= bound(case)
    assert (manifold.proju(y, carried) - moved).abs().max() <= bound(case) * scale


@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
def test_nothing_is_computed_in_low_precision_under_autocast(retraction):
    manifold = Grassmann(retraction)
    case = Case((2,), 12, 3, torch.float32, 0)
    x, u, v = case.point(), case.horizontal(0.5), G.proju(case.point(), case.ambient(4))
    y = G.retr(x, case.horizontal(0.7, k=6))
    operations = {
        "proju": lambda: manifold.proju(x, v), "egrad2rgrad": lambda: manifold.egrad2rgrad(x, v), "retr": lambda: manifold.retr(x, u),
        "retr_transp": lambda: manifold.retr_transp(x, u, v)[1], "expmap": lambda: manifold.expmap(x, u),
        "expmap_transp": lambda: manifold.expmap_transp(x, u, v)[1], "logmap": lambda: manifold.logmap(x, y),
        "dist": lambda: manifold.dist(x, y), "dist2": lambda: manifold.dist2(x, y), "transp": lambda: manifold.transp(x, y, v),
        "parallel_transport": lambda: manifold.parallel_transport(x, y, v), "inner": lambda: manifold.inner(x, u, v),
        "inverse_retr": lambda: manifold.inverse_retr(x, y), "principal_angles": lambda: principal_angles(x, y),
        "geodesic": lambda: manifold.geodesic(0.3, x, y), "curvature": lambda: manifold.sectional_curvature(x, u, v),
        "proju_": lambda: manifold.proju_(x, v.clone()), "step_": lambda: manifold.step_(x.clone(), u, v.clone(), 0.7),
        "cdist": lambda: manifold.cdist(x, y), "ehess2rhess": lambda: manifold.ehess2rhess(x, v, v, u),
    }  # fmt: skip
    for name, operation in operations.items():
        expected = operation()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(operation(), expected), name


@given(cases(dtypes=ALL), lengths)
def test_transport_to_any_point_in_any_basis(case, length):
    x, u, q = case.point(), case.horizontal(length), case.rotation()
    v, w = (G.proju(x, case.ambient(k)) for k in (4, 5))
    y = G.expmap(x, u)
    scale = 1 + float(G.norm(x, v).max() * G.norm(x, w).max())
    # At a largest angle of 1.5 the basis of X is turned to that of Y by the polar factor of a matrix of condition 1 / cos(1.5) = 14.
    assert (G.parallel_transport(x, y, v) - G.transp_follow_expmap(x, u, v)).abs().max() <= 14 * bound(case) * scale
    moved = [G.parallel_transport(x, y @ q, a) for a in (v, w)]
    assert (G.inner(y, *moved) - G.inner(x, v, w)).abs().max() <= 14 * bound(case) * scale
    assert (G.parallel_transport(x, y @ q, v) - G.parallel_transport(x, y, v) @ q).abs().max() <= 14 * bound(
        case
    ) * scale
    assert (G.transp(x, y @ q, v) - G.transp(x, y, v) @ q).abs().max() <= 14 * bound(case) * scale
    assert (G.transp(x, x @ q, v) - v @ q).abs().max() <= bound(case) * scale


@given(cases(dtypes=ALL), st.floats(0, 1.4))
def test_the_inverse_retraction_inverts_the_retraction(case, length):
    x, u, q = case.point(), case.horizontal(length), case.rotation()
    for manifold in (G, Grassmann("polar")):
        assert (
            manifold.inverse_retr(x, manifold.retr(x, u / (1 + case.p)) @ q) - u / (1 + case.p)
        ).abs().max() <= bound(case)
    assert (G.inverse_retr(x, G.retr(x, u)) - u).abs().max() <= 10 * bound(case)


@given(cases(dtypes=ALL), lengths, st.floats(-0.5, 1.5))
def test_geodesics_are_parametrised_by_length(case, length, t):
    x = case.point()
    y = G.expmap(x, case.horizontal(length))
    middle = G.geodesic(t, x, y)
    if abs(t) * length < math.pi / 2:
        assert (G.dist(x, middle) - abs(t) * G.dist(x, y)).abs().max() <= 14 * bound(case)
    assert subspace_error(G.geodesic(0.0, x, y), x) <= bound(case) and subspace_error(
        G.geodesic(1.0, x, y), y
    ) <= bound(case)
    times = torch.full(case.batch, t, dtype=x.real.dtype)
    assert (G.geodesic(times, x, y) - middle).abs().max() <= bound(case)


@given(cases(wide=True, dtypes=ALL))
def test_sectional_curvature_is_the_spread_of_geodesics(case):
    x = case.point()
    u, v = (G.proju(x, case.ambient(k)) for k in (4, 5))
    if case.n * case.p < 3 and not case.dtype.is_complex:
        with pytest.raises(ValueError, match="span a plane"):
            G.sectional_curvature(x, u, v)
        return
    k = G.sectional_curvature(x, u, v)
    low, high = (1, 1) if case.p == 1 and not case.dtype.is_complex else (0, 4 if case.dtype.is_complex else 2)
    assert ((k >= low - bound(case)) & (k <= high + bound(case))).all()
    # of the plane, whatever its basis, and of the subspaces, whatever theirs
    q = case.rotation()
    assert (G.sectional_curvature(x @ q, (u + 2 * v) @ q, (v - 0.3 * u) @ q) - k).abs().max() <= 20 * bound(case)
    if case.dtype in (torch.float64, torch.complex128):
        # dist(Exp tu, Exp tv)^2 = t^2 |u - v|^2 - K t^4 / 3 + O(t^6) for orthonormal u, v
        u = u / G.norm(x, u, keepdim=True)
        v = v - G.inner(x, u, v, keepdim=True) * u
        v, t = v / G.norm(x, v, keepdim=True), 1e-2
        spread = G.dist2(G.expmap(x, t * u), G.expmap(x, t * v))
        assert ((2 * t**2 - spread) * 3 / t**4 - k).abs().max() <= 20 * t**2
    with pytest.raises(ValueError, match="span a plane"):
        G.sectional_curvature(x, u, 2 * u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_line_of_directions_has_no_curvature(dtype):
    for seed in range(300):  # rounding makes two vectors on the line look apart for some of them
        case = Case((), 2, 1, dtype, seed)
        x = case.point()
        u, v = (G.proju(x, case.ambient(k)) for k in (4, 5))
        with pytest.raises(ValueError, match=r"span a plane, but Gr\(2, 1\) has dimension 1"):
            G.sectional_curvature(x, u, v)
    with pytest.raises(ValueError, match=r"span a plane, but Gr\(3, 3\) has dimension 0"):
        G.sectional_curvature(*[Case((2,), 3, 3, dtype, 0).point()] * 3)


@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
@given(cases(dtypes=ALL))
def test_nothing_is_tangent_to_a_point(retraction, case):
    case = Case(case.batch, case.p, case.p, case.dtype, case.seed)
    b = case.gaussian(case.n, case.n, k=8)
    for manifold in (
        Grassmann(retraction),
        GeneralizedGrassmann(torch.eye(case.n, dtype=case.dtype) + b @ b.mH, retraction),
    ):
        x, v = manifold.projx(case.point()), case.ambient()
        for projected in (manifold.proju(x, v), manifold.egrad2rgrad(x, v), manifold.proju_(x, v.clone())):
            assert projected.shape == v.shape and projected.count_nonzero() == 0
        assert manifold.proju(x, torch.stack([v, v])).shape == (2, *v.shape)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_points_of_one_entry_are_on_the_circle(dtype):
    x = torch.randn(20_000, 1, 1, dtype=dtype, generator=torch.Generator().manual_seed(0))
    y = G.projx(x)
    assert orthonormality_error(y) <= 3 * torch.finfo(dtype).eps
    assert (y * x.abs() - x).abs().max() <= 4 * torch.finfo(dtype).eps * x.abs().max()
    assert G.projx(torch.zeros(1, 1, dtype=dtype)) == 1


@given(cases(dtypes=ALL))
def test_all_distances_of_two_sets(case):
    r, s = (torch.stack([case.point(k) for k in ks], dim=-3) for ks in ((0, 1, 2), (3, 4)))
    table = G.cdist(r, s)
    assert table.shape == (*case.batch, 3, 2)
    assert (table[..., 2, 1] - G.dist(case.point(2), case.point(4))).abs().max() <= bound(case)


@pytest.mark.parametrize("theta", [6.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exp_is_accurate_around_the_circle(theta, dtype):
    case = Case((), 6, 2, dtype, 0)
    x, u, y = case.at_angles(torch.tensor([theta, theta / 2], dtype=torch.float64))
    assert subspace_error(G.expmap(x, u), y) <= 2 * case.eps * theta**2


@given(cases(wide=True), st.data())
def test_principal_angles_are_accurate_everywhere(case, data):
    special = [0.0, 1e-12, 1e-7, 1e-3, 0.5, 0.5, math.pi / 4, 1.0, math.pi / 2 - 1e-7, math.pi / 2]
    angles = torch.tensor(sorted(data.draw(st.sampled_from(special)) for _ in range(case.p)), dtype=torch.float64)
    x, _, y = case.at_angles(angles)
    assert (principal_angles(x, y) - angles).abs().max() <= bound(case, 4)
    assert (principal_angles(y, x) - angles).abs().max() <= bound(case, 4)


@given(cases(wide=True), st.data())
def test_log_reaches_the_cut_locus(case, data):
    special = [0.0, 0.0, 0.3, 1.0, 1.0, 1.57, math.pi / 2 - 1e-4, math.pi / 2 - 1e-7, math.pi / 2]
    angles = torch.tensor([data.draw(st.sampled_from(special)) for _ in range(case.p)], dtype=torch.float64)
    x, _, y = case.at_angles(angles)
    u = G.logmap(x, y)
    assert subspace_error(G.expmap(x, u), y) <= (1e-6 if case.dtype == torch.float32 else 2e-14)
    assert (G.norm(x, u) - angles.norm()).abs().max() <= bound(case)
    assert (x.mH @ u).abs().max() <= bound(case, 4)


@given(cases(wide=True, dtypes=(torch.float64,)), st.data())
def test_exp_is_exact_at_repeated_and_zero_angles(case, data):
    angles = torch.tensor(
        [data.draw(st.sampled_from([0.0, 0.0, 0.4, 0.4, 3.0, 6.0])) for _ in range(case.p)], dtype=torch.float64
    )
    x, u, y = case.at_angles(angles)
    assert subspace_error(G.expmap(x, u), y) <= bound(case, 100)  # eps theta^2, theta = 6


@given(cases(dtypes=ALL), lengths)
def test_a_batch_is_a_loop(case, length):
    case = Case((3,), case.n, case.p, case.dtype, case.seed)
    x, u, v = case.point(), case.horizontal(length), G.proju(case.point(), case.ambient(4))
    y = G.retr(x, case.horizontal(0.7, k=6))
    operations = {
        "retr": lambda i: G.retr(x[i], u[i]),
        "expmap": lambda i: G.expmap(x[i], u[i]),
        "logmap": lambda i: G.logmap(x[i], y[i]),
        "dist": lambda i: G.dist(x[i], y[i]),
        "transp": lambda i: G.transp(x[i], y[i], v[i]),
        "parallel": lambda i: G.transp_follow_expmap(x[i], u[i], v[i]),
        "inner": lambda i: G.inner(x[i], u[i], v[i]),
        "projx": lambda i: G.projx(u[i] + x[i]),
    }
    for name, operation in operations.items():
        together = operation(slice(None))
        number = x.real.dtype if name in ("dist", "inner") else case.dtype
        assert together.dtype == number and together.device == x.device, name
        for i in range(3):
            assert (together[i] - operation(i)).abs().max() <= bound(case) * (1 + together[i].abs().max()), name


@given(cases(dtypes=(torch.float64,)))
def test_peers_agree(case):
    case = Case((), case.n, case.p, case.dtype, case.seed)
    peer = pymanopt.manifolds.Grassmann(case.n, case.p)
    x, u = case.point(), case.horizontal(1.0)
    y = G.expmap(x, u)
    assert np.abs(
        G.proju(x, case.ambient()).numpy() - peer.projection(x.numpy(), case.ambient().numpy())
    ).max() <= bound(case)
    assert subspace_error(y, torch.tensor(peer.exp(x.numpy(), u.numpy()))) <= bound(case)
    assert subspace_error(G.retr(x, u), torch.tensor(peer.retraction(x.numpy(), u.numpy()))) <= bound(case)
    assert np.abs(G.logmap(x, y).numpy() - peer.log(x.numpy(), y.numpy())).max() <= 10 * bound(case)
    # pymanopt's distance goes through arccos: its own floor is sqrt(eps).
    assert abs(G.dist(x, y).item() - peer.dist(x.numpy(), y.numpy())) <= 2 * np.sqrt(case.eps * case.p)
    angles = np.sort(scipy.linalg.subspace_angles(x.numpy(), y.numpy()))
    error = np.abs(principal_angles(x, y).numpy() - angles)
    # scipy's small angles are off by a few eps / angle, as a calculation with 40 digits shows; ours are not.
    small = bound(case, 4) + 4 * case.eps / np.maximum(angles, 1e-6)
    assert (error <= small)[angles > 1e-6].all()
    assert error.max() <= 10 * np.sqrt(case.eps)  # scipy's floor at angles that are exactly 0


@given(cases(dtypes=(torch.float64,)))
def test_gradient_of_the_squared_distance_is_minus_two_log(case):
    x, y = case.point().requires_grad_(), case.point(1).requires_grad_()
    gradients = torch.autograd.grad(G.dist2(x, y).sum(), (x, y))
    assert (gradients[0] + 2 * G.logmap(x, y)).abs().max() <= bound(case)
    assert (gradients[1] + 2 * G.logmap(y, x)).abs().max() <= bound(case)
    # Along a direction, against finite differences of the value: step 1e-5 leaves 1e-10 truncation, and as much rounding.
    direction = case.horizontal(1.0)
    values = [G.dist2(G.expmap(x, s * 1e-5 * direction), y).sum() for s in (1, -1)]
    if float(principal_angles(x, y).detach().max()) < 1.5:  # at the cut locus the distance has a kink
        assert abs((values[0] - values[1]) / 2e-5 - (gradients[0] * direction).sum()) < 1e-7


def test_gradients_are_exact_at_degenerate_points():
    case = Case((), 8, 3, torch.float64, 0)
    x, repeated, _ = case.at_angles(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    a = case.gaussian(8, 8)
    for u in (torch.zeros_like(x), repeated):
        u = u.clone().requires_grad_()
        for end in (G.expmap, G.retr, lambda x, v: G.transp_follow_expmap(x, v, repeated)):
            assert torch.autograd.gradcheck(lambda v, end=end: (end(x, v) * (a @ end(x, v))).sum(), u)
        assert torch.isfinite(torch.autograd.grad(G.norm(x, u), u)[0]).all()
    same = x.clone().requires_grad_()
    assert torch.autograd.grad(G.dist2(same, x), same)[0].abs().max() < 1e-14
    # The distance has a kink there; what comes out is a subgradient.
    assert torch.autograd.grad(G.dist(same, x), same)[0].norm() <= 1 + 1e-14


def test_random_points_are_uniform():
    x = G.random(20_000, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = (x @ x.mH).mean(0)  # E P = (p / n) I, with standard error below 0.25 / sqrt(20000) per entry
    assert (mean - 0.5 * torch.eye(4)).abs().max() < 6 * 0.25 / math.sqrt(20_000)


@given(cases(dtypes=ALL))
def test_points_from_outside(case):
    size = (*case.batch, case.n, case.p)
    for point in (G.random(*size, dtype=case.dtype), G.origin(*size, dtype=case.dtype), G.projx(case.ambient())):
        assert point.shape == size and point.dtype == case.dtype and point.is_contiguous()
        assert orthonormality_error(point) <= bound(case, 8)
        assert G.check_point_on_manifold(point)
    assert subspace_error(G.projx(case.point() @ case.rotation()), case.point()) <= bound(case)
    ill = case.ambient() * torch.logspace(0, -6, case.p, dtype=case.dtype)
    assert orthonormality_error(G.projx(ill)) <= bound(case, 4)


def test_what_is_no_point_is_refused():
    x = G.random(5, 2, dtype=torch.float64)
    for bad in (torch.ones(5, 2, dtype=torch.int64), x.to(torch.bfloat16)):
        for operation in (G.proju, G.retr, G.expmap, G.logmap, G.dist, G.step_):
            with pytest.raises(TypeError, match=rf"must be float32.*got {bad.dtype}"):
                operation(*[bad] * (3 if operation == G.step_ else 2))
        assert not G.check_point_on_manifold(bad) and not G.check_vector_on_tangent(x, bad)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        G.random(5, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"x must have shape.*got n = 2, p = 5"):
        G.projx(x.mH)
    with pytest.raises(ValueError, match="retraction must be one of cholesky-qr, polar, exponential, got 'qr'"):
        Grassmann("qr")
    with pytest.raises(ValueError, match=r"got 'cholesky'; did you mean cholesky-qr\?$"):
        Grassmann("cholesky")
    with pytest.raises(ValueError, match="X - I"):
        G.assert_check_point_on_manifold(2 * x)
    assert G.check_point_on_manifold(torch.empty(0, 5, 2)) and Grassmann("polar") != G


@given(cases(dtypes=ALL), st.floats(-12, 0))
def test_tiny_distances_keep_their_digits(case, exponent):
    x, u = case.point(), case.horizontal(10.0**exponent)
    y = wide(x) + wide(u)  # too short for the orthonormality of the end to matter below 1e-6
    if exponent > -6:
        y = G.expmap(wide(x), wide(u))
    if case.n > case.p and case.dtype in (torch.float64, torch.complex128):
        # The end points themselves are rounded, to eps.
        tolerance = bound(case) + 4 * bound(case) * 10.0**exponent
        assert (G.dist(x, y) - G.norm(x, u)).abs().max() <= tolerance


def test_no_tall_matrix_is_decomposed():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(name in str(func) for name in ("svd", "eig", "linalg_qr", "geqrf", "lstsq")):
                seen.append((str(func), tuple(args[0].shape)))
            return func(*args, **(kwargs or {}))

    case = Case((2,), 20, 3, torch.float64, 0)
    x, u, v = case.point(), case.horizontal(0.5), G.proju(case.point(), case.ambient(4))
    y = G.retr(x, u)
    with Watch():
        for retraction in ("cholesky-qr", "polar", "exponential"):
            manifold = Grassmann(retraction)
            manifold.retr(x, u), manifold.retr_transp(x, u, v), manifold.step_(x.clone(), u, v.clone())
        G.expmap(x, u), G.expmap_transp(x, u, v), G.transp(x, y, v), G.parallel_transport(x, y, v), G.inverse_retr(x, y)
        G.logmap(x, y), G.dist(x, y)
    assert seen and all(shape == (2, 3, 3) for _, shape in seen), seen


def test_derivatives_under_functional_transforms():
    case = Case((3,), 8, 2, torch.float64, 0)
    x, y = case.point(), case.point(1)
    for operation in (G.dist2, G.dist):
        one_by_one = torch.stack([torch.func.grad(operation)(x[i], y[i]) for i in range(3)])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(operation))(x, y), one_by_one)
        expected = -2 * G.logmap(x, y) / (1 if operation == G.dist2 else 2 * G.dist(x, y, keepdim=True))
        torch.testing.assert_close(one_by_one, expected)
    for operation in (G.retr, G.expmap, G.proju):
        u = case.horizontal(0.5)
        torch.testing.assert_close(torch.func.vmap(operation)(x, u), operation(x, u))


def test_checks_say_why():
    x = G.random(5, 2, dtype=torch.float64)
    assert G.check_point_on_manifold(1.1 * x, explain=True)[1] == (
        "the largest entry of X^T X - I is 0.21, above the tolerance 1e-05"
    )
    assert "normal part" in G.check_vector_on_tangent(x, x, explain=True)[1]
    assert G.check_vector_on_tangent(x, G.random_tangent(x))
    assert not G.check_point_on_manifold(x * float("nan"))
    for size in ((2, 5), (3, 0), (4,)):
        with pytest.raises(ValueError, match="must have shape"):
            G.random(*size)
    assert Grassmann() == G and hash(Grassmann()) == hash(G)


@given(cases(dtypes=ALL), st.sampled_from(ALL), st.integers(1, 3))
def test_a_vector_of_another_kind_is_not_tangent(case, dtype, more):
    x, u = case.point(), case.horizontal(1.0)
    others = [torch.nn.functional.pad(u, (0, 0, 0, more)), torch.nn.functional.pad(u, (0, more))]
    if dtype != case.dtype:
        others.append((u.real if u.is_complex() and not dtype.is_complex else u).to(dtype))
    for manifold in (G, Stiefel(), GeneralizedGrassmann(torch.eye(case.n, dtype=case.dtype))):
        for other in others:
            good, reason = manifold.check_vector_on_tangent(x, other, ok_point=True, explain=True)
            assert not good and "must have the shape of the point" in reason and str(other.dtype) in reason


@given(cases(dtypes=ALL), st.sampled_from([0.0, 0.3, 0.9, 1.1, 30.0]))
def test_matrices_that_are_not_orthonormal_have_no_angles(case, factor):
    x, y = case.point(), case.point(1)
    if factor == 0.0:
        y = case.ambient() * 3 * torch.ones(case.p)  # a Gaussian matrix
        if (torch.linalg.matrix_norm(y).square() / case.p - 1).abs().min() < 0.1:
            return
    else:
        y = factor * y
    for value in (G.dist(x, y), G.dist2(x, y), distance(x, y), distance(y, y)):
        assert value.isnan().all()
    assert principal_angles(x, y).isnan().any(-1).all()
    with pytest.raises(ValueError, match=r"dist of .*: y is off the manifold"):
        Validated(G).dist(x, y)
    # what bfloat16 rounds is still a point
    rounded = case.point(1).to(torch.complex64 if case.dtype.is_complex else torch.bfloat16).to(case.dtype)
    assert (G.dist(x, rounded) - G.dist(x, case.point(1))).abs().max() <= 0.05 * case.p

"""Forward-mode and second derivatives, against reverse mode and finite differences along geodesics, at equal and zero angles too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, distance, principal_angles, procrustes
from grassmann_ssl.manifolds.matrix_functions import arc_ratio, unitary_factor
from grassmann_ssl.manifolds.subspaces import DISTANCES
from tests.manifolds.cases import Case
from tests.profiles import examples

# Torch's own forward mode is compiled with torch.jit.script, which torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")

G = Grassmann()
DOUBLE = (torch.float64, torch.complex128)
ANGLES = [[0.2, 0.7, 1.1], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 0.9], [0.0, 0.0, 0.0], [1e-9, 1e-9, 0.3]]
# Functions of one point, with the other fixed, that are smooth there whatever the angles.
SMOOTH = {
    "dist2": G.dist2,
    "log": G.logmap,
    "log of": lambda x, y: G.logmap(y, x),
    "geodesic": lambda x, y: G.geodesic(0.3, x, y),
    "angles": lambda x, y: principal_angles(x, y).square().sum(-1),
    "chordal": lambda x, y: distance(x, y, "chordal").square(),
    "binet-cauchy": lambda x, y: distance(x, y, "binet-cauchy").square(),
    "procrustes": lambda x, y: distance(x, y, "procrustes").square(),
    "nearest": lambda x, y: procrustes(x, y)[0],
    "rotation": lambda x, y: procrustes(y, x)[1],
    "transp": lambda x, y: G.transp(x, y, G.proju(x, y.roll(1, -2))),
    "parallel": lambda x, y: G.parallel_transport(x, y, G.proju(x, y.roll(1, -2))),
    "exp": lambda x, y: G.expmap(x, G.proju(x, y)),
    "exp and transport": lambda x, y: G.expmap_transp(x, G.proju(x, y), y)[1],
    "polar": lambda x, y: Grassmann("polar").retr(x, 0.3 * G.proju(x, y)),
    "cholesky-qr": lambda x, y: G.retr(x, G.proju(x, y)),
    "stiefel exp": lambda x, y: Stiefel().expmap(x, Stiefel().proju(x, y)),
}
ONCE = (
    "dist2",
    "log",
    "log of",
    "geodesic",
    "nearest",
    "rotation",
    "transp",
    "parallel",
    "exp",
    "polar",
    "stiefel exp",
)


def problem(angles, dtype, seed=0):
    """X, Y at these angles and a curve of points through X, with its velocity."""
    case = Case((), 8, len(angles), dtype, seed)
    x, _, y = case.at_angles(torch.tensor(angles, dtype=torch.float64))
    u = G.proju(x, case.ambient(6))
    u = u / G.norm(x, u)
    return x, y @ case.rotation(), u, lambda t: G.expmap(x, t * u)


def slope(function, curve, h=1e-3):
    """d/dt at 0, to h^6 and rounding eps / h."""
    weights = (3 / 4, -3 / 20, 1 / 60)
    return sum(w * (function(curve(k * h)) - function(curve(-k * h))) for k, w in enumerate(weights, 1)) / h


@pytest.mark.long
@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize("angles", ANGLES, ids=str)
@pytest.mark.parametrize("name", SMOOTH)
def test_forward_mode_is_the_derivative_and_the_transpose_of_reverse_mode(name, angles, dtype):
    x, y, u, curve = problem(angles, dtype)
    function = SMOOTH[name]
    value, forward = jvp(lambda a: function(a, y), (x,), (u,))
    assert torch.equal(value, function(x, y))
    assert (forward - slope(lambda a: function(a, y), curve)).abs().max() <= 1e-10
    # by the second argument, and both at once
    case = Case((), 8, 3, dtype, 3)
    v, weight = case.ambient(), torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(1))
    both = jvp(function, (x, y), (u, v))[1]
    by_x, by_y = vjp(function, x, y)[1](weight)
    pulled = (by_x.conj() * u).sum() + (by_y.conj() * v).sum()
    assert abs(((weight.conj() * both).sum() - pulled).real) <= 1e-12 * (1 + both.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("angles", ANGLES, ids=str)
@pytest.mark.parametrize("name", ONCE)
def test_second_derivatives_are_exact_at_equal_and_zero_angles(name, angles):
    x, y, u, curve = problem(angles, torch.float64)
    weight = torch.randn(SMOOTH[name](x, y).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def function(a):
        return (weight * SMOOTH[name](a, y)).sum()

    found = hessian(function)(x)  # forward over reverse
    scale = 1e-11 * (1 + found.abs().max())
    along = torch.einsum("ijkl,kl->ij", found, u)
    assert (along - slope(jacrev(function), curve)).abs().max() <= 1e-9 * (1 + found.abs().max())
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    twice = [
        torch.autograd.grad(gradient, leaf, e.reshape(8, 3), retain_graph=True)[0]
        for e in torch.eye(24, dtype=torch.float64)
    ]
    assert (torch.stack(twice).reshape(8, 3, 8, 3) - found).abs().max() <= scale  # reverse over reverse
    assert (jacrev(jacfwd(function))(x) - found).abs().max() <= scale


def test_the_hessian_of_half_the_squared_distance_is_the_identity_at_the_point():
    x, _, u, _ = problem([0.0, 0.0, 0.0], torch.float64)
    along = torch.einsum("ijkl,kl->ij", hessian(lambda a: G.dist2(a, x) / 2)(x), u)
    torch.testing.assert_close(along, u, atol=1e-14, rtol=0)


@pytest.mark.parametrize("kind", sorted(DISTANCES))
def test_distances_have_second_derivatives_at_distinct_angles(kind):
    x, y, u, curve = problem([0.2, 0.7, 1.1], torch.float64)
    found = hessian(lambda a: distance(a, y, kind))(x)
    along = torch.einsum("ijkl,kl->ij", found, u)
    assert (along - slope(jacrev(lambda a: distance(a, y, kind)), curve)).abs().max() <= 1e-9
    assert (jacrev(jacrev(lambda a: distance(a, y, kind)))(x) - found).abs().max() <= 1e-11


@pytest.mark.parametrize("angles", ANGLES[:4], ids=str)
def test_distances_have_derivatives_where_subspaces_differ(angles):
    x, y, u, curve = problem(angles, torch.float64)
    for function in (
        G.dist,
        *(lambda a, b, kind=kind: distance(a, b, kind) for kind in ("geodesic", "chordal", "procrustes", "martin")),
    ):
        forward = jvp(lambda a, f=function: f(a, y), (x,), (u,))[1]
        assert abs(forward - slope(lambda a, f=function: f(a, y), curve)) <= 1e-10
    for function in (G.dist, distance):
        along = torch.einsum("ijkl,kl->ij", hessian(lambda a, f=function: f(a, y))(x), u)
        assert (along - slope(jacrev(lambda a, f=function: f(a, y)), curve)).abs().max() <= 1e-9


def test_every_single_angle_moves_as_its_gradient_says():
    x, y, u, curve = problem([0.2, 0.7, 1.1], torch.float64)
    moved = jvp(lambda a: principal_angles(a, y), (x,), (u,))[1]
    assert (moved - slope(lambda a: principal_angles(a, y), curve)).abs().max() <= 1e-10
    assert (jacfwd(principal_angles)(x, y) - jacrev(principal_angles)(x, y)).abs().max() <= 1e-14


def test_batches_and_generalized_metrics_have_forward_derivatives():
    case = Case((3,), 8, 2, torch.float64, 0)
    x, y, u = case.point(), case.point(1), case.horizontal(1.0)
    a = case.gaussian(8, 8)[0]
    metric = GeneralizedGrassmann(torch.eye(8) + a @ a.mT)
    for function in (G.dist2, G.logmap, principal_angles, lambda x, y: procrustes(x, y)[0]):
        together = jvp(function, (x, y), (u, u))[1]
        for i in range(3):
            torch.testing.assert_close(together[i], jvp(function, (x[i], y[i]), (u[i], u[i]))[1])
        broadcast = jvp(lambda b, f=function: f(b, y), (x[0],), (u[0],))[1]
        torch.testing.assert_close(broadcast[1], jvp(lambda b, f=function: f(b, y[1]), (x[0],), (u[0],))[1])
        torch.testing.assert_close(
            jacfwd(lambda b, f=function: f(b, y))(x[0]), jacrev(lambda b, f=function: f(b, y))(x[0])
        )
    x, y = metric.projx(x[0]), metric.projx(y[0])
    for function in (metric.dist, metric.dist2, metric.logmap, metric.retr):
        torch.testing.assert_close(jacfwd(function)(x, y), jacrev(function)(x, y))


@examples(50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 2**20), st.sampled_from(DOUBLE))
def test_the_ratio_of_angle_and_sine_of_a_matrix_of_cosines(cosines, seed, dtype):
    c = torch.tensor(cosines, dtype=torch.float64)
    q = Case((), len(cosines), len(cosines), dtype, seed).point()
    ratio = torch.where(c < 1, c.acos() / c.acos().sin().clamp_min(1e-300), 1).to(dtype)
    assert (arc_ratio((q * c) @ q.mH) - (q * ratio) @ q.mH).abs().max() <= 1e-14


def test_the_unitary_factor_has_derivatives_to_any_order_at_equal_singular_values():
    q = Case((), 3, 3, torch.float64, 0).point()
    a = (2 * q).requires_grad_()
    assert torch.autograd.gradcheck(
        unitary_factor, a, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(unitary_factor, a)
    assert torch.autograd.gradgradcheck(
        lambda a: torch.autograd.grad(unitary_factor(a)[0, 1], a, create_graph=True)[0], a
    )


@pytest.mark.parametrize("name", ["dist2", "dist", "angles", "log"])
def test_gradients_pass_through_a_batched_transform(name):
    """Inside a vmap nothing says that a gradient is asked for outside."""
    case = Case((3,), 8, 2, torch.float64, 0)
    x, y = case.point(), case.point(1)
    y[0] = x[0]
    one = {**SMOOTH, "dist": G.dist}[name]
    found = grad(lambda a: vmap(one)(a, y).square().sum())(x)
    assert (found - grad(lambda a: one(a, y).square().sum())(x)).abs().max() <= 1e-14

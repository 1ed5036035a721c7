"""pymanopt's solvers on our manifolds: what they find, how often the loss runs, agreement with pymanopt's own geometry, errors."""

import doctest
import gc
import importlib
import math
import sys
import weakref

import geoopt
import jaxtyping
import numpy as np
import pymanopt
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

import grassmann_ssl.manifolds.pymanopt as module
from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel
from grassmann_ssl.manifolds.checks import check_hessian
from grassmann_ssl.manifolds.pymanopt import METHODS, TorchManifold, reference_problem, solve, torch_function
from grassmann_ssl.manifolds.pymanopt_loss import TorchBackend
from grassmann_ssl.manifolds.trust_regions import TrustRegions

LINE_SEARCHES = ("conjugate-gradient", "steepest-descent")
shapes = st.integers(1, 4).flatmap(lambda p: st.tuples(st.just(p), st.integers(p, 9)))
dtypes = st.sampled_from([torch.float64, torch.complex128])
seeds = st.integers(0, 2**20)


def gaussian(*shape, seed=0, dtype=torch.float64):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def point(*shape, seed=0, dtype=torch.float64):
    return torch.linalg.qr(gaussian(*shape, seed=seed, dtype=dtype))[0].contiguous()


def hermitian(n, dtype=torch.float64, top=3):
    """A matrix with eigenvalues 1 ... 2, but 3 ... 4 for the `top` largest: a gap of 1, and what it leaves to find."""
    values = torch.cat(
        [torch.linspace(1, 2, n - top, dtype=torch.float64), torch.linspace(3, 4, top, dtype=torch.float64)]
    )
    wide = torch.complex128 if dtype.is_complex else torch.float64
    q = torch.linalg.qr(gaussian(n, n, seed=99, dtype=wide))[0]
    return ((q * values) @ q.mH).to(dtype)


def rayleigh(a):
    return lambda x: -(x.conj() * (a @ x)).real.sum()


def angle_to_dominant(a, x):
    """The largest angle between span(X) and the dominant invariant subspace, from numpy in double precision."""
    a, x = (t.numpy().astype(np.complex128) for t in (a, x))
    dominant = np.linalg.eigh((a + a.conj().T) / 2)[1][:, -x.shape[1] :]
    return np.linalg.norm(x - dominant @ (dominant.conj().T @ x), 2)  # the sine


class Counted:
    """A loss that counts its calls."""

    def __init__(self, loss):
        self.loss, self.calls = loss, 0

    def __call__(self, x):
        self.calls += 1
        return self.loss(x)


class Reconstruction(torch.nn.Module):
    """Mean squared error of x -> decoder(X X^T x), a loss with parameters."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = torch.nn.Linear(8, 8, dtype=torch.float64)
        self.data = gaussian(40, 8, seed=5) * torch.linspace(0.2, 2, 8)

    def forward(self, x):
        return (self.decoder(self.data @ x @ x.mT) - self.data).square().mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128, torch.complex64])
def test_solvers_find_the_dominant_subspace(method, dtype):
    a, start = hermitian(20, dtype), point(20, 3, dtype=dtype)
    eps = torch.finfo(dtype).eps
    found = solve(rayleigh(a), Grassmann(), start, method=method, min_gradient_norm=100 * eps**0.75)
    assert type(found.point) is torch.Tensor and found.point.dtype == dtype and not found.point.requires_grad
    # The gradient is the residual, twice the gap times the angle. Line searches see the loss only, which is rounded to eps |f| = 10 eps,
    # and flat to second order: sqrt(10 eps).
    assert angle_to_dominant(a, found.point) <= (100 * eps**0.75 if method == "trust-regions" else math.sqrt(10 * eps))
    assert found.cost == pytest.approx(-float(torch.linalg.eigvalsh(a)[-3:].sum()), abs=100 * eps)
    for number in (found.cost, found.gradient_norm, found.seconds):
        assert type(number) is float


def test_trust_regions_are_exact_to_1e_8():
    a = hermitian(20)
    found = solve(rayleigh(a), Grassmann(), point(20, 3), min_gradient_norm=1e-8)
    assert angle_to_dominant(a, found.point) <= 1e-8 and found.gradient_norm < 1e-8
    assert found.stopping.startswith("Terminated - min grad norm reached")


def test_trust_regions_in_float32_do_not_stall_in_the_rounding_of_the_loss():
    # With the allowance that pymanopt makes for float64, steps are refused from a gradient of 3e-5 on, for as long as it may run.
    a, start = hermitian(20, torch.float32), point(20, 3, dtype=torch.float32)
    found = solve(rayleigh(a), Grassmann(), start, min_gradient_norm=1e-5, max_iterations=50)
    assert found.gradient_norm < 1e-5 and found.iterations < 50


def test_nothing_of_the_graph_is_kept():
    points = []

    def loss(x):
        points.append(weakref.ref(x))
        return rayleigh(hermitian(8))(x)

    gc.disable()
    try:
        solve(loss, Grassmann(), point(8, 2))
        assert points and all(reference() is None for reference in points)
    finally:
        gc.enable()


@pytest.mark.parametrize("method", METHODS)
def test_points_never_leave_torch(method, monkeypatch):
    # On another device a conversion to numpy raises; here it is made to.
    def refuse(*args, **kwargs):
        raise AssertionError("converted to numpy")

    a, start = hermitian(20, torch.float32), point(20, 3, dtype=torch.float32)
    monkeypatch.setattr(torch.Tensor, "__array__", refuse)
    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    assert solve(rayleigh(a), Grassmann(), start, method=method, min_gradient_norm=1e-2).gradient_norm < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", METHODS)
def test_points_stay_on_their_device(method):
    a, start = hermitian(20).cuda(), point(20, 3).cuda()
    found = solve(rayleigh(a), Grassmann(), start, method=method)
    assert found.point.device == start.device
    assert angle_to_dominant(a.cpu(), found.point.cpu()) <= 1e-6
    problem = reference_problem(rayleigh(a), Grassmann(), (20, 3), device="cuda")
    assert problem.cost(start.cpu().numpy()) == pytest.approx(float(rayleigh(a)(start)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_one_product_manifold(method, dtype):
    a = torch.stack([hermitian(12, dtype, top=2), 2 * hermitian(12, dtype, top=2).flip(0, 1)])
    found = solve(rayleigh(a), Grassmann(), point(2, 12, 2, dtype=dtype), method=method)
    for matrix, x in zip(a, found.point, strict=True):
        assert angle_to_dominant(matrix, x) <= 1e-6  # the gradient norm, over a gap above 1


def test_procrustes_on_stiefel():
    # A loss linear in X: its Euclidean Hessian is 0, the Riemannian one is not.
    c = gaussian(9, 3, seed=4)
    left, _, right = torch.linalg.svd(c, full_matrices=False)
    found = solve(lambda x: -(c * x).sum(), Stiefel(), point(9, 3))
    assert (found.point - left @ right).abs().max() <= 1e-6


def test_generalized_eigenvectors():
    a, b = hermitian(10, top=2), hermitian(10, top=5).flip(0, 1)
    manifold = GeneralizedGrassmann(b)
    start = manifold.projx(gaussian(10, 2))
    found = solve(rayleigh(a), manifold, start)
    values = scipy.linalg.eigh(a.numpy(), b.numpy(), eigvals_only=True)
    assert found.cost == pytest.approx(-values[-2:].sum(), abs=1e-12)  # second order in the gradient, 1e-6


def test_manifolds_of_geoopt_work_too():
    a = hermitian(8, top=1)
    start = gaussian(8) / gaussian(8).norm()
    for method in ("conjugate-gradient", "trust-regions"):
        found = solve(lambda x: -(x @ a @ x), geoopt.Sphere(), start, method=method)
        assert found.cost == pytest.approx(-3, abs=1e-12)
    with pytest.raises(NotImplementedError, match=r"has no ehess2rhess|typical distance"):
        solve(lambda x: -(x.mT @ a @ x).sum(), geoopt.EuclideanStiefel(), point(8, 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_module_in_the_loss_keeps_its_parameters(method):
    network = Reconstruction()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = solve(network, Grassmann(), point(8, 3), method=method, min_gradient_norm=1e-5)
    assert found.cost < float(network(point(8, 3)).detach()) and found.gradient_norm < 1e-4
    for name, parameter in network.named_parameters():
        assert parameter.grad is None and parameter.requires_grad and torch.equal(parameter, before[name])


@pytest.mark.parametrize("method", METHODS)
def test_every_forward_pass_is_counted(method):
    loss = Counted(rayleigh(hermitian(20)))
    found = solve(loss, Grassmann(), point(20, 3), method=method)
    assert found.evaluations == loss.calls
    if method == "trust-regions":
        assert loss.calls == found.iterations + 1  # the start, and one proposal for each iteration


def test_rejected_proposals_cost_no_second_pass():
    # Far from the minimum of this loss its quadratic model is poor, and steps are rejected.
    a = hermitian(12)
    loss = Counted(lambda x: (8 * rayleigh(a)(x)).sin() + rayleigh(a)(x))
    cost = torch_function(TorchManifold(Grassmann(), (12, 3)))(loss)
    problem = pymanopt.Problem(TorchManifold(Grassmann(), (12, 3)), cost)
    steps = []
    accept = problem.manifold.retraction
    problem.manifold.retraction = lambda x, u: steps.append(x) or accept(x, u)
    result = METHODS["trust-regions"](verbosity=0).run(problem, initial_point=point(12, 3))
    assert len({id(x) for x in steps}) < len(steps)  # some were rejected
    assert loss.calls == result.iterations + 1


def test_value_gradient_and_hessian_share_a_forward_pass():
    loss = Counted(rayleigh(hermitian(8)))
    backend = TorchBackend()
    value = backend.prepare_function(loss)
    gradient, hessian = (
        generate(loss, 1) for generate in (backend.generate_gradient_operator, backend.generate_hessian_operator)
    )
    x, y = point(8, 2), point(8, 2, seed=1)
    for _ in range(2):
        value(x), gradient(x), hessian(x, y), hessian(x, x)
    assert loss.calls == backend.evaluations == 1
    value(y), hessian(x, y), value(y), gradient(x)  # a proposal, rejected
    assert loss.calls == 2
    expected = -2 * hermitian(8) @ x
    torch.testing.assert_close(gradient(x), expected)
    x.copy_(y)  # in place: no longer the same point
    torch.testing.assert_close(gradient(x), -2 * hermitian(8) @ y)
    assert loss.calls == 3
    backend.clear()
    value(x)
    assert loss.calls == 4


@given(shapes, dtypes, st.sampled_from([(), (3,)]), seeds, st.floats(0.01, 1))
def test_operations_agree_with_pymanopt(shape, dtype, batch, seed, length):
    p, n = shape
    ours = TorchManifold(Grassmann(), (*batch, n, p), dtype=dtype)
    peer = (pymanopt.manifolds.ComplexGrassmann if dtype.is_complex else pymanopt.manifolds.Grassmann)(
        n, p, k=math.prod(batch)
    )
    x = point(*batch, n, p, seed=seed, dtype=dtype)
    ambient = [gaussian(*batch, n, p, seed=seed + 1 + k, dtype=dtype) for k in range(3)]
    u, v = (ours.projection(x, a) for a in ambient[:2])
    u = u * (length / max(ours.norm(x, u), 1e-3))
    x_, u_, v_, *ambient_ = (t.numpy() for t in (x, u, v, *ambient))
    bound = 200 * np.finfo(float).eps * n * p  # roundings of products of numbers up to 5

    pairs = [
        (ours.projection(x, ambient[0]), peer.projection(x_, ambient_[0])),
        (ours.to_tangent_space(x, ambient[0]), peer.to_tangent_space(x_, ambient_[0])),
        (ours.euclidean_to_riemannian_gradient(x, ambient[0]), peer.euclidean_to_riemannian_gradient(x_, ambient_[0])),
        (
            ours.euclidean_to_riemannian_hessian(x, ambient[0], ambient[1], v),
            peer.euclidean_to_riemannian_hessian(x_, ambient_[0], ambient_[1], v_),
        ),
        (ours.zero_vector(x), peer.zero_vector(x_)),
    ]
    # The retraction of pymanopt is the polar factor, whose basis needs no alignment: there its transport is ours.
    y_ = peer.retraction(x_, u_)
    y = torch.from_numpy(y_)
    pairs += [
        (ours.transport(x, y, v), peer.transport(x_, y_, v_)),
        (ours.log(x, y), peer.log(x_, y_)),
    ]
    for mine, theirs in pairs:
        assert type(mine) is torch.Tensor and mine.dtype == dtype and mine.shape == (*batch, n, p)
        assert np.abs(mine.numpy() - theirs).max() <= bound
    for mine, theirs in ((ours.retraction(x, u), y_), (ours.exp(x, u), peer.exp(x_, u_))):
        mine = mine.numpy()
        assert np.abs(mine @ mine.conj().swapaxes(-1, -2) - theirs @ theirs.conj().swapaxes(-1, -2)).max() <= bound
    numbers = [
        (ours.inner_product(x, u, v), peer.inner_product(x_, u_, v_), bound),
        (ours.norm(x, v), peer.norm(x_, v_), bound),
        (ours.dist(x, y), peer.dist(x_, y_), 1e-7 * math.sqrt(p * 3)),  # pymanopt's goes through arccos
        (ours.typical_dist, peer.typical_dist, bound),
    ]
    for mine, theirs, tolerance in numbers:
        assert type(mine) is float and abs(mine - theirs) <= tolerance
    assert ours.dim == peer.dim and ours.point_layout == peer.point_layout


@given(shapes, seeds, st.sampled_from([(), (3,)]))
def test_stiefel_agrees_with_pymanopt(shape, seed, batch):
    p, n = shape
    ours, peer = TorchManifold(Stiefel(), (*batch, n, p)), pymanopt.manifolds.Stiefel(n, p, k=math.prod(batch))
    x, a, b = (f(*batch, n, p, seed=seed + k) for k, f in enumerate((point, gaussian, gaussian)))
    u = ours.projection(x, a)
    u = u / max(ours.norm(x, u), 1e-3)
    x_, a_, b_, u_ = (t.numpy() for t in (x, a, b, u))
    bound = 200 * np.finfo(float).eps * n * p
    for mine, theirs in (
        (ours.projection(x, a), peer.projection(x_, a_)),
        (ours.retraction(x, u), peer.retraction(x_, u_)),
        (
            ours.euclidean_to_riemannian_hessian(x, a, b, u),
            peer.euclidean_to_riemannian_hessian(x_, a_, b_, u_),
        ),
    ):
        assert np.abs(mine.numpy() - theirs).max() <= bound
    # torch.matrix_exp of a single small matrix has errors up to 3e-10 (pytorch issue 196592: a coefficient of degree 8).
    assert np.abs(ours.exp(x, u).numpy() - peer.exp(x_, u_)).max() <= 1e-9
    assert ours.dim == peer.dim and ours.typical_dist == pytest.approx(peer.typical_dist)


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(5, 2), (3, 3), (2, 4, 1)])
def test_the_dimension_is_the_trace_of_the_projection(manifold, dtype, shape):
    ours = TorchManifold(manifold, shape, dtype=dtype)
    x = point(*shape, dtype=dtype)
    units = torch.eye(math.prod(shape), dtype=dtype).reshape(-1, *shape)
    units = torch.cat([units, 1j * units]) if dtype.is_complex else units
    assert ours.dim == round(sum(ours.inner_product(x, e, ours.projection(x, e)) for e in units))


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel(), GeneralizedGrassmann(hermitian(7))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_hessian_is_the_second_derivative_along_geodesics(manifold, dtype):
    if isinstance(manifold, GeneralizedGrassmann) and dtype.is_complex:
        manifold = GeneralizedGrassmann(hermitian(7, dtype))
    ours = TorchManifold(manifold, (7, 3), dtype=dtype)
    a = hermitian(7, dtype, top=2)
    problem = pymanopt.Problem(ours, torch_function(ours)(lambda x: (rayleigh(a)(x) / 3).exp() + rayleigh(a @ a)(x)))
    x = manifold.projx(gaussian(7, 3, dtype=dtype))
    u, v = (ours.projection(x, gaussian(7, 3, seed=k, dtype=dtype)) for k in (1, 2))
    u = u / ours.norm(x, u)
    gradient, hessian = problem.riemannian_gradient(x), problem.riemannian_hessian(x, u)
    slope, curvature = ours.inner_product(x, gradient, u), ours.inner_product(x, hessian, u)
    steps = [0.02, 0.01, 0.005]
    errors = [
        abs(problem.cost(ours.exp(x, t * u)) - problem.cost(x) - t * slope - t * t * curvature / 2) for t in steps
    ]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.all(slopes > 2.8)  # the remainder is of third order, or fourth
    # Self-adjoint and tangent, to rounding of numbers up to 100.
    assert ours.inner_product(x, hessian, v) == pytest.approx(
        ours.inner_product(x, u, problem.riemannian_hessian(x, v)), abs=1e-12
    )
    assert (ours.projection(x, hessian) - hessian).abs().max() <= 1e-12


@given(shapes, dtypes, seeds)
def test_midpoints(shape, dtype, seed):
    p, n = shape
    ours = TorchManifold(Grassmann(), (n, p), dtype=dtype)
    a, b = point(n, p, seed=seed, dtype=dtype), point(n, p, seed=seed + 1, dtype=dtype)
    middle = ours.pair_mean(a, b)
    half = ours.dist(a, b) / 2
    assert ours.dist(a, middle) == pytest.approx(half, abs=1e-12) and ours.dist(middle, b) == pytest.approx(
        half, abs=1e-12
    )


def test_random_points_follow_the_seed_of_torch():
    ours = TorchManifold(Grassmann(), (2, 6, 2), dtype=torch.complex64)
    draws = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            x = ours.random_point()
            draws.append((x, ours.random_tangent_vector(x)))
    (x, u), (same, vector) = draws
    assert type(x) is torch.Tensor and x.dtype == torch.complex64 and x.shape == (2, 6, 2)
    assert torch.equal(x, same) and torch.equal(u, vector)
    assert ours.norm(x, u) == pytest.approx(1, abs=1e-6) and (x.mH @ u).abs().max() < 1e-6
    single = TorchManifold(Grassmann(), (3, 3))
    assert single.norm(single.random_point(), single.random_tangent_vector(point(3, 3))) <= 1


@pytest.mark.parametrize(
    ("manifold", "shape", "dtype"),
    [
        (Grassmann(), (10, 3), torch.float64),
        (Grassmann(), (10, 3), torch.complex128),
        (Grassmann(), (2, 10, 3), torch.float64),
        (Grassmann(), (1, 10, 3), torch.float64),
        (Stiefel(), (10, 3), torch.float64),
    ],
)
def test_pymanopts_own_geometry_finds_the_same(manifold, shape, dtype):
    a = hermitian(10, dtype)
    weights = (
        torch.arange(1, 4) if isinstance(manifold, Stiefel) else torch.ones(3)
    )  # Brockett's cost has a preferred basis

    def loss(x):
        assert x.shape == shape and x.dtype == dtype
        return -(x.conj() * (a @ x) * weights).real.sum()

    start = point(*shape, dtype=dtype)
    problem = reference_problem(loss, manifold, shape, dtype=dtype)
    ours = solve(loss, manifold, start, min_gradient_norm=1e-8)
    begin = start.numpy()[0] if shape[0] == 1 else start.numpy()
    theirs = METHODS["trust-regions"](verbosity=0, min_gradient_norm=1e-8).run(problem, initial_point=begin)
    assert isinstance(theirs.point, np.ndarray) and theirs.point.shape == begin.shape
    assert ours.cost == pytest.approx(theirs.cost, abs=1e-13)
    assert ours.gradient_norm < 1e-8 and theirs.gradient_norm < 1e-8
    x, y = ours.point.numpy().reshape(shape), theirs.point.reshape(shape)
    if isinstance(manifold, Grassmann):
        x, y = (z @ z.conj().swapaxes(-1, -2) for z in (x, y))
    else:
        x, y = abs(x), abs(y)  # Brockett's minimizers are eigenvectors up to sign
    assert np.abs(x - y).max() <= 2e-8


def test_the_reference_takes_modules_and_arrays_changed_in_place():
    network = Reconstruction()
    problem = reference_problem(network, Grassmann(), (8, 3))
    x = point(8, 3).numpy()
    result = METHODS["trust-regions"](verbosity=0).run(problem, initial_point=x)
    assert result.gradient_norm < 1e-6 and all(parameter.grad is None for parameter in network.parameters())
    first = problem.cost(x)
    x[:] = result.point
    assert problem.cost(x) == pytest.approx(result.cost) and problem.cost(x) < first
    backwards = np.ascontiguousarray(x[::-1])[::-1]  # negative strides
    np.testing.assert_allclose(problem.euclidean_gradient(backwards), problem.euclidean_gradient(x), rtol=1e-12)


@pytest.mark.parametrize("method", LINE_SEARCHES)
def test_an_exactly_zero_gradient_ends_the_search(method):
    # Inside the margin of a hinge the gradient is exactly 0.
    def hinge(x):
        return torch.relu(11 + rayleigh(hermitian(12))(x) - 0.9)

    found = solve(hinge, Grassmann(), point(12, 3), method=method)
    assert found.cost == 0 and found.gradient_norm == 0
    assert found.iterations > 1 and "gradient is 0" in found.stopping


@pytest.mark.parametrize("method", METHODS)
def test_a_critical_start_is_the_answer(method):
    start = torch.eye(6, 2, dtype=torch.float64)
    found = solve(
        rayleigh(torch.diag(torch.arange(6.0, 0, -1, dtype=torch.float64))), Grassmann(), start, method=method
    )
    assert found.point.data_ptr() != start.data_ptr()
    assert torch.equal(found.point, start) and found.cost == -11 and found.gradient_norm == 0
    assert found.iterations == 0 and found.evaluations == 1 and "at the start" in found.stopping


def test_limits_hold():
    a, start = hermitian(20), point(20, 3)
    found = solve(rayleigh(a), Grassmann(), start, method="steepest-descent", max_iterations=3)
    assert found.iterations == 3 and "max iterations" in found.stopping
    # Steepest descent of pymanopt reports the gradient before its last step; the solution has that at its point.
    gradient = Grassmann().egrad2rgrad(found.point, -2 * a @ found.point)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert found.cost == pytest.approx(float(rayleigh(a)(found.point)), rel=1e-14)
    assert "max time" in solve(rayleigh(a), Grassmann(), start, max_time=1e-9).stopping


def test_starts_with_a_graph_and_without():
    a = hermitian(8)
    parameter = geoopt.ManifoldParameter(point(8, 2), manifold=Grassmann())
    before = parameter.detach().clone()
    with torch.no_grad():
        found = solve(rayleigh(a), Grassmann(), parameter)
    assert type(found.point) is torch.Tensor and not found.point.requires_grad and found.gradient_norm < 1e-6
    assert parameter.grad is None and torch.equal(parameter.detach(), before)
    # Straight into pymanopt: no graph grows along the iterates.
    manifold = TorchManifold(Grassmann(), (8, 2))
    problem = pymanopt.Problem(manifold, torch_function(manifold)(rayleigh(a)))
    for method in METHODS.values():
        result = method(verbosity=0, max_iterations=5).run(problem, initial_point=parameter)
        assert type(result.point) is torch.Tensor and not result.point.requires_grad


def test_verbosity(capsys):
    a, start = hermitian(8), point(8, 2)
    for method in METHODS:
        solve(rayleigh(a), Grassmann(), start, method=method)
    assert capsys.readouterr().out == ""
    solve(rayleigh(a), Grassmann(), start, verbosity=2)
    assert "|grad|" in capsys.readouterr().out


def test_the_example_in_the_docstring():
    result = doctest.testmod(module)
    assert result.attempted > 10 and result.failed == 0


def named(x):
    return x.sum() * float("nan")


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (named, ValueError, "the loss named must be finite, got nan"),
        (lambda x: x.sum() / 0, ValueError, "must be finite, got -?inf"),
        (lambda x: x.sum(0), ValueError, r"real scalar tensor, got shape \(2,\) of torch.float64"),
        (lambda x: x.sum() * 1j, ValueError, r"real scalar tensor, got shape \(\) of torch.complex128"),
        (lambda x: float(x.detach().sum()), TypeError, "real scalar tensor, got float"),
        (lambda x: x.detach().sum(), ValueError, "must depend on its point"),
        (lambda x: (x - x.detach()).norm(dim=0).sqrt().sum(), ValueError, "gradient of the loss .* must be finite"),
        (
            lambda x: (x - x.detach()).abs().pow(1.5).sum() + x.sum(),
            ValueError,
            "Hessian of the loss .* must be finite",
        ),
    ],
)
def test_errors_of_the_loss(loss, error, message):
    with pytest.raises(error, match=message):
        solve(loss, Grassmann(), point(5, 2))


def test_errors_of_the_arguments(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the errors that users see
    loss, start = rayleigh(hermitian(5)), point(5, 2)
    with pytest.raises(ValueError, match=r"method must be one of trust-regions, .* got 'newton'"):
        solve(loss, Grassmann(), start, method="newton")
    with pytest.raises(
        ValueError, match=r"start must lie on .*: the largest entry of .* is 0\.21, above the tolerance"
    ):
        solve(loss, Grassmann(), 1.1 * start)
    with pytest.raises(ValueError, match="n >= p >= 1"):
        solve(loss, Grassmann(), start.mT)
    with pytest.raises(TypeError, match="start must be a torch tensor, got ndarray"):
        solve(loss, Grassmann(), start.numpy())
    with pytest.raises(TypeError, match=r"manifold must be a geoopt manifold such as Grassmann\(\)"):
        solve(loss, pymanopt.manifolds.Grassmann(5, 2), start)
    for limit in ("max_iterations", "min_gradient_norm", "max_time"):
        with pytest.raises(ValueError, match=f"{limit} must be positive, got 0"):
            solve(loss, Grassmann(), start, **{limit: 0})
    with pytest.raises(TypeError, match=r"dtype must be .* got torch.int64"):
        TorchManifold(Grassmann(), (5, 2), dtype=torch.int64)
    with pytest.raises(TypeError, match="manifold must be a TorchManifold, got Grassmann"):
        torch_function(pymanopt.manifolds.Grassmann(5, 2))
    for missing in (lambda m: m.log(start, start), lambda m: m.dist(start, start), lambda m: m.pair_mean(start, start)):
        with pytest.raises(NotImplementedError, match=r"Stiefel\(euclidean\).* has no (logmap|dist)"):
            missing(TorchManifold(geoopt.EuclideanStiefel(), (5, 2)))


@pytest.mark.parametrize(
    ("manifold", "shape", "dtype", "message"),
    [
        (Grassmann(), (5, 2), torch.float32, "got .* in torch.float32"),
        (Stiefel(), (5, 2), torch.complex128, "got .* in torch.complex128"),
        (GeneralizedGrassmann(hermitian(5)), (5, 2), torch.float64, "pymanopt's manifolds are Grassmann"),
        (Grassmann(), (2, 3, 5, 2), torch.float64, "shape must be"),
        (Grassmann(), (2, 5), torch.float64, "shape must be"),
        (Grassmann(), (5,), torch.float64, "shape must be"),
    ],
)
def test_what_pymanopt_has_no_match_for(manifold, shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        reference_problem(rayleigh(hermitian(5)), manifold, shape, dtype=dtype)


def test_without_pymanopt_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymanopt", None)
    for name in (module.__name__, TrustRegions.__module__):  # those that import it
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'grassmann_ssl\[pymanopt\]'"):
        importlib.import_module(module.__name__)


def two_eigenspaces(a, b):
    """A loss of two subspaces that sees them together: both dominant eigenspaces at once, with a coupling that vanishes there."""
    c, d = hermitian(8), hermitian(6)

    def loss(x, y):
        own = -(x.mT @ c @ x).diagonal().sum() - (y.mT @ d @ y).diagonal().sum()
        return own + 0.1 * own.square() / 100

    best = float(torch.linalg.eigvalsh(c)[-a:].sum() + torch.linalg.eigvalsh(d)[-b:].sum())
    return loss, -best + 0.1 * best**2 / 100


@pytest.mark.parametrize("method", [pymanopt.optimizers.TrustRegions, pymanopt.optimizers.ConjugateGradient])
def test_products_of_pymanopt_take_a_loss_of_several_points(method):
    loss, best = two_eigenspaces(3, 2)
    factors = [TorchManifold(Grassmann(), (8, 3)), TorchManifold(Stiefel("polar"), (6, 2))]
    product = pymanopt.manifolds.Product(factors)
    function = torch_function(product)(loss)
    torch.manual_seed(0)
    found = method(verbosity=0, max_iterations=500).run(
        pymanopt.Problem(product, function), initial_point=product.random_point()
    )
    assert abs(found.cost - best) <= 1e-8 and all(isinstance(part, torch.Tensor) for part in found.point)
    backend = function._backend
    assert method is not pymanopt.optimizers.TrustRegions or backend.evaluations <= found.iterations + 2
    with pytest.raises(TypeError, match="manifold must be a TorchManifold, got Sphere"):
        torch_function(pymanopt.manifolds.Product([factors[0], pymanopt.manifolds.Sphere(3)]))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_products_of_geoopt_are_solved(method):
    loss, best = two_eigenspaces(3, 2)
    product = geoopt.ProductManifold((Grassmann(), (8, 3)), (Stiefel("polar"), (6, 2)))
    start = product.projx(
        torch.randn(product.n_elements, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )

    def of_vector(v):
        return loss(product.take_submanifold_value(v, 0), product.take_submanifold_value(v, 1))

    found = solve(of_vector, product, start, method=method, max_iterations=3000)
    assert abs(found.cost - best) <= (1e-9 if method == "trust-regions" else 1e-7)
    adapter = TorchManifold(product, (product.n_elements,))
    assert adapter.dim == 3 * 5 + 6 * 2 - 3 and adapter.typical_dist == pytest.approx(math.sqrt(3 + 2))
    check_hessian(of_vector, adapter_hessian(product), start, raises=True, generator=torch.Generator().manual_seed(1))
    other = TorchManifold(geoopt.ProductManifold((Grassmann(), (8, 3)), (geoopt.Lorentz(), 4)), (28,))
    with pytest.raises(NotImplementedError, match="typical distance"):
        _ = other.typical_dist


@pytest.mark.parametrize("joined", ["geoopt", "pymanopt"])
def test_products_with_spheres_and_vectors_are_solved_by_trust_regions(joined):
    c, target = hermitian(6), torch.arange(3.0, dtype=torch.float64)

    def loss(x, s, v):
        return -(x.mT @ c @ x).diagonal().sum() + s @ c @ s + (v - target).square().sum() * (2 + s[0])

    values = torch.linalg.eigvalsh(c)
    best = float(values[0] - values[-2:].sum())
    manifolds, shapes = (Grassmann(), geoopt.Sphere(), geoopt.Euclidean(1)), ((6, 2), (6,), (3,))
    torch.manual_seed(0)
    if joined == "geoopt":
        product = geoopt.ProductManifold(*zip(manifolds, shapes, strict=True))

        def of_vector(z):
            return loss(*(product.take_submanifold_value(z, i) for i in range(3)))

        start = product.projx(torch.randn(product.n_elements, dtype=torch.float64))
        found = solve(of_vector, product, start)
        check_hessian(
            of_vector, adapter_hessian(product), start, raises=True, generator=torch.Generator().manual_seed(1)
        )
    else:
        product = pymanopt.manifolds.Product([TorchManifold(m, s) for m, s in zip(manifolds, shapes, strict=True)])
        problem = pymanopt.Problem(product, torch_function(product)(loss))
        found = pymanopt.optimizers.TrustRegions(verbosity=0).run(problem, initial_point=product.random_point())
    assert abs(found.cost - best) <= 1e-9


def adapter_hessian(product):
    """The product with the Hessian that the adapter gives pymanopt."""
    adapter = TorchManifold(product, (product.n_elements,))
    product.ehess2rhess = adapter.euclidean_to_riemannian_hessian
    return product


class Written:
    """Minus the Rayleigh quotient, of which autograd sees nothing, with derivatives by hand."""

    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return rayleigh(self.a)(x.detach())

    def gradient(self, x):
        return -2 * self.a @ x

    def hessian(self, x, u):
        return -2 * self.a @ u


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_loss_may_bring_its_derivatives(method, batch):
    a, start = hermitian(12), point(*batch, 12, 3)
    by_hand, by_autograd = (
        [solve(loss, Grassmann(), start, method=method, min_gradient_norm=norm) for norm in (1e-3, 1e-6)]
        for loss in (Written(a), rayleigh(a))
    )
    # Nearer to the minimum, where the loss no longer changes, rounding decides how many steps its line searches take.
    assert by_hand[0].iterations == by_autograd[0].iterations
    by_hand, by_autograd = by_hand[1], by_autograd[1]
    assert abs(by_hand.cost - by_autograd.cost) <= 1e-11 and by_hand.gradient_norm < 1e-5


@pytest.mark.parametrize("name", ["gradient", "hessian"])
def test_derivatives_that_are_brought_must_be_finite(monkeypatch, name):
    monkeypatch.setattr(Written, name, lambda self, *tensors: math.nan * tensors[0])
    with pytest.raises(ValueError, match=rf"the {name} of the loss .* must be finite".replace("hessian", "Hessian")):
        solve(Written(hermitian(8)), Grassmann(), point(8, 2))

"""Diagnostics: what is right passes with the expected numbers, and each kind of fault is caught."""

import copy
import math

import geoopt
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import CanonicalStiefel, GeneralizedGrassmann, Grassmann, Stiefel
from grassmann_ssl.manifolds.checks import (
    check_gradient,
    check_hessian,
    check_manifold,
    check_retraction,
    check_rotation_invariance,
    smallest_tolerance,
)
from grassmann_ssl.manifolds.derivatives import hessian_vector_product
from grassmann_ssl.manifolds.validated import Validated
from tests.profiles import examples

N, P = 9, 3
G = Grassmann()


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(dtype=torch.float64, seed=1):
    a = torch.randn(N, N, dtype=dtype, generator=drawn(seed))
    return a + a.mH


def rayleigh(x):
    return (x.conj() * (symmetric(x.dtype) @ x)).sum((-2, -1)).real


def log_det(x):
    """Not a polynomial: log det(I + X^H A^2 X)."""
    a = symmetric(x.dtype)
    return torch.linalg.slogdet(torch.eye(x.shape[-1], dtype=x.dtype) + x.mH @ (a @ a) @ x)[1]


def entrywise(x):
    return x.abs().pow(4).sum((-2, -1)) + x.real.pow(3).sum((-2, -1))


def gradient_scaled_by(factor):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return factor * gradient

    return lambda x: log_det(Scaled.apply(x))


def point(manifold=G, batch=(), dtype=torch.float64, seed=0):
    return manifold.projx(torch.randn(*batch, N, P, dtype=dtype, generator=drawn(seed)))


B = torch.eye(N, dtype=torch.float64) + symmetric(seed=2) @ symmetric(seed=2) / 20
MANIFOLDS = [
    G,
    Grassmann("polar"),
    Grassmann("exponential"),
    GeneralizedGrassmann(B),
    Stiefel(),
    Stiefel("polar"),
    CanonicalStiefel(),
]
PEERS = [geoopt.EuclideanStiefel(), geoopt.EuclideanStiefelExact(), geoopt.Euclidean(2)]


def name_of(manifold):
    return f"{type(manifold).__name__}-{getattr(manifold, 'retraction', '')}"


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS + PEERS, ids=name_of)
@pytest.mark.parametrize("loss", [rayleigh, log_det])
def test_right_derivatives_pass(manifold, loss):
    x = point(manifold)
    gradient = check_gradient(loss, manifold, x, raises=True, generator=drawn())
    assert gradient.slope == pytest.approx(2, abs=0.1) and gradient.normal_part < 1e-14
    hessian = check_hessian(loss, manifold, x, raises=True, generator=drawn())
    assert hessian.exact or hessian.slope == pytest.approx(3, abs=0.1)
    assert hessian.normal_part < 1e-14 and hessian.asymmetry < 1e-14


@pytest.mark.slow
@examples(15)
@given(st.sampled_from([(), (2,), (2, 3)]), st.sampled_from([torch.float64, torch.complex128]), st.integers(0, 2**20))
def test_any_batch_and_complex_points_pass(batch, dtype, seed):
    x = point(batch=batch, dtype=dtype, seed=seed)
    for check, slope in ((check_gradient, 2), (check_hessian, 3)):
        result = check(log_det, G, x, raises=True, generator=drawn(seed))
        assert result.slope >= slope - 0.1  # a random direction may, rarely, have a small leading term
    check_retraction(G, x, raises=True, generator=drawn(seed))


def test_vectors_on_a_sphere_pass():
    sphere = geoopt.Sphere()
    x = sphere.projx(torch.randn(4, 7, dtype=torch.float64, generator=drawn()))

    def loss(x):
        return (x**3).sum(-1)

    assert check_gradient(loss, sphere, x, raises=True).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(loss, sphere, x, raises=True).slope == pytest.approx(3, abs=0.1)
    assert check_retraction(sphere, x, raises=True).slope == pytest.approx(3, abs=0.1)
    check_manifold(sphere, x, raises=True)


@pytest.mark.parametrize("error", [1.0, 1e-3, 1e-5])
def test_a_wrong_gradient_is_caught(error):
    x = point()
    result = check_gradient(gradient_scaled_by(1 + error), G, x, generator=drawn())
    assert result.slope == pytest.approx(1, abs=0.1) and not result.ok
    with pytest.raises(AssertionError, match=r"the gradient of .* fails: slope (1|0\.99|1\.0)"):
        check_gradient(gradient_scaled_by(1 + error), G, x, generator=drawn(), raises=True)


def test_a_gradient_in_another_metric_is_caught():
    class WrongMetric(GeneralizedGrassmann):
        def egrad2rgrad(self, x, u):
            return self.proju(x, u)  # without B^{-1}

    assert check_gradient(log_det, WrongMetric(B), point(GeneralizedGrassmann(B)), generator=drawn()).slope < 1.1


def test_a_gradient_off_the_tangent_space_is_caught():
    class Unprojected(Grassmann):
        def egrad2rgrad(self, x, u):
            return u

    result = check_gradient(log_det, Unprojected(), point(), generator=drawn())
    assert result.slope == pytest.approx(2, abs=0.1)  # the normal part does not show along a horizontal direction
    assert result.normal_part > 0.1 and not result.ok


def test_a_wrong_hessian_is_caught():
    class NoCurvature(Grassmann):
        def ehess2rhess(self, x, egrad, ehess, u):
            return self.proju(x, ehess)  # without - U X^H egrad

    class Unprojected(Grassmann):
        def ehess2rhess(self, x, egrad, ehess, u):
            return ehess - u @ (x.mH @ egrad)

    result = check_hessian(log_det, NoCurvature(), point(), generator=drawn())
    assert result.slope == pytest.approx(2, abs=0.1) and not result.ok
    result = check_hessian(log_det, Unprojected(), point(), generator=drawn())
    assert result.normal_part > 0.01 and not result.ok
    # The Hessian of a function that is none of the subspace is not self-adjoint.
    assert check_hessian(lambda x: x[0, 0] + x.sum(), G, point(), generator=drawn()).asymmetry > 1e-3


def test_a_hessian_without_a_formula_is_that_of_the_formula():
    class Formless(Grassmann):
        def ehess2rhess(self, x, egrad, ehess, u):
            raise NotImplementedError

    given_, derived = (check_hessian(log_det, m, point(), generator=drawn()) for m in (G, Formless()))
    # The residual at t = 1, of size 1, is that of the same expansion.
    assert derived.ok and derived.residuals[-1] == pytest.approx(given_.residuals[-1], rel=1e-13)


def test_exact_expansions_are_told_from_faults():
    flat = geoopt.Euclidean(2)
    x = torch.randn(N, P, dtype=torch.float64, generator=drawn())
    linear = check_gradient(lambda x: (3 * x).sum(), flat, x, raises=True)
    quadratic = check_hessian(rayleigh, flat, x, raises=True)
    assert linear.exact and linear.slope == math.inf and quadratic.exact
    assert not check_gradient(rayleigh, flat, x).exact
    # One point alone: every loss is constant.
    square = torch.eye(P, dtype=torch.float64)
    assert check_gradient(lambda x: (x @ x.mH).sum(), G, square, raises=True).exact
    assert check_retraction(geoopt.EuclideanStiefelExact(), point(), raises=True).exact
    # A jump right at the point is not rounding.
    start = G.origin(N, P, dtype=torch.float64).as_subclass(torch.Tensor)
    jump = check_gradient(lambda x: rayleigh(x) + (x - start).abs().sum().detach().gt(0), G, start)
    assert not jump.exact and not jump.ok


def test_float32_is_told_right_from_wrong():
    x = point(dtype=torch.float32)
    assert check_gradient(log_det, G, x, generator=drawn()).ok
    assert not check_gradient(gradient_scaled_by(1.1), G, x, generator=drawn()).ok


def test_rounding_is_not_taken_for_a_fault():
    rounded = check_gradient(lambda x: (log_det(x) + 1e6) - 1e6, G, point(), raises=True, generator=drawn())
    assert rounded.slope == pytest.approx(2, abs=0.1)
    assert rounded.residuals[rounded.fitted[0]] > 1e-9  # the fit begins above the rounding of 1e6, which is 1e-10
    # Nor is a point from float32, which is off the manifold by 1e-7.
    check_gradient(log_det, Stiefel(), point(dtype=torch.float32).double(), raises=True, generator=drawn())


@pytest.mark.slow
def test_retractions_have_their_order():
    x = point()
    assert check_retraction(G, x, raises=True, generator=drawn()).slope == pytest.approx(3, abs=0.1)
    first = check_retraction(Stiefel(), x, order=1, raises=True, generator=drawn())
    assert first.slope == pytest.approx(2, abs=0.1)
    assert not check_retraction(Stiefel(), x, order=2, generator=drawn()).ok
    assert check_retraction(Stiefel("polar"), x, raises=True, generator=drawn()).ok
    assert check_retraction(Validated(G), x, raises=True, generator=drawn()).ok  # subspaces are compared, not bases

    class Sideways(Stiefel):
        def retr(self, x, u):
            return super().retr(x, 1.001 * u)

    assert not check_retraction(Sideways(), x, order=1, generator=drawn()).ok


@pytest.mark.long
@pytest.mark.parametrize("manifold", MANIFOLDS + PEERS, ids=name_of)
def test_manifolds_keep_their_promises(manifold):
    found = check_manifold(manifold, point(manifold, (2,)), raises=True, generator=drawn())
    missing = {name for name, residual in found.items() if math.isnan(residual)}
    needs_log = {name for name in found if "log" in name or "dist" in name}
    if isinstance(manifold, Grassmann):
        assert missing == set()
    elif isinstance(manifold, Stiefel | CanonicalStiefel):
        assert missing == {"parallel_transport isometric"}
    elif not isinstance(manifold, geoopt.Euclidean):
        assert missing == needs_log | {"parallel_transport isometric"}


def test_broken_manifolds_are_caught():
    # geoopt's canonical Stiefel manifold: `proju` is no projection, and `retr` starts along U + X X^T U.
    found = check_manifold(geoopt.CanonicalStiefel(), point(), generator=drawn())
    faults = {name for name, residual in found.items() if residual > 1e-10}
    assert faults == {"proju idempotent", "retr starts along its vector", "expmap starts along its vector"}

    class LongLog(Grassmann):
        def logmap(self, x, y):
            return 1.01 * super().logmap(x, y)

    found = check_manifold(LongLog(), point(), generator=drawn())
    assert found["log inverts exp"] == pytest.approx(0.005) and found["exp inverts log"] > 1e-3
    assert found["dist is the norm of log"] == pytest.approx(0.005)
    with pytest.raises(AssertionError, match=r"above 2\.22e-12: .*log inverts exp: 0\.005"):
        check_manifold(LongLog(), point(), raises=True, generator=drawn())


@pytest.mark.parametrize(
    ("operation", "broken", "fault"),
    [
        ("transp", lambda self, x, y, v: v, "transp tangent"),
        ("parallel_transport", lambda self, x, y, v: self.proju(y, v), "parallel_transport isometric"),
        ("retr", lambda self, x, u: x + u, "retr on the manifold"),
        ("projx", lambda self, x: x, "projx on the manifold"),
        ("dist", lambda self, x, y: torch.linalg.matrix_norm(x - y) * x.norm() + x.sum(), "dist symmetric"),
        ("proju", lambda self, x, u: u - x @ (x.mH @ u) - x[..., :1] * u[..., :1], "proju self-adjoint"),
        ("expmap", lambda self, x, u: Grassmann.expmap(self, x, u * float("nan")), "expmap on the manifold"),
        ("expmap_transp", lambda self, x, u, v: (self.expmap(x, u), v), "expmap_transp tangent"),
    ],
)
def test_every_fault_shows_in_its_own_residual(operation, broken, fault):
    manifold = type("Broken", (Grassmann,), {operation: broken})()
    residual = check_manifold(manifold, point(), generator=drawn())[fault]
    assert residual > 1e-3
    assert (operation == "expmap") == math.isinf(residual)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rotation_invariance_is_told(dtype):
    x = point(batch=(2,), dtype=dtype)
    invariant = check_rotation_invariance(rayleigh, x, raises=True, generator=drawn())
    assert invariant.ok and invariant.change < 1e-14 and invariant.vertical_part < 1e-14
    other = check_rotation_invariance(entrywise, x, generator=drawn())
    assert not other.ok and other.change > 0.01 and other.vertical_part > 0.01
    with pytest.raises(AssertionError, match="entrywise is not rotation-invariant: it changes by"):
        check_rotation_invariance(entrywise, x, raises=True, generator=drawn())
    # An invariant value with a gradient that is not.
    straight_through = check_rotation_invariance(lambda x: rayleigh(x) + x.real.sum() - x.real.sum().detach(), x)
    assert straight_through.change < 1e-14 and not straight_through.ok


def test_plots_show_the_residuals_and_the_expected_line():
    result = check_gradient(log_det, G, point(), generator=drawn())
    axes = result.plot()
    line = axes.get_lines()[-1]
    steps, values = line.get_xdata(), line.get_ydata()
    assert np.log(values[-1] / values[0]) / np.log(steps[-1] / steps[0]) == pytest.approx(2)
    assert result.plot(axes) is axes
    plt.close(axes.figure)
    exact = check_gradient(lambda x: x.sum(), geoopt.Euclidean(2), point())
    plt.close(exact.plot().figure)


def test_wrong_input_is_refused():
    x = point()
    with pytest.raises(ValueError, match="x must lie on Grassmann"):
        check_gradient(rayleigh, G, 1.1 * x)
    with pytest.raises(ValueError, match="direction must be tangent at x"):
        check_gradient(rayleigh, G, x, direction=x)
    with pytest.raises(ValueError, match="direction must have the shape of x"):
        check_gradient(rayleigh, G, x, direction=x[:, :1])
    with pytest.raises(ValueError, match="must depend on x"):
        check_gradient(lambda x: torch.tensor(1.0), G, x)
    with pytest.raises(ValueError, match="must be finite at x"):
        check_gradient(lambda x: rayleigh(x) / 0, G, x)
    with pytest.raises(ValueError, match="must be deterministic"):
        check_gradient(lambda x: rayleigh(x + torch.randn_like(x)), G, x)
    with pytest.raises(TypeError, match="must return a real tensor, got float"):
        check_gradient(lambda x: 1.0, G, x)
    with pytest.raises(ValueError, match=r"must return a real tensor, got torch\.complex128"):
        check_gradient(lambda x: x.sum() * 1j, G, x)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        check_rotation_invariance(rayleigh, x, draws=0)


def test_smallest_tolerance_is_the_error():
    assert smallest_tolerance(lambda t: t >= 0.123) == pytest.approx(0.123, rel=0.03)
    assert smallest_tolerance(lambda t: True) == 0 and smallest_tolerance(lambda t: False) == math.inf


# Validated


@pytest.mark.long
@pytest.mark.parametrize("manifold", [*MANIFOLDS, *PEERS, geoopt.CanonicalStiefel(), geoopt.Sphere()], ids=name_of)
def test_right_operations_pass_through_unchanged(manifold):
    validated = Validated(manifold)
    x = manifold.projx(point(batch=(2,)))
    u, v = (manifold.proju(x, 0.3 * torch.randn(x.shape, dtype=x.dtype, generator=drawn(k))) for k in (3, 4))
    y = manifold.retr(x, u)
    calls = {"projx": (x + u,), "proju": (x, y), "egrad2rgrad": (x, y), "inner": (x, u, v), "norm": (x, u)}
    calls |= dict.fromkeys(("retr", "expmap"), (x, u)) | dict.fromkeys(("logmap", "dist", "dist2"), (x, y))
    names = ("retr_transp", "expmap_transp", "transp_follow_retr", "transp_follow_expmap")
    calls |= dict.fromkeys(names, (x, u, v)) | {"transp": (x, y, v), "component_inner": (x, u)}
    calls |= {"parallel_transport": (x, y, v), "inverse_retr": (x, y), "geodesic": (0.5, x, y), "cdist": (x, y)}
    calls |= {"ehess2rhess": (x, y, y, u), "sectional_curvature": (x, u, v)}
    if hasattr(manifold, "step_"):
        steps = [(x.clone(), v.clone()) for _ in range(2)]
        lengths = [m.step_(a, u, b + y, 0.5) for m, (a, b) in zip((manifold, validated), steps, strict=True)]
        assert torch.equal(steps[0][0], steps[1][0]) and torch.equal(*lengths)
    done = 0
    for name, arguments in calls.items():
        try:
            expected = getattr(manifold, name)(*arguments)
        except (NotImplementedError, AttributeError) as error:
            with pytest.raises(type(error)):
                getattr(validated, name)(*arguments)
            continue
        result = getattr(validated, name)(*arguments)
        pairs = zip(result, expected, strict=True) if isinstance(result, tuple) else [(result, expected)]
        assert all(torch.equal(a, b) for a, b in pairs), name
        done += 1
    assert done >= 12
    assert done == len(calls) or not isinstance(manifold, Grassmann)


def test_faulty_arguments_are_named():
    validated = Validated(G)
    x = point()
    u = G.proju(x, torch.ones_like(x))
    where = r"of Grassmann\(.*\) manifold: "
    faults = {
        r"retr " + where + r"x is off the manifold by 0\.2\d; tolerance 2\.2e-13": lambda: validated.retr(1.1 * x, u),
        r"dist " + where + r"y is off the manifold by (1|9\.\d)e-1[23]; tolerance": lambda: validated.dist(
            x, x * math.sqrt(1 + 1e-12)
        ),
        r"retr " + where + r"u is not tangent: its normal part is 0\.\d+; tolerance [45]": lambda: validated.retr(
            x, u + 0.5 * x
        ),
        "transp " + where + "v is not tangent": lambda: validated.transp(x, G.retr(x, u), x),
        "inner " + where + "v is not tangent": lambda: validated.inner(x, u, v=x),
        "egrad2rgrad " + where + "u must be finite, but 1 of 27": lambda: validated.egrad2rgrad(x, spoiled(x)),
        "logmap " + where + "y must be finite": lambda: validated.logmap(x, spoiled(x)),
        "retr " + where + r"u must be of the dtype and device of x, torch\.float64 on cpu, got torch\.float32": (
            lambda: validated.retr(x, u.float())
        ),
        "retr " + where + r"u must have the shape of x, \(9, 3\), got \(9, 2\)": lambda: validated.retr(x, u[:, :2]),
        "dist " + where + r"y must have the shape of x, \(2, 9, 3\), got \(3, 9, 3\)": lambda: validated.dist(
            point(batch=(2,)), point(batch=(3,))
        ),
        "retr " + where + "x must have shape": lambda: validated.retr(x.mT, u.mT),
        "parallel_transport " + where + "v is not tangent": lambda: validated.parallel_transport(x, G.retr(x, u), x),
        "step_ " + where + "u is not tangent": lambda: validated.step_(x.clone(), x, x),
    }
    for message, call in faults.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="u must be a tensor, got float"):
        validated.retr(x, 0.0)
    with pytest.raises(TypeError, match="manifold must be a geoopt manifold"):
        Validated("Grassmann")
    with pytest.raises(ValueError, match="atol must not be negative"):
        Validated(G, atol=-1.0)


def spoiled(x):
    x = x.clone()
    x[0, 0] = float("nan")
    return x


@pytest.mark.parametrize(
    ("operation", "broken", "message"),
    [
        ("retr", lambda self, x, u: x + u, "retr .* the result is off the manifold"),
        ("transp", lambda self, x, y, v: v, "transp .* the result is not tangent"),
        ("retr_transp", lambda self, x, u, v: (self.retr(x, u), v), "retr_transp .* the result is not tangent"),
        ("transp_follow_retr", lambda self, x, u, v: v, "transp_follow_retr .* the result is not tangent"),
        ("transp_follow_expmap", lambda self, x, u, v: v, "transp_follow_expmap .* the result is not tangent"),
        ("parallel_transport", lambda self, x, y, v: v, "parallel_transport .* the result is not tangent"),
        ("logmap", lambda self, x, y: (y - x) * float("nan"), "logmap .* the result must be finite"),
        ("egrad2rgrad", lambda self, x, u: u, "egrad2rgrad .* the result is not tangent"),
        ("proju", lambda self, x, u: self.__class__.__mro__[1].proju(self, x, u).float(), "the result must be of the"),
        ("dist", lambda self, x, y: torch.tensor(float("nan")), "dist .* the result must be finite"),
        ("random", lambda self, *size, **kwargs: 2 * point(), "random .* the result is off the manifold"),
    ],
)
def test_faulty_results_are_named(operation, broken, message):
    validated = Validated(type("Broken", (Grassmann,), {operation: broken})())
    x = point()
    u, v = (G.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=drawn(k))) for k in (3, 4))
    y = G.retr(x, u)
    arguments = {"transp": (x, y, v), "parallel_transport": (x, y, v), "random": (N, P)}
    arguments |= dict.fromkeys(("logmap", "dist", "egrad2rgrad", "proju"), (x, y)) | {"retr": (x, u)}
    with pytest.raises(ValueError, match=message):
        getattr(validated, operation)(*arguments.get(operation, (x, u, v)))


def test_tolerances_follow_the_dtype_the_size_and_the_caller():
    x, u = point(dtype=torch.float32), G.proju(point(dtype=torch.float32), point(dtype=torch.float32, seed=1))
    Validated(G).retr(x, u)
    Validated(G).retr(point(), 1e6 * G.proju(point(), point(seed=1)))  # eps of a vector this long is 1e-10
    tilted = u + 1e-5 * x
    Validated(G).inner(x, tilted)
    with pytest.raises(ValueError, match=r"tolerance 2e-06"):
        Validated(G, atol=1e-6, rtol=1e-6).inner(x, tilted)
    with pytest.raises(ValueError, match="off the manifold"):
        Validated(G).retr(x.double(), u.double())  # points of float32 are none of float64


def trained(manifold, optimizer):
    x = geoopt.ManifoldParameter(point(manifold), manifold=manifold)
    optimizer = optimizer([x])
    for _ in range(25):
        optimizer.zero_grad()
        log_det(x).sum().backward()
        optimizer.step()
    return x


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [G, Stiefel(), geoopt.EuclideanStiefel(), geoopt.CanonicalStiefel()], ids=name_of)
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, stabilize=10),
        lambda p: geoopt.optim.RiemannianAdam(p, lr=0.05, amsgrad=True),
    ],
)
def test_training_is_the_same(manifold, optimizer):
    plain, checked = trained(manifold, optimizer), trained(Validated(manifold), optimizer)
    assert torch.equal(plain.data, checked.data)
    assert log_det(plain) < log_det(point(manifold)) - 0.1


def test_momentum_of_geoopt_is_caught():
    # Its buffer starts from the Euclidean gradient, so that the first step has a normal part.
    with pytest.raises(ValueError, match=r"retr_transp .* u is not tangent"):
        trained(Validated(G), lambda p: geoopt.optim.RiemannianSGD(p, lr=0.05, momentum=0.9))


def test_it_stands_in_for_the_manifold():
    validated = Validated(G)
    x = validated.random(N, P, dtype=torch.float64)
    assert x.manifold is validated and geoopt.ManifoldParameter(x, manifold=Validated(Grassmann())).shape == (N, P)
    assert validated.origin(2, N, P).shape == (2, N, P)
    assert validated.injectivity_radius() == math.pi / 2 and validated.retraction == "cholesky-qr"
    assert not hasattr(validated, "no_such_thing") and not hasattr(Validated(geoopt.Sphere()), "ehess2rhess")
    assert copy.deepcopy(validated) == validated and hash(Validated(Grassmann())) == hash(validated)
    assert validated != Validated(G, atol=1e-3) and validated != G
    assert repr(validated).startswith("Validated(Grassmann")
    general = Validated(GeneralizedGrassmann(B))
    assert general.dtype == torch.float64 and "wrapped.b" in dict(general.named_buffers())
    u = validated.random_tangent(x, generator=drawn())
    end = geoopt.Scaled(validated, 2.0).retr(x, u)
    torch.testing.assert_close(end, G.retr(x, u / 2), rtol=0, atol=1e-14)
    # Gradients flow through it, and the diagnostics take it.
    start = point().requires_grad_()
    (gradient,) = torch.autograd.grad(validated.dist2(start, x.detach()).sum(), start)
    assert gradient.abs().max() > 0.1
    assert check_hessian(log_det, validated, point(), raises=True, generator=drawn()).ok
    check_manifold(validated, point(), raises=True, generator=drawn())


@pytest.mark.parametrize("kind", ["grassmann", "stiefel", "generalized", "geoopt"])
def test_hessian_vector_products_are_derivatives_of_the_gradient(kind):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    b = torch.randn(9, 30, dtype=torch.float64, generator=generator)
    manifold = {"grassmann": Grassmann(), "stiefel": Stiefel(), "generalized": GeneralizedGrassmann(b @ b.mT / 30),
                "geoopt": geoopt.EuclideanStiefel()}[kind]  # fmt: skip

    def loss(x):
        of_the_basis = 0 if isinstance(manifold, Grassmann) else (x.pow(3) * a[:, :3]).sum()
        return ((x @ x.mT) * a).square().sum() + of_the_basis

    torch.manual_seed(0)
    x = manifold.random(9, 3, dtype=torch.float64).as_subclass(torch.Tensor)
    u = manifold.proju(x, torch.randn(9, 3, dtype=torch.float64, generator=generator))
    gradient, product = hessian_vector_product(loss, manifold, x, u)
    h = 1e-5  # differences of second order: truncation 1e-10, and as much rounding, times the third derivative

    def at(t):
        y = manifold.retr(x, t * u)
        there = hessian_vector_product(loss, manifold, y, 0 * u)[0]
        return manifold.proju(x, manifold.transp(y, x, there))

    assert (gradient - at(0.0)).abs().max() <= 1e-12 * gradient.abs().max()
    difference = (at(h) - at(-h)) / (2 * h)
    assert (product - difference).abs().max() <= 1e-7 * product.abs().max()

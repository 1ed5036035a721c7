"""Our optimizers on every manifold that geoopt ships: they step, stay on it, and where the rule is geoopt's their step is geoopt's."""

import functools
import inspect
import warnings

import geoopt
import pytest
import torch

from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.optim import RiemannianAdam, RiemannianSGD
from tests.manifolds.cases import orthonormality_error, subspace_error
from tests.optim.problems import parameter, run, spectrum

D, C = torch.float64, torch.complex128
SPD = geoopt.SymmetricPositiveDefinite
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "SPDMetric")
    STEIN, LOG_EUCLIDEAN = SPD(default_metric="SM"), SPD(default_metric="LEM")
MANIFOLDS = {
    "Euclidean": (geoopt.Euclidean(1), (5,), D),
    "Stiefel": (geoopt.Stiefel(), (6, 2), D),
    "CanonicalStiefel": (geoopt.CanonicalStiefel(), (2, 6, 2), D),
    "EuclideanStiefel": (geoopt.EuclideanStiefel(), (2, 6, 2), D),
    "EuclideanStiefelExact": (geoopt.EuclideanStiefelExact(), (6, 2), D),
    "Sphere": (geoopt.Sphere(), (3, 5), D),
    "SphereExact": (geoopt.SphereExact(), (5,), D),
    "BirkhoffPolytope": (geoopt.BirkhoffPolytope(), (4, 4), D),
    "SymmetricPositiveDefinite": (SPD(), (3, 3), D),
    "SPD, Stein": (STEIN, (2, 3, 3), D),
    "SPD, log-Euclidean": (LOG_EUCLIDEAN, (3, 3), D),
    "UpperHalf": (geoopt.UpperHalf(), (3, 3), C),
    "BoundedDomain": (geoopt.BoundedDomain(), (3, 3), C),
    "PoincareBall": (geoopt.PoincareBall(torch.tensor(1.0, dtype=D)), (2, 5), D),
    "PoincareBallExact": (geoopt.PoincareBallExact(torch.tensor(1.0, dtype=D)), (5,), D),
    "Stereographic": (geoopt.Stereographic(torch.tensor(-0.7, dtype=D)), (5,), D),
    "StereographicExact": (geoopt.StereographicExact(torch.tensor(-0.7, dtype=D)), (5,), D),
    "SphereProjection": (geoopt.SphereProjection(torch.tensor(1.0, dtype=D)), (5,), D),
    "SphereProjectionExact": (geoopt.SphereProjectionExact(torch.tensor(1.0, dtype=D)), (5,), D),
    "ProductManifold": (geoopt.ProductManifold((geoopt.Sphere(), 4), (geoopt.EuclideanStiefel(), (5, 2))), (3, 14), D),
    "StereographicProductManifold": (
        geoopt.StereographicProductManifold(
            (geoopt.PoincareBall(torch.tensor(1.0, dtype=D)), 4), (geoopt.SphereProjection(torch.tensor(1.0, dtype=D)), 3)
        ), (7,), D,
    ),
    "Lorentz": (geoopt.Lorentz(torch.tensor(1.0, dtype=D)), (3, 5), D),
    "Scaled": (geoopt.Scaled(geoopt.Sphere(), 2.0), (5,), D),
}  # fmt: skip
SGD, ADAM = (RiemannianSGD, geoopt.optim.RiemannianSGD), (RiemannianAdam, geoopt.optim.RiemannianAdam)
RULES = {
    "sgd": (*SGD, {}),
    "momentum": (*SGD, {"momentum": 0.9}),
    "nesterov": (*SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (*ADAM, {}),
}


def test_no_manifold_of_geoopt_is_left_out():
    shipped = {name for name, kind in vars(geoopt.manifolds).items() if inspect.isclass(kind)} - {"Manifold"}
    assert shipped <= MANIFOLDS.keys()


def drawn(manifold, shape, dtype):
    """A start, and a target in the ambient space."""
    torch.manual_seed(0)
    draw = manifold.random_normal if isinstance(manifold, geoopt.Lorentz) else manifold.random
    return draw(*shape, dtype=dtype).detach().as_subclass(torch.Tensor), 0.5 * torch.randn(shape, dtype=dtype)


def descend(optimizer, points, target):
    for _ in range(5):
        optimizer.zero_grad()
        sum((w - target).abs().square().sum() for w in points).backward()
        optimizer.step()
    return [w.detach().as_subclass(torch.Tensor) for w in points]


rules = pytest.mark.parametrize(("ours", "theirs", "settings"), RULES.values(), ids=RULES)
manifolds = pytest.mark.parametrize(("manifold", "shape", "dtype"), MANIFOLDS.values(), ids=MANIFOLDS)
geoopts_own = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.mark.long
@geoopts_own
@rules
@manifolds
def test_steps_are_those_of_geoopt(manifold, shape, dtype, ours, theirs, settings):
    start, target = drawn(manifold, shape, dtype)
    w, v = (parameter(start, manifold) for _ in range(2))
    peer = theirs([v], lr=0.005, **settings)
    if settings:
        # geoopt starts from the Euclidean gradient, which is no tangent vector; ours from zero.
        peer.state[v]["momentum_buffer"] = torch.zeros_like(start)
    (mine,), (other,) = descend(ours([w], lr=0.005, **settings), [w], target), descend(peer, [v], target)
    assert manifold.check_point_on_manifold(mine) and (mine - start).abs().max() > 1e-4
    if isinstance(manifold, geoopt.Euclidean) and ours is RiemannianAdam:
        return  # an ordinary parameter, whose entries torch scales one by one, and geoopt the point as a whole
    # Both round a few operations of size 1 a step.
    assert (mine - other).abs().max() <= 1e-12


@pytest.mark.long
@geoopts_own
@rules
@manifolds
def test_points_of_one_shape_move_as_each_alone(manifold, shape, dtype, ours, theirs, settings):
    start, target = drawn(manifold, shape, dtype)
    alone, *together = (parameter(start, manifold) for _ in range(4))
    (expected,) = descend(ours([alone], lr=0.005, **settings), [alone], target)
    for end in descend(ours(together, lr=0.005, **settings), together, target):
        # Eigenvalues and inverses of a batch round differently, and matrices are conditioned up to 1e4.
        assert (end - expected).abs().max() <= 1e-10


@geoopts_own
@pytest.mark.parametrize("make", [geoopt.UpperHalf, geoopt.BoundedDomain])
def test_batches_of_siegel_spaces(make):
    # geoopt's own inner product forgets the dimensions of a batch, and its Adam raises.
    start, target = drawn(make(), (2, 3, 3), C)
    batch, *alone = (parameter(x, make()) for x in (start, *start))
    (together,) = descend(RiemannianAdam([batch], lr=0.005), [batch], target)
    for w, x, t in zip(alone, together, target, strict=True):
        assert (descend(RiemannianAdam([w], lr=0.005), [w], t)[0] - x).abs().max() <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    "manifold", [geoopt.Sphere(), geoopt.Scaled(Grassmann(), 2.0), geoopt.EuclideanStiefel()], ids=str
)
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(RiemannianSGD, lr=0.03, momentum=0.8, nesterov=True),
        functools.partial(RiemannianAdam, lr=0.03, amsgrad=True),
    ],
    ids=["nesterov", "amsgrad"],
)
def test_they_find_the_optimum(manifold, make):
    matrix, vectors = spectrum(6)
    shape = (6,) if isinstance(manifold, geoopt.Sphere) else (6, 2)
    torch.manual_seed(0)
    w = parameter(manifold.random(*shape, dtype=torch.float64), manifold)
    run(lambda x: (x * (matrix @ x)).sum(), [w], make([w]), 800)
    x = w.detach().as_subclass(torch.Tensor).reshape(6, -1)
    assert subspace_error(x, vectors[:, : x.shape[1]]) <= 0.1
    assert orthonormality_error(x) <= 1e-12

"""Our truncated conjugate gradients against pymanopt's: the same steps, with fewer calls, and no further than the run asks for."""

import math
from operator import attrgetter

import numpy as np
import pymanopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymanopt.autodiff import Function

from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.manifolds.pymanopt import TorchManifold, solve
from grassmann_ssl.manifolds.pymanopt_loss import TorchBackend
from grassmann_ssl.manifolds.trust_regions import TrustRegions

TOLERANCE = 1e-9  # of conjugate gradients of 6 iterations, whose rounding grows with the condition of the Hessian
INNER = attrgetter("_truncated_conjugate_gradient")
REASONS = pymanopt.optimizers.TrustRegions.TCG_STOP_REASONS


class Quadratic:
    """<X, A X B>/2 + <C, X>, a loss that depends on the basis; derivatives by hand, Hessian-vector products counted."""

    def __init__(self, shape, seed):
        generator = torch.Generator().manual_seed(seed)
        *batch, n, p = shape
        a, b = (torch.randn(*batch, side, side, dtype=torch.float64, generator=generator) for side in (n, p))
        self.a, self.b = a + a.mT, b + b.mT
        self.c = torch.randn(shape, dtype=torch.float64, generator=generator)
        self.start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0].contiguous()
        self.products = 0

    def __call__(self, x):
        return (x * (self.a @ x @ self.b / 2 + self.c)).sum()

    def gradient(self, x):
        return self.a @ x @ self.b + self.c

    def hessian(self, x, u):
        self.products += 1
        return self.a @ u @ self.b


class Rayleigh(Quadratic):
    """<X, A X>/2: a loss of the subspace."""

    def __call__(self, x):
        return (x * (self.a @ x)).sum() / 2

    def gradient(self, x):
        return self.a @ x

    def hessian(self, x, u):
        self.products += 1
        return self.a @ u


class Shifted(Rayleigh):
    """The same near its minimum, where the Hessian is positive and its condition small: the inner iterations end by the residual."""

    def __init__(self, shape, seed):
        super().__init__(shape, seed)
        self.a = self.a / 10 + torch.diag(10.0 * (torch.arange(shape[-2], dtype=torch.float64) >= shape[-1]))
        self.start = torch.linalg.qr(torch.eye(*shape[-2:], dtype=torch.float64) + self.start / 20)[0].contiguous()


def inner(kind, manifold, loss, radius, most):
    """A step by a solver's inner iterations from the start of the loss."""
    backend, adapter = TorchBackend(), TorchManifold(manifold, tuple(loss.start.shape))
    problem = pymanopt.Problem(adapter, Function(function=loss, manifold=adapter, backend=backend))
    options = {"verbosity": 0, "min_gradient_norm": 1e-300}
    solver = TrustRegions(backend, **options) if kind is TrustRegions else kind(**options)
    with torch.no_grad():
        gradient = problem.riemannian_gradient(loss.start)
        zero = adapter.zero_vector(loss.start)
        return INNER(solver)(problem, loss.start, gradient, zero, radius, solver.theta, solver.kappa, 1, most)


def held_to_pymanopt(manifold, loss, radius, most=6):
    before = loss.start.clone()
    step, curved, last, reason = inner(TrustRegions, manifold, loss, radius, most)
    expected, of_expected, at, why = inner(pymanopt.optimizers.TrustRegions, manifold, loss, radius, most)
    assert (last, REASONS[reason]) == (at, REASONS[why])
    assert (step - expected).norm() <= TOLERANCE * expected.norm()
    assert (curved - of_expected).norm() <= TOLERANCE * of_expected.norm().clamp_min(expected.norm())
    assert manifold.check_vector_on_tangent(loss.start, step, atol=1e-12, rtol=0)
    assert torch.equal(loss.start, before)
    return REASONS[reason]


@given(
    st.sampled_from([Grassmann(), Stiefel()]),
    st.sampled_from([Quadratic, Rayleigh, Shifted]),
    st.sampled_from([(9, 3), (2, 8, 2), (12, 1)]),
    st.integers(0, 2**20),
    st.floats(-6, 3),
)
def test_steps_are_those_of_pymanopt(manifold, kind, shape, seed, log_radius):
    held_to_pymanopt(manifold, kind(shape, seed), math.exp(log_radius))


@pytest.mark.parametrize(
    ("kind", "radius", "most", "reason"),
    [
        (Rayleigh, 1e-3, 6, "exceeded trust region"),
        (Quadratic, 1e6, 6, "negative curvature"),
        (Shifted, 1e6, 6, "reached target residual-kappa (linear)"),
        (Shifted, 1e6, 1, "maximum inner iterations"),
    ],
)
def test_every_way_to_end(kind, radius, most, reason):
    assert held_to_pymanopt(Grassmann(), kind((9, 3), 0), radius, most) == reason


def test_a_solution_is_as_good_as_asked_and_takes_fewer_products():
    ours, theirs = Shifted((30, 4), 1), Shifted((30, 4), 1)
    found = solve(ours, Grassmann(), ours.start, min_gradient_norm=1e-6)
    adapter = TorchManifold(Grassmann(), (30, 4))
    problem = pymanopt.Problem(adapter, Function(function=theirs, manifold=adapter, backend=TorchBackend()))
    with torch.no_grad():
        solver = pymanopt.optimizers.TrustRegions(verbosity=0, min_gradient_norm=1e-6)
        reference = solver.run(problem, initial_point=theirs.start)
    assert found.iterations == reference.iterations and ours.products < theirs.products
    assert reference.gradient_norm < 1e-8 < found.gradient_norm < 1e-6  # pymanopt goes on to the square of its gradient
    lowest = np.linalg.eigvalsh(ours.a.numpy())[:4].sum() / 2
    assert found.cost == pytest.approx(lowest, abs=1e-12)


def test_columns_in_another_order_of_memory():
    loss = Shifted((30, 4), 2)
    by_columns = loss.start.mT.contiguous().mT
    found = solve(loss, Grassmann(), by_columns)
    assert not by_columns.is_contiguous() and found.gradient_norm < 1e-6


def test_a_hessian_that_is_not_finite_is_named():
    loss = Shifted((9, 3), 0)
    loss.hessian = lambda x, u: u * torch.tensor([math.inf, 1.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="the Hessian of the loss Shifted must be finite"):
        solve(loss, Grassmann(), loss.start)

"""Conjugate gradients and L-BFGS: the search itself, convergence on every manifold, agreement with other solvers, and what they refuse."""

import functools
import math

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel
from grassmann_ssl.manifolds.pymanopt import solve
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import RiemannianCG, RiemannianLBFGS, RiemannianSGD
from grassmann_ssl.optim.line_search import ARMIJO, CURVATURE, search, space_of, two_loop
from tests.manifolds.cases import orthonormality_error, subspace_error
from tests.optim.problems import parameter, quartic, rayleigh, run, spectrum

both = pytest.mark.parametrize("make", [RiemannianCG, RiemannianLBFGS])


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.sampled_from(["quadratic", "quartic", "wave", "wall", "cliff"]))
def test_the_search_meets_its_conditions(scale, first, kind):
    def phi(t):
        t = t / scale
        if kind == "quadratic":
            return (t - 1) ** 2, 2 * (t - 1) / scale
        if kind == "quartic":
            return (t - 1) ** 4, 4 * (t - 1) ** 3 / scale
        if kind == "wave":
            return math.cos(t + 0.5), -math.sin(t + 0.5) / scale
        if kind == "wall":  # finite only up to 2
            return (-t - 0.1 * math.log(2 - t), (0.1 / (2 - t) - 1) / scale) if t < 2 else (math.inf, math.inf)
        return (-t, -1 / scale) if t < 1.5 else (math.nan, math.nan)

    value, slope = phi(0.0)
    t = search(phi, value, slope, first)
    if kind == "cliff":  # no point satisfies both conditions
        assert t is None
        return
    f, s = phi(t)
    assert t > 0 and f <= value + ARMIJO * t * slope and abs(s) <= CURVATURE * abs(slope)


def test_the_search_keeps_to_the_longest_step():
    seen = []

    def phi(t):
        seen.append(t)
        return -t, -1.0

    assert search(phi, 0.0, -1.0, 1e-3, longest=0.7) == 0.7 and max(seen) == 0.7


def test_the_recursion_on_products_is_that_on_vectors():
    rng = np.random.default_rng(0)
    size, n = 4, 9
    a = rng.normal(size=(n, n))
    a = a @ a.T + np.eye(n)
    s = rng.normal(size=(size, n))
    y, g = s @ a, rng.normal(size=n)
    q, weights = g.copy(), []
    newest = [1, 0, 3, 2]
    for i in newest:
        weights.append(s[i] @ q / (s[i] @ y[i]))
        q = q - weights[-1] * y[i]
    q = q * (s[1] @ y[1]) / (y[1] @ y[1])
    for i, w in zip(reversed(newest), reversed(weights), strict=True):
        q = q + s[i] * (w - y[i] @ q / (s[i] @ y[i]))
    v = np.vstack([s, y, g])
    np.testing.assert_allclose(np.array(two_loop((v @ v.T).tolist(), newest, size)) @ v, -q, rtol=1e-12)
    # A pair of negative curvature is left out.
    v[size + 1] = -s[1]
    without = two_loop((v @ v.T).tolist(), newest, size)
    assert without[1] == without[size + 1] == 0


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_all_solvers_agree(make, dtype):
    loss = quartic(spectrum(12)[0].to(dtype))
    start = Grassmann().random(12, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).as_subclass(torch.Tensor)
    w, v = parameter(start), parameter(start)
    run(loss, [w], make([w], max_iter=500, tolerance_grad=1e-9), 1)
    run(loss, [v], RiemannianSGD([v], lr=0.05, momentum=0.9), 2000)
    reference = solve(loss, Grassmann(), start, method="trust-regions", min_gradient_norm=1e-10).point
    # A gradient of 1e-9 leaves an angle of 1e-9 over the smallest curvature, about 0.1.
    assert subspace_error(w.detach(), reference) <= 1e-7 and subspace_error(v.detach(), reference) <= 1e-7


@both
def test_every_manifold_layers_and_ordinary_parameters_together(make):
    torch.manual_seed(0)
    b = torch.randn(6, 30, dtype=torch.float64)
    metric = GeneralizedGrassmann(b @ b.mT / 30)
    matrix, _ = spectrum(6)
    points = [
        parameter(Grassmann().random(2, 6, 2, dtype=torch.float64)),
        parameter(Stiefel().random(6, 2, dtype=torch.float64), Stiefel()),
        parameter(metric.random(6, 2), metric),
        constrain(nn.Linear(6, 2, bias=False).double()).weight,
        nn.Parameter(torch.randn(3, dtype=torch.float64)),
    ]
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    optimizer = make(points, max_iter=3000, tolerance_grad=1e-8)

    def closure():
        optimizer.zero_grad()
        x, y, z, w, v = points
        value = (
            rayleigh(matrix)(x)
            + rayleigh(matrix)(y * weights.sqrt())
            + rayleigh(matrix)(z)
            + rayleigh(matrix)(w.mT)
            + ((v - 1) ** 2 * (1 + v.square())).sum()
        )
        value.backward()
        return value

    optimizer.step(closure)
    assert optimizer.gradient_norm <= 1e-8 and not optimizer.stalled
    values = torch.linalg.eigvalsh(matrix)
    white = torch.linalg.inv(metric.factor)
    # Brockett's cost orders the columns: the larger weight takes the smaller eigenvalue.
    best = (
        3 * values[:2].sum() + (2 * values[0] + values[1]) + torch.linalg.eigvalsh(white @ matrix @ white.mT)[:2].sum()
    )
    assert abs(float(closure().detach()) - float(best)) <= 1e-12
    assert orthonormality_error(points[1].detach()) <= 1e-14 and torch.allclose(points[4], torch.ones(3).double())


@both
def test_directions_are_tangent_and_use_the_newest_pair_first(make):
    matrix, _ = spectrum(9)
    w = parameter(Grassmann().random(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    v = nn.Parameter(torch.linspace(1, 2, 4, dtype=torch.float64))
    optimizer = make([w, v], max_iter=1, **({"history_size": 3} if make is RiemannianLBFGS else {}))

    def closure():
        optimizer.zero_grad()
        value = quartic(matrix)(w) + (v.pow(4) + v.square()).sum()
        value.backward()
        return value

    for _ in range(5):
        before = v.detach().clone()
        optimizer.step(closure)
    step = v.detach() - before
    spaces, points = zip(*map(space_of, (w, v)), strict=True)
    gradient = [Grassmann().proju(points[0], torch.ones_like(points[0])), torch.ones_like(points[1])]
    direction, _ = optimizer.search_direction([w, v], list(spaces), list(points), gradient)
    assert (points[0].mT @ direction[0]).abs().max() <= 1e-13
    if make is RiemannianLBFGS:
        newest = (int(optimizer.state[v]["count"]) - 1) % 3
        assert torch.allclose(optimizer.state[v]["pairs"][newest], step, rtol=1e-12, atol=0)
        # The secant equation H y = s of the newest pair, in which no other pair shows.
        s, y = ([space.proju(x, optimizer.state[p]["pairs"][i]) for p, space, x in zip((w, v), spaces, points, strict=True)]
                for i in (newest, 3 + newest))  # fmt: skip
        direction, _ = optimizer.search_direction([w, v], list(spaces), list(points), y)
        assert all(torch.allclose(-d, a, rtol=1e-9, atol=1e-12) for d, a in zip(direction, s, strict=True))


@pytest.mark.slow
@both
def test_float32_reaches_its_rounding(make):
    matrix, vectors = spectrum(40, torch.float32)
    w = parameter(Grassmann().random(40, 4, generator=torch.Generator().manual_seed(0)))
    optimizer = make([w], max_iter=400, tolerance_grad=0.0)
    run(rayleigh(matrix), [w], optimizer, 1)
    # Rounding of the products: eps times the square root of 40 times the largest eigenvalue, 4, and a margin of 10.
    assert optimizer.gradient_norm <= 10 * 1.2e-7 * 6 * 4
    assert subspace_error(w.detach(), vectors[:, :4]) <= 1e-3 and orthonormality_error(w.detach()) <= 1e-6


@both
def test_a_loss_that_is_not_finite(make):
    w = parameter(Grassmann().random(6, 2, dtype=torch.float64))
    start = w.detach().clone()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match="not finite at the start"):
            run(lambda x, bad=bad: x.sum() * bad, [w], make([w]), 1)
    assert torch.equal(w.detach(), start)
    # A loss that is infinite over there is stepped back from.
    matrix, _ = spectrum(6)
    wall = float(rayleigh(matrix)(start)) * 1.0001

    def fenced(x):
        value = rayleigh(matrix)(x)
        return value if value < wall else value * math.inf

    run(fenced, [w], make([w]), 3)
    assert rayleigh(matrix)(w.detach()) < wall


@both
def test_nothing_moves_where_no_trial_is_accepted(make):
    w = parameter(Grassmann().random(6, 2, dtype=torch.float64))
    start = w.detach().clone()

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.square().sum() * 0 + (x @ x.mT)[0, 0]

        @staticmethod
        def backward(ctx, g):
            return -2 * torch.cat([w.detach()[:1], torch.zeros(5, 2, dtype=torch.float64)]) * g  # the sign is wrong

    optimizer = make([w])
    run(Wrong.apply, [w], optimizer, 1)
    assert optimizer.stalled and torch.equal(w.detach(), start)
    still = make([v := parameter(start)])
    run(lambda x: (x @ x.mH).diagonal().sum(), [v], still, 1)  # constant on the manifold
    assert still.gradient_norm <= 1e-14 and not still.stalled


def test_what_is_refused():
    w = parameter(Grassmann().random(6, 2))
    for make, message in (
        (functools.partial(RiemannianCG, max_iter=0), "max_iter must be at least 1"),
        (functools.partial(RiemannianCG, tolerance_grad=-1.0), "tolerance_grad must be"),
        (functools.partial(RiemannianLBFGS, history_size=0), "history_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make([w])
    with pytest.raises(ValueError, match="takes one group"):
        RiemannianCG([{"params": [w]}, {"params": [nn.Parameter(torch.zeros(2))]}])
    with pytest.raises(ValueError, match="needs Grassmann, GeneralizedGrassmann or Stiefel"):
        RiemannianCG([parameter(geoopt.Sphere().random(4), geoopt.Sphere())])
    with pytest.raises(TypeError, match="needs a closure"):
        RiemannianCG([w]).step()

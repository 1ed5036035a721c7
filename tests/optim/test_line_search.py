"""Conjugate gradients and L-BFGS: the search itself, convergence on every manifold, agreement with other solvers, and what they refuse."""

import functools
import math
from unittest.mock import Mock

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
from grassmann_ssl.optim.lbfgs import two_loop
from grassmann_ssl.optim.line_search import Evaluation, Move
from grassmann_ssl.optim.points import Points
from grassmann_ssl.optim.search import ARMIJO, CURVATURE, search
from tests.manifolds.cases import orthonormality_error, subspace_error
from tests.optim.problems import parameter, quartic, rayleigh, run, spectrum
from tests.oracles import line_search as oracle

both = pytest.mark.parametrize("make", [RiemannianCG, RiemannianLBFGS])


def curve(kind, scale):
    """The value and slope at t of a curve that falls at 0."""

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
        if kind == "rising":
            return t, 1 / scale
        return (-t, -1 / scale) if t < 1.5 else (math.nan, math.nan)  # "cliff": no point satisfies both conditions

    return phi


KINDS = ["quadratic", "quartic", "wave", "wall", "rising", "cliff"]


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.floats(0.1, 1e3)),
        min_size=1,
        max_size=6,
    )
)
def test_many_curves_are_searched_as_each_alone(drawn):
    curves = [curve(kind, scale) for kind, scale, _, _ in drawn]
    first, longest = np.array([(first, longest) for *_, first, longest in drawn]).T
    value, slope = np.array([phi(0.0) for phi in curves]).T
    counts = []

    def trial(t):
        counts.append(1)
        return tuple(np.array([phi(one) for phi, one in zip(curves, t, strict=True)]).T)

    found, most = search(trial, value, slope, first, longest=longest), 0
    for (kind, *_), phi, t, *start in zip(drawn, curves, found, value, slope, first, longest, strict=True):
        tried = []
        expected = (
            None
            if kind == "rising"
            else oracle.search(lambda t, phi=phi, tried=tried: tried.append(t) or phi(t), *start)
        )
        most = max(most, len(tried))
        if expected is None:
            assert t == 0
            continue
        assert t == pytest.approx(expected, rel=1e-9)
        f, s = phi(t)
        assert 0 < t <= start[3] and f <= start[0] + ARMIJO * t * start[1]
        assert t == start[3] or abs(s) <= CURVATURE * abs(start[1])
    assert len(counts) == most


def test_the_search_keeps_to_the_longest_step():
    seen = []

    def phi(t):
        seen.append(t)
        return -t, -np.ones(1)

    found = search(phi, np.zeros(1), -np.ones(1), np.array([1e-3]), longest=np.array([0.7]))
    assert found == 0.7 and max(seen) == 0.7


def test_the_recursion_on_products_is_that_on_vectors():
    rng = np.random.default_rng(0)
    size, n, newest = 4, 9, [1, 0, 3, 2]
    a = rng.normal(size=(n, n))
    a = a @ a.T + np.eye(n)
    s, g = rng.normal(size=(3, size, n)), rng.normal(size=(3, 1, n))
    v = np.concatenate([s, s @ a, g], 1)
    # Pairs of negative curvature and empty ones, of which rounding can leave products below 0, are left out: here of the newest, and all.
    v[1, size + 1] = -s[1, 1]
    gram = v @ v.transpose(0, 2, 1)
    v[2, :-1] = 0
    gram[2, :-1] = gram[2, :, :-1] = 0
    gram[2, 0, 0], gram[2, size, size], gram[2, 0, size] = -1e-30, 1e-20, 1e-30
    weights, known = two_loop(gram, newest, size)
    assert known.tolist() == [True, True, False]
    for k, slots in enumerate(([1, 0, 3, 2], [0, 3, 2], [])):
        pairs = [(v[k, i], v[k, size + i]) for i in slots]
        np.testing.assert_allclose(weights[k] @ v[k], oracle.two_loop(pairs, g[k, 0]), rtol=1e-12)
    assert weights[1, 1] == weights[1, size + 1] == 0


@pytest.mark.slow
@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_all_solvers_agree(make, dtype):
    loss = quartic(spectrum(12)[0].to(dtype))
    start = Grassmann().random(12, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).as_subclass(torch.Tensor)
    w, v = parameter(start), parameter(start)
    run(loss, [w], make([w], max_iter=500, tolerance_grad=1e-9), 1)
    run(loss, [v], RiemannianSGD([v], lr=0.05, momentum=0.9), 600)
    reference = solve(loss, Grassmann(), start, method="trust-regions", min_gradient_norm=1e-10).point
    # A gradient of 1e-9 leaves an angle of 1e-9 over the smallest curvature, about 0.1.
    assert subspace_error(w.detach(), reference) <= 1e-7 and subspace_error(v.detach(), reference) <= 1e-7


@pytest.mark.slow
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
    points = Points([w, v])
    points.couple(1)
    memory, x = optimizer.recall(points), points.stacks[0].x

    def direction(gradient):
        found, _, fresh = optimizer.search_direction(
            memory, points, Evaluation(torch.zeros(()), np.zeros(1), gradient, points.inner(gradient, gradient))
        )
        assert not fresh.any()
        return found

    found = direction([Grassmann().proju(x, torch.ones_like(x)), torch.ones_like(v.detach())])
    assert (x.mT @ found[0]).abs().max() <= 1e-13
    if make is RiemannianLBFGS:
        newest = (int(optimizer.state[v]["count"]) - 1) % 3
        assert torch.allclose(optimizer.state[v]["pairs"][newest], step, rtol=1e-12, atol=0)
        # The secant equation H y = s of the newest pair, in which no other pair shows.
        s, y = ([k.space.proju(k.x, optimizer.state[p]["pairs"][i]) for p, k in zip((w, v), points.stacks, strict=True)]
                for i in (newest, 3 + newest))  # fmt: skip
        assert all(torch.allclose(-d, a, rtol=1e-9, atol=1e-12) for d, a in zip(direction(y), s, strict=True))


def spectra(count, n):
    """Matrices of different scale and different eigenvectors."""
    return torch.stack([10.0**k * spectrum(n, seed=k)[0] for k in range(count)])


def minimise(make, params, loss, **settings):
    """Minimise; `loss` gives one number or one for every matrix."""
    optimizer = make(params, **{"max_iter": 500, "tolerance_grad": 1e-6, **settings})

    def closure():
        optimizer.zero_grad()
        value = loss(*params)
        value.sum().backward()
        return value

    before = optimizer.step(closure)
    assert torch.equal(before, loss(*params).detach() * 0 + before)  # of the shape of the loss
    return optimizer


@pytest.mark.slow
@both
def test_copies_of_a_problem_take_the_iterations_of_one(make):
    start, loss = (
        Grassmann().random(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        rayleigh(spectrum(16)[0]),
    )
    alone = minimise(make, [parameter(start)], loss)
    stacked, listed = parameter(start.expand(200, 16, 4)), [parameter(start) for _ in range(50)]
    for params in ([stacked], listed):
        together = minimise(make, params, lambda *ws: sum(map(loss, ws)))
        assert abs(together.steps - alone.steps) <= 1 and together.gradient_norm <= 1e-6
        assert together.evaluations <= alone.evaluations + 3  # sums of many round differently


@both
def test_a_list_of_one_shape_is_its_stack(make):
    starts = (
        Grassmann()
        .random(5, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        .as_subclass(torch.Tensor)
    )
    listed, stacked = [parameter(x) for x in starts], parameter(starts)
    loss = quartic(spectrum(9)[0])
    one = minimise(make, listed, lambda *ws: loss(torch.stack(ws)), max_iter=8)
    other = minimise(make, [stacked], loss, max_iter=8)
    assert one.evaluations == other.evaluations
    assert max((a - b).abs().max() for a, b in zip(listed, stacked, strict=True)) <= 1e-12


@pytest.mark.slow
@both
def test_independent_matrices_are_solved_as_each_alone(make):
    generator = torch.Generator().manual_seed(0)
    a, c = spectra(4, 8), spectrum(6)[0]
    start = Grassmann().random(4, 8, 2, dtype=torch.float64, generator=generator)
    other = Grassmann().random(6, 3, dtype=torch.float64, generator=generator)
    free = torch.linspace(1, 2, 3, dtype=torch.float64)

    def quadratic(matrix, x):
        return (x * (matrix @ x)).sum((-2, -1))

    def losses(x, z, v, batch, y):  # x and y are of one shape, and stacked
        parts = [quadratic(a[0], x)[None], quadratic(c, z)[None], v.square().sum()[None], quadratic(a[1:3], batch)]
        return torch.cat([*parts, quadratic(a[3], y)[None]])

    def params():
        x, batch, y = (parameter(start[k]) for k in (0, slice(1, 3), 3))
        return [x, parameter(other), nn.Parameter(free.clone()), batch, y]

    apart = params()
    optimizer = minimise(make, apart, losses)
    assert not optimizer.stalled and optimizer.gradient_norm <= 1e-6
    alone = [
        *((parameter(x), functools.partial(quadratic, m)) for x, m in zip(start, a, strict=True)),
        (parameter(other), functools.partial(quadratic, c)),
    ]
    made = [minimise(make, [w], loss) for w, loss in alone]
    assert abs(optimizer.steps - max(one.steps for one in made)) <= 2 and optimizer.steps <= 60
    ends = [apart[0], *apart[3], apart[4], apart[1]]
    # Sums of products in another order, in a search of differences, and a gradient of 1e-6 over a smallest curvature of 1/2.
    assert all(subspace_error(x.detach(), w.detach()) <= 1e-6 for x, (w, _) in zip(ends, alone, strict=True))
    assert apart[2].abs().max() <= 1e-6
    # A step after a step goes on where that one was, as far as its state tells.
    halves = params()
    split = make(halves, max_iter=7, tolerance_grad=1e-6)
    for k in range(2):
        if k:
            fresh = make(halves, max_iter=7, tolerance_grad=1e-6)
            fresh.load_state_dict(split.state_dict())
            split = fresh

        def closure(split=split):
            split.zero_grad()
            losses(*halves).sum().backward()
            return losses(*halves).detach()

        split.step(closure)
    whole = params()
    minimise(make, whole, losses, max_iter=14)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(halves, whole, strict=True))
    # Together they are one problem whose curvatures span four decades.
    joint = params()
    assert minimise(make, joint, lambda *ws: losses(*ws).sum()).steps > 2 * optimizer.steps


@both
def test_a_matrix_that_cannot_be_improved_does_not_hold_up_the_others(make):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x[:, 0].square().sum(-1)

        @staticmethod
        def backward(ctx, g):
            gradient = torch.zeros(1, 6, 2, dtype=torch.float64)
            gradient[:, 0] = -1.0  # not the gradient of anything
            return gradient

    generator = torch.Generator().manual_seed(0)
    start = Grassmann().random(3, 6, 2, dtype=torch.float64, generator=generator)
    w, a = parameter(start), spectrum(6)[0]
    optimizer = minimise(make, [w], lambda x: torch.cat([(x[:2] * (a @ x[:2])).sum((-2, -1)), Wrong.apply(x[2:])]))
    assert optimizer.stalled and torch.equal(w[2], start[2].as_subclass(torch.Tensor))
    assert all(subspace_error(x, spectrum(6)[1][:, :2]) <= 1e-6 for x in w.detach()[:2])


@both
@pytest.mark.parametrize("together", [True, False])
def test_no_matrix_moves_further_than_the_injectivity_radius(make, together):
    # Straight down for ever, of slopes that differ a millionfold: the first search stops at the cap, of the steepest or of each.
    generator = torch.Generator().manual_seed(0)
    start = Grassmann().random(3, 8, 2, dtype=torch.float64, generator=generator).as_subclass(torch.Tensor)
    u = Grassmann().random_tangent(start, generator=generator)
    u = u / torch.linalg.matrix_norm(u, keepdim=True)
    steep = torch.tensor([1.0, 1e3, 1e6], dtype=torch.float64)
    w = parameter(start)

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.gone = (x * u).sum((-2, -1))
            return -steep * ctx.gone

        @staticmethod
        def backward(ctx, g):
            return -(steep * (1 + 1e4 * ctx.gone) * g)[..., None, None] * u  # steeper and steeper

    minimise(make, [w], lambda x: Slope.apply(x).sum() if together else Slope.apply(x), max_iter=1)
    share = steep / steep.max() if together else torch.ones_like(steep)
    expected = Grassmann("polar").retr(start, math.pi / 2 * share[:, None, None] * u)
    assert (w - expected).abs().max() <= 1e-14


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
    many = parameter(Grassmann().random(3, 6, 2))
    for losses in (torch.ones(2), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=f"one loss for every matrix: 1 or 3, .*got {losses.numel()}"):
            RiemannianCG([many]).step(lambda losses=losses: losses)


@both
def test_sparse_gradients_are_refused(make):
    layer = constrain(nn.Embedding(9, 2, sparse=True))

    def closure():
        value = layer(torch.tensor([1, 2])).sum()
        value.backward()
        return value

    with pytest.raises(TypeError, match="sparse gradients are not supported"):
        make(layer).step(closure)


@both
def test_numbers_of_the_search_keep_their_dtype(make):
    w = parameter(Grassmann().random(2, 6, 2))
    optimizer = make([w], max_iter=3)
    run(rayleigh(spectrum(6, torch.float32)[0]), [w], optimizer, 1)
    again = make([w])
    again.load_state_dict(optimizer.state_dict())
    for key, value in optimizer.state[w].items():
        assert again.state[w][key].dtype == value.dtype and torch.equal(again.state[w][key], value)
    assert {v.dtype for v in again.state[w].values()} == {
        torch.float32,
        torch.float64 if make is RiemannianCG else torch.int64,
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@both
def test_a_point_without_directions_beside_others(make, dtype):
    # On Gr(3, 3) every gradient is 0, and products of the others can vanish or be negative by rounding near the optimum.
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        w, v = (parameter(Grassmann().random(n, p, dtype=dtype, generator=generator)) for n, p in ((3, 3), (5, 2)))
        start, target = w.detach().clone(), torch.randn(3, 3, dtype=dtype, generator=generator)
        optimizer = make([w, v], max_iter=60, tolerance_grad=0.0)

        def closure(w=w, v=v, target=target, optimizer=optimizer, power=2 + 2 * (seed % 2)):
            optimizer.zero_grad()
            value = (w - target).pow(4).sum() + v.pow(power).sum()
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(closure)
        assert (w - start).abs().max() <= 1e3 * torch.finfo(dtype).eps and torch.isfinite(v).all()


def test_the_next_search_starts_where_the_slope_would_have_vanished_within_a_factor_of_four():
    """The slope along the last step went from -1 to `along`: a parabola is flat at 1 / (along + 1) of its length."""
    along = np.array([0.0, -0.5, -0.9, 4.0, -2.0, 0.0])
    length = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.0])
    old = Mock(Evaluation, gradient=[])
    move = Mock(Move, t=length, slope=-np.ones(6), along=along, direction=[], old=old)
    cg = RiemannianCG([geoopt.ManifoldParameter(torch.eye(3, 1), manifold=Grassmann())])
    guess = cg.remember(None, Mock(Points), move).guess
    np.testing.assert_allclose(guess, [0.1, 0.2, 0.4, 0.025, 0.4, np.nan], rtol=1e-15)

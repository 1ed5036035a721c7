"""Weights stored as torch stores them: every operation is that of the wrapped manifold on the matrices, in the shape of a weight."""

import copy
import inspect

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.manifolds.layout import WeightLayout
from tests.manifolds.cases import cases
from tests.profiles import examples

G = Grassmann()
KERNELS = [(), (2,), (3, 2), (2, 1, 2)]
LAYOUTS = [
    WeightLayout(m, transpose, kernel)
    for m in (Grassmann(), Stiefel())
    for transpose in (True, False)
    for kernel in KERNELS
]
layouts = st.sampled_from(
    range(len(LAYOUTS))
)  # by number: printing one makes the type checker of the tests draw random numbers
NUMBERS = {"inner": "xuv", "norm": "xu", "dist": "xy", "dist2": "xy", "sectional_curvature": "xuv"}
POINTS = {
    "projx": "w", "proju": "xw", "egrad2rgrad": "xw", "ehess2rhess": "xwuv", "retr": "xu", "inverse_retr": "xy", "expmap": "xu",
    "logmap": "xy", "transp": "xyv", "parallel_transport": "xyv", "transp_follow_retr": "xuv", "transp_follow_expmap": "xuv",
    "retr_transp": "xuv", "expmap_transp": "xuv", "component_inner": "xuv",
}  # fmt: skip


def arguments(layout, seed, batch=(2,), dtype=torch.float64):
    """A weight x, another y near it, tangent vectors u, v and an ambient one w, stored as weights; out = 5 or out = 3."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, 3, 5, *layout.kernel) if layout.transpose else (*batch, 40, 3, *layout.kernel)
    x = layout.random(*shape, dtype=dtype, generator=generator).as_subclass(torch.Tensor)
    u, v, w = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(3))
    u, v = 0.2 * layout.proju(x, u), layout.proju(x, v)
    return {"x": x, "y": layout.retr(x, u + 0.1 * v), "u": u, "v": v, "w": w}


def unwrapped(layout, weight):
    """The matrix point of a weight, written out."""
    matrix = weight.reshape(*weight.shape[: weight.ndim - layout.ndim + 1], -1)
    return (matrix.transpose(-1, -2) if layout.transpose else matrix).contiguous()


def close(left, right):
    """Equal up to the order of summation, of products of up to 120 terms."""
    torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", POINTS)
@examples(20)
@given(layouts, st.integers(0, 99))
def test_points_and_vectors(name, layout, seed):
    layout = LAYOUTS[layout]
    if not hasattr(layout.manifold, name) or (name in ("logmap", "parallel_transport") and layout.manifold != G):
        return
    weights = arguments(layout, seed)
    results = getattr(layout, name)(*(weights[key] for key in POINTS[name]))
    expected = getattr(layout.manifold, name)(*(unwrapped(layout, weights[key]) for key in POINTS[name]))
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for result, matrix in zip(results, expected, strict=True):
        assert result.is_contiguous() and result.ndim == weights["x"].ndim
        assert name == "component_inner" or result.shape == weights["x"].shape
        close(unwrapped(layout, result), matrix)


@pytest.mark.parametrize("name", NUMBERS)
@examples(20)
@given(layouts, st.integers(0, 99))
def test_numbers_and_shapes_that_broadcast(name, layout, seed):
    layout = LAYOUTS[layout]
    if not hasattr(layout.manifold, name) or (name in ("dist", "dist2") and layout.manifold != G):
        return
    weights = arguments(layout, seed)
    values = [weights[key] for key in NUMBERS[name]]
    result = getattr(layout, name)(*values)
    assert result.shape == (2,)
    close(result, getattr(layout.manifold, name)(*(unwrapped(layout, value) for value in values)))
    if name != "sectional_curvature":
        kept = getattr(layout, name)(*values, keepdim=True)
        assert kept.shape == (2,) + (1,) * layout.ndim
        close(kept.flatten(), result)


@given(layouts, st.integers(0, 99))
def test_operations_with_shapes_of_their_own(layout, seed):
    layout = LAYOUTS[layout]
    weights = arguments(layout, seed)
    tangent = layout.random_tangent if layout.manifold == G else lambda x: layout.proju(x, weights["w"])
    assert layout.check_vector_on_tangent(weights["x"], tangent(weights["x"]))
    vectors = weights["u"], weights["v"]
    expected = [[layout.inner(weights["x"], a, b).sum() for a in vectors] for b in vectors]
    close(layout.tangent_products(weights["x"], torch.stack(vectors)), torch.tensor(expected, dtype=torch.float64))
    if layout.manifold == G:
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        ends = layout.geodesic(times, weights["x"], weights["y"])
        close(layout.dist(ends[0], weights["x"][0]), torch.zeros((), dtype=torch.float64))
        close(layout.dist(ends[1], weights["y"][1]), torch.zeros((), dtype=torch.float64))
        assert layout.cdist(weights["x"], weights["y"]).shape == (2, 2)
        close(layout.cdist(weights["x"], weights["y"]).diagonal(), layout.dist(weights["x"], weights["y"]))


def test_every_operation_of_the_grassmannian_is_there():
    operations = {
        name
        for name, method in inspect.getmembers(Grassmann, inspect.isfunction)
        # In-place steps, and the Hessian that solvers apply many times, act on a view of the weight, `to_point`.
        if not name.startswith("_")
        and not name.endswith("_")
        and name != "hessian_at"
        and "x" in inspect.signature(method).parameters
    }
    inherited = {name for name in operations if name in vars(geoopt.Manifold) and "check" in name}
    assert operations - inherited - set(vars(WeightLayout)) == set()
    # geoopt's Scaled takes the function out of the bound method and binds its arguments by name.
    for name in Grassmann.__scaling__:
        method, original = getattr(WeightLayout, name), getattr(Grassmann, name)
        assert inspect.isfunction(method)
        assert [*inspect.signature(method).parameters] == [*inspect.signature(original).parameters]


@pytest.mark.parametrize("transpose", [True, False])
def test_points_are_views_of_weights(transpose):
    layout = WeightLayout(G, transpose, (3, 2))
    weight = torch.arange(4 * 5 * 6.0).reshape(4, 5, 3, 2)
    point = layout.to_point(weight)
    assert point.data_ptr() == weight.data_ptr() and point.shape == ((30, 4) if transpose else (4, 30))
    assert torch.equal(layout.to_weight(point), weight)
    rows = point.new_ones(point.shape[0], 1), point.new_ones(1, point.shape[1])
    assert all(torch.broadcast_shapes(layout.to_weight(part).shape, weight.shape) == weight.shape for part in rows)


def test_a_manifold_of_entries():
    # The inner product by components is then that of the entries, and must not be summed.
    layout = WeightLayout(geoopt.Euclidean(ndim=2), True, (2,))
    weight = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layout.component_inner(weight, weight), weight**2)


@pytest.mark.parametrize("manifold", [Grassmann(), Stiefel()], ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_scaled_outside_and_inside(manifold, kernel):
    layout = WeightLayout(manifold, True, kernel)
    outside, inside = geoopt.Scaled(layout, 2.0), WeightLayout(geoopt.Scaled(manifold, 2.0), True, kernel)
    weights = arguments(layout, 0)
    x, u, v = weights["x"], weights["u"], weights["v"]
    close(outside.retr(x, u), layout.retr(x, u / 2))
    close(inside.retr(x, u), outside.retr(x, u))
    close(inside.expmap_transp(x, u, v)[1], outside.expmap_transp(x, u, v)[1])
    if manifold == G:
        close(outside.dist(x, weights["y"]), 2 * layout.dist(x, weights["y"]))


@given(cases(dtypes=(torch.float32, torch.float64, torch.complex64)), st.booleans())
def test_random_points_and_checks(case, transpose):
    layout = WeightLayout(G, transpose)
    shape = (case.p, case.n) if transpose else (case.n, case.p)
    weight = layout.random(*case.batch, *shape, dtype=case.dtype)
    assert weight.manifold is layout and weight.shape == (*case.batch, *shape) and weight.is_contiguous()
    gram = weight @ weight.mH if transpose else weight.mH @ weight
    assert (gram - torch.eye(case.p)).abs().max() <= 20 * case.eps * case.n
    assert layout.check_point_on_manifold(weight)
    assert not layout.check_point_on_manifold(1.01 * weight)
    u = layout.proju(weight, torch.randn(weight.shape, dtype=case.dtype))
    assert layout.check_vector_on_tangent(weight, u)
    assert not layout.check_vector_on_tangent(weight, u + 0.1 * weight)


def test_random_is_that_of_the_manifold_and_origin_is_a_point():
    layout = WeightLayout(G, True, (3,))
    drawn = layout.random(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layout.to_point(drawn), G.random(12, 2, generator=torch.Generator().manual_seed(0)))
    origin = layout.origin((5, 2, 4, 3), dtype=torch.float64)
    assert torch.equal(origin.flatten(2), torch.eye(2, 12, dtype=torch.float64).expand(5, 2, 12))
    assert origin.manifold == layout and origin.is_contiguous()


def test_shapes_that_hold_no_weight():
    layout = WeightLayout(G, True, (3, 3))
    for shape in [(3, 3), (2, 4, 3, 2), (4, 3)]:
        with pytest.raises(ValueError, match=r"\(\.\.\., out, in, 3, 3\), got \("):
            layout.random(*shape)
    with pytest.raises(ValueError, match=r"shape \(10, 1, 3, 3\) is a weight whose matrix has shape \(9, 10\)"):
        layout.random(10, 1, 3, 3)
    with pytest.raises(ValueError, match="shape"):
        geoopt.ManifoldParameter(torch.zeros(4, 3), manifold=layout)
    for wrong in (geoopt.Sphere(), "Grassmann"):
        with pytest.raises(TypeError, match="ndim 2"):
            WeightLayout(wrong, True)


def test_equality():
    layout = WeightLayout(Grassmann(), True, (3, 3))
    for same in (WeightLayout(Grassmann(), True, (3, 3)), copy.deepcopy(layout)):
        assert same == layout and hash(same) == hash(layout)
    others = [
        WeightLayout(Grassmann(), False, (3, 3)),
        WeightLayout(Stiefel(), True, (3, 3)),
        WeightLayout(Grassmann(), True, (9,)),
        Grassmann(),
    ]
    assert layout not in others and len({layout, *others}) == 5
    assert repr(layout) == f"WeightLayout({Grassmann()}, orthonormal rows) manifold"


@pytest.mark.parametrize("kernel", [(), (3, 2)], ids=str)
def test_vmap_is_a_loop(kernel):
    layout = WeightLayout(G, True, kernel)
    weights = arguments(layout, 0, batch=(4,))
    mapped = torch.func.vmap(layout.retr)(weights["x"], weights["u"])
    close(mapped, torch.stack([layout.retr(x, u) for x, u in zip(weights["x"], weights["u"], strict=True)]))


@pytest.mark.parametrize("make", [geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam])
@pytest.mark.parametrize("transpose", [True, False])
def test_geoopt_takes_the_same_steps_on_weights_and_on_matrices(make, transpose):
    layout = WeightLayout(G, transpose, (2, 2))
    shape = (3, 4, 2, 2) if transpose else (40, 3, 2, 2)
    start = layout.random(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = geoopt.ManifoldParameter(start.clone(), manifold=layout)
    point = geoopt.ManifoldParameter(layout.to_point(start).clone(), manifold=G)
    for p, goal in ((weight, target), (point, layout.to_point(target))):
        optimizer = make([p], lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            (p - goal).pow(2).sum().backward()
            optimizer.step()
    assert (weight - start).abs().max() > 0.01
    torch.testing.assert_close(layout.to_point(weight.detach()), point.detach(), atol=1e-11, rtol=0)

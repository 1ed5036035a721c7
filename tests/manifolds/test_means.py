"""The Frechet mean: midpoints, centres of symmetric points, the mean by small steps, and what it reports of itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.means import frechet_mean
from grassmann_ssl.manifolds.subspaces import principal_angles, projector
from tests.oracles import subspaces as oracle

G = Grassmann()
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def cloud(seed, k, n, p, spread, dtype=torch.float64, batch=()):
    """A centre and k points Exp(U_i) around it with ||U_i||_F = spread."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    centre = torch.linalg.qr(torch.randn(*batch, 1, n, p, dtype=wide, generator=generator))[0]
    u = G.proju(centre, torch.randn(*batch, k, n, p, dtype=wide, generator=generator))
    u = spread * u / torch.linalg.matrix_norm(u, keepdim=True).clamp_min(1e-9)
    return centre.to(dtype).squeeze(-3), u.to(dtype), G.expmap(centre, u).to(dtype)


def apart(x, y):
    return float(principal_angles(x, y).max())


@st.composite
def clouds(draw, k=None, dtypes=DTYPES):
    p = draw(st.integers(1, 4))
    n = draw(st.integers(p + 1, 14))  # k p on both sides of n
    k = draw(st.integers(1, 6)) if k is None else k
    return cloud(draw(st.integers(0, 2**20)), k, n, p, draw(st.floats(0.01, 0.7)), draw(st.sampled_from(dtypes)))


@given(clouds())
def test_the_gradient_is_zero_at_the_mean(drawn):
    _, _, points = drawn
    found = frechet_mean(points)
    k, n, p = points.shape
    eps = torch.finfo(points.dtype).eps
    assert found.converged and found.gradient_norm <= 16 * eps * math.sqrt(p)
    assert found.mean.shape == (n, p) and found.mean.dtype == points.dtype
    assert (found.mean.mH @ found.mean - torch.eye(p)).abs().max() <= 8 * eps
    logarithms = G.logmap(found.mean, points)
    assert torch.linalg.matrix_norm(logarithms.mean(-3)) <= 32 * eps * math.sqrt(p)
    expected = G.dist2(found.mean, points).mean()
    assert abs(found.variance - expected) <= 16 * eps
    # Nothing near has less variance.
    for direction in torch.unbind(G.proju(found.mean, points)[: min(k, 2)]):
        step = 0.01 * direction / direction.norm().clamp_min(0.01)
        assert G.dist2(G.expmap(found.mean, step), points).mean() >= expected - 16 * eps


@given(clouds(k=2), st.floats(0, 1))
def test_the_mean_of_two_points_is_on_their_geodesic(drawn, weight):
    _, _, (x, y) = drawn
    eps, p = torch.finfo(x.dtype).eps, x.shape[-1]
    # From the mean the points lie within 1.4, where no direction contracts slower than 1.4 cot 1.4 = 0.24.
    bound = 100 * eps * math.sqrt(p)
    assert apart(frechet_mean(torch.stack([x, y])).mean, G.geodesic(0.5, x, y)) <= bound
    weighted = frechet_mean(torch.stack([x, y]), torch.tensor([1 - weight, weight], dtype=torch.float64))
    assert weighted.converged and apart(weighted.mean, G.geodesic(weight, x, y)) <= bound


@given(clouds())
def test_the_mean_of_symmetric_points_is_their_centre(drawn):
    centre, u, points = drawn
    reflected = G.expmap(centre, -u)
    found = frechet_mean(torch.cat([points, reflected]))
    assert found.converged
    assert apart(found.mean, centre) <= 100 * torch.finfo(points.dtype).eps * math.sqrt(points.shape[-1])
    spread = u.abs().square().sum((-2, -1)).mean()
    assert abs(found.variance - spread) <= 100 * torch.finfo(points.dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("k", [3, 5])  # k p below and above n
def test_the_mean_is_that_of_small_steps(dtype, k):
    _, _, points = cloud(0, k, 9, 2, 0.7, dtype)
    weights = torch.tensor([0.0, *range(1, k)], dtype=torch.float64)
    expected = oracle.frechet_mean(points.numpy(), weights.numpy())
    assert np.abs(projector(frechet_mean(points, weights).mean).numpy() - oracle.projector(expected)).max() <= 1e-13


@given(clouds(dtypes=(torch.float64, torch.complex128)))
def test_the_start_is_the_mean_in_the_chordal_distance(drawn):
    _, _, points = drawn
    k, _, p = points.shape
    weights = np.random.default_rng(k).uniform(0.1, 1, k)
    average = sum(w * oracle.projector(y.numpy()) for w, y in zip(weights, points, strict=True)) / weights.sum()
    expected = np.linalg.eigh(average)[1][
        :, -p:
    ]  # angles below 0.7: at least 2 cos^2 0.7 - 1 = 0.17 parts it from the rest
    found = frechet_mean(points, torch.as_tensor(weights), max_iterations=0)
    assert np.abs(projector(found.mean).numpy() - oracle.projector(expected)).max() <= 1e-13


@given(clouds())
def test_bases_order_and_scale_of_weights_do_not_matter(drawn):
    _, _, points = drawn
    k, n, p = points.shape
    rng = np.random.default_rng(k * n * p)
    turns = [oracle.unitary(rng, p, points.is_complex()) for _ in range(k)]
    weights = torch.as_tensor(rng.uniform(0.1, 1, k))
    turned = points @ torch.as_tensor(np.stack(turns)).to(points.dtype)
    found, other = frechet_mean(points, weights), frechet_mean(turned.flip(0), 7 * weights.flip(0))
    assert apart(found.mean, other.mean) <= 100 * torch.finfo(points.dtype).eps * math.sqrt(p)
    # A rotation of the whole space rotates the mean.
    rotation = torch.as_tensor(oracle.unitary(rng, n, points.is_complex())).to(points.dtype)
    moved = frechet_mean(rotation @ points, weights)
    assert apart(rotation @ found.mean, moved.mean) <= 100 * torch.finfo(points.dtype).eps * math.sqrt(p)


def test_points_of_weight_zero_are_ignored():
    _, _, points = cloud(1, 5, 10, 3, 0.7)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0])
    kept = frechet_mean(points[weights > 0], weights[weights > 0])
    found = frechet_mean(points, weights)
    assert apart(found.mean, kept.mean) <= 1e-14
    torch.testing.assert_close(found.variance, kept.variance)
    assert apart(frechet_mean(points, torch.tensor([0, 0, 1, 0, 0])).mean, points[2]) <= 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_a_loop(dtype):
    _, _, points = cloud(2, 4, 8, 2, 0.6, dtype, batch=(2, 3))
    points = points.clone()
    points[0, 1] = points[0, 1, :1]  # converged at once, beside others that are not
    weights = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    found = frechet_mean(points, weights)
    assert found.mean.shape == (2, 3, 8, 2) and found.converged.shape == found.variance.shape == (2, 3)
    assert found.converged.all() and found.variance.dtype == points.real.dtype
    bound = 100 * torch.finfo(dtype).eps
    for i in range(2):
        for j in range(3):
            single = frechet_mean(points[i, j], weights[j])
            assert single.iterations <= found.iterations
            assert apart(single.mean, found.mean[i, j]) <= bound
            assert abs(single.variance - found.variance[i, j]) <= bound
    # Each stops on its own, as soon as it is within the tolerance.
    loose = frechet_mean(points, weights, tolerance=0.01)
    for i in range(2):
        for j in range(3):
            assert apart(frechet_mean(points[i, j], weights[j], tolerance=0.01).mean, loose.mean[i, j]) <= bound


@pytest.mark.slow
def test_the_variance_never_increases_however_far_the_points():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        points = torch.linalg.qr(torch.randn(6, 10, 3, dtype=torch.float64, generator=generator))[0]
        found = [frechet_mean(points, max_iterations=m).variance.item() for m in range(40)]
        assert (np.diff(found) <= 1e-14).all()


def test_what_is_not_converged_is_reported():
    _, _, points = cloud(3, 4, 8, 2, 0.6, batch=(2,))
    points = points.clone()
    points[1] = points[1, :1]
    found = frechet_mean(points, max_iterations=0)
    assert found.iterations == 0 and found.converged.tolist() == [False, True]
    assert found.gradient_norm[0] > 1e-6
    loose = frechet_mean(points, tolerance=1e-3)
    assert loose.converged.all() and loose.iterations < frechet_mean(points).iterations
    assert not frechet_mean(points, tolerance=0, max_iterations=3).converged.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_large_problems_converge_in_single_precision(dtype):
    _, _, points = cloud(4, 12, 600, 32, 1.5, dtype)
    found = frechet_mean(points)
    assert found.converged and found.iterations <= 20


def test_the_gradient_is_not_recorded_and_autocast_changes_nothing():
    _, _, points = cloud(5, 4, 8, 2, 0.6, torch.float32)
    expected = frechet_mean(points)
    with torch.autocast("cpu", torch.bfloat16):
        found = frechet_mean(points.requires_grad_())
    assert not found.mean.requires_grad and torch.equal(found.mean, expected.mean)


def test_bad_input_is_named():
    _, _, points = cloud(6, 3, 6, 2, 0.5)
    for weights in ([1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0]):
        with pytest.raises(ValueError, match="weights must be finite and not negative, with a positive sum"):
            frechet_mean(points, torch.tensor(weights))
    with pytest.raises(ValueError, match=r"weights must have shape \(..., k\) with k = 3, got \(2,\)"):
        frechet_mean(points, torch.ones(2))
    with pytest.raises(ValueError, match="weights must be real"):
        frechet_mean(points, torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"points must have shape \(..., k, n, p\)"):
        frechet_mean(points[0])
    with pytest.raises(ValueError, match="k >= 1"):
        frechet_mean(points[:0])
    with pytest.raises(TypeError, match="float16"):
        frechet_mean(points.half())
    with pytest.raises(ValueError, match="tolerance must not be negative, got nan"):
        frechet_mean(points, tolerance=math.nan)
    with pytest.raises(ValueError, match="max_iterations must not be negative, got -1"):
        frechet_mean(points, max_iterations=-1)

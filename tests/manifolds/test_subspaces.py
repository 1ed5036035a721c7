"""Subspaces: angles and distances as they were built in, right at every degenerate place, blind to bases; exact gradients."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grassmann_ssl.manifolds import Grassmann, Stiefel, subspaces
from grassmann_ssl.manifolds.subspaces import (
    DISTANCES,
    basis,
    complement,
    cut_locus_margin,
    distance,
    geodesic_ema,
    logarithm,
    principal_angles,
    principal_vectors,
    procrustes,
    projector,
    relative_position,
)
from tests.oracles import subspaces as oracle

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
DOUBLE = (torch.float64, torch.complex128)
SPECIAL = (0.0, 0.0, 1e-12, 1e-8, 1e-4, 2e-4, 0.3, 0.3, 0.3 + 1e-9, math.pi / 4, 1.2, math.pi / 2 - 1e-9, math.pi / 2)
METRICS = tuple(kind for kind in DISTANCES if kind != "martin")
SYMMETRIC = tuple(kind for kind in DISTANCES if kind not in ("projection", "spectral"))
# Bounds are multiples of eps sqrt(n p), what rounding adds up to in products of orthonormal n x p matrices.


@dataclass(frozen=True)
class Pair:
    """Subspaces X and Y of known principal angles, with Log_X(Y)."""

    x: torch.Tensor
    y: torch.Tensor
    log: torch.Tensor
    angles: torch.Tensor
    rng: np.random.Generator

    @property
    def bound(self):
        return torch.finfo(self.x.dtype).eps * math.sqrt(self.x.shape[-2] * self.x.shape[-1])

    @property
    def svd(self):
        """What LAPACK's SVD may leave off the diagonal where singular values repeat: bdsqr stops at eps^(7/8), some 100 eps in double."""
        return torch.finfo(self.x.dtype).eps ** (7 / 8)

    def rotation(self):
        """A random basis change."""
        return torch.as_tensor(oracle.unitary(self.rng, self.x.shape[-1], self.x.is_complex())).to(self.x.dtype)

    def tangent(self, x):
        """A random horizontal vector at X of Frobenius norm 1."""
        a = torch.as_tensor(self.rng.standard_normal((2, *x.shape)))
        u = (torch.complex(*a) if x.is_complex() else a[0]).to(x.dtype)
        u = u - x @ (x.mH @ u)
        return u / u.norm()


def pair_at(angles, dtype=torch.float64, n=None, seed=0):
    rng = np.random.default_rng(seed)
    n = n or 2 * len(angles) + 2
    x, y, log = (torch.as_tensor(a).to(dtype) for a in oracle.pair(rng, n, angles, dtype.is_complex))
    return Pair(x, y, log, torch.tensor(angles, dtype=torch.float64), rng)


@st.composite
def pairs(draw, angles=None, dtypes=DTYPES):
    """Pairs at angles drawn from `angles`; up to n - p of them are not 0."""
    angles = st.sampled_from(SPECIAL) if angles is None else angles
    p = draw(st.integers(1, 5))
    n = draw(st.integers(p, 14))
    drawn = sorted([draw(angles) if i < n - p else 0.0 for i in range(p)])
    return pair_at(drawn, draw(st.sampled_from(dtypes)), n, draw(st.integers(0, 2**20)))


ordinary = st.floats(0.05, 1.4)


def inner(u, v):
    return (u.conj() * v).real.sum()


def exp(x, u):
    return torch.as_tensor(oracle.exp(x.numpy(), u.numpy()))


def difference(f, x, u, h=1e-5):
    """Derivative of f along the geodesic from X with velocity U: truncation h^2, rounding eps/h, together about 1e-10."""
    return (f(exp(x, h * u)) - f(exp(x, -h * u))) / (2 * h)


def span_error(x, y):
    return float((projector(x.to(torch.complex128)) - projector(y.to(torch.complex128))).abs().max())


@given(pairs())
def test_principal_angles_are_accurate_everywhere(pair):
    for found in (principal_angles(pair.x, pair.y), principal_angles(pair.y, pair.x)):
        assert found.dtype == pair.x.real.dtype
        assert (found.double() - pair.angles).abs().max() <= 4 * pair.bound
        assert (found >= 0).all() and (found.diff() >= 0).all()
        assert (found <= torch.tensor(math.pi / 2, dtype=found.dtype)).all()


@given(pairs(ordinary, (torch.float64,)))
def test_principal_angles_are_those_of_scipy(pair):
    expected = np.sort(scipy.linalg.subspace_angles(pair.x.numpy(), pair.y.numpy()))
    error = np.abs(principal_angles(pair.x, pair.y).numpy() - expected)
    # scipy makes both bases orthonormal again, and its angles that are 0 have a floor of sqrt(eps).
    # Its small ones are off by a few eps / angle, as a calculation with 40 digits shows; ours are not.
    eps, angles = torch.finfo(pair.x.dtype).eps, pair.angles.numpy()
    assert (error <= 10 * pair.bound + 4 * eps / np.maximum(angles, 1e-4))[angles > 0].all()


@given(pairs())
def test_principal_vectors_meet_at_the_angles(pair):
    angles, u, v = principal_vectors(pair.x, pair.y)
    p = pair.x.shape[-1]
    assert (angles.double() - pair.angles).abs().max() <= 4 * pair.bound
    assert (u.mH @ v - torch.diag_embed(angles.cos())).abs().max() <= 8 * pair.bound + pair.svd
    for found, given_basis in ((u, pair.x), (v, pair.y)):
        # Twice the rounding of the basis, of its rotation and of a complex product, and the rounding of this very product.
        assert (found.mH @ found - torch.eye(p)).abs().max() <= 8 * pair.bound
        assert span_error(found, given_basis) <= 8 * pair.bound


@given(pairs())
def test_relative_position_leads_from_x_to_y(pair):
    x, y = pair.x, pair.y
    angles, directions, frame = relative_position(x, y)
    u = (directions * angles) @ frame.mH
    assert (logarithm(x, y) - u).abs().max() <= 8 * pair.bound
    end = torch.as_tensor(oracle.exp(*(a.to(torch.complex128).numpy() for a in (x, u))))
    assert span_error(end, y) <= (1e-6 if x.real.dtype == torch.float32 else 1e-14)  # at pi/2 too
    assert abs(u.norm() - pair.angles.norm()) <= 4 * pair.bound
    assert (x.mH @ u).abs().max() <= 8 * pair.bound * (angles.norm() + pair.bound)  # relative to its own size
    if pair.angles.max() < 1.5:  # conditioned like 1/cos
        assert (u - pair.log).abs().max() <= 8 * pair.bound / math.cos(pair.angles.max())


@given(pairs())
def test_there_is_no_direction_from_a_subspace_to_itself(pair):
    for y in (pair.x, pair.x @ pair.rotation()):
        angles, directions, _ = relative_position(pair.x, y)
        assert (directions == 0).all() and angles.max() <= 4 * pair.bound


class CountTallProducts(TorchDispatchMode):
    """Counts products in which an n x p matrix takes part, and refuses decompositions of one."""

    def __init__(self, n):
        super().__init__()
        self.n, self.products, self.decompositions = n, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        tall = any(isinstance(a, torch.Tensor) and self.n in a.shape[-2:] for a in args)
        self.products += tall and name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
        if tall and any(word in name for word in ("svd", "eigh", "qr")):
            self.decompositions.append((name, args[1:]))
        return function(*args, **(kwargs or {}))


def test_no_tall_matrix_is_decomposed():
    pair = pair_at([0.1, 0.5, 1.0], n=20)
    for function, products in ((relative_position, 5), (principal_angles, 4), (principal_vectors, 7), (procrustes, 2)):
        with CountTallProducts(20) as count:
            function(pair.x, pair.y)
        assert count.products <= products, function
        # The triangular factor of a Householder QR is all there is.
        assert all("qr" in name and arguments == ("r",) for name, arguments in count.decompositions), function


@given(pairs(ordinary, DOUBLE), st.sampled_from(sorted(DISTANCES)))
def test_distances_are_those_of_the_textbook(pair, kind):
    found, expected = distance(pair.x, pair.y, kind), oracle.distance(pair.x.numpy(), pair.y.numpy(), kind)
    # The textbook subtracts from 1: its error is eps / distance, sqrt(eps) at distance 0. Martin's is conditioned like a tangent.
    factor = math.tan(1.4) if kind == "martin" else 1
    assert abs(float(found) - expected) <= factor * 10 * pair.bound / max(expected, math.sqrt(pair.bound))


@given(pairs(st.sampled_from([0.0, 1e-13, 1e-11, 1e-9, 3e-9, 1e-6, 0.01, 1.0])), st.sampled_from(sorted(DISTANCES)))
def test_small_distances_lose_no_digits(pair, kind):
    found = float(distance(pair.x, pair.y, kind))
    assert abs(found - oracle.distance_of_angles(pair.angles.numpy(), kind)) <= 8 * pair.bound


@given(pairs(), st.sampled_from(sorted(DISTANCES)))
def test_nothing_depends_on_the_bases(pair, kind):
    x, y = pair.x, pair.y
    turned, other = x @ pair.rotation(), y @ pair.rotation()
    q = x.mH @ turned
    assert (principal_angles(turned, other) - principal_angles(x, y)).abs().max() <= 8 * pair.bound
    assert (cut_locus_margin(turned, other) - cut_locus_margin(x, y)).abs() <= 8 * pair.bound
    if kind != "martin" or pair.angles.max() < 1.5:
        assert (distance(turned, other, kind) - distance(x, y, kind)).abs() <= 15 * 8 * pair.bound
        assert (distance(y, x, kind) - distance(x, y, kind)).abs() <= 15 * 8 * pair.bound
    assert (projector(turned) - projector(x)).abs().max() <= 8 * pair.bound
    if pair.angles.max() < 1.5:  # nearer to the cut locus the logarithm and the polar factor are ill-conditioned
        assert (procrustes(turned, other)[0] - procrustes(x, y)[0] @ q).abs().max() <= 15 * 8 * pair.bound
        average = geodesic_ema(x, y, 0.3)
        assert (geodesic_ema(x, other, 0.3) - average).abs().max() <= 15 * 8 * pair.bound
        assert (geodesic_ema(turned, y, 0.3) - average @ q).abs().max() <= 15 * 8 * pair.bound


@given(st.integers(0, 2**20), st.sampled_from(METRICS), st.sampled_from(DOUBLE), st.integers(1, 4), st.floats(0.01, 2))
def test_metrics_satisfy_the_triangle_inequality(seed, kind, dtype, p, spread):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(p + 3, p, dtype=dtype, generator=generator)
    x, y, z = torch.linalg.qr(centre + spread * torch.randn(3, p + 3, p, dtype=dtype, generator=generator))[0]
    assert distance(x, z, kind) <= distance(x, y, kind) + distance(y, z, kind) + 1e-13


def test_martin_is_no_metric_and_infinite_at_a_right_angle():
    x, y, z = (torch.tensor([[math.cos(a)], [math.sin(a)]], dtype=torch.float64) for a in (0, 0.8, 1.57))
    assert distance(x, z, "martin") > distance(x, y, "martin") + distance(y, z, "martin")
    for dtype in DTYPES:
        x = torch.eye(5, 2, dtype=dtype).requires_grad_()
        y = torch.eye(5, dtype=dtype)[:, 1:3]
        far = distance(x, y, "martin")
        assert far == math.inf and (torch.autograd.grad(far, x)[0] == 0).all()


@given(pairs(ordinary, DOUBLE), st.sampled_from(sorted(DISTANCES)))
def test_gradients_are_the_derivatives_along_geodesics(pair, kind):
    assume((pair.angles.diff() > 1e-2).all() and (pair.angles[pair.angles > 0].numel() > 0))
    check_gradient(pair, lambda x, y: distance(x, y, kind), tolerance=1e-7 * math.tan(1.4) ** 2)


@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize("kind", SYMMETRIC)
def test_gradients_are_exact_where_angles_repeat(kind, dtype):
    for angles in ([0.4, 0.4, 0.4], [0.0, 0.0, 0.7], [0.0, 1e-9, 0.7], [0.5, 0.5, 1.1]):
        check_gradient(pair_at(angles, dtype), lambda x, y: distance(x, y, kind), tolerance=1e-8)


@pytest.mark.parametrize("kind", ["chordal", "binet-cauchy"])  # polynomials in X: no kink at pi/2
def test_gradients_are_exact_at_right_angles(kind):
    for angles in ([0.4, math.pi / 2], [math.pi / 2, math.pi / 2], [0.0, math.pi / 2]):
        check_gradient(pair_at(angles), lambda x, y: distance(x, y, kind), tolerance=1e-8)
        x = pair_at(angles).x.requires_grad_()
        for other in DISTANCES:
            gradient = torch.autograd.grad(distance(x, pair_at(angles).y, other), x)[0]
            assert torch.isfinite(gradient).all(), other


@pytest.mark.parametrize("dtype", DOUBLE)
def test_every_single_angle_has_its_gradient(dtype):
    for i in range(4):
        pair = pair_at([0.02, 0.3, 0.9, 1.5], dtype)
        check_gradient(pair, lambda x, y, i=i: principal_angles(x, y)[i], tolerance=1e-6)
    # Two angles whose cosines agree to rounding
    angles = [1e-8, 2e-8]
    pair = pair_at(angles, dtype)
    x = pair.x.clone().requires_grad_()
    gradient = torch.autograd.grad(principal_angles(x, pair.y)[0], x)[0]
    left, _, right = np.linalg.svd(pair.log.numpy(), full_matrices=False)
    expected = -np.outer(left[:, 1], right[1])  # h r^H of the smaller angle; rounding of 1e-16 / 1e-8 turns it by 1e-8
    assert np.abs(gradient.numpy() - expected).max() <= 1e-6


def check_gradient(pair, f, tolerance):
    x, y = pair.x.clone().requires_grad_(), pair.y.clone().requires_grad_()
    by_x, by_y = torch.autograd.grad(f(x, y), (x, y))
    for _ in range(3):
        u, v = pair.tangent(pair.x), pair.tangent(pair.y)
        assert abs(difference(lambda z: f(z, pair.y), pair.x, u) - inner(by_x, u)) <= tolerance
        assert abs(difference(lambda z: f(pair.x, z), pair.y, v) - inner(by_y, v)) <= tolerance


@given(pairs())
def test_the_squared_distance_has_gradient_minus_two_log(pair):
    x, y = pair.x.clone().requires_grad_(), pair.y.clone().requires_grad_()
    by_x, by_y = torch.autograd.grad(principal_angles(x, y).square().sum(), (x, y))
    for gradient, here, there in ((by_x, pair.x, pair.y), (by_y, pair.y, pair.x)):
        angles, directions, frame = relative_position(here, there)
        log = (directions * angles) @ frame.mH
        if pair.angles.max() < 1.5:
            assert (gradient + 2 * log).abs().max() <= 15 * 8 * pair.bound
        # At pi/2 it is one of the shortest logarithms, not always the same.
        assert abs(gradient.norm() - 2 * pair.angles.norm()) <= 16 * pair.bound
        # Y's side is made from X's by the SVD, and keeps 2 theta times what that leaves off the diagonal.
        assert (here.mH @ gradient).abs().max() <= 16 * pair.bound + 2 * pair.angles.max() * pair.svd


@given(pairs(), st.sampled_from(sorted(DISTANCES)))
def test_the_gradient_is_zero_at_equal_subspaces(pair, kind):
    x, y = pair.x.clone().requires_grad_(), (pair.x @ pair.rotation()).requires_grad_()
    for gradient in torch.autograd.grad(distance(x, y, kind), (x, y)):
        assert (gradient == 0).all()


def test_second_derivatives_exist_at_distinct_angles():
    for dtype in DOUBLE:
        pair = pair_at([0.2, 0.7, 1.1], dtype)
        u, v = pair.tangent(pair.x), pair.tangent(pair.x)

        def slope(z, create_graph=False, y=pair.y, v=v):
            z = z.clone().requires_grad_() if not z.requires_grad else z
            gradient = torch.autograd.grad(distance(z, y).square(), z, create_graph=create_graph)[0]
            return inner(gradient, v)

        x = pair.x.clone().requires_grad_()
        curvature = inner(torch.autograd.grad(slope(x, create_graph=True), x)[0], u)
        # The ambient derivative of the gradient in direction U, as along X + t U: Exp departs from it at second order.
        assert abs(curvature - difference(slope, pair.x, u)) <= 1e-7


@pytest.mark.parametrize("kind", sorted(DISTANCES))
def test_torch_func_transforms_equal_a_loop(kind):
    rng = [pair_at([0.2, 0.7, 1.1], seed=s) for s in range(3)]
    x, y = torch.stack([p.x for p in rng]), torch.stack([p.y for p in rng])
    gradient = torch.func.grad(lambda a, b: distance(a, b, kind))
    looped = torch.stack([gradient(a, b) for a, b in zip(x, y, strict=True)])
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(distance(leaf, y, kind).sum(), leaf)[0], looped)
    torch.testing.assert_close(torch.func.vmap(gradient)(x, y), looped)
    torch.testing.assert_close(
        torch.func.vmap(gradient, (0, None))(x, y[0]), torch.stack([gradient(a, y[0]) for a in x])
    )
    by_second = torch.func.grad(lambda b: torch.func.vmap(lambda a: distance(a, b, kind))(x).sum())(y[0])
    expected = sum(torch.func.grad(lambda b, a=a: distance(a, b, kind))(y[0]) for a in x)
    torch.testing.assert_close(by_second, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_a_loop_and_leading_dimensions_broadcast(dtype):
    made = [pair_at([0.2, 0.7, 1.1], dtype, seed=s) for s in range(4)]
    x, y = torch.stack([p.x for p in made])[:2, None], torch.stack([p.y for p in made])[2:]
    functions = [
        principal_angles,
        cut_locus_margin,
        lambda a, b: procrustes(a, b)[0],
        lambda a, b: geodesic_ema(a, b, 0.4),
        *(lambda a, b, kind=kind: distance(a, b, kind) for kind in DISTANCES),
    ]
    for function in functions:
        together = function(x, y)
        for i in range(2):
            for j in range(2):
                torch.testing.assert_close(together[i, j], function(x[i, 0], y[j]))
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(distance(leaf, y).sum(), leaf)[0]
    assert gradient.shape == x.shape
    single = x[1, 0].clone().requires_grad_()
    torch.testing.assert_close(
        gradient[1, 0], torch.autograd.grad(distance(single, y[0]) + distance(single, y[1]), single)[0]
    )
    for function in (projector, complement, lambda a: basis(projector(a), 3)):
        together = function(x)
        for i in range(2):
            torch.testing.assert_close(projector(together[i, 0]), projector(function(x[i, 0])))


@given(st.floats(0, 1), st.sampled_from([0.0, 1e-14, 1e-9, 1e-4, 0.3, 1.0]), st.sampled_from(DTYPES))
def test_the_margin_to_the_cut_locus_is_what_is_missing(smaller, margin, dtype):
    pair = pair_at([min(smaller, math.pi / 2 - margin), math.pi / 2 - margin], dtype)
    assert abs(float(cut_locus_margin(pair.x, pair.y)) - margin) <= 4 * pair.bound


def test_the_margin_is_zero_exactly_on_the_cut_locus():
    assert cut_locus_margin(torch.eye(4, 2), torch.eye(4)[:, 1:3]) == 0


@given(pairs(ordinary))
def test_procrustes_finds_the_nearest_basis(pair):
    nearest, q = procrustes(pair.x, pair.y)
    p = pair.x.shape[-1]
    assert (q.mH @ q - torch.eye(p)).abs().max() <= 4 * pair.bound
    assert (nearest - pair.y @ q).abs().max() == 0
    # The Hermitian, positive overlap characterises it, and the distance is the Procrustes distance.
    overlap = pair.x.mH @ nearest
    assert (overlap - overlap.mH).abs().max() <= 8 * pair.bound + pair.svd
    assert torch.linalg.eigvalsh(overlap).min() >= math.cos(1.4) - 8 * pair.bound
    assert abs((nearest - pair.x).norm() - distance(pair.x, pair.y, "procrustes")) <= 8 * pair.bound


def test_procrustes_is_that_of_scipy():
    pair = pair_at([0.2, 0.7, 1.1])
    expected = scipy.linalg.orthogonal_procrustes(pair.y.numpy(), pair.x.numpy())[0]
    assert np.abs(procrustes(pair.x, pair.y)[1].numpy() - expected).max() <= 1e-14


@pytest.mark.long
@pytest.mark.parametrize("dtype", DOUBLE)
@pytest.mark.parametrize("angles", [[0.2, 0.7, 1.1], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
def test_procrustes_has_exact_gradients(angles, dtype):
    pair = pair_at(angles, dtype)
    assert torch.autograd.gradcheck(procrustes, (pair.x.requires_grad_(), pair.y.requires_grad_()))


@given(pairs())
def test_basis_inverts_projector(pair):
    found = basis(projector(pair.x), pair.x.shape[-1])
    p = pair.x.shape[-1]
    assert found.dtype == pair.x.dtype
    assert (found.mH @ found - torch.eye(p)).abs().max() <= 4 * pair.bound
    assert span_error(found, pair.x) <= 8 * pair.bound


@given(pairs())
def test_complement_is_orthogonal_and_complete(pair):
    n, p = pair.x.shape
    assume(n > p)
    rest = complement(pair.x)
    assert rest.shape == (n, n - p) and rest.dtype == pair.x.dtype
    whole = torch.cat([pair.x, rest], -1)
    assert (whole.mH @ whole - torch.eye(n)).abs().max() <= 8 * pair.bound


@pytest.mark.parametrize("dtype", DOUBLE)
def test_basis_and_complement_have_the_gradient_of_the_subspace(dtype):
    pair = pair_at([0.2, 0.7, 1.1], dtype)
    weight = torch.as_tensor(pair.rng.standard_normal((8, 8)))
    weight = (weight + weight.mH).to(dtype)

    def energy(z):
        return inner(z, weight @ z)

    x, u = pair.x.clone().requires_grad_(), pair.tangent(pair.x)
    direct = torch.autograd.grad(energy(x), x)[0]
    through = torch.autograd.grad(energy(basis(projector(x), 3)), x)[0]
    outside = torch.autograd.grad(energy(complement(x)), x)[0]  # tr(W) = energy inside + energy outside
    assert abs(inner(through, u) - inner(direct, u)) <= 1e-13
    assert abs(inner(outside, u) + inner(direct, u)) <= 1e-13


def test_what_is_no_projector_is_refused():
    x = pair_at([0.2, 0.7]).x
    p = projector(x)
    for wrong, rank in (
        (p, 1),
        (p, 3),
        (p + 1e-6, 2),
        (0.9 * p, 2),
        (p @ torch.triu(torch.ones_like(p)), 2),
        (p * math.inf, 2),
    ):
        with pytest.raises(ValueError, match=r"orthogonal projector of rank p = |infinite"):
            basis(wrong, rank)
    with pytest.raises(ValueError, match=r"rank p = 1, but \|\|P - X X\^H\|\| = 1"):
        basis(p, 1)
    for rank in (0, 7):
        with pytest.raises(ValueError, match="p must be between 1 and n = 6"):
            basis(p, rank)
    with pytest.raises(ValueError, match="must have shape"):
        basis(x, 2)
    with pytest.raises(TypeError, match="float16"):
        basis(p.half(), 2)
    with pytest.raises(ValueError, match="p < n"):
        complement(torch.eye(3))


@given(pairs(), st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]))
def test_geodesic_ema_divides_the_way(pair, decay):
    teacher, student = pair.x, pair.y
    average = geodesic_ema(teacher, student, decay)
    p = teacher.shape[-1]
    assert (average.mH @ average - torch.eye(p)).abs().max() <= 4 * pair.bound
    assert (principal_angles(teacher, average) - (1 - decay) * pair.angles).abs().max() <= 8 * pair.bound
    assert (principal_angles(average, student) - decay * pair.angles).abs().max() <= 16 * pair.bound
    overlap = teacher.mH @ average  # nearest to the teacher: Hermitian and not negative
    assert (overlap - overlap.mH).abs().max() <= 8 * pair.bound
    assert torch.linalg.eigvalsh(overlap).min() >= -8 * pair.bound
    if decay == 1:
        assert (average - teacher).abs().max() <= 4 * pair.bound


@pytest.mark.slow
def test_geodesic_ema_stays_on_the_manifold_and_arrives():
    pair = pair_at([0.2, 0.7, 1.1], torch.float32, n=40)
    teacher = pair.x
    for _ in range(2000):
        teacher = geodesic_ema(teacher, pair.y, 0.99)
    assert (teacher.mH @ teacher - torch.eye(3)).abs().max() <= 4 * torch.finfo(torch.float32).eps
    assert (
        principal_angles(teacher, pair.y).max() <= 1e-5
    )  # 1.1 * 0.99^2000 = 2e-9, and rounding of each step / (1 - decay)
    # The teacher's basis turned no further than the geodesic did.
    start, _ = procrustes(pair.x, teacher)
    assert (start - teacher).abs().max() <= 1e-3


def test_geodesic_ema_records_no_gradient_and_checks_the_decay():
    pair = pair_at([0.2, 0.7])
    assert not geodesic_ema(pair.x, pair.y.requires_grad_(), 0.5).requires_grad
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="decay must be in"):
            geodesic_ema(pair.x, pair.y, decay)


def test_bad_bases_are_named():
    x = torch.eye(5, 2)
    for manifold in (Grassmann(), Stiefel()):
        for function in (manifold.dist, manifold.dist2, manifold.logmap):
            with pytest.raises(ValueError, match=r"y must have n, p = \(5, 2\) as x has, got shape \(5, 3\)"):
                function(x, torch.eye(5, 3))
    for function in (principal_angles, principal_vectors, cut_locus_margin, procrustes):
        with pytest.raises(ValueError, match=r"y must have n, p = \(5, 2\) as x has, got shape \(5, 3\)"):
            function(x, torch.eye(5, 3))
        with pytest.raises(ValueError, match=r"x must have shape \(..., n, p\) with n >= p >= 1, got \(2, 5\)"):
            function(x.mT, x.mT)
        with pytest.raises(TypeError, match=r"y must have the dtype of x, torch.float32, got torch.float64"):
            function(x, x.double())
        with pytest.raises(TypeError, match=r"x must be .*, got torch.bfloat16"):
            function(x.bfloat16(), x)
    with pytest.raises(ValueError, match="student must have n, p"):
        geodesic_ema(x, student=torch.eye(4, 2), decay=0.5)
    with pytest.raises(ValueError, match="kind must be one of geodesic, chordal"):
        distance(x, x, "euclidean")


def test_autocast_changes_nothing():
    pair = pair_at([0.2, 0.7, 1.1], torch.float32)
    x = pair.x.requires_grad_()

    def everything():
        angles = principal_angles(x, pair.y)
        gradient = torch.autograd.grad(angles.sum(), x)[0]
        return [angles, gradient, geodesic_ema(x, pair.y, 0.5), projector(x), complement(x), *procrustes(x, pair.y)]

    expected = everything()
    with torch.autocast("cpu", torch.bfloat16):
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_table_of_distances_is_complete():
    assert set(DISTANCES) == {
        "geodesic",
        "chordal",
        "projection",
        "binet-cauchy",
        "fubini-study",
        "procrustes",
        "spectral",
        "martin",
    }
    assert all(kind in subspaces.distance.__doc__ for kind in DISTANCES)

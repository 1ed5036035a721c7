"""Steepest descent in the spectral norm: the closed form on the Grassmannian, and the convex problem on the Stiefel manifold."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import RiemannianMuon
from grassmann_ssl.optim.muon import solve_lyapunov, spectral_sign, tangent_sign
from tests.manifolds.cases import ALL, Case, cases, orthonormality_error, wide
from tests.optim.problems import parameter, spectrum
from tests.oracles.spectral import steepest_tangent
from tests.profiles import examples

WIDE = (torch.float64, torch.complex128)
UNIT = 1 + 1e-5
"""what the polynomials leave of singular values 1"""


@examples(30)
@given(cases(dtypes=(torch.float64,)), st.floats(0, 3))
def test_spectral_sign_has_unit_singular_values(case, spread):
    scale = torch.logspace(0, -spread, case.p, dtype=torch.float64)
    m = case.point() * scale @ case.rotation()
    values, sizes = (
        torch.linalg.svdvals(spectral_sign(m)),
        torch.linalg.svdvals(m) / torch.linalg.matrix_norm(m)[..., None],
    )
    assert (values - 1)[sizes >= 2e-3].abs().max() <= 1e-5
    assert values.max() <= 1 + 1e-5 and (values[sizes < 2e-3] > 0.5).all()
    assert spectral_sign(torch.zeros_like(m)).abs().max() == 0


def problem(case):
    """A point of St(n, p) and a tangent vector of norm 1."""
    x = wide(case.point())
    g = Stiefel().proju(x, wide(case.ambient()))
    size = torch.linalg.matrix_norm(g, keepdim=True)
    assume(bool((size > 1e-3).all()))  # St(1, 1) has no direction
    return x, g / size


def repeated(x, g, calls):
    """The direction and the normal vector after calls that go on from one another."""
    normal = torch.zeros_like(x)
    for _ in range(calls):
        u, normal = tangent_sign(x, g, normal)
    return u, normal


def trace(g, u):
    return (g.conj() * u).real.sum((-2, -1))


def nuclear(m):
    return torch.linalg.matrix_norm(m, "nuc")


@pytest.mark.slow
@examples(25)
@given(cases(dtypes=WIDE))
def test_the_direction_on_stiefel_is_the_steepest(case):
    x, g = problem(case)
    flat = (-1, case.n, case.p)
    pairs = zip(x.reshape(flat).numpy(), g.reshape(flat).numpy(), strict=True)
    lower, upper = np.array([steepest_tangent(*one) for one in pairs]).T
    for calls, left in ((1, 0.01 if case.n >= 4 * case.p else 0.4), (30, 0.1 if case.n < 2 * case.p else 0.01)):
        u, normal = repeated(x, g, calls)
        found, bound = trace(g, u).reshape(-1).numpy(), nuclear(g + normal).reshape(-1).numpy()
        assert (found <= UNIT * upper).all() and (bound >= lower - 1e-12).all()
        assert (found >= (1 - left) * lower).all(), calls
        assert (bound <= (1 + left / 5) * upper).all(), calls


@pytest.mark.slow
@examples(40)
@given(cases(dtypes=ALL), st.floats(0, 4), st.floats(-12, 12))
def test_the_direction_on_stiefel_is_tangent_and_not_too_long(case, spread, scale):
    x = case.point()
    g = Stiefel().proju(x, case.ambient() * torch.logspace(scale, scale - spread, case.p).to(case.dtype))
    x_wide = wide(x)
    for normal in (torch.zeros_like(x), x @ x.mH @ case.ambient(4)):
        u, end = tangent_sign(x, g, normal)
        along = x_wide.mH @ wide(u)
        assert (along + along.mH).abs().max() <= 40 * case.eps
        # In single precision eigenvalues of M^H M are off by eps, which is much of the small ones: measured are up to 0.02.
        assert torch.linalg.matrix_norm(wide(u), 2).max() <= (UNIT if case.eps < 1e-10 else 1.1)
        along, size = x_wide.mH @ wide(end), max(1, float(end.abs().max()))
        assert (wide(end) - x_wide @ (along + along.mH) / 2).abs().max() <= 40 * case.eps * size


@examples(20)
@given(cases(dtypes=WIDE))
def test_every_call_lowers_the_dual(case):
    x, g = problem(case)
    values = torch.stack([nuclear(g), *(nuclear(g + repeated(x, g, k)[1]) for k in (1, 2, 4))])
    # A singular value below 2e-3 counts for less than it is, by up to 2e-3.
    assert (values.diff(dim=0) <= 2e-3 * case.p).all()


@examples(20)
@given(cases(dtypes=WIDE))
def test_the_direction_on_stiefel_turns_with_the_point_and_the_basis(case):
    x, g = problem(case)
    normal = x @ (x.mH @ wide(case.ambient(4)))
    left, right = Case(case.batch, case.n, case.n, case.dtype, case.seed).point(5), case.rotation()
    for one, other in zip(
        tangent_sign(x, g, normal), tangent_sign(*(left @ v @ right for v in (x, g, normal))), strict=True
    ):
        assert (left @ one @ right - other).abs().max() <= 1e-6  # rounding, lifted as small singular values are
    for one, other in zip(tangent_sign(x, g, normal), tangent_sign(x, 1e-9 * g, normal), strict=True):
        assert (one - other).abs().max() <= 1e-6  # nor does the length of the gradient matter


@examples(20)
@given(cases(dtypes=WIDE))
def test_a_horizontal_gradient_needs_no_multiplier(case):
    assume(case.n > case.p)
    x, g = case.point(), case.horizontal(1.0)
    u, normal = tangent_sign(x, g, torch.zeros_like(x))
    assert (u - spectral_sign(g)).abs().max() <= 1e-8 and normal.abs().max() <= 1e-8


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_square_points_turn_by_the_sign_of_a_skew_matrix(n):
    case = Case((7,), n, n, torch.float64, 0)
    x, a = case.point(), case.ambient()
    a = a - a.mT
    u, _ = tangent_sign(x, x @ a, torch.zeros_like(x))
    assert (u - x @ spectral_sign(a)).abs().max() <= 1e-8
    assert ((trace(x @ a, u) - nuclear(a)).abs() <= 2e-3 * n * torch.linalg.matrix_norm(a)).all()


@examples(20)
@given(cases(dtypes=WIDE))
def test_conjugate_gradients_solve_the_lyapunov_equation(case):
    q, c = wide(case.rotation()), wide(case.gaussian(case.p, case.p, k=2))
    values = torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0], dtype=q.dtype)[: case.p]
    t, c = (q * values) @ q.mH, c + c.mH
    d = solve_lyapunov(t, c)  # sums of two eigenvalues are three numbers: three steps are exact
    assert (t @ d + d @ t - c).abs().max() <= 1e-12 * c.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("retraction", ["cholesky-qr", "polar", "exponential"])
def test_muon_descends_on_stiefel(retraction, momentum):
    matrix, vectors = spectrum(12)
    weights = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    manifold = Stiefel(retraction)
    w = parameter(manifold.random(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), manifold)
    optimizer = RiemannianMuon([w], lr=0.1, momentum=momentum)
    for k in range(500):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.98**k
        w.grad = 2 * matrix @ w.detach().as_subclass(torch.Tensor) * weights
        optimizer.step()
    # The columns themselves are found, up to sign, not the subspace alone.
    assert ((vectors[:, :3] * w.detach()).sum(0).abs() - 1).abs().max() <= 1e-8
    assert orthonormality_error(w.detach()) <= 1e-12
    assert "normal_buffer" in optimizer.state[w] and optimizer.report()["skipped"] == 0


def test_layers_on_stiefel_move_like_points():
    torch.manual_seed(0)
    target = torch.randn(9, 9, dtype=torch.float64)
    for layer, n in ((nn.Linear(9, 3, bias=False), 9), (nn.Conv2d(2, 3, 2, bias=False), 8)):
        module = constrain(layer.double(), manifold=Stiefel())
        point = parameter(module.weight.detach().as_subclass(torch.Tensor).flatten(1).mT, Stiefel())
        makers = [RiemannianMuon(one, lr=0.05, momentum=0.8) for one in (module, [point])]
        for _ in range(6):
            x = module.weight.detach().as_subclass(torch.Tensor).flatten(1).mT
            gradient = target[:n, :n] @ x * torch.arange(1.0, 4.0)
            module.weight.grad = gradient.mT.reshape(module.weight.shape).contiguous()
            point.grad = gradient.contiguous()
            for optimizer in makers:
                optimizer.step()
        assert (module.weight.flatten(1).mT - point).abs().max() <= 1e-10


def test_the_multiplier_is_kept_and_stored():
    x = Stiefel().random(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = parameter(x, Stiefel())
    optimizer = RiemannianMuon([w], lr=1e-9)
    g = Stiefel().proju(w.detach(), gradient).as_subclass(torch.Tensor)
    for _ in range(6):
        w.grad = gradient.clone()
        optimizer.step()
    kept = optimizer.state[w]["normal_buffer"]
    assert (kept - repeated(x.as_subclass(torch.Tensor), g, 6)[1]).abs().max() <= 1e-6
    v = copy.deepcopy(w)
    other = RiemannianMuon([v], lr=1e-9)
    other.load_state_dict(optimizer.state_dict())
    for p, one in ((w, optimizer), (v, other)):
        p.grad = gradient.clone()
        one.step()
    assert torch.equal(optimizer.state[w]["normal_buffer"], other.state[v]["normal_buffer"])
    on_grassmann = parameter(Grassmann().random(10, 4))
    on_grassmann.grad = torch.ones(10, 4)
    optimizer = RiemannianMuon([on_grassmann], lr=0.1, momentum=0.9)
    optimizer.step()
    assert set(optimizer.state[on_grassmann]) == {"momentum_buffer"}

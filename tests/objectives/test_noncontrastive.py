"""Losses without negatives: their values, gradients, invariance, precision and memory."""

import importlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grassmann_ssl.objectives.noncontrastive import barlow_twins, barlow_twins_normalised, squared_vicreg
from grassmann_ssl.objectives.predictive import euclidean, isoloss, isoloss_cosine, negative_cosine
from grassmann_ssl.objectives.sigreg import lejepa, random_directions, sigreg
from grassmann_ssl.objectives.vicreg import vicreg
from grassmann_ssl.objectives.whitening import w_mse
from tests.objectives.noncontrastive_cases import draw, predicted, settings_of, unit, views
from tests.oracles import losses
from tests.oracles import noncontrastive as oracle

EPS = torch.finfo(torch.float64).eps
SHAPES = [(9, 4), (4, 9), (4, 17), (5, 5), (2, 1)]  # d below n, between n and 2n, above 2n
NAMES = [name for name, *_ in settings_of(2)]


def case(name, d, dtype=torch.float64):
    return next((loss, settings) for known, loss, settings in settings_of(d, dtype) if known == name)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_published_formulas(shape):
    n, d = shape
    z, zp = views(n, d)
    u = unit(3, d)
    pairs = [
        (barlow_twins(z=z, z_positive=zp, lambda_=0.3), losses.barlow_twins(z.numpy(), zp.numpy(), 0.3)),
        (squared_vicreg(z=z, z_positive=zp, beta=2.5), losses.squared_vicreg(z.numpy(), zp.numpy(), 2.5)),
        (barlow_twins_normalised(z=z, z_positive=zp), oracle.barlow_twins_normalised(z.numpy(), zp.numpy())),
        (vicreg(z=z, z_positive=zp), oracle.vicreg(z.numpy(), zp.numpy())),
        (
            vicreg(z=z, z_positive=zp, invariance=1, variance=0, covariance=3),
            oracle.vicreg(z.numpy(), zp.numpy(), 1, 0, 3),
        ),
        (vicreg(z=z, z_positive=zp, covariance=0), oracle.vicreg(z.numpy(), zp.numpy(), covariance_weight=0)),
        (sigreg(z=z, directions=u), oracle.sigreg(z.numpy(), u.numpy())),
        (lejepa(z=z, z_positive=zp, directions=u), oracle.lejepa(z.numpy(), zp.numpy(), u.numpy())),
        (negative_cosine(prediction=z, target=zp), oracle.negative_cosine(z.numpy(), zp.numpy())),
        (euclidean(prediction=z, target=zp), oracle.euclidean(z.numpy(), zp.numpy())),
    ]
    if n > d:
        pairs.append((w_mse(z=z, z_positive=zp), oracle.w_mse(z.numpy(), zp.numpy())))
    for got, expected in pairs:
        # Where d > n off-diagonal squares are a difference of two sums of d^2 terms and less
        assert abs(got.item() - expected) <= 100 * n * d * EPS * (1 + abs(expected))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("name", [*NAMES, "w_mse"])
def test_gradients_are_those_of_the_values(name, shape):
    n, d = shape
    if name == "w_mse":
        n = d + 3
    stopped = "iso" in name or "cosine" in name or "euclidean" in name
    loss, settings = (w_mse, {}) if name == "w_mse" else case(name, d)
    z, zp = (v.clone().requires_grad_() for v in views(n, d, seed=3))
    if stopped:  # finite differences see through a stopped gradient
        with pytest.raises(RuntimeError, match="Jacobian mismatch"):
            torch.autograd.gradcheck(lambda *v: loss(z=v[0], z_positive=v[1], **settings), (z, zp))
        return
    assert torch.autograd.gradcheck(lambda *v: loss(z=v[0], z_positive=v[1], **settings), (z, zp))


def test_targets_are_left_alone_and_predictions_pulled():
    p, t = (v.clone().requires_grad_() for v in views(7, 3))
    for loss in (negative_cosine, euclidean):
        assert torch.autograd.gradcheck(lambda v, loss=loss: loss(prediction=v, target=t.detach()), p)
        assert torch.autograd.grad(loss(prediction=p, target=t), t, allow_unused=True) == (None,)


def test_isoloss_has_the_published_gradient():
    """The paper's two losses, for the symmetric predictor P = R^2 without gradient."""
    z, target = views(8, 4)
    z.requires_grad_()
    root = torch.linalg.qr(draw(5, 4, 4))[0]
    root = root @ torch.tensor([0.2, 0.7, 1.0, 1.5]).double().diag() @ root.T
    prediction = z.detach() @ root @ root
    euclid = (z - (target + z - prediction).detach()).square().sum(1).mean()
    lengths = prediction.norm(dim=1), target.norm(dim=1)
    pulled = (z * target).sum(1) / (lengths[0] * lengths[1])
    pushed = (prediction * target).sum(1) / (lengths[0] ** 3 * lengths[1]) * (z @ root).square().sum(1) / 2
    cosine = -2 * (pulled - pushed).mean()
    moving = (z @ root @ root).clone()  # its own gradient must not be used
    for published, ours, times in ((euclid, isoloss, 1), (cosine, isoloss_cosine, 2)):
        value = times * ours(prediction=moving, target=target, projection=z)
        expected, got = (torch.autograd.grad(v, z, retain_graph=True)[0] for v in (published, value))
        assert (got - expected).abs().max() <= 100 * EPS * expected.abs().max()
    assert isoloss(prediction=prediction, target=target, projection=z).item() == pytest.approx(
        oracle.euclidean(prediction.numpy(), target.numpy()), rel=1e-13
    )
    assert isoloss_cosine(prediction=prediction, target=target, projection=z).item() == pytest.approx(
        oracle.negative_cosine(prediction.numpy(), target.numpy()), rel=1e-13
    )


INVARIANT = ("barlow_twins", "squared_vicreg", "negative_cosine", "euclidean", "isoloss", "isoloss_cosine")


@pytest.mark.parametrize("shape", [(20, 5), (4, 10)])
@pytest.mark.parametrize("name", [*NAMES, "w_mse"])
def test_which_losses_live_on_the_grassmannian(name, shape):
    n, d = shape
    if name == "w_mse" and n <= d:
        return
    q = torch.linalg.qr(draw(1, d, d))[0]
    loss, settings = (w_mse, {}) if name == "w_mse" else case(name, d)
    if loss is predicted:  # a predictor turns with its embedding

        def value(q):
            z, zp = views(n, d)
            arguments = {"projection": z @ q} if "iso" in name else {}
            return settings["loss"](prediction=z.flip(1) @ q, target=zp @ q, **arguments)

    else:

        def value(q):
            return loss(**dict(zip(("z", "z_positive"), (v @ q for v in views(n, d)), strict=True)), **settings)

    whole = value(torch.eye(d, dtype=torch.float64))
    change = abs(value(q) - whole)
    if name in INVARIANT:
        assert change <= 1000 * EPS * (1 + abs(whole))
    else:
        assert change > 1e-3 * abs(whole)


def test_slices_of_all_directions_are_rotation_invariant_in_the_mean():
    z, q = draw(0, 30, 3) * torch.tensor([3.0, 1.0, 0.1]), torch.linalg.qr(draw(1, 3, 3))[0]
    changes = []
    for count in (16, 2**14):
        u = unit(count, 3)
        changes.append(abs(sigreg(z=z @ q, directions=u) / sigreg(z=z, directions=u) - 1).item())
    assert changes[1] < changes[0] / 4 and changes[1] < 0.02


@pytest.mark.parametrize("name", [*NAMES, "w_mse"])
def test_autocast_does_not_reach_the_loss(name):
    n, d = (12, 4) if name == "w_mse" else (4, 12)
    loss, settings = (w_mse, {}) if name == "w_mse" else case(name, d, torch.float32)
    half = [v.bfloat16().requires_grad_() for v in views(n, d)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z=half[0], z_positive=half[1], **settings)
    exact = loss(z=half[0].detach().float(), z_positive=half[1].detach().float(), **settings)
    assert value.dtype == torch.float32 and value.item() == exact.item()
    value.backward()
    assert half[0].grad.dtype == torch.bfloat16 and half[0].grad.isfinite().all()


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (16, 20)])
@pytest.mark.parametrize("name", NAMES)
def test_single_precision_keeps_its_digits(name, shape):
    results = []
    for dtype in (torch.float32, torch.float64):
        z, zp = (v.to(dtype).requires_grad_() for v in views(*shape))
        loss, settings = case(name, shape[1], dtype)
        value = loss(z=z, z_positive=zp, **settings)
        results.append((value, torch.autograd.grad(value, z)[0]))
    (value, gradient), (exact, exact_gradient) = results
    assert abs(value - exact) <= 3e-6 * abs(exact)
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()


class Largest(TorchDispatchMode):
    """The most entries of a tensor made under it."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


@pytest.mark.parametrize("name", ["barlow_twins", "barlow_twins_normalised", "squared_vicreg", "vicreg"])
def test_no_matrix_of_two_wide_dimensions_is_made(name):
    loss, settings = case(name, 300)
    z, zp = (v.requires_grad_() for v in views(3, 300))
    with Largest() as largest:
        loss(z=z, z_positive=zp, **settings).backward()
    assert largest.entries <= 2 * z.numel()


def test_memory_of_slices_does_not_grow_with_their_number(monkeypatch):
    module = importlib.import_module("grassmann_ssl.objectives.sigreg")  # the package names the function so
    monkeypatch.setattr(module, "ENTRIES", {"cpu": 100, "cuda": 100})
    z, u = views(20, 3)[0].requires_grad_(), unit(200, 3)
    with Largest() as largest:
        value = sigreg(z=z, directions=u)
        value.backward()
    assert largest.entries <= 32 * 20  # sixteen directions at the least, complex
    apart = z.detach().clone().requires_grad_()
    monkeypatch.undo()
    whole = sigreg(z=apart, directions=u)
    whole.backward()
    assert abs(value - whole) <= 1e-13 * whole
    assert (z.grad - apart.grad).norm() <= 1e-13 * z.grad.norm()


def test_directions_depend_on_seed_and_step_alone():
    def drawn(**changes):
        return random_directions(**({"dimension": 5, "count": 8, "seed": 3, "step": 7} | changes))

    u = drawn()
    assert u.shape == (8, 5) and u.dtype == torch.float32
    assert (u.norm(dim=1) - 1).abs().max() < 1e-6
    torch.manual_seed(1)
    assert torch.equal(u, drawn())
    for other in (drawn(seed=4), drawn(step=8), drawn(seed=7, step=3)):
        assert (u - other).abs().max() > 0.1
    assert drawn(count=4000).mean(0).norm() < 0.05  # no direction is preferred


def test_constant_embeddings_have_a_finite_loss_and_gradient():
    for n, d in ((6, 3), (3, 8)):
        z = torch.full((n, d), 0.5, dtype=torch.float64, requires_grad=True)
        for loss, expected in ((vicreg, 25 * 0.99), (barlow_twins_normalised, d)):
            value = loss(z=z, z_positive=z)
            (gradient,) = torch.autograd.grad(value, z)
            assert value.item() == pytest.approx(expected, rel=1e-12) and gradient.isfinite().all()


def test_whitening_forgets_linear_maps_of_one_triangle():
    """L^{-1} of the covariance T^T S T is the factor of S times that of T, for triangular T: its cosines stay."""
    z, zp = views(20, 4)
    t = draw(2, 4, 4).triu() + 3 * torch.eye(4, dtype=torch.float64)
    assert abs(w_mse(z=z @ t, z_positive=zp @ t) - w_mse(z=z, z_positive=zp)) < 1e-13
    assert w_mse(z=z, z_positive=z).abs() < 1e-14


def test_what_cannot_be_computed_is_refused():
    z = draw(0, 4, 6)
    with pytest.raises(ValueError, match=r"z must have more rows than its 6 dimensions .*: 7 or more, got 4"):
        w_mse(z=z, z_positive=z)
    with pytest.raises(ValueError, match="vicreg: 2 rows or more are needed, in all processes together, got 1"):
        vicreg(z=z[:1], z_positive=z[:1])
    for weight in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="weight must be from 0 to 1, got"):
            lejepa(z=z, z_positive=z, directions=unit(2, 6), weight=weight)
    flat = draw(0, 9, 3)
    flat[:, 2] = 0.0
    assert w_mse(z=flat, z_positive=flat).isnan()

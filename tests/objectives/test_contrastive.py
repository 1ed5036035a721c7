"""Contrastive losses of normalised embeddings against sums over pairs, in any tiling, precision and number of processes."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grassmann_ssl.objectives import infonce, similarity, spectral_contrastive
from grassmann_ssl.objectives.dcl import dcl
from grassmann_ssl.objectives.hypersphere import alignment_uniformity
from grassmann_ssl.objectives.nt_xent import directclr, nt_xent
from tests.objectives.processes import check
from tests.oracles import contrastive as oracles

EPS = torch.finfo(torch.float64).eps
shapes = st.tuples(st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**31))
temperatures = st.floats(-3, 1).map(lambda exponent: 10**exponent)
tiles = st.none() | st.tuples(st.integers(1, 7), st.integers(1, 7))


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tiled(tile):
    """Similarities in tiles of this many rows and columns, computed again in backward; None: all of them at once and kept."""
    return mock.patch.multiple(similarity, **({"KEPT": 0, "CPU_TILE": tile} if tile else {"KEPT": 2**20}))


def value_and_gradient(loss, z, z_positive, **settings):
    views = [v.clone().requires_grad_() for v in (z, z_positive)]
    value = loss(z=views[0], z_positive=views[1], **settings)
    return value.detach(), torch.stack(torch.autograd.grad(value, views))


def by_matrix(oracle):
    return lambda *, z, z_positive, **settings: oracle(z, z_positive, **settings)


@given(shape=shapes, temperature=temperatures, tile=tiles)
def test_nt_xent_is_the_sum_over_pairs(shape, temperature, tile):
    n, d, seed = shape
    z, zp = draw(seed, 2, n, d)
    with tiled(tile):
        value, gradient = value_and_gradient(nt_xent, z, zp, temperature=temperature)
    # Exponents of size 1/T carry an error of eps/T, and so do their exponentials.
    scale = 1 + 1 / temperature
    assert abs(value - oracles.nt_xent(z.numpy(), zp.numpy(), temperature)) <= 10 * n * d * EPS * scale
    _, expected = value_and_gradient(by_matrix(oracles.nt_xent_by_matrix), z, zp, temperature=temperature)
    shortest = torch.linalg.vector_norm(torch.stack([z, zp]), dim=-1).min()
    assert (gradient - expected).abs().max() <= 10 * n * d * EPS * scale**2 / shortest


@given(shape=shapes, t=st.floats(0.1, 300), alpha=st.floats(1.5, 4), weight=st.floats(0.1, 3), tile=tiles)
def test_alignment_and_uniformity_are_sums_over_pairs(shape, t, alpha, weight, tile):
    n, d, seed = shape
    z, zp = draw(seed, 2, n, d + 1)  # on a line two rows coincide exactly, where a distance has no gradient
    settings = {"alpha": alpha, "t": t, "weight": weight}
    with tiled(tile):
        value, gradient = value_and_gradient(alignment_uniformity, z, zp, **settings)
    expected_value = oracles.alignment_uniformity(z.numpy(), zp.numpy(), **settings)
    _, expected = value_and_gradient(by_matrix(oracles.alignment_uniformity_by_matrix), z, zp, **settings)
    scale, shortest = 1 + 4 * t, torch.linalg.vector_norm(torch.stack([z, zp]), dim=-1).min()
    assert abs(value - expected_value) <= 10 * n * d * EPS * scale * weight + 10 * n * d * EPS * 2**alpha
    assert (gradient - expected).abs().max() <= 100 * n * d * EPS * scale**2 / shortest


@given(shape=shapes, k=st.integers(1, 6))
def test_directclr_is_nt_xent_of_the_first_coordinates(shape, k):
    n, d, seed = shape
    z, zp = draw(seed, 2, n, max(d, k))
    value, gradient = value_and_gradient(directclr, z, zp, dimensions=k)
    assert abs(value - oracles.directclr(z.numpy(), zp.numpy(), k)) <= 100 * n * d * EPS
    assert (gradient[..., k:] == 0).all() and (gradient[..., :k].abs().max() > 0 or k == 1)


@pytest.mark.parametrize("tile", [None, (3, 4)])
@pytest.mark.parametrize(
    "loss",
    [
        partial(nt_xent, temperature=0.7),
        partial(nt_xent, temperature=0.0015),  # exponentials shifted by the maximum of a row
        partial(directclr, dimensions=2),
        partial(alignment_uniformity, alpha=3, t=1.5, weight=2),
        spectral_contrastive,
        infonce,
    ],
)
def test_gradients_are_those_of_finite_differences(loss, tile):
    z = draw(0, 4, 3)
    views = z.requires_grad_(), (z + 0.1 * draw(1, 4, 3)).detach().requires_grad_()
    with tiled(tile):
        assert torch.autograd.gradcheck(lambda z, z_positive: loss(z=z, z_positive=z_positive), views)


@pytest.mark.parametrize(("n", "d"), [(3, 20), (20, 3)])
def test_spectral_contrastive_is_the_same_by_either_matrix(n, d):
    def by_second_moment(*, z, z_positive):
        s = (z.T @ z + z_positive.T @ z_positive) / (2 * n)
        return s.square().sum() - 2 * (z * z_positive).sum() / n

    got, expected = (value_and_gradient(loss, *draw(0, 2, n, d)) for loss in (spectral_contrastive, by_second_moment))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("tile", [None, (5, 6)])
@pytest.mark.parametrize("positives", ["opposite", "equal", "orthogonal", "one direction"])
def test_a_temperature_of_a_hundredth_is_exact_in_float32(positives, tile):
    z = torch.nn.functional.normalize(draw(0, 12, 8, dtype=torch.float32))
    zp = {"opposite": -z, "equal": z.clone(), "orthogonal": z.roll(1, 1) * torch.tensor([1, -1] * 4)}.get(positives)
    if zp is None:
        z, zp = z[:1].repeat(12, 1), -z[:1].repeat(12, 1)
    with tiled(tile):
        value, gradient = value_and_gradient(nt_xent, z, zp, temperature=0.01)
    exact = by_matrix(oracles.nt_xent_by_matrix)
    expected_value, expected = value_and_gradient(exact, z.double(), zp.double(), temperature=0.01)
    # Cosines are wrong by up to d eps and similarities by that over T: 1e-4 of an exponential; gradients have a factor 1/T.
    error = 8 * torch.finfo(torch.float32).eps / 0.01
    assert value > 100 or positives not in ("opposite", "one direction")
    assert abs(value - expected_value) <= error * max(1, expected_value)
    assert (gradient - expected).abs().max() <= error / 0.01


def test_a_solved_batch_keeps_its_digits():
    z = 4 * torch.eye(8) + 0.1 * draw(0, 8, 8, dtype=torch.float32)
    zp = z + 0.01 * draw(1, 8, 8, dtype=torch.float32)
    value, gradient = value_and_gradient(nt_xent, z, zp, temperature=0.05)
    exact = by_matrix(lambda z, zp, temperature: _nt_xent_by_logistic(z, zp, temperature))
    expected_value, expected = value_and_gradient(exact, z.double(), zp.double(), temperature=0.05)
    assert 0 < expected_value < 1e-6  # log-sum-exp minus the positive would be 0 or a rounding error
    assert abs(value - expected_value) < 1e-4 * expected_value
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


def _nt_xent_by_logistic(z, zp, temperature):
    """-log(1 - q) with q the share of the negatives, summed one by one."""
    u = torch.nn.functional.normalize(torch.cat([z, zp]))
    e, n = (u @ u.T / temperature).exp(), len(z)
    losses = []
    for i in range(2 * n):
        k = (i + n) % (2 * n)
        losses.append(torch.log1p(sum(e[i, j] for j in range(2 * n) if j not in (i, k)) / e[i, k]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("tile", [None, (3, 4)])
@pytest.mark.parametrize(
    ("loss", "invariant"),
    [
        (nt_xent, True),
        (partial(nt_xent, temperature=0.001), True),
        (alignment_uniformity, True),
        (partial(directclr, dimensions=2), False),
    ],
)
def test_rotation_invariance_is_as_stated(loss, invariant, tile):
    z, zp = draw(0, 2, 10, 5)
    q = torch.linalg.qr(draw(1, 5, 5))[0]
    with tiled(tile):
        change = abs(loss(z=z @ q, z_positive=zp @ q) - loss(z=z, z_positive=zp))
    assert change < 1e-11 if invariant else change > 1e-2


@pytest.mark.parametrize(
    "loss", [nt_xent, partial(nt_xent, temperature=0.01), alignment_uniformity, spectral_contrastive, infonce]
)
@pytest.mark.parametrize("tile", [None, (5, 6)])
def test_autocast_changes_the_encoder_and_not_the_loss(loss, tile):
    x, w = draw(0, 2, 10, 7, dtype=torch.float32), draw(1, 4, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, zp = (torch.nn.functional.linear(v, w).detach().requires_grad_() for v in x)
        assert z.dtype == torch.bfloat16
        with tiled(tile):
            value = loss(z=z, z_positive=zp)
            if loss not in (
                spectral_contrastive,
                infonce,
            ):  # their backward is that of torch, which asks to run it outside
                gradient = torch.autograd.grad(value, z, retain_graph=True)[0]
    if loss in (spectral_contrastive, infonce):
        gradient = torch.autograd.grad(value, z)[0]
    assert value.dtype == torch.float32 and value.isfinite()
    with tiled(tile):
        expected_value, expected = value_and_gradient(loss, z.detach().float(), zp.detach().float())
    assert torch.equal(value, expected_value) and torch.equal(gradient, expected[0].bfloat16())


@pytest.mark.parametrize(("loss", "n"), [(nt_xent, 1024), (alignment_uniformity, 2048)])
def test_no_tensor_is_as_large_as_the_matrix_of_similarities(loss, n):
    """The largest tensor is a tile of 128 x 1024, where the matrix has 32 times as many entries."""
    sizes = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            sizes.extend(v.untyped_storage().nbytes() // v.itemsize for v in [out] if isinstance(v, torch.Tensor))
            return out

    plain = {name: getattr(similarity, f"_{name}") for name in ("row_logsumexp", "row_logsumexp_backward")}
    z, zp = draw(0, 2, n, 4, dtype=torch.float32)
    # Modes do not look into an operator: here the tiles are computed outside of it.
    with mock.patch.object(similarity, "OPERATORS", SimpleNamespace(**plain)), Largest():
        _, gradient = value_and_gradient(loss, z, zp)
    assert gradient.abs().max() > 0
    assert max(sizes) == 128 * 1024


def test_bad_settings_are_refused():
    z, zp = draw(0, 2, 4, 3)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive, got"):
            nt_xent(z=z, z_positive=zp, temperature=bad)
    with pytest.raises(ValueError, match="2 rows or more are needed, in all processes together, got 1"):
        nt_xent(z=z[:1], z_positive=zp[:1])
    for bad in (0, 4):
        with pytest.raises(ValueError, match=f"dimensions must be between 1 and the 3 columns of z, got {bad}"):
            directclr(z=z, z_positive=zp, dimensions=bad)
    for name in ("alpha", "t"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            alignment_uniformity(z=z, z_positive=zp, **{name: 0})
    with pytest.raises(ValueError, match="2 rows or more are needed, in all processes together, got 1"):
        alignment_uniformity(z=z[:1], z_positive=zp[:1])


def test_a_second_derivative_is_refused():
    z, zp = draw(0, 2, 4, 3)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent(z=z, z_positive=zp), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def in_tiles(*, z, z_positive, loss, **settings):
    similarity.KEPT, similarity.CPU_TILE = 0, (5, 7)
    return loss(z=z, z_positive=z_positive, **settings)


def wide(*, z, z_positive, loss):
    return loss(z=z.repeat(1, 20), z_positive=z_positive.repeat(1, 20))


@pytest.mark.slow
def test_several_processes_are_one_on_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "KEPT", similarity.KEPT)  # what in_tiles changes here
    monkeypatch.setattr(similarity, "CPU_TILE", similarity.CPU_TILE)
    cases = [
        ("nt_xent", nt_xent, {}),
        ("nt_xent, cold", nt_xent, {"temperature": 0.1}),
        ("directclr", directclr, {"dimensions": 3}),
        ("dclw", dcl, {"sigma": 0.5}),
        ("alignment_uniformity", alignment_uniformity, {"t": 1.0, "weight": 0.5}),
        ("spectral_contrastive", spectral_contrastive, {}),
        ("spectral_contrastive by rows", wide, {"loss": spectral_contrastive}),
        ("infonce", infonce, {"temperature": 2.0}),
        ("nt_xent in tiles", in_tiles, {"loss": nt_xent}),
        ("nt_xent in tiles with shifts", in_tiles, {"loss": nt_xent, "temperature": 0.01}),
        ("alignment_uniformity in tiles", in_tiles, {"loss": alignment_uniformity, "t": 1.0}),
    ]
    check(tmp_path, cases)


@pytest.mark.slow
def test_losses_compile_without_a_break():
    """In a process of its own: shape checks, which other tests run under, break graphs."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 7


COMPILED = """
import functools
import torch
from grassmann_ssl.objectives import infonce, similarity, spectral_contrastive
from grassmann_ssl.objectives.hypersphere import alignment_uniformity
from grassmann_ssl.objectives.nt_xent import directclr, nt_xent

direct = [nt_xent, functools.partial(directclr, dimensions=2), alignment_uniformity, spectral_contrastive, infonce]
tiled = [nt_xent, functools.partial(nt_xent, temperature=0.01)]
z, zp = (torch.randn(10, 4, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2))
done = 0
for kept, losses in ((2**20, direct), (0, tiled)):
    similarity.KEPT = kept
    for loss in losses:
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(z=z, z_positive=zp)
        plain = loss(z=z, z_positive=zp)
        torch.testing.assert_close(compiled, plain)
        torch.testing.assert_close(*(torch.autograd.grad(v, z)[0] for v in (compiled, plain)), rtol=1e-4, atol=1e-6)
        done += 1
print(done)
"""

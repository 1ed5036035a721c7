"""The empirical neural tangent kernel against loops of autograd, and where it is known in closed form; random features."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.nn import RandomFeatures, empirical_ntk
from grassmann_ssl.nn.ntk import not_scalar, scalar_kernel
from tests.profiles import examples


def by_loops(model, x, y):
    """One backward pass for each output of each sample."""

    def gradients(samples):
        rows = []
        for sample in samples:
            output = model(sample[None])[0]
            own = [p for p in model.parameters() if p.requires_grad]
            rows.append(
                torch.stack(
                    [torch.cat([g.flatten() for g in torch.autograd.grad(o, own, retain_graph=True)]) for o in output]
                )
            )
        return torch.stack(rows)

    return torch.einsum("iap,jbp->ijab", gradients(x), gradients(y))


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).to(dtype)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.booleans())
@examples(15)
def test_the_kernel_is_the_product_of_gradients(n, k, chunk, alone):
    model, x, y = network(), draw(n, 4), draw(k, 4, seed=1)
    found = empirical_ntk(model, x, None if alone else y, chunk=chunk)
    exact = by_loops(model, x, x if alone else y)
    assert found.shape == exact.shape and (found - exact).abs().max() <= 1e-13 * (1 + exact.abs().max())
    assert not found.requires_grad


def test_frozen_parameters_do_not_count():
    model = network()
    model[0].weight.requires_grad_(False)
    assert (empirical_ntk(model, draw(3, 4)) - by_loops(model, draw(3, 4), draw(3, 4))).abs().max() < 1e-13


def test_a_linear_layer_has_the_linear_kernel():
    x, y = draw(5, 4), draw(3, 4, seed=1)
    found = empirical_ntk(nn.Linear(4, 2, bias=False).double(), x, y)
    assert (found - (x @ y.T)[..., None, None] * torch.eye(2, dtype=torch.float64)).abs().max() < 1e-14


def test_a_two_layer_relu_network_has_the_kernel_of_its_active_units():
    """V^T relu(U^T x): x.y sum_k V_ka V_kb 1[k on at x] 1[k on at y] from U, delta_ab relu(U^T x) . relu(U^T y) from V."""
    model = nn.Sequential(nn.Linear(4, 9, bias=False), nn.ReLU(), nn.Linear(9, 2, bias=False)).double()
    u, v = (layer.weight.detach() for layer in (model[0], model[2]))
    x, y = draw(5, 4), draw(3, 4, seed=1)
    hidden, on = zip(*(((samples @ u.T).relu(), (samples @ u.T > 0).double()) for samples in (x, y)), strict=True)
    first = (x @ y.T)[..., None, None] * torch.einsum("ik,jk,ak,bk->ijab", on[0], on[1], v, v)
    last = (hidden[0] @ hidden[1].T)[..., None, None] * torch.eye(2, dtype=torch.float64)
    assert (empirical_ntk(model, x, y, chunk=2) - first - last).abs().max() < 1e-13


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_a_kernel_is_its_scalar_part_and_a_rest_at_right_angles_to_it(seeds, n, k, d, seed):
    kernel = draw(seeds, n, k, d, d, seed=seed)
    scalar, share = scalar_kernel(kernel), not_scalar(kernel)
    # ||Theta||^2 = ||K (x) I||^2 + ||rest||^2, ||K (x) I||^2 = d ||K||^2, in every basis of the outputs.
    expected = 1 - d * scalar.square().sum((1, 2)) / kernel.square().sum((1, 2, 3, 4))
    assert (share.square() - expected).abs().max() < 1e-13
    q = torch.linalg.qr(draw(d, d, seed=seed + 1))[0]
    assert (not_scalar(q @ kernel @ q.mT) - share).abs().max() < 1e-12
    assert not_scalar(scalar[..., None, None] * torch.eye(d, dtype=torch.float64)).max() < 1e-15


def test_the_jacobian_of_a_chunk_is_computed_once():
    calls = []
    model = network()
    model.register_forward_hook(lambda *_: calls.append(1))
    empirical_ntk(model, draw(6, 4), chunk=6)
    assert len(calls) == 1


def test_images_and_precision():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    found = empirical_ntk(model, draw(3, 1, 4, 4, dtype=torch.float32))
    assert found.dtype == torch.float32 and found.shape == (3, 3, 2, 2)
    assert (found - found.permute(1, 0, 3, 2)).abs().max() < 1e-5


def test_many_random_features_approach_their_kernel():
    """E relu(u) relu(v) = |x||y| (sin a + (pi - a) cos a) / (2 pi), here of (x, 1) and (y, 1); a factor 2 is in phi."""
    generator = torch.Generator().manual_seed(0)
    features = RandomFeatures(3, 200_000, generator)
    x = draw(4, 3)
    one = torch.cat([x, torch.ones(4, 1, dtype=torch.float64)], 1)
    norm = one.norm(dim=1)
    cosine = (one @ one.T / norm[:, None] / norm).clamp(-1, 1)
    angle = cosine.arccos()
    exact = norm[:, None] * norm * (angle.sin() + (torch.pi - angle) * cosine) / torch.pi
    phi = features(x)
    assert ((phi @ phi.T) / exact - 1).abs().max() < 0.03  # 1 / sqrt(200,000) and a spread of about 3
    assert not list(features.parameters()) and features(draw(2, 5, 3)).shape == (2, 5, 200_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: empirical_ntk(network(), draw(2, 4), chunk=0), "chunk must be at least 1"),
        (lambda: empirical_ntk(nn.ReLU(), draw(2, 4)), "model must have a parameter that requires a gradient"),
        (lambda: RandomFeatures(0, 3, torch.Generator()), "inputs must be at least 1, got 0"),
        (lambda: RandomFeatures(3, 0, torch.Generator()), "features must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

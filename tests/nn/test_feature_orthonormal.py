"""Layers whose outputs keep covariance I: the running covariance, what is carried along, checkpoints, and training."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.manifolds import principal_angles
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.feature_orthonormal import RIDGE, FeatureOrthonormalLinear, feature_lag, feature_orthonormal
from grassmann_ssl.optim import RiemannianSGD
from tests.nn.test_distributed import run_in


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(n=7, p=3, decay=0.9, dtype=torch.float64):
    torch.manual_seed(1)
    return feature_orthonormal(nn.Linear(n, p, dtype=dtype), decay=decay)


def features(n=7, count=200, seed=0):
    return draw(count, n, seed=seed) @ draw(n, n, seed=9) + 3 * draw(n, seed=8)


def covariance(rows):
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_step_of_parts_is_the_step_of_all_rows(sizes):
    whole, parts = layer(), layer()
    for k in range(3):
        h = features(count=sum(sizes), seed=k)
        whole(h)
        for part in h.split(sizes):
            parts(part)
        whole.follow(), parts.follow()
    size = whole.feature_covariance.abs().max() + whole.feature_mean.square().max()
    assert (parts.feature_mean - whole.feature_mean).abs().max() < 1e-14 * size.sqrt() * len(sizes)
    assert (parts.feature_covariance - whole.feature_covariance).abs().max() < 1e-14 * size * len(sizes)


def _rows_of_all(rank, world):
    one, mean, running = layer(decay=0.9), None, None
    for k in range(3):
        h = features(count=10 * world, seed=k) + k
        for part in h[10 * rank : 10 * (rank + 1)].split([4, 6]):
            one(part)
        one.follow()
        shift = 0 if mean is None else h.mean(0) - mean
        share = 1 if mean is None else 0.1
        spread = 0 if mean is None else torch.outer(shift, shift)
        running = (0 if running is None else 0.9 * (running + share * spread)) + share * covariance(h)
        mean = h.mean(0) if mean is None else mean + share * shift
    assert (one.feature_mean - mean).abs().max() < 1e-13
    assert (one.feature_covariance - running).abs().max() < 1e-13 * running.abs().max()


@pytest.mark.slow
def test_two_processes_and_parts_make_one_covariance(tmp_path):
    run_in(2, tmp_path, _rows_of_all)


@given(st.floats(0, 0.99), st.integers(1, 5), st.integers(1, 12))
def test_the_running_covariance_is_that_of_weighted_rows(decay, batches, rows):
    """Weights: decay^(batches - 1) for the rows of the first batch, (1 - decay) decay^(later batches) for the others."""
    one = layer(decay=decay)
    data = [features(count=rows, seed=k) for k in range(batches)]
    weights = []
    for k, batch in enumerate(data):
        one.observe(batch)
        one.follow()
        weights = [w * decay for w in weights] + [1 - decay if k else 1.0]
    flat, w = torch.cat(data), torch.tensor(weights, dtype=torch.float64).repeat_interleave(rows) / rows
    mean = w @ flat
    expected = (flat - mean).T @ (w[:, None] * (flat - mean))
    size = flat.square().sum(1).max()
    assert (one.feature_mean - mean).abs().max() < 1e-14 * size.sqrt() + 1e-14
    assert (one.feature_covariance - expected).abs().max() < 1e-13 * size


def test_outputs_have_covariance_one_and_the_subspace_stays():
    one, h = layer(), features()
    before = one.weight.detach().clone()
    one(h)
    one.follow()
    moment = covariance(h)
    ridge = RIDGE * moment.diagonal().mean()
    exact = one.weight.detach() @ (moment + ridge * torch.eye(7, dtype=torch.float64)) @ one.weight.detach().T
    assert (exact - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    span = [torch.linalg.qr(w.detach().T)[0] for w in (before, one.weight)]
    assert principal_angles(*span).max() < 1e-7
    lag = feature_lag(one, h)
    values = torch.linalg.eigvalsh(covariance(one(h).detach()))
    assert 0 < lag < 2 * ridge / torch.linalg.eigvalsh(moment)[0] and (values - 1).abs().max() <= lag + 1e-12
    other = features(seed=5) * 1.3
    values = torch.linalg.eigvalsh(covariance((other @ one.weight.T).detach()))
    assert (values - 1).abs().max() <= feature_lag(one, other) + 1e-12 > 0.3


def test_nothing_is_followed_before_the_first_batch_nor_after_one_that_is_not_finite():
    one = layer()
    start = one.weight.detach().clone()
    one.follow()
    assert (one.weight - start).abs().max() < 1e-14
    one(features())
    one.follow()
    kept, metric = one.weight.detach().clone(), one.metric.clone()
    one.follow()  # the rows of a step are used once
    assert torch.equal(one.metric, metric)
    one(torch.full((4, 7), float("nan"), dtype=torch.float64))
    one.follow()
    assert torch.equal(one.metric, metric) and (one.weight - kept).abs().max() < 1e-13


@pytest.mark.parametrize("rests", ["evaluation", "no gradient"])
def test_a_layer_at_rest_collects_nothing(rests):
    one = layer().eval() if rests == "evaluation" else layer().requires_grad_(False)
    state = copy.deepcopy(one.state_dict())
    one(features())
    one.follow()
    assert torch.equal(one.metric, state["metric"])
    assert all(
        torch.allclose(value.double(), state[name].double(), rtol=0, atol=1e-13)
        for name, value in one.state_dict().items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_keeps_the_outputs_white_while_features_drift(dtype):
    torch.manual_seed(0)
    encoder = nn.Linear(10, 16).to(dtype)
    head = layer(16, 4, decay=0.8, dtype=dtype)
    norm = nn.BatchNorm1d(16, affine=False).to(dtype)  # without it the encoder shrinks what W has to blow up again
    model = nn.Sequential(encoder, nn.Tanh(), norm, head)
    optimizer = RiemannianSGD(model, lr=0.002, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        x = torch.randn(256, 10, generator=generator).to(dtype)
        noise = 0.3 * torch.randn(2, 256, 10, generator=generator).to(dtype)
        a, b = model(x + noise[0]), model(x + noise[1])
        (a - b).square().sum(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        head.follow(optimizer)
        point = head.weight.detach()
        error = (point @ head.metric @ point.T - torch.eye(4, dtype=dtype)).abs().max()
        assert error < 10 * torch.finfo(dtype).eps * float(constraints(head)["weight"].manifold.condition)
    x = torch.randn(4000, 10, generator=generator).to(dtype)
    model.eval()
    with torch.no_grad():
        lag = feature_lag(head, model[:3](x))
        values = torch.linalg.eigvalsh(covariance(model(x)))
    assert (values - 1).abs().max() <= lag + 1e-5
    assert (
        values.min() > 0.2
    )  # W has learned to amplify what differs least between views: what is new in its features weighs most
    buffer = optimizer.state[head.weight]["momentum_buffer"]
    tangent = head.weight.detach() @ head.metric @ buffer.T
    assert tangent.abs().max() < 1e-4 * buffer.norm()


def test_the_metric_is_followed_after_a_change_of_dtype():
    torch.manual_seed(0)
    layer = feature_orthonormal(nn.Linear(6, 3))
    optimizer, x = RiemannianSGD(layer, lr=0.1, momentum=0.9), torch.randn(20, 6)

    def step(x):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    step(x)
    layer.double()
    layer.follow(optimizer)  # the momentum is float32 until the next step
    step(x.double())
    layer.follow(optimizer)
    w = layer.weight.detach()
    assert (w @ layer.metric @ w.T - torch.eye(3, dtype=torch.float64)).abs().max() <= 1e-11
    assert optimizer.state[layer.weight]["momentum_buffer"].dtype == torch.float64


def test_a_checkpoint_is_restored_with_its_metric():
    one = layer()
    one(features())
    one.follow()
    other = layer()
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert isinstance(other, FeatureOrthonormalLinear)
    broken = one.state_dict() | {"weight": 2 * one.weight.detach()}
    with pytest.raises(ValueError, match="not on"):
        layer().load_state_dict(broken)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: feature_orthonormal(nn.Linear(3, 3)),
            "fewer outputs than inputs, got in_features = 3, out_features = 3",
        ),
        (lambda: feature_orthonormal(nn.Linear(4, 3), decay=1.0), "decay must be at least 0 and below 1, got 1"),
        (lambda: feature_orthonormal(layer()), "an nn.Linear without constraint, got FeatureOrthonormalLinear"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

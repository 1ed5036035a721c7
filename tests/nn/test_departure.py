"""A weight that has left its manifold is told of once, with the optimizer that took it off; one that is on it never is."""

import contextlib
import copy
import warnings

import geoopt
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, Validated
from grassmann_ssl.nn import GrassmannLinear, constrain, feature_orthonormal
from grassmann_ssl.nn.departure import EVERY, Watch, departure
from grassmann_ssl.optim import Landing, RiemannianAdam, RiemannianSGD

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def metric():
    return GeneralizedGrassmann(torch.diag(torch.linspace(1.0, 3.0, 6)))


LAYERS = {
    "grassmann": lambda: GrassmannLinear(6, 3),
    "stiefel": lambda: constrain(nn.Linear(6, 3), manifold=Stiefel()),
    "columns": lambda: constrain(nn.Linear(6, 9)),
    "metric": lambda: constrain(nn.Linear(6, 3), manifold=metric()),
    "validated": lambda: constrain(nn.Linear(6, 3), manifold=Validated(Grassmann())),
    "geoopt": lambda: constrain(nn.Linear(6, 3), manifold=geoopt.EuclideanStiefel()),
    "features": lambda: feature_orthonormal(nn.Linear(6, 3)),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def train(layer, optimizer, steps=40, autocast=False):
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            out = layer(X.to(layer.weight.dtype))
        (out.float() - 1).square().mean().backward()
        optimizer.step()
        if hasattr(layer, "follow"):
            layer.follow(optimizer)


@pytest.mark.parametrize("plain", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("make", [LAYERS[name] for name in LAYERS if name != "features"])  # `follow` puts that one back
def test_a_plain_optimizer_is_named_once(make, plain):
    layer = make()
    with pytest.warns(
        UserWarning, match=rf"^weight of .*has left its manifold.*torch\.optim\.{plain.__name__} steps it"
    ) as told:
        train(layer, plain(layer.parameters(), lr=0.3))
    assert len(told) == 1 and "out_features=" in str(told[0].message)


@pytest.mark.long
@layers
@pytest.mark.parametrize("autocast", [False, True])
def test_a_weight_on_its_manifold_is_no_news(make, autocast):
    layer = make()
    train(layer, RiemannianSGD(layer, lr=0.3, momentum=0.9), autocast=autocast)
    train(layer, RiemannianAdam(layer, lr=0.1), autocast=autocast)
    layer.load_state_dict(
        {name: v.bfloat16() if v.is_floating_point() else v for name, v in layer.state_dict().items()}
    )
    for _ in range(2 * EVERY):
        layer(X)


def test_a_step_that_nothing_follows_is_told_once():
    layer = feature_orthonormal(nn.Linear(6, 3))
    optimizer = RiemannianSGD(layer, lr=0.1)
    for _ in range(8):  # two views and parts of a step are no news, nor is a copy in the middle of it
        for _ in range(3):
            layer(X).square().mean().backward()
        twin = copy.deepcopy(layer)
        optimizer.step()
        layer.follow(optimizer)
    for _ in range(10):
        twin(X)
    with pytest.warns(
        UserWarning, match=r"^weight of FeatureOrthonormalLinear\(.*`follow` was not called: .*Call layer\.follow"
    ) as told:
        for _ in range(8):
            layer(X).square().mean().backward()
            optimizer.step()
    assert len(told) == 1


def test_points_near_the_manifold_on_purpose_are_no_news():
    layer = GrassmannLinear(6, 3)
    optimizer = Landing(layer, lr=0.3)
    with torch.no_grad():
        layer.weight.mul_(1.1)
    train(layer, optimizer)


def test_other_causes_and_several_weights():
    cell = constrain(constrain(nn.RNNCell(6, 4), "weight_ih"), "weight_hh", Stiefel())
    optimizer = RiemannianSGD(cell, lr=0.1)
    cell(X).sum().backward()
    optimizer.step()
    with torch.no_grad():
        cell.weight_hh.mul_(1.5)
    with pytest.warns(
        UserWarning, match=r"^weight_hh of ConstrainedRNNCell.* is 1\.3 off.*something besides its optimizer changes it"
    ):
        cell(X)
    with torch.no_grad():
        cell.weight_hh.fill_(torch.nan)
    cell(X)  # it has been said


def test_evaluation_and_copies():
    layer = GrassmannLinear(6, 3)
    with torch.no_grad():
        layer.weight.mul_(1.1)
    twin = copy.deepcopy(layer)
    layer.eval()
    for _ in range(8):
        layer(X)  # nothing is trained
    layer.train()(X)  # the first pass of a training
    with pytest.warns(UserWarning, match="has left its manifold"):
        for _ in range(2):
            twin(X)


def test_checks_are_rare():
    watch = Watch()
    due = [k for k in range(1, 4 * EVERY + 1) if watch.due()]
    assert due == [2, 4, 8, 16, 32, 64, 128, 192, 256]


def test_transforms_compute_with_tensors_of_their_own():
    layer = constrain(nn.Linear(6, 3))

    def loss(weight):
        return functional_call(layer, {"weight": weight}, (X,)).square().sum()

    other = 1.5 * layer.weight.detach().as_subclass(torch.Tensor)
    for _ in range(4):
        grad(loss)(other)
        vmap(grad(loss))(torch.stack([other, other]))
        vmap(layer)(X[None])
    layer.to("meta")
    for _ in range(4):
        layer(X.to("meta"))


@pytest.mark.slow
def test_a_compiled_forward_does_not_look():
    layer = GrassmannLinear(6, 3)
    with torch.no_grad():
        layer.weight.mul_(1.1)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(4):
        compiled(X)


def test_nothing_waits_for_a_device(monkeypatch):
    # The meta device stands for one: reading a number from it raises.
    layer = GrassmannLinear(6, 3)
    x = layer.weight.manifold.to_point(layer.weight.detach())
    assert departure(Grassmann(), x.to("meta")).is_meta
    assert float(departure(Grassmann(), 1.1 * x)) == pytest.approx(0.21, abs=1e-5)
    assert departure(geoopt.Sphere(), x) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for():
    layer = GrassmannLinear(6, 3).cuda()
    x = X.cuda()
    layer(x), layer(x)  # the first copy makes room on the host
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            layer.weight.data.mul_(1.1)
            for _ in range(8):
                layer(x)
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            for _ in range(8):
                layer(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(told) == 1 and "has left its manifold" in str(told[0].message)

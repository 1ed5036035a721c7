"""Under torch.compile: a compiled loss and its gradients with an eager step, and steps that dynamo leaves alone."""

import copy
import functools

import pytest
import torch
from torch import nn

from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import LARS, RiemannianCG, RiemannianLBFGS, RiemannianSGD
from tests.optim.test_memory import OPTIMIZERS

# Dynamo looks at the gradients of what it traces around the step, torch's own hooks.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")]


def network(width):
    torch.manual_seed(0)
    return nn.Sequential(
        constrain(nn.Linear(9, 3, bias=False)), nn.Tanh(), constrain(nn.Linear(3, width, bias=False)), nn.Tanh(), nn.Linear(width, 2)
    ).double()  # fmt: skip


def groups(make):
    """The optimizer of a model, and the same of its constrained layers in groups of their own."""

    def grouped(model):
        first, second, *rest = model.parameters()
        return make([{"params": [first]}, {"params": [second, *rest], "lr": 0.02}])

    return [make] if issubclass(make.func, (RiemannianCG, RiemannianLBFGS)) else [make, grouped]


STEPS = {f"{name} {k}": made for name, make in OPTIMIZERS.items() for k, made in enumerate(groups(make))}


@pytest.mark.parametrize("width", [9, 5], ids=["one shape", "two shapes"])
@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_a_compiled_step_is_the_step(make, width):
    model = network(width)
    twin = copy.deepcopy(model)
    optimizer, other = make(model), make(twin)
    compiled = torch.compile(optimizer.step, backend="eager")
    for k in range(4):
        for net, step in ((model, compiled), (twin, other.step)):

            def closure(net=net, k=k):
                net.zero_grad()
                x = torch.randn(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
                loss = net(x).square().mean()
                loss.backward()
                return loss

            closure()
            step(closure)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(model[0].weight, network(width)[0].weight)
    torch._dynamo.reset()


def test_a_compiled_step_of_lars_is_the_step():
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (LARS(m.parameters(), lr=0.1) for m in models)
    for step, m in ((torch.compile(first.step, backend="eager"), models[0]), (second.step, models[1])):
        for k in range(4):
            m.zero_grad()
            m(torch.ones(2, 4) * k).square().sum().backward()
            step()
    assert torch.equal(models[0].weight, models[1].weight)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "make", [*OPTIMIZERS.values(), functools.partial(RiemannianSGD, lr=0.05)], ids=[*OPTIMIZERS, "whole"]
)
def test_a_compiled_loss_with_an_eager_step(make):
    model = network(9)
    twin = copy.deepcopy(model)
    x = torch.randn(7, 9, dtype=torch.float64)

    def loss(net):
        return (net(x) - 1).square().mean()

    compiled = torch.compile(lambda: loss(model), backend="aot_eager", fullgraph=True)
    optimizer, other = make(model), make(twin)
    for _ in range(4):

        def closure(optimizer=optimizer, loss=compiled):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        other.step(functools.partial(closure, other, lambda: loss(twin)))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        # Sums in another order, which Muon and a line search enlarge.
        assert (p - q).abs().max() <= 1e-9
    torch._dynamo.reset()

"""Optimizers by name: every option acts exactly where it is declared, and what torch is too old for is refused."""

from collections import OrderedDict
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from grassmann_ssl.nn import constrain, constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions, optimizers

CHANGED = OptimizerOptions(momentum=0.5, weight_decay=0.3, predictor_rate=3.0)


def steps(name, options):
    """The weights after three steps: a free layer, a predictor, and one that is constrained, or lifted by a comparator."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(first=nn.Linear(6, 5), last=nn.Linear(5, 3), predictor=nn.Linear(3, 3)))
    comparator = OPTIMIZERS[name].comparator
    if not comparator:
        constrain(model.last)
    made = optimizers(
        OPTIMIZERS[name],
        dict(model.named_parameters()),
        held=constraints(model),
        lifted=["last.weight"] if comparator else [],
        lr=0.01,
        options=options,
    )
    assert sum(len(g["params"]) for o in made for g in o.param_groups) == 6
    for _ in range(3):
        model(torch.ones(4, 6)).square().sum().backward()
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("option", [f.name for f in fields(OptimizerOptions)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_act_where_they_are_declared(name, option):
    changed = OptimizerOptions(**{option: getattr(CHANGED, option)})
    same = torch.equal(steps(name, OptimizerOptions()), steps(name, changed))
    assert same == (option not in OPTIMIZERS[name].options)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_predictor_alone_has_its_own_learning_rate(name):
    """One step from zero momentum is in proportion to the learning rate; decay is at the learning rate too."""
    first, last, predictor = (nn.Linear(3, 3, dtype=torch.float64) for _ in range(3))
    layers = nn.ModuleDict({"first": first, "last": last, "predictor": predictor})
    start = {key: p.detach().clone() for key, p in layers.named_parameters()}
    moved = []
    for rate in (1.0, 4.0):
        layers.load_state_dict(start)
        options = OptimizerOptions(weight_decay=0.3, predictor_rate=rate)
        (made,) = optimizers(
            OPTIMIZERS[name], dict(layers.named_parameters()), held=(), lifted=(), lr=0.01, options=options
        )
        assert made.param_groups[0]["params"][0] is first.weight  # whose rate is the unit of time
        sum(p.square().sum() for p in layers.parameters()).backward()
        made.step()
        made.zero_grad()
        moved.append({key: p.detach() - start[key] for key, p in layers.named_parameters()})
    for key, one in moved[0].items():
        factor = 4 if key.startswith("predictor.") else 1
        assert (moved[1][key] - factor * one).abs().max() < 1e-15, key


def test_an_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.1"))
    with pytest.raises(ValueError, match=r"^optimizer muon needs torch 2\.9 or newer$"):
        OPTIMIZERS["muon"].check(CONSTRAINTS["none"], "last")
    for version in ("2.9.0+cu128", "2.13.0"):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        OPTIMIZERS["muon"].check(CONSTRAINTS["none"], "last")


def test_names_and_misspelt_names():
    assert all(name == one.name and one.source for name, one in OPTIMIZERS.items())
    with pytest.raises(ValueError, match=r"unknown optimizer 'adan': known are .*; did you mean adam\?"):
        OPTIMIZERS["adan"]

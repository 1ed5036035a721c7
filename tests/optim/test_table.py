"""Optimizers by name: every option acts exactly where it is declared, and what torch is too old for is refused."""

from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from grassmann_ssl.nn import constrain, constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions, optimizers

CHANGED = OptimizerOptions(momentum=0.5, weight_decay=0.3)


def steps(name, options):
    """The weights after three steps: a free layer, and one that is constrained, or lifted by a comparator."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    comparator = OPTIMIZERS[name].comparator
    if not comparator:
        constrain(model[1])
    made = optimizers(
        OPTIMIZERS[name],
        dict(model.named_parameters()),
        held=constraints(model),
        lifted=["1.weight"] if comparator else [],
        lr=0.01,
        options=options,
    )
    assert sum(len(g["params"]) for o in made for g in o.param_groups) == 4
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

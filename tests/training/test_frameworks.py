"""Constraints in the real trainers: on their manifold after every step and from a checkpoint on, and refused under a plain optimizer."""

import importlib
from functools import partial

import geoopt
import pytest
import torch

from grassmann_ssl import (
    Audit,
    Grassmann,
    RiemannianAdam,
    RiemannianSGD,
    Stiefel,
    audit_embeddings,
    constrain_model,
    constraints,
)
from grassmann_ssl.nn.joint_embedding import embeddings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The `srun` command is available")]
LAST = "method.online.projector.weight"
OURS = partial(RiemannianAdam, lr=0.05)
REFUSED = rf"^{LAST} is on a manifold, and torch's {{}} would take it off: use a Riemannian optimizer"


@pytest.fixture(scope="module")
def frameworks():
    """The frameworks' side: imported where it is used, since the two libraries take long to import."""
    return importlib.import_module("tests.training.frameworks")


def assert_held(model, manifold):
    """Its last layer alone is on the manifold, in fact and for optimizers, and was trained."""
    (name, layout), weight = *constraints(model).items(), model.method.projector.weight
    assert name == LAST and layout.manifold == manifold and weight.manifold == layout
    assert (weight @ weight.T - torch.eye(4)).abs().max() < 16 * torch.finfo(torch.float32).eps


def own(model):
    constrain_model(model, Stiefel())


# Lightning


@pytest.mark.parametrize(("change", "manifold"), [(lambda model: None, Grassmann()), (own, Stiefel())])
def test_lightning_holds_layers_and_goes_on_from_a_checkpoint(frameworks, change, manifold, tmp_path):
    callback = frameworks.LightningConstraint("last", manifold)
    whole = frameworks.Module(change, OURS)
    start = whole.method.projector.weight.detach().clone()
    frameworks.fit(whole, callback, 3)
    assert_held(whole, manifold)
    assert (whole.method.projector.weight - start).abs().max() > 0.01

    half, rest = frameworks.Module(change, OURS), frameworks.Module(change, OURS)
    trainer = frameworks.fit(half, callback, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    frameworks.fit(rest, callback, 3, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_held(rest, manifold)
    assert all(torch.equal(a, b) for a, b in zip(rest.parameters(), whole.parameters(), strict=True))
    loaded = frameworks.Module.load_from_checkpoint(tmp_path / "half.ckpt", change=change, weights_only=False)
    assert torch.equal(loaded.method.projector.weight, half.method.projector.weight)
    assert bool(constraints(loaded)) == (change is own)  # the module's own constraint comes back with it


def test_what_lightning_trained_is_judged_on_a_page(frameworks, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("grassmann_ssl.run.draw", drawn.append)
    module = frameworks.Module(optimizer=OURS)
    frameworks.fit(module, frameworks.LightningConstraint("last", Grassmann()), 1)
    audit = audit_embeddings(embeddings(module.method, frameworks.X)["z"])
    audit.save(tmp_path / "run")
    assert len(drawn) == 1 and Audit.load(tmp_path / "run").judgement == audit.judgement


@pytest.mark.parametrize("change", [lambda model: None, own])
def test_lightning_refuses_a_plain_optimizer(frameworks, change):
    module = frameworks.Module(change, partial(torch.optim.SGD, lr=0.1))
    refused = REFUSED.format("SGD").replace(LAST, f"({LAST}|method.online.encoder.0.weight)")
    with pytest.raises(ValueError, match=refused):
        frameworks.fit(module, frameworks.LightningConstraint("*.encoder.0", Stiefel()), 1)
    with pytest.raises(ValueError, match=r"^the model has no layer for where = 'head\.\*'"):
        frameworks.fit(frameworks.Module(optimizer=OURS), frameworks.LightningConstraint("head.*", Grassmann()), 1)


# transformers


@pytest.mark.parametrize("optimizer", [RiemannianAdam, RiemannianSGD, geoopt.optim.RiemannianAdam])
def test_transformers_holds_layers_and_goes_on_from_a_checkpoint(frameworks, optimizer, tmp_path):
    def trainer():
        callback = frameworks.TrainerConstraint("*.projector", Grassmann())
        return frameworks.trainer_for(tmp_path, callback, optimizer_cls_and_kwargs=(optimizer, {"lr": 0.05}))

    whole, rest = trainer(), trainer()
    start = whole.model.method.projector.weight.detach().clone()
    whole.train()
    assert_held(whole.model, Grassmann())
    assert (whole.model.method.projector.weight - start).abs().max() > 1e-4
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_held(rest.model, Grassmann())
    for a, b in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert (a - b).abs().max() <= 8 * torch.finfo(torch.float32).eps


def test_transformers_refuses_its_own_optimizer(frameworks, tmp_path):
    with pytest.raises(ValueError, match=REFUSED.format("AdamW")):
        frameworks.trainer_for(tmp_path, frameworks.TrainerConstraint("last", Grassmann())).train()
    late = frameworks.trainer_for(tmp_path)
    late.add_callback(frameworks.TrainerConstraint("last", Grassmann()))
    with pytest.raises(ValueError, match=REFUSED.format("AdamW")):
        late.train()
    with pytest.raises(ValueError, match=r"^the model has no layer for where = 'head\.\*'"):
        frameworks.trainer_for(tmp_path, frameworks.TrainerConstraint("head.*", Grassmann()))

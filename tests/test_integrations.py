"""Losses and optimizers of other libraries in `pretrain`: as they are called there, by stand-ins of the losses."""

import geoopt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from grassmann_ssl import pretrain
from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.objectives import objective
from grassmann_ssl.runs import ConfigError

X = torch.rand(48, 12, generator=torch.Generator().manual_seed(0))
DATA = [(X, X.flip(1)), (X.sqrt(), X)]
QUICK = {"steps": 3, "records": 2, "hidden": 12, "dim": 4, "progress": False}


def trained(loss, **settings):
    torch.manual_seed(0)
    return pretrain(nn.Sequential(nn.Linear(12, 16), nn.ReLU()), DATA, loss, **QUICK, **settings)


class Contrastive(nn.Module):
    """As lightly's NTXentLoss: of (out0, out1), with submodules and a device of its own."""

    def __init__(self):
        super().__init__()
        self.cross_entropy = nn.CrossEntropyLoss(reduction="mean")

    def forward(self, out0, out1):
        z = F.normalize(torch.cat((out0, out1)), dim=1)
        scores = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return self.cross_entropy(scores, torch.arange(len(z)).roll(len(out0)))


class Remembering(nn.Module):
    """As its TiCoLoss: of (z_a, z_b) and a switch, with a covariance that is no buffer."""

    def __init__(self):
        super().__init__()
        self.C = None

    def forward(self, z_a, z_b, update_covariance_matrix=True):
        z_a, z_b = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1)
        past = 0.0 if self.C is None else 0.9 * self.C
        covariance = past + 0.1 * z_a.T @ z_a / len(z_a)
        if update_covariance_matrix:
            self.C = covariance.detach()
        return 1 - (z_a * z_b).sum(1).mean() + 8 * (z_a @ covariance * z_a).sum(1).mean()


class OfViews(nn.Module):
    """As its FroSSLLoss: of a list of views."""

    def forward(self, z_views):
        return sum((z.T @ z / len(z) - torch.eye(z.shape[1])).square().sum() for z in z_views)


def coordinates(z_a, z_b):
    """As its BarlowTwinsLoss: not rotation-invariant."""
    a, b = ((z - z.mean(0)) / z.std(0) for z in (z_a, z_b))
    return (a.T @ b / len(a) - torch.eye(a.shape[1])).square().sum()


def test_a_loss_of_two_outputs_is_the_registered_one():
    one = trained(Contrastive(), constraint="grassmann")
    other = trained(objective("nt_xent", temperature=0.5), constraint="grassmann")
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5
    assert abs(one.metrics["loss"][-1] - other.metrics["loss"][-1]) < 1e-5


@pytest.mark.parametrize(
    "loss",
    [
        Remembering(),
        nn.MSELoss(),
        F.mse_loss,
        lambda a, b: OfViews()([a, b]),
        lambda a, b: -F.cosine_similarity(a, b).mean(),
    ],
)
def test_losses_that_turn_with_the_embeddings_go_with_the_grassmannian(loss):
    assert trained(loss, constraint="grassmann").record["verdict"]["guaranteed"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (coordinates, "constraint grassmann: coordinates is not rotation-invariant"),
        (nn.HuberLoss(), "constraint grassmann: HuberLoss is not rotation-invariant"),
        (OfViews(), "OfViews must take the embeddings of two views: .*; it takes z_views"),
        (
            nn.TripletMarginLoss(),
            "TripletMarginLoss must take the embeddings of two views: .*; it takes anchor, positive, negative",
        ),
    ],
)
def test_others_are_refused_with_the_reason(loss, message):
    with pytest.raises(ConfigError, match=message):
        trained(loss, constraint="grassmann")


@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
@pytest.mark.parametrize("manifold", [Grassmann(), geoopt.Stiefel(), geoopt.EuclideanStiefel()])
def test_optimizers_and_manifolds_of_geoopt(optimizer, manifold):
    outcome = trained("nt_xent", constraint=manifold, optimizer=lambda p: optimizer(p, lr=0.01))
    weight = outcome.model.projector[-1].weight.detach()
    assert (weight @ weight.T - torch.eye(4)).abs().max() < 32 * torch.finfo(torch.float32).eps

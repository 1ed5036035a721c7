"""Losses, encoders, views and optimizers of other libraries in `pretrain`, and our losses beside those of lightly."""

import geoopt
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from grassmann_ssl import pretrain
from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.objectives import objective
from grassmann_ssl.objectives.own import own_objective
from grassmann_ssl.runs import ConfigError
from tests.objectives.declared import draw, embeddings, new

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # DCLWLoss of lightly
X = torch.rand(48, 12, generator=torch.Generator().manual_seed(0))
DATA = [(X, X.flip(1)), (X.sqrt(), X)]
QUICK = {"steps": 3, "records": 2, "hidden": 12, "dim": 4, "progress": False}


def trained(loss, **settings):
    torch.manual_seed(0)
    return pretrain(nn.Sequential(nn.Linear(12, 16), nn.ReLU()), DATA, loss, **QUICK, **settings)


@pytest.fixture(scope="module")
def peer():
    """Imports lightly, timm or torchvision, or skips the test."""
    return pytest.importorskip


def unit(x):
    return F.normalize(x, dim=1)


def with_bank(of, z, y, queue, place):
    loss = of.NTXentLoss(0.07, memory_bank_size=tuple(queue.shape))
    loss.memory_bank.bank = queue.clone()
    return loss(z, y)


OURS = {  # and what lightly makes of z and z'
    "nt_xent:temperature=0.2": lambda of, z, y: of.NTXentLoss(0.2)(z, y),
    "directclr:dimensions=3": lambda of, z, y: of.DirectCLRLoss(loss_dim=3, temperature=0.1)(z, y),
    "dcl": lambda of, z, y: of.DCLLoss(0.1)(z, y),
    "dcl:sigma=0.5": lambda of, z, y: of.DCLWLoss(0.1, 0.5)(z, y),
    "mmcr": lambda of, z, y: of.MMCRLoss(0.0)(unit(z)[:, None], unit(y)[:, None]) / len(z) ** 0.5,
    "vicreg:variance=10": lambda of, z, y: of.VICRegLoss(mu_param=10.0)(z, y),
    "barlow_twins_normalised": lambda of, z, y: of.BarlowTwinsLoss(5e-3)(z, y),
    "negative_cosine": lambda of, z, y: of.NegativeCosineSimilarity()(z, y),
    "tico:rho=3": lambda of, z, y, moment: of.TiCoLoss(rho=3.0)(z, y),
    "moco:queue=8": with_bank,
    "dino:teacher_temperature=0.03125": lambda of, z, y, centre: of.DINOLoss(6, teacher_temp=1 / 32)([y, y], [z, z]),
    "swav:prototypes=5": lambda of, z, y, w: of.SwaVLoss()([unit(z) @ unit(w).T, unit(y) @ unit(w).T], [])[0],
}


@pytest.mark.long
@pytest.mark.parametrize("name", OURS)
def test_our_losses_are_those_of_lightly(name, peer):
    """Value and gradient in z."""
    chosen, z = objective(name), draw(20, 6)
    y = z + 0.3 * draw(20, 6, seed=1)
    loss = new(chosen, z)
    state = [*loss.parameters(), *loss.buffers()] if chosen.stateful else []
    one, other = (z.clone().requires_grad_() for _ in range(2))
    ours, theirs = loss(**embeddings(chosen, one, y)), OURS[name](peer("lightly.loss"), other, y, *state)
    assert abs(ours - theirs) < 1e-12 * (1 + abs(theirs))
    slopes = [torch.autograd.grad(value, leaf)[0] for value, leaf in ((ours, one), (theirs, other))]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-12 * slopes[1].abs().max()


def test_a_loss_of_lightly_trains_as_the_registered_one(peer):
    one = trained(peer("lightly.loss").NTXentLoss(0.5), constraint="grassmann")
    other = trained("nt_xent", constraint="grassmann")
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5
    assert abs(one.metrics["loss"][-1] - other.metrics["loss"][-1]) < 1e-5


TURNING = ("NTXentLoss", "DCLLoss", "DCLWLoss", "MACLLoss", "TiCoLoss", "NegativeCosineSimilarity")
FIXED = ("BarlowTwinsLoss", "VICRegLoss")


@pytest.mark.parametrize("name", (*TURNING, *FIXED))
def test_losses_of_lightly_are_measured(name, peer):
    loss = getattr(peer("lightly.loss"), name)()
    assert own_objective(loss, dim=4).rotation_invariant == (name in TURNING)


def test_losses_of_lightly_on_the_grassmannian(peer):
    of = peer("lightly.loss")
    for loss in (of.TiCoLoss(), lambda a, b: of.DCLLoss()(a, b)):
        assert trained(loss, constraint="grassmann").record["verdict"]["guaranteed"]
    assert trained(lambda a, b: of.FroSSLLoss()([a, b])).record["own"] == ["data", "encoder", "objective"]
    for loss, message in (
        (of.BarlowTwinsLoss(), "constraint grassmann: BarlowTwinsLoss is not rotation-invariant"),
        (of.NTXentLoss(memory_bank_size=(32, 4)), "constraint grassmann: NTXentLoss is not rotation-invariant"),
        (of.FroSSLLoss(), "FroSSLLoss must take the embeddings of two views: .*; it takes z_views"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained(loss, constraint="grassmann")


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, lambda a, b: -F.cosine_similarity(a, b).mean()])
def test_losses_of_torch_that_turn_with_the_embeddings_go_with_the_grassmannian(loss):
    assert trained(loss, constraint="grassmann").record["verdict"]["guaranteed"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.HuberLoss(), "constraint grassmann: HuberLoss is not rotation-invariant"),
        (
            nn.TripletMarginLoss(),
            "TripletMarginLoss must take the embeddings of two views: .*; it takes anchor, positive, negative",
        ),
    ],
)
def test_others_are_refused_with_the_reason(loss, message):
    with pytest.raises(ConfigError, match=message):
        trained(loss, constraint="grassmann")


class TwoViews(Dataset):
    """Two views of pictures, of the transforms of torchvision."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 32

    def __getitem__(self, i):
        picture = torch.full((3, 24, 24), i / 32)
        return self.transform(picture), self.transform(picture), i


def test_views_of_torchvision_and_an_encoder_of_timm(peer):
    v2, timm = peer("torchvision.transforms.v2"), peer("timm")
    views = TwoViews(v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)]))
    model = timm.create_model("test_resnet", num_classes=0)
    settings = {"steps": 2, "records": 2, "constraint": "grassmann", "progress": False}
    outcome = pretrain(model, DataLoader(views, 16, shuffle=True), **settings)
    assert outcome.record["input"]["shape"] == [3, 16, 16] and outcome.record["verdict"]["guaranteed"]
    assert outcome.model(torch.rand(2, 3, 16, 16)).shape == (2, 96)


def test_models_of_timm_are_named(peer):
    """A transformer, made for its images; a network with a layer before its classifier; one that is neither."""
    peer("timm")
    for name, width in (("test_vit", 64), ("mobilenetv3_small_050", 1024), ("test_resnet", 96)):
        model = encoder(f"timm:{name}", in_channels=1, image_size=16)
        assert model.out_features == width and model.eval()(torch.rand(2, 1, 16, 16)).shape == (2, width)
    with pytest.raises(ValueError, match="timm has no model 'vitt' for images of 8 x 8: Unknown model"):
        encoder("timm:vitt", in_channels=3, image_size=8)


@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
@pytest.mark.parametrize("manifold", [Grassmann(), geoopt.Stiefel(), geoopt.EuclideanStiefel()])
def test_optimizers_and_manifolds_of_geoopt(optimizer, manifold):
    outcome = trained("nt_xent", constraint=manifold, optimizer=lambda p: optimizer(p, lr=0.01))
    weight = outcome.model.projector[-1].weight.detach()
    assert (weight @ weight.T - torch.eye(4)).abs().max() < 32 * torch.finfo(torch.float32).eps

"""Encoders: standard names and sizes, features that come out, bad names."""

import sys

import pytest
import torch
from torch import nn

from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.nn.resnet import ResNet

# Published counts (torchvision), less the classifier of 1000 classes.
PARAMETERS = {"resnet18": 11_689_512 - 513_000, "resnet34": 21_797_672 - 513_000, "resnet50": 25_557_032 - 2_049_000}
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def standard_shapes(name):
    """Names and shapes of a standard checkpoint, written down by the rules of the architecture."""
    shapes = {}

    def convolution(key, out, inputs, kernel):
        shapes[f"{key}.weight"] = (out, inputs, kernel, kernel)

    def norm(key, width):
        shapes.update({f"{key}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{key}.num_batches_tracked"] = ()

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, depth in enumerate(DEPTHS[name], 1):
        width = 32 * 2**stage
        for block in range(depth):
            key = f"layer{stage}.{block}"
            if name == "resnet50":
                out = 4 * width
                sizes = ((width, inputs, 1), (width, width, 3), (out, width, 1))
            else:
                out = width
                sizes = ((width, inputs, 3), (width, width, 3))
            for k, (o, i, kernel) in enumerate(sizes, 1):
                convolution(f"{key}.conv{k}", o, i, kernel)
                norm(f"{key}.bn{k}", o)
            if inputs != out or (block == 0 and stage > 1):
                convolution(f"{key}.downsample.0", out, inputs, 1)
                norm(f"{key}.downsample.1", out)
            inputs = out
    return shapes


@pytest.mark.parametrize("name", DEPTHS)
def test_standard_checkpoints_load(name):
    with torch.device("meta"):
        model = ResNet(name)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == standard_shapes(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    with_classifier = model.state_dict() | {
        "fc.weight": torch.zeros(1000, model.out_features),
        "fc.bias": torch.zeros(1000),
    }
    loaded = model.load_state_dict(with_classifier, strict=False, assign=True)
    assert loaded.missing_keys == [] and sorted(loaded.unexpected_keys) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize(("stem", "side"), [("cifar", 4), ("stl", 2), ("imagenet", 1)])
def test_stems_leave_so_many_pixels(stem, side):
    with torch.device("meta"):
        model = ResNet("resnet18", in_channels=1, stem=stem)
    seen = {}
    model.layer4.register_forward_hook(lambda _, inputs, out: seen.update(shape=out.shape))
    assert model(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 512)
    assert seen["shape"] == (2, 512, side, side)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_narrow_resnet_has_its_share_of_channels(name):
    """Every count of channels but that of the images is a quarter of the usual one."""
    with torch.device("meta"):
        usual, narrow = (encoder(name, in_channels=3, image_size=16, width=width) for width in (None, 16))
    assert narrow.out_features * 4 == usual.out_features
    for (key, whole), part in zip(usual.state_dict().items(), narrow.state_dict().values(), strict=True):
        fewer = [
            side // 4 if k == 0 or (k == 1 and key != "conv1.weight") else side for k, side in enumerate(whole.shape)
        ]
        assert list(part.shape) == fewer, key
    assert narrow(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, narrow.out_features)


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    for name in ("resnet18", "resnet50"):
        model = ResNet(name, stem="cifar").double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var, 1, 2)
        block = model.layer2[0]
        width = 64 if name == "resnet18" else 256
        x = torch.randn(1, width, 6, 6, dtype=torch.float64)
        parts = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        parts += [(block.conv3, block.bn3)] if name == "resnet50" else []
        y = x
        for k, (convolution, norm) in enumerate(parts):
            stride = 2 if k == (0 if name == "resnet18" else 1) else 1
            y = nn.functional.conv2d(y, convolution.weight, stride=stride, padding=convolution.weight.shape[-1] // 2)
            scale = (norm.running_var + 1e-5).sqrt()
            y = (y - norm.running_mean.view(1, -1, 1, 1)) / scale.view(1, -1, 1, 1)
            y = y.clamp_min(0) if k < len(parts) - 1 else y
        shortcut = nn.functional.conv2d(x, block.downsample[0].weight, stride=2)
        norm = block.downsample[1]
        shortcut = (shortcut - norm.running_mean.view(1, -1, 1, 1)) / (norm.running_var + 1e-5).sqrt().view(1, -1, 1, 1)
        expected = (y + shortcut).clamp_min(0)
        assert (block(x.clone()) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("name", ["linear", "mlp", "conv", "resnet18"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_features_that_come_out(name, channels, size):
    model = encoder(name, in_channels=channels, image_size=size)
    x = torch.rand(3, channels, size, size)
    assert model(x).shape == (3, model.out_features)
    assert model.out_features == (512 if name == "resnet18" else 256)


def test_the_small_encoder_is_small():
    count = sum(p.numel() for p in encoder("conv", in_channels=1, image_size=8).parameters())
    assert count == 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) == 23_408


def test_timm_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm, which cannot be imported .*: pip install timm"):
        encoder("timm:vit", in_channels=3, image_size=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: encoder("resnet19", in_channels=3, image_size=8),
            "unknown encoder 'resnet19': known are linear, mlp, conv, resnet18",
        ),
        (lambda: encoder("conv", in_channels=3, image_size=3), "at least 4 x 4, got 3 x 3"),
        (lambda: encoder("conv", in_channels=0, image_size=8), "at least 1, got 0 and 8"),
        (lambda: ResNet("resnet18", stem="tiny"), "unknown stem 'tiny': known are imagenet, stl, cifar"),
        (lambda: ResNet("resnet20"), "unknown residual network 'resnet20'"),
        (lambda: ResNet("resnet18", width=0), "width must be at least 1, got 0"),
        (lambda: encoder("mlp", in_channels=3, image_size=8, width=0), "width must be at least 1, .* got 0 for mlp"),
        (
            lambda: encoder("torch.nn:Identity", in_channels=3, image_size=8, width=32),
            "for linear, mlp, conv, resnet18, resnet34, resnet50 only; got 32 for torch.nn:Identity",
        ),
        (
            lambda: encoder("resnet18", in_channels=3, image_size=8, batch_norm=False),
            "of mlp and conv only, not of resnet18",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("name", "features"), [("linear", 5), ("mlp", 5), ("conv", 80)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_width_and_batch_norm(name, features, batch_norm):
    model = encoder(name, in_channels=2, image_size=8, width=5, batch_norm=batch_norm)
    assert model(torch.rand(3, 2, 8, 8)).shape == (3, features) == (3, model.out_features)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (0 if not batch_norm else {"linear": 0, "mlp": 1, "conv": 3}[name])
    if not batch_norm:
        assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        one, x = torch.rand(1, 2, 8, 8), torch.rand(4, 2, 8, 8)
        assert torch.allclose(model(torch.cat([one, x]))[:1], model(one), atol=1e-6)  # a sample does not see its batch


def test_a_generator_draws_the_weights():
    def weights(seed, before):
        torch.manual_seed(before)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model = encoder("conv", in_channels=1, image_size=8, generator=generator)
        return torch.cat([p.detach().flatten() for p in model.parameters()]), torch.rand(1)

    one, after = weights(3, before=0)
    same, _ = weights(3, before=1)
    other, _ = weights(4, before=0)
    assert torch.equal(one, same) and not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    generator = torch.Generator().manual_seed(3)
    first, second = (encoder("linear", in_channels=1, image_size=4, generator=generator) for _ in range(2))
    assert not torch.equal(first[1].weight, second[1].weight)


def test_the_small_encoder_learns_digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    model = nn.Sequential(encoder("conv", in_channels=1, image_size=8, generator=torch.Generator().manual_seed(0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.append(nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(30):
        rows = torch.randint(1200, (64,), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        accuracy = (model.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean()
    assert accuracy > 0.8

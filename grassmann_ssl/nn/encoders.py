"""Encoders by name: images to representations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature

import torch
from torch import nn

from grassmann_ssl.nn.resnet import DEPTHS, WIDTH, ResNet
from grassmann_ssl.registry import Registry, is_own, own

SMALLEST = 4  # least side of the images that conv takes


@dataclass(frozen=True)
class Architecture:
    """A named encoder. A name FAMILY:NAME stands for all models of a family.

    make   its constructor, called with the arguments that it `takes` of name, in_channels, image_size, width, batch_norm and stem
    width  its width where none is given; None where the architecture has its own
    """

    name: str
    make: Callable[..., nn.Module]
    takes: tuple[str, ...]
    width: int | None = None


ENCODERS: Registry[Architecture] = Registry("encoder")
_SIZES = ("in_channels", "image_size")


def architecture(name: str) -> Architecture:
    """The declared encoder of a name, or the user's own of PACKAGE.MODULE:NAME, which takes what its arguments name.

    Raises ValueError for an unknown one (lists the known ones).
    """
    family, colon, _ = name.partition(":")
    if colon and f"{family}:NAME" in ENCODERS:
        return replace(ENCODERS[f"{family}:NAME"], name=name)
    if not is_own(name):
        return ENCODERS[name]
    make = own(name)
    if isinstance(make, nn.Module):
        return Architecture(name, lambda: make, ())
    return Architecture(name, make, tuple(one for one in signature(make).parameters if one in _SIZES))


class Encoder(nn.Sequential):
    """A sequential encoder; `out_features` is the dimension of its output."""

    out_features: int


def encoder(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    stem: str = "cifar",
    width: int | None = None,
    batch_norm: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """An encoder of square images (n, in_channels, image_size, image_size) to (n, out_features); `out_features` is its attribute.

    linear       one linear layer of the pixels, `width` = 256 features
    mlp          two, with batch norm and relu between, and relu after; `width` = 256 features
    conv         three 3 x 3 convolutions of w, 2 w and 4 w channels, w = `width` = 16, the second and third of stride 2, each with batch
                 norm and relu, then an average to 2 x 2: 16 w = 256 features, 23,000 parameters for grey images; for images of 4 to 32
                 pixels
    resnet18, resnet34, resnet50      with the stem cifar, stl or imagenet and `width` = 64 channels in the first stage, see `ResNet`;
                 8 w = 512 features, 2,048 of resnet50
    timm:NAME    any model of timm by its name, without classifier, untrained; made for images of this size where it takes `img_size`
    PACKAGE.MODULE:NAME      the module that your own function or class makes; it may take in_channels and image_size
    Without `batch_norm`, mlp and conv have biases in its place. `generator`, on the CPU, draws the initial weights and leaves torch's
    global random state unchanged; without it they are drawn from that.
    Raises ValueError for an unknown name (lists the known ones), images too small, a width or no batch norm where the architecture has its
    own, and where timm is not installed or has no such model.
    """
    with _drawn_by(generator):
        return made(architecture(name), in_channels, image_size, stem, width, batch_norm)


@contextmanager
def _drawn_by(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators, too
        yield


def made(
    kind: Architecture,
    in_channels: int,
    image_size: int,
    stem: str = "cifar",
    width: int | None = None,
    batch_norm: bool = True,
) -> nn.Module:
    """The module of an architecture, with the options and errors of `encoder`."""
    name = kind.name
    if in_channels < 1 or image_size < 1:
        raise ValueError(f"in_channels and image_size must be at least 1, got {in_channels} and {image_size}")
    if width is not None and (kind.width is None or width < 1):
        with_width = ", ".join(other.name for other in ENCODERS.values() if other.width)
        raise ValueError(f"width must be at least 1, and is for {with_width} only; got {width} for {name}")
    if not batch_norm and "batch_norm" not in kind.takes and name != "linear":  # which has none
        raise ValueError(f"batch_norm can be left out of mlp and conv only, not of {name}")
    given = {
        "name": name, "in_channels": in_channels, "image_size": image_size, "width": width or kind.width, "batch_norm": batch_norm,
        "stem": stem,
    }  # fmt: skip
    return kind.make(**{key: given[key] for key in kind.takes})


def _linear(in_channels: int, image_size: int, width: int) -> nn.Module:
    return _with(width, nn.Flatten(), nn.Linear(in_channels * image_size**2, width))


def _mlp(in_channels: int, image_size: int, width: int, batch_norm: bool) -> nn.Module:
    norm = [nn.BatchNorm1d(width)] if batch_norm else []
    hidden = (nn.Linear(in_channels * image_size**2, width, bias=not batch_norm), *norm, nn.ReLU(inplace=True))
    return _with(width, nn.Flatten(), *hidden, nn.Linear(width, width), nn.ReLU(inplace=True))


def _conv(in_channels: int, image_size: int, width: int, batch_norm: bool) -> nn.Module:
    if image_size < SMALLEST:
        raise ValueError(
            f"encoder conv needs images of at least {SMALLEST} x {SMALLEST}, got {image_size} x {image_size}"
        )
    layers: list[nn.Module] = []
    inputs = in_channels
    for out, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers.append(nn.Conv2d(inputs, out, 3, stride=stride, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(out)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
        inputs = out
    return _with(4 * inputs, *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def _with(features: int, *layers: nn.Module) -> Encoder:
    made = Encoder(*layers)
    made.out_features = features
    return made


def _timm(name: str, in_channels: int, image_size: int) -> nn.Module:
    name = name.removeprefix("timm:")
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        remedy = (
            "pip install timm"
            if isinstance(error, ImportError)
            else f"install torchvision as built for torch {torch.__version__}"
        )
        raise ValueError(f"encoder timm:{name} needs timm, which cannot be imported ({error}): {remedy}") from None
    make = partial(timm.create_model, name, pretrained=False, num_classes=0, in_chans=in_channels)
    try:
        try:
            model: nn.Module = make(img_size=image_size)
        except TypeError:  # transformers are built for one size, and other models do not take it
            model = make()
    except Exception as error:  # whatever its constructors raise for a size that does not fit
        raise ValueError(f"timm has no model {name!r} for images of {image_size} x {image_size}: {error}") from None
    # The width after the layers that some heads have before the classifier.
    model.out_features = getattr(model, "head_hidden_size", model.num_features)
    return model


_PIXELS = (*_SIZES, "width")
for _one in (
    Architecture("linear", _linear, _PIXELS, 256),
    Architecture("mlp", _mlp, (*_PIXELS, "batch_norm"), 256),
    Architecture("conv", _conv, (*_PIXELS, "batch_norm"), 16),
    *(Architecture(name, partial(ResNet, name), ("in_channels", "stem", "width"), WIDTH) for name in DEPTHS),
    Architecture("timm:NAME", _timm, ("name", "in_channels", "image_size")),
):
    ENCODERS.add(_one.name, _one)

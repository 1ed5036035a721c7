"""The layers of a model to constrain: its last linear layer, every linear layer, every convolution, or those of a name."""

from fnmatch import fnmatchcase

import geoopt
from torch import Tensor, nn

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.nn.constrain import CONVOLUTIONS, constrain, constraints
from grassmann_ssl.registry import nearest

PLACES = ("last", "linear", "conv")


def layers_at(model: nn.Module, where: str) -> list[str]:
    """Names of the layers to constrain, in module order: last, the last nn.Linear; linear, all; conv, all convolutions with groups = 1.

    Or the layer of that name; or, where it has a dot or a star, those linear layers and convolutions whose name fits a pattern, as
    encoder.layer4.*; a star stands for any letters. Raises ValueError for an unknown place, and, naming what there is, where the model has
    no such layer.
    """
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    conv = [name for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS) and m.groups == 1]
    own = {*linear, *conv}
    if where not in PLACES and where in own:
        return [where]
    if where not in PLACES and not is_pattern(where):
        raise ValueError(
            f"where must be one of {', '.join(PLACES)}, or a pattern of layers' names such as 'encoder.*', got "
            f"{where!r}{nearest(where, PLACES)}"
        )
    if is_pattern(where):
        names = [name for name, _ in model.named_modules() if name in own and fnmatchcase(name, where)]
    else:
        names = conv if where == "conv" else linear
    if not names:
        there = ", ".join([*linear, *conv]) or "none"
        raise ValueError(f"the model has no layer for where = {where!r}; its linear layers and convolutions: {there}")
    return names[-1:] if where == "last" else names


def is_pattern(where: str) -> bool:
    """Whether a place is a pattern of layers' names."""
    return "." in where or "*" in where


def square_layers(model: nn.Module, where: str) -> list[str]:
    """Names of those layers at `where` whose matrix (out, in * kernel) is square: on Gr(n, n) `constrain_model` leaves them free.

    Raises as `layers_at`.
    """
    return [name for name in layers_at(model, where) if len(set(_weight(model, name).flatten(1).shape)) == 1]


def constrain_model(model: nn.Module, manifold: geoopt.Manifold, *, where: str = "last") -> list[str]:
    """Put the weights of the layers at `where` on a manifold by `constrain`; returns the names of the constrained layers.

    On the Grassmannian, where a square matrix is a single point, `linear` and `conv` leave square layers free (`square_layers` names them).
    Layers that are on an equal manifold stay as they are, and so does a weight that another of them holds too.
    Parameter names are those of the layers with `.weight` appended, the keys of `constraints(model)`.
    Raises as `layers_at` and, naming the layer, as `constrain`; ValueError where all layers are square and would be left free.
    """
    names = layers_at(model, where)
    square = square_layers(model, where) if where != "last" and isinstance(manifold, Grassmann) else []
    done = [name for name in names if name not in square]
    for name in done:
        layer = model.get_submodule(name)
        layout = constraints(layer).get("weight", getattr(_weight(model, name), "manifold", None))
        if isinstance(layout, WeightLayout) and layout.manifold == manifold:
            continue
        try:
            constrain(layer, manifold=manifold)
        except (ValueError, TypeError) as error:
            raise type(error)(f"layer {name}, weight {tuple(_weight(model, name).shape)}: {error}") from None
    if not done:
        raise ValueError(
            f"all layers of where = {where!r} are square, and Gr(n, n) is a single point: {', '.join(square)}"
        )
    return done


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight

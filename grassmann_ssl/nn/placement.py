"""The layers of a model to constrain: its last linear layer, every linear layer, or every convolution."""

import geoopt
from torch import Tensor, nn

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.nn.constrain import CONVOLUTIONS, constrain
from grassmann_ssl.registry import nearest

PLACES = ("last", "linear", "conv")


def layers_at(model: nn.Module, where: str) -> list[str]:
    """Names of the layers to constrain, in module order: last, the last nn.Linear; linear, all; conv, all convolutions with groups = 1.

    Raises ValueError for an unknown place, and where the model has no such layer.
    """
    if where not in PLACES:
        raise ValueError(f"where must be one of {', '.join(PLACES)}, got {where!r}{nearest(where, PLACES)}")
    if where == "conv":
        names = [name for name, m in model.named_modules() if isinstance(m, CONVOLUTIONS) and m.groups == 1]
    else:
        names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not names:
        raise ValueError(f"the model has no layer for where = {where!r}")
    return names[-1:] if where == "last" else names


def square_layers(model: nn.Module, where: str) -> list[str]:
    """Names of those layers at `where` whose matrix (out, in * kernel) is square: on Gr(n, n) `constrain_model` leaves them free.

    Raises as `layers_at`.
    """
    return [name for name in layers_at(model, where) if len(set(_weight(model, name).flatten(1).shape)) == 1]


def constrain_model(model: nn.Module, manifold: geoopt.Manifold, *, where: str = "last") -> list[str]:
    """Put the weights of the layers at `where` on a manifold by `constrain`; returns the names of the constrained layers.

    On the Grassmannian, where a square matrix is a single point, `linear` and `conv` leave square layers free (`square_layers` names them).
    Parameter names are those of the layers with `.weight` appended, the keys of `constraints(model)`.
    Raises as `layers_at` and, naming the layer, as `constrain`; ValueError where all layers are square and would be left free.
    """
    names = layers_at(model, where)
    square = square_layers(model, where) if where != "last" and isinstance(manifold, Grassmann) else []
    done = [name for name in names if name not in square]
    for name in done:
        try:
            constrain(model.get_submodule(name), manifold=manifold)
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

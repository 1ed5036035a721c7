"""Where in a model a constraint goes: its last linear layer, every linear layer, or every convolution."""

import geoopt
from torch import Tensor, nn

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.nn.constrain import CONVOLUTIONS, constrain
from grassmann_ssl.registry import nearest

PLACES = ("last", "linear", "conv")


def layers_at(model: nn.Module, where: str) -> list[str]:
    """Names of the layers of a place, in the order of `modules()`: last, the last linear layer; linear, all; conv, all with groups = 1.

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
    """Names of those layers of a place whose matrix (out, in * kernel) is square: `constrain_model` leaves them free on the Grassmannian.

    Raises as `layers_at`.
    """
    return [name for name in layers_at(model, where) if len(set(_weight(model, name).flatten(1).shape)) == 1]


def constrain_model(model: nn.Module, manifold: geoopt.Manifold, *, where: str = "last") -> list[str]:
    """Put the weights of a place on a manifold, as `constrain` does; returns the names of the layers that are on it.

    `last` must fit: where its weight is square on the Grassmannian, a single point, that is an error naming the layer. For `linear` and
    `conv`, square matrices are left free on the Grassmannian, `square_layers` names them; that none is left to constrain is an error.
    Names of the parameters are those of the layers with `.weight` appended, the keys of `constraints(model)`.
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

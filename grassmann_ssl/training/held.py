"""What the constraint callbacks of training frameworks share."""

from __future__ import annotations

from collections.abc import Sequence

import geoopt
import torch
from torch import nn

from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.placement import constrain_model
from grassmann_ssl.optim.table import refuse_plain


class HeldLayers:
    """The layers at `where` of a model that a framework trains, held on a manifold from its first step on."""

    def __init__(self, where: str, manifold: geoopt.Manifold) -> None:
        self.where, self.manifold = where, manifold

    def put(self, model: nn.Module) -> None:
        """Constrain the model; layers that already are stay as they are. Raises ValueError or TypeError as `constrain_model`."""
        constrain_model(model, self.manifold, where=self.where)

    def check(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Raise ValueError, naming the weight, where an optimizer would take one off its manifold."""
        refuse_plain(optimizers, dict(model.named_parameters()), constraints(model))

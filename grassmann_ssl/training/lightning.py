"""A constraint as a callback of Lightning."""

from __future__ import annotations

from typing import Any

import geoopt

from grassmann_ssl.audit.lightning import Callback
from grassmann_ssl.training.held import HeldLayers


class LightningConstraint(Callback):  # type: ignore[misc]  # one of two packages
    """Holds layers of a LightningModule on a manifold while it is fitted: last, linear, conv, or a pattern of names (`constrain_model`).

        Trainer(callbacks=[LightningConstraint("last", Grassmann()), LightningCollapse("projector")])

    They are constrained before `configure_optimizers`, which has to return a Riemannian optimizer for them. Layers that the module
    constrains itself, by `constrain` in its __init__, stay as they are and are checked too; their manifolds come back with
    `load_from_checkpoint`. Raises ValueError, before the first step, as `constrain_model`, and for a constrained weight under an
    optimizer that would take it off its manifold.
    """

    def __init__(self, where: str, manifold: geoopt.Manifold) -> None:
        self._layers = HeldLayers(where, manifold)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Constrain."""
        self._layers.put(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the optimizers."""
        self._layers.check(pl_module, trainer.optimizers)

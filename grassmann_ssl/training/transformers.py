"""A constraint as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

import geoopt

from grassmann_ssl.audit.transformers import TrainerCallback
from grassmann_ssl.training.held import HeldLayers


class TrainerConstraint(TrainerCallback):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """Holds layers of the model of a Trainer on a manifold: last, linear, conv, or a pattern of names (`constrain_model`).

        Trainer(model, ..., optimizer_cls_and_kwargs=(RiemannianAdam, {"lr": 1e-3}), callbacks=[TrainerConstraint("last", Grassmann())])

    They are constrained when the Trainer is made. Layers that the model constrains itself stay as they are and are checked too.
    Raises ValueError then as `constrain_model`, and before the first step for a constrained weight under an optimizer that would take it
    off its manifold, such as the Trainer's own.
    """

    def __init__(self, where: str, manifold: geoopt.Manifold) -> None:
        self._layers = HeldLayers(where, manifold)

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Constrain."""
        self._layers.put(given["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Check the optimizer, below the wrapper of accelerate."""
        self._layers.put(given["model"])  # where the callback was added later
        optimizer = given["optimizer"]
        self._layers.check(given["model"], [getattr(optimizer, "optimizer", optimizer)])

"""Averages of models whose constrained weights stay on their manifolds."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.subspaces import geodesic_ema, procrustes
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear


class AveragedModel(swa_utils.AveragedModel):
    """torch.optim.swa_utils.AveragedModel on manifolds: the mean of all models given to `update_parameters`, or their moving average.

    Without `decay` W_k = W_{k-1} + (W - W_{k-1}) / k (SWA), with it W_k = decay W_{k-1} + (1 - decay) W (EMA), as torch has them; the first
    update copies the model. Constrained weights go the share 1 / k or 1 - decay of the way along the geodesic instead, bases included, as
    those of `Teacher` do: of a subspace that is the inductive mean. `device` and `use_buffers` are torch's, and so is `update_bn`.
    Raises ValueError unless 0 <= decay <= 1. Sources: Izmailov et al. 2018, arXiv 1803.05407 (SWA); Ho, Cheng, Salehian, Vemuri 2013,
    ICML (inductive mean on manifolds).
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | int | None = None,
        *,
        decay: float | None = None,
        use_buffers: bool = False,
    ) -> None:
        if decay is not None and not 0 <= decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, got {decay}")
        average: Any = None if decay is None else swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # of torch
        super().__init__(model, device, multi_avg_fn=average, use_buffers=use_buffers)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take another model of the same architecture into the average."""
        count = int(self.n_averaged)
        share = 1 / (count + 1) if self.decay is None or count == 0 else 1 - self.decay
        ends = moved(self.module, model, share)
        super().update_parameters(model)
        for name, end in ends.items():
            self.module.get_parameter(name).copy_(end)


def moved(average: nn.Module, model: nn.Module, share: float) -> dict[str, Tensor]:
    """The constrained weights of an average, by name, after `share` of the way to those of a model of its architecture.

    On the geodesic where the manifold has a logarithm in closed form, else the average projected onto the manifold. Feature-orthonormal
    layers of the average take over the metric of the model's.
    """
    own, theirs = (
        [layer for layer in one.modules() if isinstance(layer, FeatureOrthonormalLinear)] for one in (average, model)
    )
    for layer, followed in zip(own, theirs, strict=True):
        layer.adopt(followed)
    ends = {}
    for (name, layout), other in zip(constraints(average).items(), constraints(model), strict=True):
        weight, target = average.get_parameter(name).detach(), model.get_parameter(other).detach()
        ends[name] = between(layout, weight, target.to(weight.device), share)
    return ends


def between(layout: Any, start: Tensor, end: Tensor, share: float) -> Tensor:
    """The weight at `share` of the way: on the geodesic, where its length is known, else the average projected onto the manifold."""
    start, end = layout.projx(start.as_subclass(Tensor)), end.as_subclass(Tensor)
    if isinstance(layout.manifold, Grassmann):
        here, there = (layout.manifold.whiten(layout.to_point(w)) for w in (start, end))
        on_the_way = geodesic_ema(here, there, 1 - share)
        point, _ = procrustes(torch.lerp(on_the_way, there, share), on_the_way)
        middle = layout.to_weight(layout.manifold.unwhiten(point))
    else:
        middle = torch.lerp(start, end, share)
    weight: Tensor = layout.projx(middle)
    return weight

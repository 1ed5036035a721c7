"""The landing method: no retraction, points near the manifold that are attracted by it."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.optim.base import check_range
from grassmann_ssl.optim.bucket import State
from grassmann_ssl.optim.sgd import RiemannianSGD


class Landing(RiemannianSGD):
    """Gradient descent without retraction; ||X^H X - I||_F stays below `safety`, and vanishes in the limit. A baseline.

    X <- X - eta (G X^H X - X G^H X + attraction X (X^H X - I)), G the Euclidean gradient. The first part is the Riemannian gradient on
    Gr(n, p) where X^H X = I (the source has half of it), so that time is lr x step as for `RiemannianSGD`. eta = lr, or less where the step
    could leave the neighbourhood: with d = ||X^H X - I||_F, g the norm of the bracket and a = attraction d (1 - d),
    eta <= min((a + (a^2 + g^2 (safety - d))^{1/2}) / g^2, 1 / (2 attraction)). Matrix products only. Only on `Grassmann`.
    Before storing a model or changing the optimizer put it on the manifold by `stabilize()`.
    Source: Ablin & Peyre, AISTATS 2022, arXiv 2102.07432; step bound of Ablin et al., arXiv 2303.16510, derived for this scaling.
    """

    momentum_keys: ClassVar[tuple[str, ...]] = ()
    approaches: ClassVar[bool] = True
    only_on = (Grassmann,)

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        attraction: float = 1.0,
        safety: float = 0.5,
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: str = "skip",
    ) -> None:
        check_range("attraction", attraction, torch.finfo(torch.float32).tiny)
        check_range("safety", safety, torch.finfo(torch.float32).tiny, 1.0)
        self.attraction, self.safety = attraction, safety
        super().__init__(params, lr, weight_decay=weight_decay, maximize=maximize, nonfinite=nonfinite)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "attraction": self.attraction, "safety": self.safety}

    def _advance(
        self, group: dict[str, Any], manifold: Grassmann, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor:
        gram = x.mH @ x
        excess = gram - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        field = gradient @ gram + x @ (self.attraction * excess - gradient.mH @ x)
        d: Tensor = torch.linalg.matrix_norm(excess, keepdim=True)
        g2: Tensor = torch.linalg.matrix_norm(field, keepdim=True).square().clamp_min(torch.finfo(d.dtype).tiny)
        a = self.attraction * d * (1 - d)
        bound = (a + (a.square() + g2 * (self.safety - d).clamp_min(0)).sqrt()) / g2
        eta = bound.clamp_max(min(group["lr"], 1 / (2 * self.attraction)))
        x.sub_(eta * field)
        return eta * g2.sqrt()

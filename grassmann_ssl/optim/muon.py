"""The spectral-norm step of Muon on the Grassmannian."""

from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.optim.base import tangent_gradient
from grassmann_ssl.optim.bucket import State
from grassmann_ssl.optim.sgd import RiemannianSGD

# Muon's polynomial lifts small singular values fast but ends between 0.7 and 1.2; cubic steps then converge.
LIFT = (3.4445, -4.7750, 2.0315)
LIFTS, POLISHES = 5, 4


class RiemannianMuon(RiemannianSGD):
    """Steepest descent in the spectral norm: every principal angle of a step is lr. A baseline for `RiemannianSGD`.

    M <- momentum T(M) + grad L(X),  X <- Retr_X(-lr msign(M)), msign(M) = M (M^H M)^{-1/2}; with `nesterov` the sign of
    grad L + momentum M. msign(M) maximises Re tr(M^H U) over tangent U with ||U||_2 <= 1; it is horizontal where M is, and does not depend
    on the basis. Computed from the p x p matrix M^H M by products: singular values below 2e-3 of ||M||_F (float32: 1e-2) stay
    below 1. Only on `Grassmann`; ordinary parameters take the step of torch.optim.SGD. Source: Jordan et al. 2024, Muon; Bernstein &
    Newhouse, arXiv 2409.20325 (spectral-norm descent).
    """

    only_on = Grassmann

    def _advance(
        self, group: dict[str, Any], manifold: Grassmann, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor | float:
        gradient = tangent_gradient(manifold, x, gradient)
        momentum = group["momentum"]
        buffer = gradient
        if momentum:
            buffer = states["momentum_buffer"]
            torch.add(gradient, manifold.proju_(x, buffer), alpha=momentum, out=buffer)
        u = spectral_sign(torch.add(gradient, buffer, alpha=momentum) if group["nesterov"] else buffer)
        return manifold.step_(x, u, buffer, -group["lr"])


def spectral_sign(m: Tensor) -> Tensor:
    """M (M^H M)^{-1/2} (..., n, p), 0 for M = 0: singular values above 2e-3 of ||M||_F become 1, up to 1e-5, smaller ones at most that."""
    size = torch.linalg.matrix_norm(m, keepdim=True).clamp_min(torch.finfo(m.dtype).tiny)
    m = m / size
    identity = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    t, a = identity, m.mH @ m
    for k in range(LIFTS + POLISHES):
        c0, c1, c2 = LIFT if k < LIFTS else (1.5, -0.5, 0.0)
        q = c0 * identity + c1 * a
        if c2:
            q = q + c2 * (a @ a)
        t, a = t @ q, q @ a @ q
    return m @ t

"""The spectral-norm step of Muon: a closed form on the Grassmannian, a convex problem of p x p matrices on the Stiefel manifold."""

from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.matrix_functions import minus_product
from grassmann_ssl.manifolds.stiefel import Stiefel
from grassmann_ssl.manifolds.tall import inner_products
from grassmann_ssl.optim.base import tangent_gradient
from grassmann_ssl.optim.bucket import State
from grassmann_ssl.optim.memory import matrix_of
from grassmann_ssl.optim.sgd import RiemannianSGD
from grassmann_ssl.precision import HALF, no_autocast

# Muon's polynomial lifts small singular values fast but ends between 0.7 and 1.2; cubic steps then converge.
LIFT = (3.4445, -4.7750, 2.0315)
LIFTS, POLISHES = 5, 4
ROUNDS, SWEEPS = 4, 8
"""Of the convex problem on the Stiefel manifold: a step goes on from the solution of the last one."""


class RiemannianMuon(RiemannianSGD):
    """Steepest descent in the spectral norm, on `Grassmann` and `Stiefel`. A baseline for `RiemannianSGD`.

    M <- momentum T(M) + grad L(X),  X <- Retr_X(-lr U), U the tangent vector with ||U||_2 <= 1 and the largest Re tr(M^H U); with
    `nesterov` that of grad L + momentum M. On Gr(n, p) U = msign(M) = M (M^H M)^{-1/2}, which is horizontal where M is and does not
    depend on the basis: every principal angle of a step is lr. Computed from the p x p matrix M^H M by products: singular values below
    2e-3 of ||M||_F (float32: 1e-2) stay below 1. On St(n, p) msign(M) is not tangent, and U solves a convex problem of p x p matrices, in
    a fixed number of rounds that go on from the solution of the last step, `normal_buffer`; see `tangent_sign`. Ordinary parameters take
    the step of torch.optim.SGD. Sources: Jordan et al. 2024, Muon; Bernstein & Newhouse, arXiv 2409.20325 (spectral-norm descent).
    """

    only_on = (Grassmann, Stiefel)

    def _initial(self, group: dict[str, Any], manifold: Any, p: Tensor) -> State:
        state = super()._initial(group, manifold, p)
        if isinstance(matrix_of(manifold, p)[0], Stiefel):
            state["normal_buffer"] = torch.zeros_like(p.detach())
        return state

    def _advance(
        self, group: dict[str, Any], manifold: Grassmann | Stiefel, x: Tensor, gradient: Tensor, states: State
    ) -> Tensor | float:
        gradient, _ = tangent_gradient(manifold, x, gradient)
        momentum = group["momentum"]
        buffer = gradient
        if momentum:
            buffer = states["momentum_buffer"]
            torch.add(gradient, manifold.proju_(x, buffer), alpha=momentum, out=buffer)
        m = torch.add(gradient, buffer, alpha=momentum) if group["nesterov"] else buffer
        with no_autocast(x.device.type):
            if isinstance(manifold, Stiefel):
                u, normal = tangent_sign(_wide(x), _wide(m), _wide(states["normal_buffer"]))
                states["normal_buffer"].copy_(normal)
            else:
                u = spectral_sign(_wide(m))
        return manifold.step_(x, u, buffer, -group["lr"])


def spectral_sign(m: Tensor) -> Tensor:
    """M (M^H M)^{-1/2} (..., n, p), 0 for M = 0: singular values above 2e-3 of ||M||_F become 1, up to 1e-5, smaller ones at most that."""
    m = m / _size(m)
    return m @ inverse_root(inner_products(m, m))


def tangent_sign(x: Tensor, g: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """U that maximises Re tr(G^H U) over the tangent vectors at X of St(n, p) with ||U||_2 <= 1, and X L, from which the next call goes on.

    U = msign(M), M = G + X L, G tangent (..., n, p) and divided by its norm, where the Hermitian L (p x p) minimises ||M||_*: the dual
    problem, whose gradient is the Hermitian part of X^H U. A round minimises tr(M T M^H), T = (M^H M)^{-1/2} of the last L: L <- L - D,
    T D + D T = X^H M T + T M^H X, D by conjugate gradients. It lowers ||M||_*, has no step size, and needs p x p matrices only. The
    first L is that of `normal` = X L. At the end U is projected and divided by 1 + a bound on what that changed: it always is tangent,
    with ||U||_2 <= 1 to 1e-5 (float32: 2e-2 where M has small singular values), and it is optimal where the rounds have converged. From
    L = 0 and for Gaussian G the trace is within 1 % of the best where n >= 4 p, within 40 % for every shape; where n < 2 p, or where
    singular values spread over decades, that takes more calls with about the same G.
    Sources: modula docs, Stiefel, and Bernstein 2025, Modular manifolds, Thinking Machines (the dual, by subgradients of the nuclear norm);
    Mohan & Fazel 2012, JMLR 13, 3441 (reweighted least squares for it).
    """
    g = g / _size(g)
    a, gram, multiplier = inner_products(x, g), inner_products(g, g), _hermitian(inner_products(x, normal))

    def root() -> Tensor:
        half = multiplier @ (a + multiplier / 2)
        return inverse_root(gram + half + half.mH)

    t = root()
    for _ in range(ROUNDS):
        multiplier = multiplier - solve_lyapunov(t, 2 * _hermitian((a + multiplier) @ t))
        t = root()
    normal = x @ multiplier
    u = (g + normal) @ t
    residual = _hermitian(inner_products(x, u))
    return minus_product(u, x, residual) / (1 + _size(residual @ residual).sqrt()), normal


def inverse_root(gram: Tensor) -> Tensor:
    """P^{-1/2} for P >= 0 (..., p, p) by products; below 4e-6 of tr P the eigenvalues of P P^{-1/2} are smaller than their roots."""
    trace = torch.diagonal(gram, dim1=-2, dim2=-1).real.sum(-1)[..., None, None].clamp_min(torch.finfo(gram.dtype).tiny)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    t, a = identity, gram / trace
    for k in range(LIFTS + POLISHES):
        c0, c1, c2 = LIFT if k < LIFTS else (1.5, -0.5, 0.0)
        q = c0 * identity + c1 * a
        if c2:
            q = q + c2 * (a @ a)
        t, a = t @ q, q @ a @ q
    return t * trace.rsqrt()


def solve_lyapunov(t: Tensor, c: Tensor) -> Tensor:
    """D with T D + D T = C after `SWEEPS` steps of conjugate gradients, for T > 0 and Hermitian C (..., p, p)."""
    tiny = torch.finfo(t.dtype).tiny
    d, rest, direction, square = torch.zeros_like(c), c, c, _inner(c, c)
    for _ in range(SWEEPS):
        image = t @ direction
        image = image + image.mH
        rate = square / _inner(direction, image).clamp_min(tiny)
        d, rest = d + rate * direction, rest - rate * image
        old, square = square, _inner(rest, rest)
        direction = rest + square / old.clamp_min(tiny) * direction
    return d


def _inner(u: Tensor, v: Tensor) -> Tensor:
    return (u.conj() * v).real.sum((-2, -1), keepdim=True)


def _hermitian(a: Tensor) -> Tensor:
    return (a + a.mH) / 2


def _size(m: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(m, keepdim=True).clamp_min(torch.finfo(m.dtype).tiny)
    return size


def _wide(v: Tensor) -> Tensor:
    return v.float() if v.dtype in HALF else v

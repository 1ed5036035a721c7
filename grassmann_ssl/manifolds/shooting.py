"""The logarithm on the Stiefel manifold, by shooting: no closed form is known in either metric."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor

from grassmann_ssl.manifolds.orthonormal import householder_qr, refined
from grassmann_ssl.manifolds.tall import double, inner_products
from grassmann_ssl.shown import Shown

STOPS = 4
"""Points of the geodesic at which the gap is projected on its way back."""
TOLERANCE = 1e-13


@dataclass(frozen=True, repr=False)
class Logarithm(Shown):
    """The result of shooting from X to Y: a tangent vector at X, and how well the search for it converged.

    `gap` is the distance in the Frobenius norm from Y at which the geodesic ends; `converged` where it is within the tolerance.
    """

    tangent: Inexact[Tensor, " *b n p"]
    iterations: int
    gap: Float[Tensor, " *b"]
    converged: Bool[Tensor, " *b"]


@torch.no_grad()
def shoot(
    expmap: Callable[[Tensor, Tensor], Tensor],
    proju: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    max_iterations: int,
) -> Logarithm:
    """U with Exp_X(U) = Y: the gap at the end of a geodesic is carried back to X, tangent space by tangent space, and subtracted from U.

    On the way it keeps its length. Converges linearly, the faster the nearer X and Y are. Within span(X, Y), which geodesics do not
    leave, that is on matrices of at most 2p rows, in double precision. Every pair of the batch stops when its gap is within 1e-13 p^{1/2}.
    No gradient; waits for the device. Source: Bryner 2017, SIAM J. Matrix Anal. 38, 1139, alg. 1; Zimmermann & Hueper 2022, SIAM J. Matrix
    Anal. 43, 953.
    """
    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]  # torch gives it no types
    (n, p), wide = x.shape[-2:], double(x.dtype)
    square = n <= 2 * p
    frame = torch.eye(n, dtype=x.dtype, device=x.device) if square else householder_qr(torch.cat([x, y], -1))
    start, goal = (_orthonormal(inner_products(frame, point).to(wide)) for point in (x, y))
    u = proju(start, goal - start)
    u = u * _ratio(_length(goal - start), _length(u))
    iterations = 0
    while True:
        gap = expmap(start, u) - goal
        length = _length(gap)
        converged = length <= TOLERANCE * p**0.5
        if iterations == max_iterations or bool(converged.all()):
            tangent = frame @ u.to(x.dtype)
            return Logarithm(tangent, iterations, length[..., 0, 0].to(x.real.dtype), converged[..., 0, 0])
        for stop in reversed(range(STOPS + 1)):
            gap = proju(expmap(start, stop / STOPS * u), gap)
            gap = gap * _ratio(length, _length(gap))
        u = torch.where(converged, u, u - gap)
        iterations += 1


def _orthonormal(x: Tensor) -> Tensor:
    """What float32 left of orthonormality would be the gap."""
    for _ in range(2):
        x = refined(x, x.mH @ x)
    return x


def _length(u: Tensor) -> Tensor:
    length: Tensor = torch.linalg.matrix_norm(u, keepdim=True)
    return length


def _ratio(wanted: Tensor, found: Tensor) -> Tensor:
    return torch.where(found > 0, wanted / torch.where(found > 0, found, 1), 0)

"""One momentum step on Gr(n, p): geoopt's RiemannianSGD on our Grassmann, against the same optimizer on geoopt's Stiefel manifolds."""

from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from benchmarks.harness import paired
from grassmann_ssl.manifolds import Grassmann, principal_angles

NAME = "momentum_step"
SHAPES: tuple[tuple[int, ...], ...] = ((512, 32), (2048, 128), (64, 256, 16))
LEARNING_RATE, MOMENTUM = 0.01, 0.9
PEERS = {"geoopt EuclideanStiefel": geoopt.EuclideanStiefel, "geoopt Stiefel (default)": geoopt.Stiefel}
PRODUCTS = "own matrix products"
# After AGREEMENT_STEPS float32 steps subspaces may differ from float64 by rounding: a few eps a step, amplified by the momentum.
AGREEMENT_STEPS, TOLERANCE = 10, 1e-4


def run(
    device: torch.device, repeats: int, shapes: tuple[tuple[int, ...], ...] = SHAPES, target: float = 0.2
) -> list[dict]:
    """Check agreement, then time, every shape; one record each. Raises RuntimeError where results disagree."""
    records = []
    for shape in shapes:
        error = disagreement(shape, device)
        if not error <= TOLERANCE:
            raise RuntimeError(f"{NAME} {shape}: subspaces differ from float64 by {error:.2g} rad; nothing was timed")
        sides = {name: momentum_step(manifold(), shape, device) for name, manifold in PEERS.items()}
        sides[PRODUCTS] = own_products(shape, device)
        ours = momentum_step(Grassmann(), shape, device)
        records.append({"shape": list(shape), "agreement_rad": error, **paired(ours, sides, device, repeats, target)})
    return records


def problem(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """A start on the manifold and the gradient scale of the cost tr(X^T diag(c) X), the same for every dtype."""
    generator = torch.Generator().manual_seed(0)
    start = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]
    return start.to(device, dtype), torch.linspace(0, 1, shape[-2], dtype=torch.float64)[:, None].to(device, dtype)


def momentum_step(manifold: geoopt.Manifold, shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """A closure that takes one step of geoopt's optimizer, the gradient of the cost written by hand: 2 c X."""
    start, cost = problem(shape, torch.float32, device)
    point = geoopt.ManifoldParameter(start.contiguous(), manifold=manifold)
    optimizer = geoopt.optim.RiemannianSGD([point], lr=LEARNING_RATE, momentum=MOMENTUM)

    def step() -> Tensor:
        point.grad = 2 * cost * point.detach()
        optimizer.step()
        return point

    return step


def own_products(shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """The five n x p x p products that a momentum step cannot do without, and nothing else.

    A = X^T G, X A, the Gram matrix Z^T Z, and Z times two p x p matrices (the new point and the transport of the momentum).
    """
    x, _ = problem(shape, torch.float32, device)
    small = x.mT @ x

    def step() -> Tensor:
        a = x.mT @ x
        x @ a
        x.mT @ x
        x @ small
        return x @ small

    return step


def disagreement(shape: tuple[int, ...], device: torch.device) -> float:
    """Largest principal angle, after a few steps, between our float32 step and Riemannian momentum written out in float64."""
    x, cost = problem(shape, torch.float64, device)
    momentum = 2 * cost * x  # geoopt starts its buffer with the Euclidean gradient
    for _ in range(AGREEMENT_STEPS):
        gradient = 2 * cost * x
        momentum = MOMENTUM * momentum + gradient - x @ (x.mT @ gradient)
        q, r = torch.linalg.qr(x - LEARNING_RATE * momentum)
        x = (
            q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[..., None, :]
        )  # a flipped column would leave its momentum behind
        momentum = momentum - x @ (x.mT @ momentum)
    step = momentum_step(Grassmann(), shape, device)
    for _ in range(AGREEMENT_STEPS):
        point = step()
    # A plain tensor: the parameter's class would drag its manifold along.
    ours = point.detach().as_subclass(Tensor).double()
    return float(principal_angles(torch.linalg.qr(ours)[0], x).max())

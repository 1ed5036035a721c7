"""Two-layer tanh networks, batched over seeds, their initialisation, and their linearisation by the tangent kernel.

g(x) = h^{-1/2} V^T tanh(U^T x), U (m, h) and V (h, d): outputs and tangent kernel are of order one in every width h. Weights start at
theta_0 + alpha xi, xi standard Gaussian, and what is trained is the centred output f(x) = g(x; theta) - g(x; theta_0). At theta_0 itself
f = 0, where the gradient of Barlow Twins is 0: a saddle. To first order f(x, 0) = alpha J(x) xi, J the Jacobian at theta_0, so that the
initial output is a random function of size alpha in the space of the kernel Theta = J J^T, as small initial weights are in a linear model.

Two kinds of theta_0, both with U of standard Gaussian columns:
    independent   V standard Gaussian. Outputs share units, so that Theta_ab, a != b, vanishes only as h^{-1/2}.
    grouped       h/d different columns of U, each d times, and V of d x d blocks sqrt(d) Q, Q orthogonal and uniformly drawn: at the start
                  Theta_ab(x, y) = delta_ab K(x, y) exactly, at any width. Training separates the units of a group.
The tangent kernel changes by training, with a smooth activation as 1/h: each weight moves by a share h^{-1/2}, in directions whose signs
are independent of what they multiply.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.nn import empirical_ntk

STARTS = ("grouped", "independent")


class Weights(NamedTuple):
    """U (S, m, h) and V (S, h, d) of S networks."""

    first: Tensor
    last: Tensor


class Network(nn.Module):
    """g(x) = h^{-1/2} V^T tanh(U^T x) of one network, U (m, h) and V (h, d)."""

    def __init__(self, first: Float[Tensor, "m h"], last: Float[Tensor, "h d"]) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(first), nn.Parameter(last)

    def forward(self, x: Float[Tensor, " n m"]) -> Float[Tensor, " n d"]:
        return outputs(x, self.first, self.last)


def outputs(
    x: Float[Tensor, " n m"], first: Float[Tensor, " *b m h"], last: Float[Tensor, " *b h d"]
) -> Float[Tensor, " *b n d"]:
    """g(x), batched over leading dimensions."""
    g: Tensor = last.shape[-2] ** -0.5 * (torch.tanh(x @ first) @ last)
    return g


def centre(start: str, seeds: int, m: int, h: int, d: int, generator: torch.Generator) -> Weights:
    """theta_0 of `seeds` networks, of the kind `start`; grouped starts need h to be a multiple of d."""
    units = h // d if start == "grouped" else h
    first = torch.randn(seeds, m, units, dtype=torch.float64, generator=generator)
    if start == "independent":
        return Weights(first, torch.randn(seeds, h, d, dtype=torch.float64, generator=generator))
    blocks = torch.randn(seeds, units, d, d, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(blocks)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]  # without it Q is not uniformly drawn
    return Weights(first.repeat_interleave(d, -1), d**0.5 * q.flatten(1, 2))


def near(weights: Weights, scale: float, generator: torch.Generator) -> Weights:
    """theta_0 + scale xi, xi standard Gaussian, drawn on the CPU."""
    return Weights(
        *(w + scale * torch.randn(w.shape, dtype=w.dtype, generator=generator).to(w.device) for w in weights)
    )


def tangent_kernels(x: Float[Tensor, " n m"], weights: Weights) -> Float[Tensor, " s n n d d"]:
    """The empirical tangent kernel of every network, outputs in the last two axes."""
    return torch.stack(
        [empirical_ntk(Network(first, last), x) for first, last in zip(weights.first, weights.last, strict=True)]
    )


def roots(kernels: Float[Tensor, " s n n d d"]) -> Float[Tensor, " s k k"]:
    """R with Theta = R R^T, k = n d: row (i, a), sample by sample, for output a of sample i.

    f = f_0 + R omega is the network linearised at theta_0, seen on the samples: gradient descent of omega from 0 gives the outputs that
    gradient descent of the parameters of the linearised network gives (Lee et al. 2019, arXiv 1902.06720).
    """
    s, n, _, d, _ = kernels.shape
    matrix = kernels.transpose(2, 3).reshape(s, n * d, n * d)
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp_min(0).sqrt()[:, None, :]
    return root

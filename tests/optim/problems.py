"""Losses of a subspace with known optima, and a loop that takes steps."""

import geoopt
import torch

from grassmann_ssl.manifolds import Grassmann


def spectrum(n, dtype=torch.float64, seed=0):
    """A symmetric matrix with eigenvalues 1 .. 4, and its eigenvectors in increasing order."""
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    return ((q * torch.linspace(1, 4, n, dtype=torch.float64)) @ q.T).to(dtype), q.to(dtype)


def rayleigh(matrix):
    """tr(X^H A X), smallest on the span of the first eigenvectors; its Euclidean gradient is 2 A X."""
    return lambda x: (x.conj() * (matrix.to(x.dtype) @ x)).real.sum()


def quartic(matrix):
    """A loss of the subspace that is not quadratic: Rayleigh quotient and the fourth powers of the projector's entries."""
    return lambda x: rayleigh(matrix)(x) + (x @ x.mH).abs().pow(4).sum()


def parameter(start, manifold=None):
    return geoopt.ManifoldParameter(start.clone(), manifold=manifold or Grassmann())


def run(loss, parameters, optimizer, steps):
    """Take steps; every parameter enters the loss by itself. Returns plain tensors."""

    def closure():
        optimizer.zero_grad()
        value = sum(loss(p) for p in parameters)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
    return [p.detach().as_subclass(torch.Tensor) for p in parameters]

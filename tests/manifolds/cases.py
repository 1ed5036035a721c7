"""Drawn points, subspaces at known angles and tangent vectors with known singular values."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from grassmann_ssl.manifolds.orthonormal import householder_qr


@dataclass(frozen=True)
class Case:
    """A shape, a dtype and a seed; n >= p >= 1, p = n and p = 1 among them."""

    batch: tuple[int, ...]
    n: int
    p: int
    dtype: torch.dtype
    seed: int

    @property
    def eps(self):
        return torch.finfo(self.dtype).eps

    def gaussian(self, *shape, k=0):
        generator = torch.Generator().manual_seed(self.seed + 1000 * k)
        return torch.randn(*self.batch, *shape, dtype=torch.float64, generator=generator).to(self.dtype)

    def point(self, k=0):
        return householder_qr(self.gaussian(self.n, self.p, k=k).double()).to(self.dtype)

    def rotation(self):
        return householder_qr(self.gaussian(self.p, self.p, k=7).double()).to(self.dtype)

    def ambient(self, k=3):
        return self.gaussian(self.n, self.p, k=k)

    def horizontal(self, largest, k=3):
        """A horizontal vector at point() whose largest singular value is `largest`, 0 where p = n."""
        x, u = self.point().double(), self.ambient(k).double()
        u = u - x @ (x.mT @ u)
        u = u - x @ (x.mT @ u)
        norm = torch.linalg.matrix_norm(u, 2, keepdim=True)
        return (u * (largest / norm if self.n > self.p else 0)).to(self.dtype)

    def at_angles(self, angles):
        """X, U and the subspace at these principal angles from X: U = H diag(angles) R^T, Y = X R cos + H sin. Needs n >= 2p."""
        basis = householder_qr(self.gaussian(self.n, self.n, k=5).double())
        h, r = basis[..., self.p : 2 * self.p], self.rotation().double()
        x = basis[..., : self.p]
        y = (x @ r) * torch.cos(angles) + h * torch.sin(angles)
        return x.to(self.dtype), ((h * angles) @ r.mT).to(self.dtype), y.to(self.dtype)


@st.composite
def cases(draw, wide=False, dtypes=(torch.float32, torch.float64)):
    """Random cases; with `wide`, n >= 2p, so that any p angles are possible."""
    p = draw(st.integers(1, 5))
    n = draw(st.integers(2 * p if wide else p, 12))
    batch = draw(st.sampled_from([(), (3,), (2, 2)]))
    return Case(batch, n, p, draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**20)))


def projector(x):
    return x @ x.mT


def subspace_error(x, y):
    """Largest entry of the difference of the projectors onto two subspaces."""
    return float((projector(x.double()) - projector(y.double())).abs().max())


def orthonormality_error(x):
    x = x.double()
    return float((x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype)).abs().max())

"""Drawn points, subspaces at known angles and tangent vectors with known singular values."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from grassmann_ssl.manifolds.orthonormal import householder_qr

REAL = (torch.float32, torch.float64)
ALL = (*REAL, torch.complex64, torch.complex128)


def wide(x):
    """In float64 or complex128."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


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
        wide = torch.complex128 if self.dtype.is_complex else torch.float64
        return torch.randn(*self.batch, *shape, dtype=wide, generator=generator).to(self.dtype)

    def point(self, k=0):
        return householder_qr(wide(self.gaussian(self.n, self.p, k=k))).to(self.dtype)

    def rotation(self):
        return householder_qr(wide(self.gaussian(self.p, self.p, k=7))).to(self.dtype)

    def ambient(self, k=3):
        return self.gaussian(self.n, self.p, k=k)

    def horizontal(self, largest, k=3):
        """A horizontal vector at point() whose largest singular value is `largest`, 0 where p = n."""
        x, u = wide(self.point()), wide(self.ambient(k))
        u = u - x @ (x.mH @ u)
        u = u - x @ (x.mH @ u)
        norm = torch.linalg.matrix_norm(u, 2, keepdim=True)
        return (u * (largest / norm if self.n > self.p else 0)).to(self.dtype)

    def at_angles(self, angles):
        """X, U and the subspace at these principal angles from X: U = H diag(angles) R^H, Y = X R cos + H sin. Needs n >= 2p."""
        basis = householder_qr(wide(self.gaussian(self.n, self.n, k=5)))
        h, r = basis[..., self.p : 2 * self.p], wide(self.rotation())
        x = basis[..., : self.p]
        y = (x @ r) * torch.cos(angles) + h * torch.sin(angles)
        return x.to(self.dtype), ((h * angles) @ r.mH).to(self.dtype), y.to(self.dtype)


@st.composite
def cases(draw, wide=False, dtypes=REAL):
    """Random cases; with `wide`, n >= 2p, so that any p angles are possible."""
    p = draw(st.integers(1, 5))
    n = draw(st.integers(2 * p if wide else p, 12))
    batch = draw(st.sampled_from([(), (3,), (2, 2)]))
    return Case(batch, n, p, draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**20)))


def projector(x):
    return x @ x.mH


def subspace_error(x, y):
    """Largest entry of the difference of the projectors onto two subspaces."""
    return float((projector(wide(x)) - projector(wide(y))).abs().max())


def orthonormality_error(x):
    x = wide(x)
    return float((x.mH @ x - torch.eye(x.shape[-1], dtype=x.dtype)).abs().max())

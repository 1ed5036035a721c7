"""Sums over the n rows of tall matrices, whose rounding does not grow with n.

A sum of a million float32 numbers, one after the other, is off by up to 1e-3. Here sums run over blocks of rows, and those of the blocks
are added in double precision: errors are those of one block, for any n. Fewer rows are one block, at the cost of one comparison.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from grassmann_ssl.manifolds.small import small_product

ROWS = 8192


def inner_products(u: Inexact[Tensor, " *b n p"], v: Inexact[Tensor, " *c n q"]) -> Inexact[Tensor, " *d p q"]:
    """U^H V; leading dimensions broadcast."""
    if u.shape[-2] <= ROWS:
        return product(u.mH, v)
    (blocks, rest), (others, remainder) = _split(u), _split(v)
    total = (blocks.mH @ others).sum(-3, dtype=double(u.dtype)) + rest.mH @ remainder
    return total.to(u.dtype)


def product(a: Inexact[Tensor, " *b n q"], b: Inexact[Tensor, " *c q p"], out: Tensor | None = None) -> Tensor:
    """A B; leading dimensions broadcast. torch.matmul takes up to 3 us to find out which of the others it is to call."""
    multiply: Callable[..., Tensor] = torch.matmul
    if a.ndim == b.ndim == 2:
        multiply = torch.mm
    elif a.ndim == b.ndim == 3 and len(a) == len(b):
        if (small := small_product(a, b, out)) is not None:
            return small
        multiply = torch.bmm
    return multiply(a, b) if out is None else multiply(a, b, out=out)


def norm(u: Inexact[Tensor, " *b n p"], keepdim: bool = False) -> Float[Tensor, " *c"]:
    """||U||_F (...,), or (..., 1, 1) with `keepdim`; its gradient is 0 at U = 0."""
    size: Tensor
    if u.shape[-2] <= ROWS:
        size = torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=keepdim)
        return size
    blocks, rest = (torch.linalg.vector_norm(part, dim=(-2, -1)) for part in _split(u))
    size = torch.linalg.vector_norm(torch.cat([blocks, rest[..., None]], -1), dim=-1)
    return size[..., None, None] if keepdim else size


def column_norms(u: Inexact[Tensor, " *b n p"]) -> Float[Tensor, " *b p"]:
    """The lengths of the columns."""
    if u.shape[-2] > ROWS:
        blocks, rest = (torch.linalg.vector_norm(part, dim=-2) for part in _split(u))
        u = torch.cat([blocks, rest[..., None, :]], -2)
    lengths: Tensor = torch.linalg.vector_norm(u, dim=-2)
    return lengths


def triangle(u: Inexact[Tensor, " *b n p"], differentiable: bool = True) -> Inexact[Tensor, " *b p p"]:
    """The triangular factor of a QR decomposition, up to phases; of the triangles of the blocks where there are several."""
    mode = "reduced" if differentiable else "r"  # the derivative needs the other factor
    if u.shape[-2] > ROWS:
        blocks, rest = (torch.linalg.qr(part, mode=mode)[1] for part in _split(u))
        u = torch.cat([blocks.flatten(-3, -2), rest], -2)
    factor: Tensor = torch.linalg.qr(u, mode=mode)[1]
    return factor


def double(dtype: torch.dtype) -> torch.dtype:
    """float64 or complex128."""
    return torch.complex128 if dtype.is_complex else torch.float64


def _split(u: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of rows (..., k, ROWS, p), and the rows left over (..., r, p), 0 <= r < ROWS."""
    whole = u.shape[-2] // ROWS * ROWS
    return torch.unflatten(u[..., :whole, :], -2, (-1, ROWS)), u[..., whole:, :]

"""Squared Frobenius norms of d x d moments."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, total


def squared_moment_norm(a: Float[Tensor, " n d"], b: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """||A^T B||_F^2, A and B (N, d) the rows of all processes. Shapes (n, d), (n, d) -> scalar.

    tr(A^T B B^T A) = sum_ij (A A^T)_ij (B B^T)_ij: computed by the N x N form where d > N, at a cost of N^2 d instead of N d^2 and
    without a d x d matrix, else by the moment itself.
    """
    n, d = a.shape
    if d > process_count() * n:
        same = a is b
        a = all_rows(a)
        first = a @ a.T
        if same:
            return first.square().sum()
        b = all_rows(b)
        return (first * (b @ b.T)).sum()
    return total(a.T @ b).square().sum()


def distance_to_identity(c: Float[Tensor, " *b d d"], lambda_: float = 1.0) -> Float[Tensor, " *b"]:
    """sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2; for lambda = 1, ||C - I||_F^2. Shapes (..., d, d) -> (...)."""
    identity = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    square = (c - identity).square()
    if lambda_ != 1:
        square = square * (lambda_ + (1 - lambda_) * identity)
    return square.sum((-2, -1))


def centred(z: Float[Tensor, " n d"]) -> Float[Tensor, " n d"]:
    """z less its mean over the rows of all processes.

    Taken away twice: the first mean is rounded in the size of z, which may be more than its spread, the second in the spread.
    """
    count = process_count() * len(z)
    z = z - total(z.sum(0)) / count
    return z - total(z.sum(0)) / count

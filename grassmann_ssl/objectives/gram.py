"""Squared Frobenius norms of d x d moments, by the smaller of two matrices."""

from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, total


def squared_moment_norm(a: Float[Tensor, " n d"], b: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """||A^T B||_F^2, A and B the rows of all processes, N of them.

    tr(A^T B B^T A) = sum_ij (A A^T)_ij (B B^T)_ij: by the N x N form where d > N, at a cost of N^2 d instead of N d^2 and without a d x d
    matrix, else by the moment itself.
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

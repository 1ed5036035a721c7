"""Whitening-MSE: the mean squared error between whitened, normalised views."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare
from grassmann_ssl.precision import full_precision


@declare(source="Ermolov et al. 2021, arXiv 2007.06346, sec. 3", rotation_invariant=False, whitens=True)
@full_precision
def w_mse(*, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"]) -> Float[Tensor, ""]:
    """Whitening-MSE on two views, each whitened over the batch and normalised to the unit sphere.

    L = 2 - (2/n) sum_k cos(w_k, w'_k) = (1/n) sum_k ||w_k/|w_k| - w'_k/|w'_k|||^2,   w = L^{-1} (z - mean), L L^T the covariance
    (unbiased) of z, L lower-triangular; w' the same of z' with its own covariance; means and covariances of the rows of all processes.
    Shapes (n, d), (n, d) -> scalar. Raises ValueError where n <= d: the covariance is singular. NaN where it is singular for another
    reason. Not rotation-invariant: the Cholesky factors of the two views transform differently. Deviation from the source: one whitening of
    the whole batch, where its code may average over several random partitions into sub-batches. Source: Ermolov et al. 2021, arXiv
    2007.06346, sec. 3.
    """
    count, d = process_count() * len(z), z.shape[1]
    if count <= d:
        raise ValueError(f"z must have more rows than its {d} dimensions to be whitened: {d + 1} or more, got {count}")
    white, white_positive = (_whiten(v, count) for v in (z, z_positive))
    cosines = torch.nn.functional.cosine_similarity(white, white_positive, dim=0)
    return 2 - 2 * total(cosines.sum()) / count


def _whiten(z: Float[Tensor, " n d"], count: int) -> Float[Tensor, " d n"]:
    centred = (z - total(z.sum(0)) / count).T
    factor, info = torch.linalg.cholesky_ex(total(centred @ centred.T) / (count - 1))
    # cholesky would wait for the device to raise; what cholesky_ex leaves of a failed factorisation may look like a factor
    factor = torch.where(info > 0, torch.nan, factor)
    white: Tensor = torch.linalg.solve_triangular(factor, centred, upper=False)
    return white

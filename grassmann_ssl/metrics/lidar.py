"""LiDAR: the effective rank of the scatter between samples relative to the scatter between views of a sample."""

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.metrics.accumulate import centred_rows
from grassmann_ssl.metrics.ranks import effective_rank, rounding_variance


@torch.no_grad()
def lidar(z: Tensor, *, delta: float = 1e-4, eps: float = 1e-8) -> Float[Tensor, ""]:
    """LiDAR of n samples seen in q views each, z (n, q, d): the effective rank of S_w^{-1/2} S_b S_w^{-1/2}, in float64.

    S_b = sum_i (m_i - m)(m_i - m)^T / (n - 1),   S_w = sum_ij (z_ij - m_i)(z_ij - m_i)^T / (n (q - 1)) + delta I,   m_i the mean over
    the views of sample i, m that over samples; exp(-sum_k p_k log p_k), p_k proportional to l_k + eps, l_k the d eigenvalues.
    At most min(d, n - 1) for eps = 0. Means of q views differ by chance also where samples do not: such directions have l = 1/q, and
    count. 0 where all m_i are equal up to rounding: complete collapse, never NaN. Invariant to rotations and shifts of z, but
    not to its scale, because of delta. Raises ValueError for n < 2, q < 2, q > n (views first), values that are not finite, delta <= 0 and
    eps < 0. Deviation from the source: p sums to 1 exactly. Source: Thilak et al. 2024, arXiv 2312.04000.
    """
    if z.ndim != 3 or z.shape[0] < 2 or z.shape[1] < 2:
        raise ValueError(f"z must have shape (n >= 2 samples, q >= 2 views, d), got {tuple(z.shape)}")
    if z.shape[1] > z.shape[0]:
        raise ValueError(
            f"z must have shape (n samples, q views, d) with n >= q, got {tuple(z.shape)}: are samples and views exchanged?"
        )
    if not (delta > 0 and eps >= 0):
        raise ValueError(f"delta must be positive and eps at least 0, got delta = {delta}, eps = {eps}")
    if not torch.isfinite(z).all():
        raise ValueError("z must be finite, and some entries are not")
    n, q, d = z.shape
    resolution = torch.finfo(z.dtype).eps
    means, within = centred_rows(z.double())
    mean, between = centred_rows(means)
    between_scatter = between.T @ between / (n - 1)
    within = within.flatten(0, 1)
    within_scatter = within.T @ within / (n * (q - 1)) + delta * torch.eye(d, dtype=z.dtype, device=z.device).double()
    # L^{-1} S_b L^{-T} with S_w = L L^T has the eigenvalues of S_w^{-1/2} S_b S_w^{-1/2}.
    factor = torch.linalg.cholesky(within_scatter)
    half = torch.linalg.solve_triangular(factor, between_scatter, upper=False)
    ratio = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    values = torch.linalg.eigvalsh((ratio + ratio.mT) / 2).clamp_min(0)
    noise = max(n, d) * torch.finfo(values.dtype).eps * values[-1]
    values = torch.where(values > noise, values, 0)
    apart = between_scatter.trace() > rounding_variance(mean, resolution)
    return torch.where(apart, effective_rank(values + eps), 0)

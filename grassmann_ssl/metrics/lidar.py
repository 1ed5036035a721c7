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
    _check(z, delta, eps)
    between, within, apart = _centred(z)
    ratio, _ = _ratio(between, within, delta)
    return torch.where(apart, effective_rank(_above_rounding(torch.linalg.eigvalsh(ratio), len(z)) + eps), 0)


@torch.no_grad()
def lidar_without(
    z: Tensor, block: Tensor, *, delta: float = 1e-4, eps: float = 1e-8
) -> tuple[Float[Tensor, ""], Float[Tensor, " b"]]:
    """LiDAR of z (n, q, d), and what it is without the samples of each block (B,), to first order, from one decomposition.

    `block` (n,) numbers the block of every sample, 0 .. B - 1. With S_b u_k = l_k S_w u_k, u_k^T S_w u_k = 1, without a block
        l_k' = u_k^T S_b' u_k / u_k^T S_w' u_k,
    S_b' and S_w' the scatters of the samples left, about their own mean: a jackknife of LiDAR by its influence function, which varies as
    LiDAR itself does from sample to sample; fitted anew to fewer samples it varies more. Raises ValueError as `lidar`, and where
    fewer than two samples are left. Sources: Thilak et al. 2024, arXiv 2312.04000; Jaeckel 1972; Efron 1982, ch. 6.
    """
    _check(z, delta, eps)
    n, q, d = z.shape
    size = torch.bincount(block).double().to(z.device)[:, None]
    left = n - size
    if bool((left < 2).any()):
        raise ValueError(f"block must leave at least 2 of {n} samples, got one of {int(size.max())}")
    between, within, apart = _centred(z)
    ratio, factor = _ratio(between, within, delta)
    values, vectors = torch.linalg.eigh(ratio)
    values = _above_rounding(values, n)
    modes = torch.linalg.solve_triangular(factor.mT, vectors, upper=True)  # u_k
    seen, noise = between @ modes, (within.flatten(0, 1) @ modes).square().view(n, q, d).sum(1)

    def over_blocks(table: Tensor) -> Tensor:
        return table.new_zeros(len(size), d).index_add_(0, block.to(z.device), table)

    kept = (n - 1) * values - over_blocks(seen.square()) - over_blocks(seen).square() / left
    inner = (noise.sum(0) - over_blocks(noise)) / (left * (q - 1)) + delta * modes.square().sum(0)
    without = effective_rank((kept / (left - 1) / inner).clamp_min(0) + eps)
    return torch.where(apart, effective_rank(values + eps), 0), torch.where(apart, without, 0)


def _check(z: Tensor, delta: float, eps: float) -> None:
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


def _centred(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of the views (n, d) less that of the samples, views (n, q, d) less their mean; whether samples differ by more than rounding."""
    resolution = torch.finfo(z.dtype).eps
    means, within = centred_rows(z.double())
    mean, between = centred_rows(means)
    return between, within, between.square().sum() / (len(z) - 1) > rounding_variance(mean, resolution)


def _ratio(between: Tensor, within: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """L^{-1} S_b L^{-T} with S_w = L L^T, which has the eigenvalues of S_w^{-1/2} S_b S_w^{-1/2}; and L."""
    n, q, d = within.shape
    rows = within.flatten(0, 1)
    scatter = rows.T @ rows / (n * (q - 1)) + delta * torch.eye(d, dtype=rows.dtype, device=rows.device)
    factor = torch.linalg.cholesky(scatter)
    half = torch.linalg.solve_triangular(factor, between.T @ between / (n - 1), upper=False)
    ratio = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    return (ratio + ratio.mT) / 2, factor


def _above_rounding(values: Tensor, n: int) -> Tensor:
    noise = max(n, len(values)) * torch.finfo(values.dtype).eps * values[-1]
    return torch.where(values > noise, values, 0)

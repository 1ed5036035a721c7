"""Ranks read off a spectrum. Which spectrum (singular values or eigenvalues, centred or not) is the caller's to name."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(spectrum: Float[Tensor, " *b d"]) -> Float[Tensor, " *b"]:
    """The exponential of the entropy of a spectrum: exp(-sum_k p_k log p_k), p = spectrum / sum(spectrum).

    Of covariance eigenvalues it is the effective rank logged here; of the singular values of an uncentred embedding matrix it is
    RankMe (Garrido et al. 2023, arXiv 2210.02885) without its epsilon of 1e-7. Negative entries (rounding) count as 0.
    Between 1 and d, and 0 where the whole spectrum is 0: a point has no rank, not NaN. Shapes (..., d) -> (...).
    Source: Roy & Vetterli 2007.
    """
    positive = spectrum.clamp_min(0)
    total = positive.sum(-1, keepdim=True)
    p = positive / torch.where(total > 0, total, 1)
    return torch.where(total[..., 0] > 0, torch.exp(-torch.xlogy(p, p).sum(-1)), 0)


def participation_ratio(spectrum: Float[Tensor, " *b d"]) -> Float[Tensor, " *b"]:
    """(sum_k l_k)^2 / sum_k l_k^2: between 1 and d, and 0 where the whole spectrum is 0. Shapes (..., d) -> (...).

    Negative entries (rounding) count as 0.
    """
    positive = spectrum.clamp_min(0)
    largest = positive.amax(-1, keepdim=True)
    scaled = positive / torch.where(largest > 0, largest, 1)  # squares of a spectrum near 1e-200 would underflow
    square = scaled.square().sum(-1)
    return scaled.sum(-1).square() / torch.where(square > 0, square, 1)

"""Do a predictor and the correlation of its inputs share their eigenvectors?"""

import torch
from jaxtyping import Float
from torch import Tensor


def eigenspaces(correlation: Float[Tensor, "*b d d"], predictor: Float[Tensor, "*b d d"]) -> dict[str, Tensor]:
    """Spectra of F and W_p, and how far W_p keeps the eigenvectors u_j of F, in the order of decreasing eigenvalues of F.

    f           eigenvalues of F (*b, d), decreasing, those below 0 (rounding) as 0
    p           eigenvalues of (W_p + W_p^T) / 2 (*b, d), decreasing
    cosine      |u_j^T W_p u_j| / ||W_p u_j|| (*b, d): 1 where u_j is an eigenvector of W_p, as of every multiple of the identity
    unaligned   the mean over coordinate axes e of |e^T W_p e| / ||W_p e|| (*b, 1): what axes unrelated to F have under the same W_p
    asymmetry   ||W_p - W_p^T||_F / ||W_p||_F (*b, 1)
    A W_p that vanishes has cosines and asymmetry 0. Source: Tian et al. 2021, arXiv 2102.06810, Fig. 2; `unaligned` is ours.
    """
    values, vectors = torch.linalg.eigh(correlation)
    norm, skew = (torch.linalg.matrix_norm(m) for m in (predictor, predictor - predictor.mT))
    axes = torch.eye(predictor.shape[-1], dtype=predictor.dtype, device=predictor.device).expand_as(predictor)
    return {
        "f": values.flip(-1).clamp_min(0),
        "p": torch.linalg.eigvalsh((predictor + predictor.mT) / 2).flip(-1),
        "cosine": _kept(predictor, vectors).flip(-1),
        "unaligned": _kept(predictor, axes).mean(-1, keepdim=True),
        "asymmetry": (skew / torch.where(norm > 0, norm, 1))[..., None],
    }


def _kept(matrix: Tensor, vectors: Tensor) -> Tensor:
    """|v^T M v| / ||M v|| of the unit columns v (*b, d, k), 0 where M v = 0."""
    moved = matrix @ vectors
    norm = torch.linalg.vector_norm(moved, dim=-2)
    return (vectors * moved).sum(-2).abs() / torch.where(norm > 0, norm, 1)

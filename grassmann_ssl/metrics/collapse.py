"""The collapse verdict: does an embedding still carry variance, and in all of its dimensions?"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COMPLETE = 1e-4
DEAD = 1e-4

COLLAPSE_RULE = (
    "Judged on the eigenvalues l_1 >= ... >= l_d of the centred covariance of the embedding over single views, at the end of "
    f"the run. complete: the mean variance per dimension, (l_1 + ... + l_d)/d, is below {COMPLETE:g} of the mean variance per "
    f"input dimension. dimensional: not complete, and some dimension is dead, l_k < {DEAD:g} l_1 (its standard deviation is "
    "under 1 % of the largest). none: otherwise. An arm counts as collapsed when most of its seeds are."
)

SCATTER = 1e-2

DIRECTIONS_RULE = (
    "Judged on the eigenvalues l_1 >= ... >= l_d of the centred covariance of z / ||z|| over single views, for losses that see "
    f"directions only. complete: l_1 + ... + l_d, which is 1 for directions spread over the sphere, is below {SCATTER:g}: all lie within "
    f"about a tenth of a radian of each other. dimensional: not complete, and some dimension is dead, l_k < {DEAD:g} l_1. none: otherwise."
)


@dataclass(frozen=True)
class CollapseVerdict:
    """Per run: complete and dimensional collapse (never both), and the number of dimensions that are not dead."""

    complete: Bool[Tensor, " *b"]
    dimensional: Bool[Tensor, " *b"]
    live_dimensions: Int[Tensor, " *b"]

    @property
    def collapsed(self) -> Bool[Tensor, " *b"]:
        """Complete or dimensional collapse."""
        return self.complete | self.dimensional

    def kinds(self) -> dict[str, int]:
        """Number of runs of each kind: none, dimensional, complete."""
        complete, dimensional = int(self.complete.sum()), int(self.dimensional.sum())
        return {
            "none": self.complete.numel() - complete - dimensional,
            "dimensional": dimensional,
            "complete": complete,
        }


def collapse_verdict(
    covariance_eigenvalues: Float[Tensor, " *b d"], input_variance: float, log_scale: float | Float[Tensor, " *b"] = 0.0
) -> CollapseVerdict:
    """Judge embeddings by the eigenvalues (..., d) of their centred covariance, by COLLAPSE_RULE.

    `input_variance` is the mean variance per input dimension; `log_scale` (...) is added to the logarithm of the eigenvalues, for
    runs whose weights were rescaled during training and whose true variances may overflow or underflow.
    Raises ValueError where the eigenvalues are not finite or the input variance is not positive.
    """
    if not torch.isfinite(covariance_eigenvalues).all():
        raise ValueError("covariance_eigenvalues must be finite, and some are not: the run diverged")
    if not input_variance > 0:
        raise ValueError(f"input_variance must be positive, got {input_variance}")
    eigenvalues = covariance_eigenvalues.clamp_min(0)
    largest = eigenvalues.amax(-1, keepdim=True)
    live = ((eigenvalues >= DEAD * largest) & (largest > 0)).sum(-1)
    log_variance = eigenvalues.mean(-1).log() + log_scale
    complete = log_variance < torch.tensor(COMPLETE * input_variance, dtype=eigenvalues.dtype).log().to(
        eigenvalues.device
    )
    return CollapseVerdict(complete, ~complete & (live < eigenvalues.shape[-1]), live)


def directions_verdict(covariance_eigenvalues: Float[Tensor, " *b d"]) -> CollapseVerdict:
    """Judge the directions z / ||z|| of embeddings by the eigenvalues (..., d) of their centred covariance, by DIRECTIONS_RULE.

    Raises ValueError where the eigenvalues are not finite.
    """
    d = covariance_eigenvalues.shape[-1]
    return collapse_verdict(covariance_eigenvalues, SCATTER / (COMPLETE * d))

"""Effective ranks, spectral decay and conditioning: of a given spectrum, or of embeddings, by one eigendecomposition of their moments."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.shown import Shown

# Rounding errors that the last layers of an encoder add up to, in units of the machine epsilon of their dtype.
ROUNDINGS = 4


def effective_rank(spectrum: Float[Tensor, " *b d"]) -> Float[Tensor, " *b"]:
    """The exponential of the entropy of a spectrum: exp(-sum_k p_k log p_k), p = spectrum / sum(spectrum).

    Of covariance eigenvalues it is the effective rank logged here; of the singular values of an uncentred embedding matrix it is
    RankMe (Garrido et al. 2023, arXiv 2210.02885) without its epsilon of 1e-7. Negative entries (rounding) count as 0.
    Between 1 and d, and 0 where the whole spectrum is 0, never NaN. Shapes (..., d) -> (...).
    Source: Roy & Vetterli 2007.
    """
    return _entropy_rank(spectrum.clamp_min(0))


def _entropy_rank(values: Float[Tensor, " *b d"], eps: float = 0.0) -> Float[Tensor, " *b"]:
    """exp(-sum_k p_k log p_k), p_k = values_k / sum_j values_j + eps, of values >= 0; 0 where all are 0."""
    total = values.sum(-1, keepdim=True)
    p = values / torch.where(total > 0, total, 1) + eps
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


@dataclass(frozen=True, repr=False)
class SpectralSummary(Shown):
    """Metrics of the spectrum l_1 >= ... >= l_d of embeddings. No field is ever NaN; a spectrum of zeros has all ranks 0.

    center             whether l are eigenvalues of the centred covariance or of the second moment about 0
    count              number of rows
    spectrum           l (d,), rounding noise set to 0 (`eigenvalues`)
    rankme             exp of the entropy of the singular values, sqrt(l): RankMe without its epsilon, as published for center=False
    effective_rank     exp of the entropy of l
    participation_ratio  (sum l)^2 / sum l^2
    stable_rank        sum l / l_1
    alpha              -slope of log l_k against log k over `alpha_range`, of equal weights (`alpha_req`); None where fewer than 3 of
                       these eigenvalues are positive
    alpha_range        first and last k of that fit, 1-based, inclusive: the range asked for, cut to the positive eigenvalues
    condition_number   l_1 / l_d; infinite where l_d is 0
    std_min, std_mean  least and mean standard deviation (biased) of single dimensions, about the mean whatever `center` is
    """

    center: bool
    count: int
    spectrum: Float[Tensor, " d"]
    rankme: float
    effective_rank: float
    participation_ratio: float
    stable_rank: float
    alpha: float | None
    alpha_range: tuple[int, int]
    condition_number: float
    std_min: float
    std_mean: float


def spectral_summary(
    moments: SecondMoments, *, center: bool, alpha_range: tuple[int, int] | None = None
) -> SpectralSummary:
    """Every spectral metric of `SpectralSummary` by one symmetric eigenvalue decomposition; waits for the device.

    `alpha_range` = (first, last), 1-based, inclusive; None is all positive eigenvalues. Raises ValueError for moments of no rows or
    of values that are not finite, and for a range that is not 1 <= first <= last.
    """
    spectrum = eigenvalues(moments, center=center)
    alpha, used = alpha_req(spectrum, alpha_range)
    std = standard_deviations(moments)
    largest, least = float(spectrum[0]), float(spectrum[-1])
    return SpectralSummary(
        center=center,
        count=moments.count,
        spectrum=spectrum,
        rankme=float(effective_rank(spectrum.sqrt())),
        effective_rank=float(effective_rank(spectrum)),
        participation_ratio=float(participation_ratio(spectrum)),
        stable_rank=float(spectrum.sum()) / largest if largest else 0.0,
        alpha=alpha,
        alpha_range=used,
        condition_number=largest / least if least else math.inf,
        std_min=float(std.min()),
        std_mean=float(std.mean()),
    )


@torch.no_grad()
def eigenvalues(moments: SecondMoments, *, center: bool) -> Float[Tensor, " d"]:
    """Eigenvalues (d,), decreasing, of the covariance (center) or of the second moment about 0; those below rounding noise are exactly 0.

    Noise of the decomposition: l below max(n, d) eps l_1, eps = 2.2e-16; singular values below sqrt(max(n, d) eps) s_1, which the Gram
    matrix squares away, cannot be told from 0. Noise of the rows, when centred: a constant embedding computed in a dtype with epsilon u
    scatters by some u |mean|, so all l are 0 where their sum is below (4 u |mean|)^2.
    Raises ValueError for moments of no rows, or of values that are not finite.
    """
    matrix = moments.covariance if center else moments.second
    if not torch.isfinite(matrix).all():
        raise ValueError("moments must be of finite embeddings, and some were not: the run diverged")
    values = torch.linalg.eigvalsh(matrix).flip(-1).clamp_min(0)
    floor = max(moments.count, moments.dimension) * torch.finfo(values.dtype).eps * values[0]
    if center:
        spread = values.sum() > rounding_variance(moments.mean, moments.resolution)
        values = torch.where(spread, values, 0)
    return torch.where(values > floor, values, 0)


def rankme(
    source: SecondMoments | Float[Tensor, " *b d"],
    *,
    center: bool = False,
    of: Literal["singular", "eigen"] = "singular",
    eps: float = 0.0,
) -> Float[Tensor, " *b"]:
    """RankMe: exp(-sum_k p_k log p_k), p_k = s_k / sum_j s_j + eps, with explicit conventions. (...), between 0 and the rank.

    `source` is moments of embeddings, or a spectrum (..., d) of eigenvalues l of their covariance or second moment. `of`: s are the
    singular values of the embeddings, sqrt(l), as published, or the eigenvalues l. `center`: of the moments, embeddings less their mean;
    published without. `eps`: 1e-7 in the source, 0 here: it adds entropy for every direction without variance (with 1e-5, rank 1 in 2048
    dimensions is 1.27). Moments have min(n, d) singular values. 0 where the whole spectrum is 0: all embeddings 0 or, with `center`, equal.
    Never NaN. A Gram matrix squares: singular values below sqrt(max(n, d) 2.2e-16) of the largest, 1e-6 for n = 10^4, count as 0
    (`eigenvalues`). Raises ValueError for center=True with a spectrum, whose centring is decided already, for spectra that do not
    decrease or are negative, for another `of`, for an eps below 0, and as `eigenvalues`. Source: Garrido et al. 2023, arXiv 2210.02885.
    """
    if of not in ("singular", "eigen"):
        raise ValueError(f"of must be 'singular' or 'eigen', got {of!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if isinstance(source, SecondMoments):
        values = eigenvalues(source, center=center)[: source.count]
    elif center:
        raise ValueError("center must be False for a spectrum: give the moments, or the spectrum of centred embeddings")
    else:
        values = source.clamp_min(0)
        # Rows of embeddings would be taken for spectra, one rank for each.
        if not bool(
            (source[..., :-1] >= source[..., 1:]).all() & (source >= -1e-6 * values.amax(-1, keepdim=True)).all()
        ):
            raise ValueError(
                f"source must be moments or spectra that decrease and are not negative, got {tuple(source.shape)} values: "
                "for embeddings give SecondMoments.of(z), or ask audit_embeddings"
            )
    if of == "singular":
        values = values.sqrt()
    return _entropy_rank(values, eps)


def alpha_req(
    spectrum: Float[Tensor, " d"],
    fit_range: tuple[int, int] | None = None,
    *,
    weights: Literal["equal", "inverse"] = "equal",
) -> tuple[float | None, tuple[int, int]]:
    """alpha of l_k ~ k^-alpha, by least squares of log l_k on log k, and the range of k that was used; `spectrum` decreasing.

    min_(a, b) sum_k w_k (log l_k - b + a log k)^2, alpha = a. `weights` are "equal", w_k = 1, so that the many small eigenvalues dominate,
    or "inverse", w_k = 1/k, as in the code of the sources, which weighs every octave of k alike; with a rank-deficient spectrum or one that
    ends in a cliff alpha says little. `fit_range` = (first, last), 1-based, inclusive, is cut to the positive eigenvalues; None is all of
    them. alpha is None where fewer than 3 are left: two points always lie on a line. Raises ValueError unless 1 <= first <= last, and for
    other weights. Source: Agrawal et al. 2022, alpha-ReQ (NeurIPS), after Stringer et al. 2019.
    """
    if weights not in ("equal", "inverse"):
        raise ValueError(f"weights must be 'equal' or 'inverse', got {weights!r}")
    positive = int((spectrum > 0).sum())
    first, last = (1, positive) if fit_range is None else fit_range
    if fit_range is not None and not 1 <= first <= last:
        raise ValueError(f"alpha_range must be (first, last) with 1 <= first <= last, got {fit_range}")
    last = min(last, positive)
    if last - first < 2:
        return None, (first, last)
    k = torch.arange(first, last + 1, dtype=torch.float64, device=spectrum.device)
    w = torch.ones_like(k) if weights == "equal" else 1 / k
    w = w / w.sum()
    x, y = k.log(), spectrum[first - 1 : last].double().log()
    x = x - (w * x).sum()
    return -float((w * x * (y - (w * y).sum())).sum() / (w * x.square()).sum()), (first, last)


def standard_deviations(moments: SecondMoments) -> Float[Tensor, " d"]:
    """The standard deviation (biased) of every dimension about its mean; 0 where it is rounding of the mean.

    Raises ValueError for moments of no rows.
    """
    variance = moments.covariance.diagonal()
    noise = (ROUNDINGS * moments.resolution * moments.mean).square()
    return torch.where(variance > noise, variance, 0).sqrt()


def rounding_variance(mean: Float[Tensor, " d"], resolution: float) -> Float[Tensor, ""]:
    """(4 u |mean|)^2: a total variance below it is rounding of constant embeddings computed with machine epsilon u."""
    length: Tensor = torch.linalg.vector_norm(mean)
    return (ROUNDINGS * resolution * length).square()

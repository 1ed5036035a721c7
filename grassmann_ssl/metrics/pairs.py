"""Metrics of pairs: of positive pairs, of all pairs of a batch, and of two embeddings of the same samples."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.manifolds import principal_angles
from grassmann_ssl.metrics.accumulate import centred_rows
from grassmann_ssl.metrics.ranks import rounding_variance
from grassmann_ssl.precision import no_autocast

BLOCK_ELEMENTS = 2**24  # distances held at a time: 64 MiB in float32


@torch.no_grad()
def alignment(z: Tensor, z_positive: Tensor, *, alpha: float = 2.0) -> Float[Tensor, ""]:
    """The mean of |z_i - z+_i|^alpha over positive pairs, on the unit sphere: 0 is perfect; alpha = 2 gives 2 for independent uniform rows.

    Rows are normalised to unit length; zero rows stay 0. Shapes (n, d), (n, d) -> scalar. Raises ValueError for other shapes and for
    alpha <= 0. Source: Wang & Isola 2020, arXiv 2005.10242, sec. 4.1.
    """
    _check_pair(z, z_positive, same_width=True)
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    distances: Tensor = torch.linalg.vector_norm(on_sphere(z) - on_sphere(z_positive), dim=1)
    return distances.pow(alpha).mean()


@torch.no_grad()
def uniformity(z: Tensor, *, t: float = 2.0) -> Float[Tensor, ""]:
    """log of the mean of exp(-t |z_i - z_j|^2) over the n (n - 1) / 2 distinct pairs, on the unit sphere: lower is better.

    Between -4 t and 0, the value at complete collapse. Rows are normalised to unit length; zero rows stay 0. Distances are computed in
    blocks and summed as a log-sum-exp, so that no t underflows. Shapes (n, d) -> scalar. Raises ValueError for n < 2 and for t <= 0.
    Source: Wang & Isola 2020, arXiv 2005.10242, sec. 4.1.
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"z must have shape (n >= 2, d), got {tuple(z.shape)}")
    if not t > 0:
        raise ValueError(f"t must be positive, got {t}")
    n, unit = len(z), on_sphere(z)
    squares = unit.square().sum(1)
    sums = []
    rows = max(1, BLOCK_ELEMENTS // n)
    with no_autocast(z.device.type):
        for start in range(0, n - 1, rows):
            block = unit[start : start + rows]
            distances = squares[start : start + rows, None] + squares[start:] - 2 * block @ unit[start:].T
            exponents = -t * distances.clamp_min(0)
            seen = torch.ones_like(exponents, dtype=torch.bool).tril()
            sums.append(exponents.masked_fill(seen, -math.inf).flatten().logsumexp(0))
    return torch.stack(sums).logsumexp(0) - math.log(n * (n - 1) / 2)


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> Float[Tensor, ""]:
    """Linear centred kernel alignment of two embeddings of the same n samples, in [0, 1], in float64.

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of centred X (n, p), Y (n, q), or <X X^T, Y Y^T> / (|X X^T|_F |Y Y^T|_F), the same, by whichever
    products are smaller. The biased estimator: for independent X and Y it is near 0 only where n is far above p and q. Invariant to
    rotations of the coordinates and to the scale of X and of Y. 0 where one of them is constant up to rounding. Raises ValueError unless
    both are arrays of the same number of rows, n >= 2. Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    _check_pair(x, y, same_width=False)
    x, y = (_centred_to_unit_size(v) for v in (x, y))
    if max(x.shape[1], y.shape[1]) <= len(x):
        cross, own, other = (y.T @ x).square().sum(), x.T @ x, y.T @ y
    else:
        own, other = x @ x.T, y @ y.T
        cross = (own * other).sum()
    norm = torch.linalg.matrix_norm(own) * torch.linalg.matrix_norm(other)
    return cross / torch.where(norm > 0, norm, 1)


@torch.no_grad()
def subspace_angles_to(z: Tensor, reference: Tensor, *, center: bool = True) -> Float[Tensor, " r"]:
    """Principal angles (r,), increasing, in radians, between the column spans of two embeddings of the same n samples, in float64.

    0 for a direction that both spans contain, pi/2 for one orthogonal to the other span; with `center`, columns less their means. r is the
    smaller rank of the two, 0 for constant embeddings. The rank is the number of singular values above max(n, p) u s_1, u the
    machine epsilon of the dtype given; centred ones must also be above rounding of the mean. Invariant to invertible linear maps of the
    coordinates, unlike `linear_cka`, and so independent of the variance of a direction.
    Raises ValueError unless both are arrays of the same number of rows, n >= 2.
    """
    _check_pair(z, reference, same_width=False)
    a, b = sorted((_span(v, center) for v in (z, reference)), key=lambda basis: basis.shape[1])
    if not a.shape[1]:
        return a.new_empty(0)
    # The part of the larger span that is nearest to the smaller one has the same angles and as many dimensions.
    nearest = b @ torch.linalg.svd(b.T @ a, full_matrices=False).U
    return principal_angles(a, nearest)


def _span(z: Tensor, center: bool) -> Tensor:
    """An orthonormal basis (n, rank) of the columns of z."""
    rows = z.double()
    mean, centred = centred_rows(rows)
    u, s, _ = torch.linalg.svd(centred if center else rows, full_matrices=False)
    resolution = torch.finfo(z.dtype).eps
    noise = max(z.shape) * resolution * s[0]
    if center:
        noise = torch.maximum(noise, (len(z) * rounding_variance(mean, resolution)).sqrt())
    basis: Tensor = u[:, : int((s > noise).sum())]
    return basis


def on_sphere(z: Float[Tensor, " n d"]) -> Float[Tensor, " n d"]:
    """Rows normalised to unit length, however small they are, in float32, or float64 for float64 input; zero rows stay 0."""
    z = z if z.dtype == torch.float64 else z.float()
    largest = z.abs().amax(1, keepdim=True)
    return F.normalize(z / torch.where(largest > 0, largest, 1), dim=1)


def _centred_to_unit_size(z: Tensor) -> Tensor:
    mean, rows = centred_rows(z.double())
    spread = rows.square().sum() / len(z) > rounding_variance(mean, torch.finfo(z.dtype).eps)
    # Fourth powers of entries near 1e-100 would underflow.
    return torch.where(spread, rows / torch.where(spread, rows.abs().max(), 1), 0)


def _check_pair(x: Tensor, y: Tensor, *, same_width: bool) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2 or (same_width and x.shape != y.shape):
        wanted = "the same shape (n >= 2, d)" if same_width else "shapes (n >= 2, p) and (n, q)"
        raise ValueError(f"the two embeddings must have {wanted}, got {tuple(x.shape)} and {tuple(y.shape)}")

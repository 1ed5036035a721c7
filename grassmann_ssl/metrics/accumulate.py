"""Count, mean and scatter of embeddings, accumulated over batches and processes: all that spectral metrics need."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class SecondMoments:
    """The count n, mean m (d,) and centred scatter M (d, d) = sum_i (z_i - m)(z_i - m)^T of rows seen so far, in float64.

    Batches and other moments are merged by m <- m_a + (n_b / n) D, M <- M_a + M_b + (n_a n_b / n) D D^T, D = m_b - m_a. A large mean costs
    the covariance no digits, and equal rows have a scatter of exactly 0. `resolution` is the machine epsilon of the coarsest dtype seen,
    the relative error of the rows. On `device`, which must support float64. Raises ValueError for a d below 1. Source: Chan, Golub &
    LeVeque 1979.

        >>> moments = SecondMoments(3)
        >>> for batch in torch.eye(3).split(2):
        ...     moments.update(batch)
        >>> moments.count, round(moments.covariance.trace().item(), 6)
        (3, 0.666667)
    """

    def __init__(self, d: int, *, device: torch.device | str | None = None) -> None:
        if d < 1:
            raise ValueError(f"d must be at least 1, got {d}")
        self.count = 0
        self.resolution = 0.0
        self.mean: Float[Tensor, " d"] = torch.zeros(d, dtype=torch.float64, device=device)
        self.scatter: Float[Tensor, " d d"] = torch.zeros(d, d, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, z: Float[Tensor, " n d"]) -> "SecondMoments":
        """The moments of one array (n, d), on its device. Raises ValueError for another shape or an integer dtype."""
        _check_rows(z, None)
        moments = cls(z.shape[1], device=z.device)
        moments.update(z)
        return moments

    def __repr__(self) -> str:
        return f"SecondMoments({self.count:,} rows of {self.dimension} dimensions, total variance {float(self.covariance.trace()):.4g})"

    @property
    def dimension(self) -> int:
        """Number d of dimensions."""
        return len(self.mean)

    @torch.no_grad()
    def update(self, z: Float[Tensor, " n d"]) -> None:
        """Add the rows of a batch (n, d) of any floating dtype; n may be 0. Does not wait for the device.

        Raises ValueError for another shape or an integer dtype. Values that are not finite stay in the moments.
        """
        _check_rows(z, self.dimension)
        if len(z):
            mean, centred = centred_rows(z.to(self.mean.dtype))
            self._merge(len(z), mean, centred.T @ centred)
            self.resolution = max(self.resolution, torch.finfo(z.dtype).eps)

    def merge(self, other: "SecondMoments") -> None:
        """Add the rows that `other` has seen; `other` is unchanged. Raises ValueError for another d."""
        if other.dimension != self.dimension:
            raise ValueError(f"other must have d = {self.dimension} as these moments have, got d = {other.dimension}")
        if other.count:
            self._merge(other.count, other.mean.to(self.mean), other.scatter.to(self.scatter))
            self.resolution = max(self.resolution, other.resolution)

    @torch.no_grad()
    def all_reduce(self) -> "SecondMoments":
        """New moments, of the rows of all processes, the same on each; these remain those of this process.

        The counts may differ, and be 0. Without an initialised process group it is a copy. Counts and means are gathered, scatters about
        the common mean are summed in place, so that no process holds more than two (d, d) matrices. Waits for the device.
        """
        whole = SecondMoments(self.dimension, device=self.mean.device)
        if not (dist.is_available() and dist.is_initialized()):
            whole.merge(self)
            return whole
        own = torch.cat([self.mean.new_tensor([self.count, self.resolution]), self.mean])
        table = own.new_empty(dist.get_world_size(), len(own))
        dist.all_gather(list(table.unbind()), own)
        for count, mean in zip(table[:, 0].long().tolist(), table[:, 2:], strict=True):
            if count:
                whole.count += count
                whole.mean += (mean - whole.mean) * (count / whole.count)
        shift = self.mean - whole.mean
        # Empty ones have no mean to be shifted.
        whole.scatter = self.scatter + self.count * torch.outer(shift, shift)
        dist.all_reduce(whole.scatter)
        whole.resolution = float(table[:, 1].max())
        return whole

    @property
    def covariance(self) -> Float[Tensor, " d d"]:
        """M / n: centred, biased. Raises ValueError before the first row."""
        self._check_count()
        return self.scatter / self.count

    @property
    def second(self) -> Float[Tensor, " d d"]:
        """(1/n) sum_i z_i z_i^T = M / n + m m^T: not centred. Raises ValueError before the first row."""
        return self.covariance + torch.outer(self.mean, self.mean)

    @torch.no_grad()
    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.scatter = self.scatter + scatter + torch.outer(shift, shift) * (self.count / total * count)
        self.count = total

    def _check_count(self) -> None:
        if not self.count:
            raise ValueError("moments must hold at least one row, got none: call update first")


@torch.no_grad()
def mean_variance(batches: Iterable[Tensor]) -> float | None:
    """The mean over all dimensions of the biased variance of each, of rows that come in batches (n, ...); waits for the device.

    trace(cov) / d without the (d, d) covariance: memory is that of one batch in float64. About the first row, so that it is exactly 0 where
    all rows are equal, and a large mean costs no digits. None where batches are of several shapes, such as sequences of unequal length.
    Raises ValueError where there are no rows.
    """
    count = 0
    for batch in batches:
        rows = batch.double()
        if not count:
            first, shift, square = rows[:1], torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
        if rows.shape[1:] != first.shape[1:]:
            return None
        away = rows - first
        shift += away.sum(0)
        square += away.square().sum(0)
        count += len(rows)
    if not count:
        raise ValueError("batches must hold at least one row, got none")
    return float((square / count - (shift / count).square()).clamp_min(0).mean())


def centred_rows(z: Float[Tensor, " *b n d"]) -> tuple[Float[Tensor, " *b d"], Float[Tensor, " *b n d"]]:
    """The mean (..., d) of rows (..., n, d), and the rows less their mean: exactly 0 where all rows are equal."""
    # The mean of n equal numbers is not that number when rounded; the mean of n zeros is.
    first = z[..., :1, :]
    away = z - first
    mean = away.mean(-2, keepdim=True)
    return (first + mean)[..., 0, :], away - mean


def _check_rows(z: Tensor, d: int | None) -> None:
    if z.ndim != 2 or d not in (None, z.shape[1]) or not z.is_floating_point():
        wanted = "d" if d is None else str(d)
        raise ValueError(f"z must be a floating (n, {wanted}) array, got {z.dtype} of shape {tuple(z.shape)}")

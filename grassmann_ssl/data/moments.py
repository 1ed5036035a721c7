"""Population moments: the sufficient statistics of a linear model under quadratic and quartic losses."""

from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.data.views import Triplets
from grassmann_ssl.shown import Shown


def cross_moment(x: Float[Tensor, " n m"], y: Float[Tensor, " n m"]) -> Float[Tensor, " m m"]:
    """The symmetrised cross-moment (1/2n) sum_i [x_i y_i^T + y_i x_i^T] of paired samples (n, m); shape (m, m)."""
    moment = x.T @ y / len(x)
    return (moment + moment.T) / 2


@dataclass(frozen=True, repr=False)
class Moments(Shown):
    """Second moments of triplets (x, x+, x-), each (..., m, m) and symmetric, and the mean (..., m); leading axes are data sets.

    cross           Gamma = cross_moment(x, x+), what positive pairs share (may be indefinite)
    cross_negative  cross_moment(x, x-), what x shares with other samples (near mean mean^T)
    second          Sigma = (E x x^T + E x+ x+^T)/2, over single views
    second_positive E x+ x+^T
    second_negative E x- x-^T
    mean            (E x + E x+)/2
    """

    cross: Float[Tensor, " *b m m"]
    cross_negative: Float[Tensor, " *b m m"]
    second: Float[Tensor, " *b m m"]
    second_positive: Float[Tensor, " *b m m"]
    second_negative: Float[Tensor, " *b m m"]
    mean: Float[Tensor, " *b m"]

    @property
    def covariance(self) -> Float[Tensor, " *b m m"]:
        """Sigma - mean mean^T, the centred second moment over single views."""
        return self.second - self.mean[..., :, None] * self.mean[..., None, :]

    def to(self, *args: Any, **kwargs: Any) -> "Moments":
        """The same moments on another device or in another dtype, as `Tensor.to`."""
        return Moments(*(getattr(self, field.name).to(*args, **kwargs) for field in fields(self)))


def moments_of(triplets: Triplets) -> Moments:
    """The moments of triplets with n rows, in their dtype."""
    x, positive, negative = triplets.x, triplets.x_positive, triplets.x_negative
    second, second_positive = cross_moment(x, x), cross_moment(positive, positive)
    return Moments(
        cross=cross_moment(x, positive),
        cross_negative=cross_moment(x, negative),
        second=(second + second_positive) / 2,
        second_positive=second_positive,
        second_negative=cross_moment(negative, negative),
        mean=(x.mean(0) + positive.mean(0)) / 2,
    )

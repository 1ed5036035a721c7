"""The verdict on an embedding: which kind of collapse it shows, what its constraint guarantees, and what was only observed."""

from dataclasses import dataclass

from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.collapse import COLLAPSE_RULE, DIRECTIONS_RULE, collapse_verdict, directions_verdict
from grassmann_ssl.metrics.ranks import eigenvalues


@dataclass(frozen=True)
class EmbeddingVerdict:
    """kind is "none", "dimensional" or "complete" by `rule`, and live_dimensions are those of the spectrum that it judges.

    What is guaranteed holds by construction and is known before any run; what is observed was measured on the rows given.
    """

    kind: str
    rule: str
    live_dimensions: int
    dimensions: int
    guaranteed: tuple[str, ...]
    observed: tuple[str, ...]


def embedding_verdict(
    moments: SecondMoments,
    *,
    constraint_rank: tuple[int, int] | None,
    feature_lag: float | None,
    input_variance: float,
    directions: SecondMoments | None = None,
) -> EmbeddingVerdict:
    """Judge embeddings z by the spectrum of cov z, by COLLAPSE_RULE, or their `directions` by DIRECTIONS_RULE; waits for the device.

    `constraint_rank` = (p, n): the last weight maps n features to p outputs with orthonormal rows (W W^T = I), or rows orthonormal in the
    metric of the features; None without a constraint. `feature_lag` e: eigenvalues of cov z lie within e of 1, for a feature-orthonormal
    layer (`feature_lag` of that layer on the same rows), else None. A weight of full rank does not prevent its inputs, nor
    therefore z, from collapsing, and is not counted as such a guarantee. `input_variance` is the mean variance per input dimension.
    Raises ValueError for fewer than 2 rows or values that are not finite, unless 1 <= p <= n, for a lag that is negative or has no
    constraint, and for an input variance that is not positive.
    """
    if moments.count < 2:
        raise ValueError(f"moments must hold at least 2 rows, got {moments.count}: one row has no variance")
    if constraint_rank is not None and not 1 <= constraint_rank[0] <= constraint_rank[1]:
        raise ValueError(f"constraint_rank must be (p, n) with 1 <= p <= n, got {constraint_rank}")
    if feature_lag is not None and not (constraint_rank is not None and feature_lag >= 0):
        raise ValueError(
            f"feature_lag must be None, or at least 0 and with a constraint_rank, got {feature_lag} with {constraint_rank}"
        )
    spectrum = eigenvalues(moments, center=True)
    judged = collapse_verdict(spectrum, input_variance)
    rule = COLLAPSE_RULE
    if directions is not None:
        spread = eigenvalues(directions, center=True)
        judged, rule = directions_verdict(spread), DIRECTIONS_RULE
    kind = next(kind for kind, runs in judged.kinds().items() if runs)
    live, d = int(judged.live_dimensions), moments.dimension
    largest, least, mean = float(spectrum[0]), float(spectrum[-1]), float(spectrum.mean())
    guaranteed = []
    observed = [
        f"{live} of {d} dimensions of {'z' if directions is None else 'z / ||z||'} live, eigenvalues of cov z from {least:.3g} to "
        f"{largest:.3g} (over {moments.count} rows)",
        f"mean variance of z per dimension {mean / input_variance:.3g} of that of the input",
    ]
    if directions is not None:
        observed.append(
            f"eigenvalues of cov z / ||z|| from {float(spread[-1]):.3g} to {float(spread[0]):.3g}, sum {float(spread.sum()):.3g}"
        )
    if constraint_rank is not None:
        guaranteed.append(f"W has rank {constraint_rank[0]} by construction ({constraint_rank[1]} features in)")
        if feature_lag is None:
            guaranteed.append(
                "cov z = W cov(h) W^T: the rank of W does not keep the features h that enter it from collapse"
            )
        else:
            guaranteed.append("W B W^T = I with B the running covariance of the features: cov z = I up to the lag of B")
        if feature_lag is not None and feature_lag < 1:
            observed.append(
                f"lag of B {feature_lag:.3g}: it bounds the eigenvalues of cov z by {1 - feature_lag:.3g} and {1 + feature_lag:.3g}"
            )
            # A hundred times the rounding of float32, in which features mostly come.
            if max(1 - least, largest - 1) > feature_lag + 1e-5:
                observed.append(
                    "the spectrum of z lies outside of these: z is not the output of the constrained layer on the rows of the lag"
                )
        elif feature_lag is not None:
            observed.append(f"lag of B {feature_lag:.3g}, not below 1: it keeps no eigenvalue of cov z from 0")
    return EmbeddingVerdict(kind, rule, live, d, tuple(guaranteed), tuple(observed))

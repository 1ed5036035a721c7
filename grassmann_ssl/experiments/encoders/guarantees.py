"""What a constraint on the last layer guarantees of its outputs, known before any run, and what the lag of its metric tells after it."""

# A hundred times the rounding of float32, in which features mostly come.
ROUNDED = 1e-5


def guarantees(constraint_rank: tuple[int, int] | None, feature_orthonormal: bool) -> tuple[str, ...]:
    """What holds by construction, whatever the rows.

    `constraint_rank` = (p, n): the last weight maps n features to p outputs with orthonormal rows (W W^T = I), or rows orthonormal in the
    metric of the features where `feature_orthonormal`; None without a constraint. A weight of full rank does not prevent its inputs, nor
    therefore z, from collapsing, and is not counted as such a guarantee. Raises ValueError unless 1 <= p <= n, and for a metric without
    a rank.
    """
    if constraint_rank is None:
        if feature_orthonormal:
            raise ValueError("feature_orthonormal must come with a constraint_rank, got None")
        return ()
    if not 1 <= constraint_rank[0] <= constraint_rank[1]:
        raise ValueError(f"constraint_rank must be (p, n) with 1 <= p <= n, got {constraint_rank}")
    rank = f"W has rank {constraint_rank[0]} by construction ({constraint_rank[1]} features in)"
    if feature_orthonormal:
        return rank, "W B W^T = I with B the running covariance of the features: cov z = I up to the lag of B"
    return rank, "cov z = W cov(h) W^T: the rank of W does not keep the features h that enter it from collapse"


def lag_observed(lag: float, least: float, largest: float) -> tuple[str, ...]:
    """What a lag of B, measured on the same rows as the least and the largest eigenvalue of cov z, tells of them.

    Raises ValueError for a lag that is negative.
    """
    if not lag >= 0:
        raise ValueError(f"lag must be at least 0, got {lag}")
    if lag >= 1:
        return (f"lag of B {lag:.3g}, not below 1: it keeps no eigenvalue of cov z from 0",)
    bound = f"lag of B {lag:.3g}: it bounds the eigenvalues of cov z by {1 - lag:.3g} and {1 + lag:.3g}"
    if max(1 - least, largest - 1) > lag + ROUNDED:
        outside = "the spectrum of z lies outside of these: z is not the output of the constrained layer on the rows of the lag"
        return bound, outside
    return (bound,)

"""The verdict on an embedding, and what of it was guaranteed."""

import numpy as np
import pytest
import torch

from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.collapse import COLLAPSE_RULE, collapse_verdict
from grassmann_ssl.metrics.verdict import embedding_verdict


def moments(eigenvalues, offset=0.0):
    """Moments of rows +-sqrt(d l_k) e_k: a covariance of exactly these eigenvalues."""
    d = len(eigenvalues)
    half = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64).mul(d).sqrt())
    return SecondMoments.of(torch.cat([half, -half]) + offset)


FREE = {"constraint_rank": None, "feature_lag": None}


@pytest.mark.parametrize("offset", [0.0, 5.0])
@pytest.mark.parametrize(
    ("eigenvalues", "kind", "live"),
    [
        ([1.0, 0.5, 0.2], "none", 3),
        ([1.0, 0.5, 9e-5], "dimensional", 2),
        ([1.0, 0.0, 0.0], "dimensional", 1),
        ([1e-9, 1e-9, 1e-9], "complete", 3),
        ([0.0, 0.0, 0.0], "complete", 0),
    ],
)
def test_kinds_are_those_of_the_rule(eigenvalues, kind, live, offset):
    verdict = embedding_verdict(moments(eigenvalues, offset), **FREE, input_variance=1.0)
    assert (verdict.kind, verdict.live_dimensions, verdict.dimensions) == (kind, live, 3)
    assert verdict.rule == COLLAPSE_RULE and verdict.guaranteed == ()
    assert verdict.observed[0].startswith(f"{live} of 3 dimensions of z live")
    expected = collapse_verdict(torch.tensor(eigenvalues), 1.0)
    assert expected.kinds()[kind] == 1


def test_the_input_sets_the_scale_of_complete_collapse():
    for scale, kind in ((1.0, "none"), (2e4, "complete")):
        assert embedding_verdict(moments([1.0, 1.0]), **FREE, input_variance=scale).kind == kind


def test_a_weight_of_full_rank_is_guaranteed_and_its_outputs_are_not():
    verdict = embedding_verdict(moments([1.0, 0.0]), constraint_rank=(2, 8), feature_lag=None, input_variance=1.0)
    assert verdict.kind == "dimensional"
    assert verdict.guaranteed[0] == "W has rank 2 by construction (8 features in)"
    assert "does not keep the features h" in verdict.guaranteed[1] and len(verdict.guaranteed) == 2


@pytest.mark.parametrize("rank", [None, (2, 8)])
@pytest.mark.parametrize("lag", [None, 0.25, 1.2])
def test_a_guarantee_is_known_before_the_rows_are_seen(rank, lag):
    """Other rows and another lag give the same guarantees, word by word, and other observations."""
    if rank is None and lag is not None:
        return
    first, second = (
        embedding_verdict(moments(spectrum), constraint_rank=rank, feature_lag=other, input_variance=1.0)
        for spectrum, other in (([1.2, 0.9], lag), ([3.0, 0.0], lag and 2 * lag))
    )
    assert first.guaranteed == second.guaranteed and not set(first.observed) & set(second.observed)


def test_the_lag_bounds_the_spectrum():
    verdict = embedding_verdict(moments([1.2, 0.9]), constraint_rank=(2, 8), feature_lag=0.25, input_variance=1.0)
    assert verdict.kind == "none"
    assert verdict.guaranteed[1].endswith("cov z = I up to the lag of B")
    assert verdict.observed[2:] == ("lag of B 0.25: it bounds the eigenvalues of cov z by 0.75 and 1.25",)
    broken = embedding_verdict(moments([1.2, 0.9]), constraint_rank=(2, 8), feature_lag=0.15, input_variance=1.0)
    assert "the spectrum of z lies outside of these" in broken.observed[-1]
    void = embedding_verdict(moments([2.2, 0.0]), constraint_rank=(2, 8), feature_lag=1.2, input_variance=1.0)
    assert void.guaranteed == verdict.guaranteed and "not below 1" in void.observed[-1]


def test_the_lag_of_a_feature_orthonormal_map_holds():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    covariance = np.cov(h.T, bias=True)
    b = 1.1 * covariance
    root = np.linalg.cholesky(np.linalg.inv(b))
    w = np.linalg.qr(rng.standard_normal((6, 3)))[0].T @ root.T  # W B W^T = I
    z = torch.tensor(h @ w.T)
    lag = np.abs(np.linalg.eigvals(np.linalg.inv(b) @ covariance) - 1).max()
    verdict = embedding_verdict(
        SecondMoments.of(z),
        constraint_rank=(3, 6),
        feature_lag=float(lag),
        input_variance=float(covariance.trace() / 6),
    )
    assert verdict.kind == "none" and verdict.live_dimensions == 3
    assert len(verdict.guaranteed) == 2 and len(verdict.observed) == 3


def test_bad_input_is_named():
    good = moments([1.0, 0.5])
    for arguments, message in (
        ({"constraint_rank": (3, 2)}, r"constraint_rank must be \(p, n\)"),
        ({"feature_lag": 0.1}, "feature_lag must be None, or at least 0 and with a constraint_rank"),
        ({"constraint_rank": (2, 3), "feature_lag": -1.0}, "feature_lag must be"),
        ({"input_variance": 0.0}, "input_variance must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            embedding_verdict(good, **{**FREE, "input_variance": 1.0, **arguments})
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        embedding_verdict(SecondMoments.of(torch.ones(1, 2)), **FREE, input_variance=1.0)
    diverged = SecondMoments.of(torch.tensor([[1.0, 0.0], [float("inf"), 1.0]]))
    with pytest.raises(ValueError, match="the run diverged"):
        embedding_verdict(diverged, **FREE, input_variance=1.0)


def test_directions_are_judged_by_their_own_rule():
    generator = torch.Generator().manual_seed(3)
    spread = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    constant = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    for share, kind in ((0.05, "complete"), (2.0, "none")):
        z = 100 * (constant + share * spread)  # the lengths say nothing
        verdict = embedding_verdict(
            SecondMoments.of(z),
            constraint_rank=None,
            feature_lag=None,
            input_variance=1.0,
            directions=SecondMoments.of(torch.nn.functional.normalize(z, dim=1)),
        )
        assert verdict.kind == kind and "z / ||z||" in verdict.rule
        assert any("cov z / ||z||" in line for line in verdict.observed)
    flat = torch.nn.functional.normalize(spread * torch.tensor([1.0, 1.0, 1.0, 1e-4]), dim=1)
    verdict = embedding_verdict(
        SecondMoments.of(flat),
        constraint_rank=None,
        feature_lag=None,
        input_variance=1.0,
        directions=SecondMoments.of(flat),
    )
    assert verdict.kind == "dimensional" and verdict.live_dimensions == 3
    assert verdict.observed[0].startswith("3 of 4 dimensions of z / ||z|| live")

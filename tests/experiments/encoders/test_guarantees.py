"""What a constraint guarantees of the embedding, word by word, and what the measured lag of its metric tells."""

import numpy as np
import pytest
import torch

from grassmann_ssl.experiments.encoders.guarantees import guarantees, lag_observed


def rows(p=2, n=8):
    return torch.linalg.qr(torch.randn(n, p, generator=torch.Generator().manual_seed(0)))[0].mT


def test_a_weight_of_full_rank_is_guaranteed_and_its_outputs_are_not():
    rank, outputs = guarantees(rows())
    assert rank == "W has rank 2 by construction (8 features in)" and "does not keep the features h" in outputs
    assert guarantees(None) == ()


def test_a_metric_of_the_features_keeps_the_covariance_up_to_its_lag():
    assert guarantees(rows() / 2, 4 * torch.eye(8))[1].endswith("cov z = I up to the lag of B")


@pytest.mark.parametrize("weight", [1.1 * rows(), torch.full((2, 8), torch.nan), torch.zeros(2, 8), rows()[[0, 0]]])
def test_nothing_is_guaranteed_of_a_weight_off_its_manifold(weight):
    (said,) = guarantees(weight)
    assert said.startswith("nothing: W is off its manifold, an entry of W W^T - I is ") and "rank" not in said
    (said,) = guarantees(rows(), 4 * torch.eye(8))
    assert said == "nothing: W is off its manifold, an entry of W B W^T - I is 3"


def test_the_lag_bounds_the_spectrum():
    assert lag_observed(0.25, 0.9, 1.2) == ("lag of B 0.25: it bounds the eigenvalues of cov z by 0.75 and 1.25",)
    for least, largest in ((0.9, 1.2), (0.8, 1.0)):
        assert "the spectrum of z lies outside of these" in lag_observed(0.15, least, largest)[1]
    assert lag_observed(1.2, 0.0, 2.2) == ("lag of B 1.2, not below 1: it keeps no eigenvalue of cov z from 0",)


def test_the_lag_of_a_feature_orthonormal_map_holds():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6))
    covariance = np.cov(h.T, bias=True)
    b = 1.1 * covariance
    root = np.linalg.cholesky(np.linalg.inv(b))
    w = np.linalg.qr(rng.standard_normal((6, 3)))[0].T @ root.T  # W B W^T = I
    lag = float(np.abs(np.linalg.eigvals(np.linalg.inv(b) @ covariance) - 1).max())
    spectrum = np.linalg.eigvalsh(np.cov((h @ w.T).T, bias=True))
    assert len(lag_observed(lag, spectrum[0], spectrum[-1])) == 1
    assert len(lag_observed(lag / 2, spectrum[0], spectrum[-1])) == 2


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"weight must be \(p, n\) with 1 <= p <= n, got \(3, 2\)"):
        guarantees(torch.eye(3, 2))
    with pytest.raises(ValueError, match="metric must come with a weight"):
        guarantees(None, torch.eye(2))
    with pytest.raises(ValueError, match="lag must be at least 0, got -1"):
        lag_observed(-1.0, 1.0, 1.0)

"""The collapse verdict."""

import pytest
import torch

from grassmann_ssl.metrics import collapse_verdict


def test_the_kinds_of_collapse_are_told_apart():
    eigenvalues = torch.tensor(
        [[1.0, 0.5, 0.2], [1.0, 0.5, 9e-5], [1.0, 0.5, 1.1e-4], [1e-9, 1e-9, 1e-9], [0.0, 0.0, 0.0]]
    )
    verdict = collapse_verdict(eigenvalues, input_variance=1.0)
    assert verdict.complete.tolist() == [False, False, False, True, True]
    assert verdict.dimensional.tolist() == [False, True, False, False, False]
    assert verdict.live_dimensions.tolist() == [3, 2, 3, 3, 0]
    assert verdict.kinds() == {"none": 2, "dimensional": 1, "complete": 2}
    assert verdict.collapsed.tolist() == [False, True, False, True, True]


def test_the_scale_of_rescaled_weights_counts():
    eigenvalues = torch.ones(3, 2, dtype=torch.float64)
    log_scale = torch.tensor([-2000.0, 0.0, 2000.0], dtype=torch.float64)  # e^-2000 fits no float
    assert collapse_verdict(eigenvalues, 1.0, log_scale).complete.tolist() == [True, False, False]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="covariance_eigenvalues must be finite"):
        collapse_verdict(torch.tensor([float("nan")]), 1.0)
    with pytest.raises(ValueError, match="input_variance must be positive"):
        collapse_verdict(torch.ones(2), 0.0)

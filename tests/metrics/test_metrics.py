"""Ranks and the collapse verdict."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics import collapse_verdict, effective_rank, participation_ratio

EPS = torch.finfo(torch.float64).eps
positive = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@given(positive, st.floats(1e-100, 1e100))
def test_ranks_lie_between_one_and_d_and_ignore_scale(values, scale):
    spectrum = torch.tensor(values, dtype=torch.float64)
    for rank in (effective_rank, participation_ratio):
        value = rank(spectrum).item()
        assert 1 - 20 * EPS <= value <= len(values) * (1 + 20 * EPS)
        assert abs(rank(spectrum * scale).item() - value) <= 100 * EPS * value


@given(st.integers(1, 6), st.integers(0, 5))
def test_equal_values_count_themselves_and_zeros_do_not(k, zeros):
    spectrum = torch.tensor([0.3] * k + [0.0] * zeros, dtype=torch.float64)
    for rank in (effective_rank, participation_ratio):
        assert abs(rank(spectrum).item() - k) <= 20 * EPS * k


def test_effective_rank_is_the_exponential_of_the_entropy():
    spectrum = np.array([3.0, 1.0, 0.5])
    p = spectrum / spectrum.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    assert abs(effective_rank(torch.tensor(spectrum)).item() - expected) < 10 * EPS


def test_a_point_has_rank_zero_and_batches_are_loops():
    batch = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [-1e-20, 1.0]]])
    for rank in (effective_rank, participation_ratio):
        value = rank(batch)
        assert value.shape == (2, 2) and value[0, 1] == 0
        for i in range(2):
            for j in range(2):
                assert value[i, j] == rank(batch[i, j])


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

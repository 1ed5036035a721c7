"""Moments of embeddings, gathered in any order and over processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics.accumulate import SecondMoments, centred_rows, mean_variance
from tests.nn.test_distributed import run_in
from tests.oracles import metrics as oracle
from tests.profiles import examples

EPS = torch.finfo(torch.float64).eps


def gaussian(n, d, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((n, d)) @ np.diag(1.0 + np.arange(d)) + offset)


def assert_same(a, b, rows):
    """Equal up to rounding of sums of `rows` terms: a relative error of a few eps per term of the size of the largest."""
    assert a.count == b.count and a.resolution == b.resolution
    tolerance = 4 * len(rows) * EPS * float(rows.abs().max())
    torch.testing.assert_close(a.mean, b.mean, atol=tolerance, rtol=0)
    spread = float((rows - rows.mean(0)).abs().max())
    torch.testing.assert_close(a.scatter, b.scatter, atol=len(rows) * tolerance * max(spread, tolerance), rtol=0)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_are_those_of_the_loop(offset):
    rows = gaussian(40, 5, offset=offset)
    moments = SecondMoments(5)
    for batch in rows.split([7, 1, 0, 32]):
        moments.update(batch)
    mean, covariance, second = oracle.moments(rows.numpy())
    assert moments.count == 40 and moments.resolution == EPS
    # Rows of size 1e6 are known to 1e6 eps, so their differences are too; no square of 1e6 enters.
    known = 40 * EPS * (1 + offset)
    np.testing.assert_allclose(moments.mean.numpy(), mean, atol=known)
    np.testing.assert_allclose(moments.covariance.numpy(), covariance, atol=40 * known)
    np.testing.assert_allclose(moments.second.numpy(), second, rtol=40 * EPS, atol=40 * EPS * (1 + offset) ** 2)


@examples(50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(0, 99))
def test_merges_in_any_order_are_one_update(sizes, random, seed):
    rows = gaussian(sum(sizes), 3, seed, offset=10.0)
    parts = []
    for batch in rows.split(sizes):
        part = SecondMoments(3)
        part.update(batch)
        parts.append(part)
    while len(parts) > 1:
        a, b = parts.pop(random.randrange(len(parts))), parts.pop(random.randrange(len(parts)))
        a.merge(b)
        parts.append(a)
    whole = SecondMoments(3)
    whole.update(rows)
    if len(rows):
        assert_same(parts[0], whole, rows)
    else:
        assert parts[0].count == 0


def test_merging_leaves_the_other_alone():
    a, b = SecondMoments.of(gaussian(4, 2)), SecondMoments.of(gaussian(6, 2, seed=1))
    mean, scatter = b.mean.clone(), b.scatter.clone()
    a.merge(b)
    a.update(gaussian(3, 2, seed=2))
    assert b.count == 6 and torch.equal(b.mean, mean) and torch.equal(b.scatter, scatter)


def test_half_and_single_precision_are_widened_and_remembered():
    rows = gaussian(30, 4)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = rows.to(dtype)
        moments = SecondMoments.of(rounded)
        assert moments.scatter.dtype == torch.float64 and moments.resolution == torch.finfo(dtype).eps
        exact = SecondMoments.of(rounded.double())
        assert torch.equal(moments.scatter, exact.scatter) and torch.equal(moments.mean, exact.mean)
        exact.merge(moments)
        assert exact.resolution == torch.finfo(dtype).eps


def test_updates_and_merges_never_ask_for_a_value():
    # On the meta device there are no values to wait for.
    moments, other = SecondMoments(3, device="meta"), SecondMoments(3, device="meta")
    for part in (moments, other):
        part.update(torch.ones(5, 3, device="meta"))
    moments.merge(other)
    assert moments.count == 10 and moments.covariance.device.type == "meta"


def test_autocast_and_gradients_do_not_enter():
    rows = gaussian(10, 3).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        moments = SecondMoments.of(rows)
    assert not moments.scatter.requires_grad and not moments.mean.requires_grad
    assert torch.equal(moments.scatter, SecondMoments.of(rows.detach()).scatter)


@given(st.floats(-1e30, 1e30), st.integers(1, 7), st.integers(1, 4))
def test_equal_rows_have_a_scatter_of_exactly_zero(value, n, batches):
    row = torch.tensor([[value, value / 3, 0.1]], dtype=torch.float64)
    moments = SecondMoments(3)
    for _ in range(batches):
        moments.update(row.expand(n, 3))
    assert torch.equal(moments.mean, row[0]) and not moments.scatter.any()


def test_centred_rows_take_leading_dimensions():
    rows = gaussian(24, 3).reshape(2, 4, 3, 3)
    mean, centred = centred_rows(rows)
    torch.testing.assert_close(mean, rows.mean(-2), atol=20 * EPS, rtol=0)
    torch.testing.assert_close(centred, rows - rows.mean(-2, keepdim=True), atol=20 * EPS, rtol=0)


def test_without_processes_all_reduce_copies():
    moments = SecondMoments.of(gaussian(5, 2))
    whole = moments.all_reduce()
    whole.update(gaussian(5, 2))
    assert moments.count == 5 and whole.count == 10


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="d must be at least 1, got 0"):
        SecondMoments(0)
    moments = SecondMoments(3)
    with pytest.raises(ValueError, match="at least one row, got none"):
        _ = moments.covariance
    with pytest.raises(ValueError, match=r"z must be a floating \(n, 3\) array, got torch.float32 of shape \(2, 4\)"):
        moments.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"other must have d = 3 .* got d = 2"):
        moments.merge(SecondMoments(2))


def _gather(sizes, offset, dtypes, rank, world):
    rows = gaussian(sum(sizes), 4, offset=offset)
    parts = [part.to(dtype) for part, dtype in zip(rows.split(sizes), dtypes, strict=True)]
    local = SecondMoments(4)
    local.update(parts[rank])
    before = local.scatter.clone()
    whole = local.all_reduce()
    assert local.count == sizes[rank] and torch.equal(local.scatter, before)
    alone = SecondMoments(4)
    for part in parts:
        alone.update(part)
    assert_same(whole, alone, rows)
    everywhere = [torch.empty_like(whole.scatter) for _ in range(world)]
    dist.all_gather(everywhere, whole.scatter)
    assert all(torch.equal(other, whole.scatter) for other in everywhere)
    # Twice gathered is not twice counted.
    assert local.all_reduce().count == whole.count


def _gather_cases(rank, world):
    for sizes in ([5, 5], [1, 30], [0, 7]):
        for offset in (0.0, 1e6):
            _gather(sizes, offset, [torch.float64, torch.float64], rank, world)
    _gather([4, 6], 0.0, [torch.float64, torch.float32], rank, world)
    point = torch.full((3 + rank, 2), 0.1, dtype=torch.float64)
    whole = SecondMoments.of(point).all_reduce()
    assert whole.count == 7 and not whole.scatter.any() and torch.equal(whole.mean, point[0])
    assert SecondMoments(2).all_reduce().count == 0


@pytest.mark.slow
def test_two_processes_are_one_with_all_rows(tmp_path):
    run_in(2, tmp_path, _gather_cases)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([torch.float32, torch.float64]))
def test_the_mean_variance_is_the_mean_diagonal_of_the_covariance(sizes, dtype):
    batches = [
        torch.randn(n, 3, 2, 4, generator=torch.Generator().manual_seed(k), dtype=dtype) + 100
        for k, n in enumerate(sizes)
    ]
    expected = SecondMoments.of(torch.cat(batches).flatten(1)).covariance.diagonal().mean()
    assert abs(mean_variance(iter(batches)) - expected) < 1e-13 * (1 + expected)


def test_the_mean_variance_of_equal_rows_is_zero():
    row = torch.rand(1, 50)
    assert mean_variance([row.expand(7, 50), row]) == 0.0
    assert mean_variance([row, row[:, :9]]) is None  # there is none of rows of several shapes
    with pytest.raises(ValueError, match="at least one row, got none"):
        mean_variance([])

"""What is read off a run, by what it must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.experiments.linear.measure import collapse_slope, exponent, relative_change

SIZES = st.lists(st.floats(0.1, 10), min_size=2, max_size=6).filter(lambda v: max(v) > 1.5 * min(v))


@given(SIZES, st.floats(-3, 3), st.floats(0.01, 100), st.integers(0, 99))
def test_the_exponent_of_a_power_law_is_found_whatever_its_units(sizes, alpha, unit, seed):
    x = np.array(sizes)
    np.testing.assert_allclose(exponent(unit * x, 3 * x**alpha), alpha, atol=1e-9)
    scattered = x**alpha * np.exp(np.random.default_rng(seed).standard_normal(len(x)))
    np.testing.assert_allclose(exponent(x, unit * scattered), exponent(x, scattered), atol=1e-9)
    many = np.stack([scattered, x**alpha], -1)  # every column as if alone
    np.testing.assert_allclose(exponent(x, many), [exponent(x, column) for column in many.T], atol=1e-9)


@given(st.integers(1, 3), st.integers(1, 4), st.floats(1e-3, 10), st.integers(0, 99))
def test_a_relative_change_has_no_units_and_is_of_every_run_alone(runs, size, share, seed):
    generator = torch.Generator().manual_seed(seed)
    then, way = torch.randn(2, runs, size, 2, dtype=torch.float64, generator=generator)
    way = way / way.flatten(1).norm(dim=1)[:, None, None] * then.flatten(1).norm(dim=1)[:, None, None]
    found = relative_change(then + share * way, then)
    assert found.shape == (runs,) and found.numpy() == pytest.approx(share, rel=1e-10)
    assert torch.allclose(relative_change(5 * (then + share * way), 5 * then), found, rtol=1e-12)
    assert not relative_change(then, then).any()


def test_the_slope_of_a_collapse_is_that_of_its_slowest_mode():
    """sigma_2 / sigma_1 = e^{-t} (1 + 10 e^{-2t / 5}): the transient, which bends the whole window, is over in its later half."""
    t = np.linspace(0, 30, 301)
    ratio = np.exp(-t) * (1 + 10 * np.exp(-0.4 * t))
    values = np.stack(
        [np.stack([np.ones_like(t), ratio, ratio / 2], -1), np.stack([2 + t, (2 + t) * ratio**2, 0 * t], -1)], 1
    )
    assert collapse_slope(t, values) == pytest.approx([-1, -2], rel=0.05)
    assert collapse_slope(t[:20], values[:20]) is None and collapse_slope(t, values[..., :1]) is None


def test_the_slope_of_a_collapse_leaves_rounding_out():
    t = np.linspace(0, 60, 601)
    values = np.stack([np.ones_like(t), np.maximum(np.exp(-t), 1e-16)], -1)[:, None]
    assert collapse_slope(t, values) == pytest.approx([-1], rel=1e-9)

"""Intervals by what defines them: Wilson's by the score test at its ends, those of means by Student's, by their range and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from grassmann_ssl.metrics.intervals import mean_interval, wilson_interval

QUANTILE = 1.959963984540054  # of the standard normal at 97.5 %


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_are_where_the_score_test_turns(counted):
    count, total = counted
    share = count / total
    low, high = wilson_interval(count, total)
    assert 0 <= low <= share <= high <= 1 and low < high
    for end in (low, high):
        assert abs((share - end) ** 2 * total - QUANTILE**2 * end * (1 - end)) < 1e-9
    other = wilson_interval(total - count, total)
    assert other == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_none_of_three_leaves_more_than_half_open():
    assert wilson_interval(0, 3) == pytest.approx((0, 0.561497), abs=1e-6)


@pytest.mark.parametrize(("count", "total"), [(4, 3), (-1, 3), (0, 0)])
def test_more_than_all_and_none_at_all_are_refused(count, total):
    with pytest.raises(ValueError):
        wilson_interval(count, total)


INF = math.inf
SHARES = st.lists(st.floats(0, 1), min_size=3, max_size=12).map(np.array)
RANGES = [(-INF, INF), (0.0, INF), (0.0, 1.0)]


@given(SHARES, st.sampled_from(RANGES))
def test_the_interval_contains_the_mean_and_stays_in_the_range(values, ends):
    low, high = mean_interval(values, *ends)
    assert ends[0] <= low <= np.clip(values.mean(), *ends) <= high <= ends[1]
    if np.ptp(values) > 1e-6:
        assert low < values.mean() < high


def test_the_mean_of_good_accuracies_is_not_above_one():
    values = np.array([0.999, 0.90, 0.987])
    assert mean_interval(values)[1] > 1.08  # where Student's own interval ends
    low, high = mean_interval(values, 0.0, 1.0)
    assert 0.3 < low < 0.5 and 0.99 < high < 1


@given(st.floats(0, 1), st.integers(3, 12), st.sampled_from(RANGES))
def test_equal_values_leave_one_point(value, count, ends):
    low, high = mean_interval(np.full(count, value), *ends)
    assert low == pytest.approx(value, abs=1e-12) and high == pytest.approx(value, abs=1e-12)
    assert ends[0] <= low and high <= ends[1]


@given(SHARES, st.floats(0.01, 100), st.floats(-10, 10))
def test_units_do_not_matter_and_failures_mirror_successes(values, unit, shift):
    near = {"abs": 1e-9 * (unit + abs(shift))}
    low, high = mean_interval(values, 0.0, 1.0)
    ends = shift, shift + unit
    moved = mean_interval(np.clip(shift + unit * values, *ends), *ends)
    assert moved == pytest.approx((shift + unit * low, shift + unit * high), **near)
    assert mean_interval(1 - values, 0.0, 1.0) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    low, high = mean_interval(values, 0.0)
    assert mean_interval(unit * values, 0.0) == pytest.approx((unit * low, unit * high), **near)
    low, high = mean_interval(values)
    assert mean_interval(shift - unit * values) == pytest.approx((shift - unit * high, shift - unit * low), **near)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12).map(np.array), st.sampled_from(RANGES))
def test_far_from_the_ends_it_is_students(values, ends):
    """The range is felt to the order of spread over distance, here 1e-5."""
    middle, tiny = 0.5, 1e-5
    own = t.interval(0.95, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(len(values)) or 1e-300)
    ours = (np.array(mean_interval(middle + tiny * values, *ends)) - middle) / tiny
    assert ours == pytest.approx(own, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "mean", "ends"),
    [
        (lambda rng: rng.normal(3, 2, 5), 3.0, (-INF, INF)),
        (lambda rng: rng.lognormal(0, 0.1, 5), math.exp(0.005), (0.0, INF)),
        (lambda rng: rng.beta(90, 10, 5), 0.9, (0.0, 1.0)),
        (lambda rng: 1 + 7 * rng.beta(20, 10, 5), 1 + 7 * 2 / 3, (1.0, 8.0)),
    ],
)
def test_of_a_hundred_intervals_95_contain_the_mean(draw, mean, ends):
    rng, repeats = np.random.default_rng(0), 4000
    covered = sum(low <= mean <= high for low, high in (mean_interval(draw(rng), *ends) for _ in range(repeats)))
    # Four standard deviations of a binomial share of 0.95; 20,000 repeats leave less than 0.003 for the delta method at this spread.
    assert abs(covered / repeats - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


@pytest.mark.parametrize("values", [[0.5], [0.2, 0.9]])
def test_one_or_two_values_have_no_interval(values):
    assert mean_interval(np.array(values), 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("values", "ends", "message"),
    [
        ([0.1, 0.2, 1.1], (0.0, 1.0), "values must be one or more, finite and in"),
        ([0.1, -0.2, 0.3], (0.0, INF), "values must be"),
        ([0.1, 0.2, math.nan], (-INF, INF), "values must be"),
        ([], (0.0, 1.0), "values must be"),
        ([0.1, 0.2, 0.3], (1.0, 0.0), "the range must be low < high"),
        ([0.1, 0.2, 0.3], (-INF, 1.0), "a lower end where it has an upper one"),
    ],
)
def test_what_has_no_interval_is_named(values, ends, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(np.array(values, dtype=float), *ends)

"""Wilson's interval by what defines it: its ends are as far from the share as a normal test at 95 % allows there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics.intervals import wilson_interval

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

"""Steps in curves: staircases of known times, and curves that are no staircases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.steps import SMOOTH as BENCHED
from grassmann_ssl.metrics.steps import detect_steps, eigenvalue_steps, first_crossing
from tests.oracles.metrics import staircase
from tests.profiles import examples

LINEAR, LOG = np.linspace(0, 100, 400), np.geomspace(0.1, 1e4, 400)
SPAN = np.log(1e5)


def random_stairs(rng, log):
    """Times, widths and heights of 1 to 5 steps that are apart."""
    m = rng.integers(1, 6)
    if log:
        times = 0.5 * np.cumprod(rng.uniform(4, 7, m))
        times = times[times < 2e3]
        return times, rng.uniform(0.02, 0.12, len(times)) * times, rng.uniform(0.3, 1, len(times))
    return np.cumsum(rng.uniform(12, 18, m)), rng.uniform(0.05, 1.2, m), rng.uniform(0.3, 1, m)


@pytest.mark.slow
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.02])
@examples(15)
@given(seed=st.integers(0, 10**6))
def test_steps_of_staircases_are_found(log, noise, seed):
    rng = np.random.default_rng(seed)
    t = LOG if log else LINEAR
    times, widths, heights = random_stairs(rng, log)
    y = staircase(t, times, widths, heights) + noise * rng.standard_normal(len(t))
    for found in (detect_steps(t, y, log_time=log), detect_steps(t, 3 - 7 * y, falling=True, log_time=log)):
        assert found.count == len(times)
        where, true = (np.log(found.times), np.log(times)) if log else (np.array(found.times), times)
        # A part of the width of the lines, 2 % of the span.
        assert np.abs(where - true).max() < 0.25 * 0.02 * (SPAN if log else 100)
    if noise == 0:
        np.testing.assert_allclose(detect_steps(t, y, log_time=log).heights, heights, rtol=0.12)


def test_times_and_heights_take_the_units_of_the_curve():
    y = staircase(LINEAR, [30, 60], [0.5, 1], [1, 2])
    base = detect_steps(LINEAR, y)
    scaled = detect_steps(1e3 * LINEAR + 5, 1e-8 * y - 1)
    np.testing.assert_allclose(scaled.times, 1e3 * np.array(base.times) + 5, rtol=1e-6)
    np.testing.assert_allclose(scaled.heights, 1e-8 * np.array(base.heights), rtol=1e-6)
    np.testing.assert_allclose(base.times, [30, 60], atol=0.05)
    assert detect_steps(LINEAR, -y).count == 0


SMOOTH = {**BENCHED, "flat": lambda u: 0 * u, "offset": lambda u: 0 * u + 1e3}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.02])
def test_flat_and_smooth_monotone_curves_have_no_steps(name, noise):
    rng = np.random.default_rng(0)
    for _ in range(3):
        for t, log in ((LINEAR, False), (LOG, True)):
            y = SMOOTH[name](t / t[-1]) + noise * rng.standard_normal(len(t))
            assert detect_steps(t, y, log_time=log) == detect_steps(t, -y, falling=True, log_time=log)
            assert detect_steps(t, y, log_time=log).count == 0


def test_steps_on_a_slope_are_told_from_it():
    y = staircase(LINEAR, [25, 70], [0.3, 0.3], [1, 1]) + 0.01 * LINEAR
    np.testing.assert_allclose(detect_steps(LINEAR, y).times, [25, 70], atol=0.2)
    # Falls on an exponential decay, as losses have them.
    loss = 3 * np.exp(-LINEAR / 20) + 2 - staircase(LINEAR, [40, 70], [0.5, 0.5], [1, 0.5])
    np.testing.assert_allclose(detect_steps(LINEAR, loss, falling=True).times, [40, 70], atol=0.3)


def test_log_time_sees_steps_over_decades():
    times = np.array([10.0, 60.0, 360.0])
    records = np.arange(0, 1001.0)
    y = staircase(records, times, 0.1 * times, [1, 1, 1])
    np.testing.assert_allclose(detect_steps(records, y, log_time=True).times, times, rtol=0.06)
    assert detect_steps(records, y).count < 3


def test_uneven_records():
    rng = np.random.default_rng(3)
    t = np.sort(rng.uniform(0, 100, 500))
    t = t[(t < 45) | (t > 50)]
    y = staircase(t, [20, 70], [0.5, 2], [1, 0.4]) + 0.01 * rng.standard_normal(len(t))
    np.testing.assert_allclose(detect_steps(t, y).times, [20, 70], atol=0.5)


def test_a_jump_among_few_records_is_found_with_three_after_it():
    """As the last eigenvalue of a deep run that is recorded 46 times."""
    t = np.geomspace(0.1, 8, 46)
    y = np.where(t < t[-3], 0.05, 1.0) + 0.02 * np.sin(40 * t)
    (found,) = detect_steps(t, y, log_time=True).times
    assert t[-4] < found < t[-3]


def test_noise_that_grows_with_the_curve_makes_no_steps():
    """Of 20 plateaus with 10 % of noise at most one has a step; with the noise of all records alone, most of which are at 0, it was 50."""
    rng = np.random.default_rng(1)
    t = np.geomspace(0.01, 10, 60)
    more = 0
    for _ in range(20):
        y = staircase(t, [1.0], [0.05], [1]) * np.exp(0.1 * rng.standard_normal(60)) + 1e-6 * rng.standard_normal(60)
        found = detect_steps(t, y, log_time=True)
        assert found.highest == pytest.approx(1, abs=0.08)
        more += found.count - 1
    assert more <= 1


def test_the_highest_step_is_told():
    y = staircase(LINEAR, [30, 60], [0.5, 1], [1, 2])
    assert detect_steps(LINEAR, y).highest == pytest.approx(60, abs=0.1)
    assert detect_steps(LINEAR, -y).highest is None


def test_eigenvalues_have_their_own_steps():
    rng = np.random.default_rng(0)
    times = [20.0, 45.0, 70.0]
    columns = [staircase(LINEAR, [c], [0.6], [h]) for c, h in zip(times, (3, 2, 1), strict=True)]
    # Rounding, a mode that has not come, and noise.
    columns += [1e-9 * staircase(LINEAR, [50], [1], [1]), 0 * LINEAR, 1e-3 * rng.random(400)]
    spectra = np.stack(columns, 1)
    found = eigenvalue_steps(LINEAR, spectra)
    assert [steps.count for steps in found] == [1, 1, 1, 0, 0, 0]
    np.testing.assert_allclose([s.times[0] for s in found[:3]], times, atol=0.1)
    np.testing.assert_allclose([s.heights[0] for s in found[:3]], [3, 2, 1], rtol=0.05)
    # Alone, the small curve is a curve like any other.
    assert detect_steps(LINEAR, spectra[:, 3]).count == 1
    assert eigenvalue_steps(LINEAR, spectra[:, :1])[0] == detect_steps(LINEAR, spectra[:, 0])


def test_the_knobs_turn():
    y = staircase(LINEAR, [30, 60], [0.5, 0.5], [1, 0.03])
    assert [detect_steps(LINEAR, y, min_height=h).count for h in (0.05, 0.01)] == [1, 2]
    close = staircase(LINEAR, [48, 52], [0.3, 0.3], [1, 1])
    assert [detect_steps(LINEAR, close, resolution=r).count for r in (0.01, 0.04)] == [2, 1]
    wavy = LINEAR / 20 + np.sin(LINEAR / 4) / 8
    assert [detect_steps(LINEAR, wavy, contrast=c).count > 0 for c in (0.3, 0.9)] == [True, False]


def test_bad_input_is_named():
    t = np.arange(10.0)
    for time, curve, message in (
        (t[:7], t[:7], "at least 8 records, got 7"),
        (t[::-1], t, "time must increase"),
        (t, np.full(10, np.nan), "must be finite"),
        (t, t[:9], "time must have shape"),
        (t, np.ones((10, 2)), r"curve must have shape \(K,\), got \(10, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            detect_steps(time, curve)
    with pytest.raises(ValueError, match="at least 8 records at t > 0, got 7"):
        detect_steps(np.arange(8.0), np.ones(8), log_time=True)
    with pytest.raises(ValueError, match=r"spectra must have shape \(K, d\)"):
        eigenvalue_steps(t, t)
    with pytest.raises(ValueError, match="resolution must be"):
        detect_steps(t, t, resolution=0.0)


def test_first_crossings_interpolate_a_straight_rise():
    time = np.array([0.0, 1.0, 2.0, 4.0])
    eigenvalues = np.array([[[0.0, 0.0, 0.6]], [[0.4, 0.0, 0.7]], [[0.8, 0.1, 0.8]], [[1.0, 0.9, 0.9]]])
    assert first_crossing(time, eigenvalues, 0.5)[0] == pytest.approx([1.25, 3.0, 0.0])
    assert np.isnan(first_crossing(time, eigenvalues * 0.4, 0.5)).all()


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=8),
    st.floats(-1, 1),
)
def test_a_first_crossing_is_on_the_curve_and_nothing_before_it_is_at_the_level(rows, level):
    gaps, *curves = np.array(rows).T
    time, values = np.cumsum(gaps), np.stack(curves, -1)
    found = first_crossing(time, values, level)
    for curve, t in zip(values.T, found, strict=True):
        assert np.isnan(t) == (curve.max() < level)
        if not np.isnan(t):
            assert (curve[time < t * (1 - 1e-12)] < level).all()
            assert np.interp(t, time, curve) == pytest.approx(max(level, curve[0]), abs=1e-9)


def test_a_crossing_needs_two_records():
    with pytest.raises(ValueError, match="at least 2 records, got 1"):
        first_crossing(np.zeros(1), np.ones(1), 0.5)

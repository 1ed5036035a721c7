"""What the shared marks of figures show, read back from the axes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.report.style import SERIES, compared, median_band, panels, points, power_law, ranges

X = np.array([1.0, 2.0, 4.0])
VALUES = np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0], [0.5, 4.0, 0.1]])


def axes():
    return panels(1, 1)[1][0, 0]


def edges(collection):
    """Lowest and highest corner of a band at every x."""
    corners = collection.get_paths()[0].vertices
    return [(corners[corners[:, 0] == x, 1].min(), corners[corners[:, 0] == x, 1].max()) for x in X]


def test_a_band_reaches_from_the_smallest_to_the_largest_around_the_median():
    panel = axes()
    median_band(panel, X, VALUES, 7, "label")
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [2, 3, 0.5])
    assert edges(panel.collections[0]) == [(1, 6), (3, 3), (0.1, 4)]
    assert panel.lines[0].get_color() == SERIES[7 % len(SERIES)]["color"] and panel.lines[0].get_label() == "label"


def test_a_prediction_is_a_line_and_measurements_are_markers_on_their_band():
    panel = axes()
    compared(panel, X, VALUES, 10 * VALUES, 1, "label")
    line, markers = panel.lines
    assert line.get_marker() == "None" and line.get_ydata().tolist() == [20, 30, 5]
    assert markers.get_linestyle() == "None" and markers.get_ydata().tolist() == [2, 3, 0.5]
    assert edges(panel.collections[0]) == [(1, 6), (3, 3), (0.1, 4)]


@pytest.mark.parametrize("joined", [False, True])
def test_bars_end_at_the_smallest_and_the_largest(joined):
    panel = axes()
    ranges(panel, X, VALUES, 2, "label", joined)
    (middle, _, (bars,)) = panel.containers[0]
    assert middle.get_ydata().tolist() == [2, 3, 0.5] and (middle.get_linestyle() != "None") == joined
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [(1, 6), (3, 3), (0.1, 4)], rtol=1e-14)
    ranges(axes(), X[:0], VALUES[:0], 2, "nothing finite")


def test_many_points_are_thinned_unless_all_are_asked_for():
    x = np.arange(200.0)
    for most, shown in ((60, 67), (None, 200)):
        panel = axes()
        points(panel, x, x, most=most)
        assert len(panel.lines[0].get_xdata()) == shown


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=5), st.floats(-3, 3), st.floats(0.01, 100))
def test_a_power_law_passes_through_the_geometric_means(sizes, slope, height):
    x = np.array(sizes)
    y = height * np.stack([x**slope, 4 * x**slope], -1)  # the geometric mean of a pair is twice the first
    at = np.array([0.5, 3.0])
    np.testing.assert_allclose(power_law(at, slope, x, y), 2 * height * at**slope, rtol=1e-10)

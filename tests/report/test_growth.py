"""The growing cloud: what it says is what it shows, and those who want no motion get it too."""

import re

import numpy as np
import pytest

from grassmann_ssl.report.growth import at_rest, growth

TIME = np.linspace(0, 12, 25)
STEPS, STILLS = np.array([3.0, 6.0, 9.0]), np.array([0, 9, 15, 24])


def cloud(last=1.0):
    """Points whose three variances rise at the steps; `last`: the size of the third at the end, for unit ones."""
    points = np.random.default_rng(0).standard_normal((40, 3))
    risen = 1 / (1 + np.exp(-8 * (TIME[:, None] - STEPS)))
    return points * risen[:, None] * (1, 1, last)


def test_it_says_how_many_dimensions_there_are():
    words = growth(TIME, cloud(), STEPS, STILLS).panels[0].words
    assert words.endswith("t = 0: a point; t = 4.5: a line; t = 7.5: a plane; t = 12: a volume")
    late = growth(TIME, cloud(), STEPS, np.array([0, 0, 9, 15])).panels[0].words
    assert late.endswith("t = 0: a point; t = 0: a point; t = 4.5: a line; t = 7.5: a plane")


def test_motion_is_for_those_who_want_it():
    drawing = growth(TIME, cloud(), STEPS, STILLS)
    svg = drawing.svg
    assert "<script" not in svg and len(svg) < 500_000 and drawing.panels[0].content in svg
    assert (
        "@media print,(prefers-reduced-motion:reduce){.growth .moving{display:none}.growth .still{display:inline}}"
        in svg
    )
    moving, still = svg.split('<g class="still">')
    assert "<animate" not in still and still.count("<circle") == 4 * 40 and moving.count('class="dot"') == 40
    first = re.search(r'cx" dur="10s" repeatCount="indefinite" values="([^"]*)"', moving).group(1).split(";")
    assert len(first) == len(TIME) + at_rest(len(TIME)) and first[-1] == first[len(TIME) - 1] != first[0]


def test_points_are_where_they_are_seen_from():
    """Two points that differ along the third axis alone are above each other."""
    points = cloud()
    points[:, 1] = points[:, 0] + (0, 0, 1) * np.linspace(0, 1, 25)[:, None]
    svg = growth(TIME, points, STEPS, STILLS).svg
    ends = {name: re.findall(rf'"{name}" dur="10s"[^>]*;([^;"]*)"', svg) for name in ("cx", "cy")}
    xs, ys = ([float(value) for value in ends[name]] for name in ("cx", "cy"))
    assert xs[0] == pytest.approx(xs[1], abs=0.11) and ys[1] < ys[0]

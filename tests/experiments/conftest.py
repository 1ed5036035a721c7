"""Settings of the tests that run experiments."""

import pytest

from grassmann_ssl.report import page

draw, laid_out = page.png, set()


def draw_quickly(figure):
    """Every figure is drawn. To find the room that axes and words need is two thirds of that, and done once for the same titles."""
    titles = tuple(axes.get_title() + axes.get_ylabel() for axes in figure.axes)
    if titles in laid_out:
        figure.set_layout_engine("none")
    laid_out.add(titles)
    return draw(figure)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    page.png = draw if item.get_closest_marker("drawn") else draw_quickly


def pytest_runtest_teardown(item):
    page.png = draw

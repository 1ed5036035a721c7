"""A figure as SVG: whole, in panels, in words; the same text every time; ticks and titles that do not collide."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from grassmann_ssl.report.drawing import MANY, drawn
from grassmann_ssl.report.style import BELOW, arranged, numbered, panels, readable
from grassmann_ssl.report.words import described
from tests.report.collisions import collisions


def figure(columns=2):
    whole, axes = panels(1, columns)
    for k, panel in enumerate(axes[0]):
        panel.plot([1, 2, 4], [1, 10, 100], label=f"series {k}")
        panel.set(title=f"panel {k}", xlabel="time t", ylabel="loss", yscale="log")
    axes[0, 0].legend(**BELOW)
    return whole


@pytest.mark.long
def test_the_same_figure_is_the_same_text_and_refers_to_itself_alone():
    first, second = drawn(figure()), drawn(figure())
    assert first == second and first.columns == 2
    for text in (first.svg, "".join(panel.content for panel in first.panels)):
        named = set(re.findall(r'id="([\w-]+)"', text))
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', text)) <= named


@pytest.mark.long
def test_a_panel_is_one_of_the_axes_in_a_box_as_wide_as_the_others():
    whole = figure(3)
    whole.legend(["a", "b"], loc="outside lower center")
    *three, legend = drawn(whole).panels
    assert [one.words for one in three] == [
        f"panel {k}: loss against time t, logarithmic y, shows series {k}" for k in range(3)
    ]
    assert legend.wide and legend.words == "legend: a, b" and not any(one.wide for one in three)
    assert len({round(one.box[2], 6) for one in three}) == 1
    assert three[0].box[0] < three[1].box[0] < three[2].box[0]
    assert drawn(figure(1)).panels[0].box == (0, 0, 72 * 4.4, 72 * 3.7)  # a column is one panel, whole


@pytest.mark.long
@pytest.mark.parametrize(("columns", "across", "below"), [(1, 1, 5), (2, 2, 3), (4, 4, 2), (5, 5, 1), (9, 5, 1)])
def test_panels_are_arranged_in_fewer_columns_each_as_large_as_before(columns, across, below):
    whole = figure(5)
    before = [axes.get_title() for axes in whole.axes]
    assert arranged(whole, columns) is whole
    assert tuple(whole.get_size_inches()) == pytest.approx((4.4 * across, 3.7 * below))
    whole.draw_without_rendering()
    boxes = [axes.get_position() for axes in whole.axes]
    assert [axes.get_title() for axes in whole.axes] == before
    for k, box in enumerate(boxes):
        row, column = divmod(k, across)
        assert column / across < box.x0 < box.x1 < (column + 1) / across
        assert 1 - (row + 1) / below < box.y0 < box.y1 < 1 - row / below


@pytest.mark.long
@pytest.mark.parametrize(("columns", "stacked"), [(1, True), (3, False)])
def test_a_legend_that_is_wider_than_its_figure_stands_in_one_column(columns, stacked):
    whole = figure(columns)
    long = [f"a name as long as half of a panel, {k}" for k in range(2)]
    whole.legend([whole.axes[0].lines[0]] * 2, long, loc="outside lower center", ncols=2)
    whole.draw_without_rendering()
    room = whole.axes[0].get_window_extent().height
    readable(whole)
    whole.draw_without_rendering()
    assert whole.axes[0].get_window_extent().height == pytest.approx(room, rel=0.01)
    (legend,) = whole.legends
    first, second = (text.get_window_extent() for text in legend.get_texts())
    assert (first.x0 == second.x0) == stacked and [text.get_text() for text in legend.get_texts()] == long
    assert 0 <= legend.get_window_extent().x0 and legend.get_window_extent().x1 <= whole.bbox.width


def test_no_columns_are_refused():
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        arranged(figure(2), 0)


@pytest.mark.long
@pytest.mark.parametrize(("columns", "beside"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (8, 2)])
def test_many_columns_are_laid_out_in_equal_rows(columns, beside):
    assert drawn(panels(1, columns, 1, 1)[0]).columns == beside


@pytest.mark.parametrize(("count", "pixels"), [(MANY, False), (MANY + 1, True)])
def test_many_points_are_pixels_in_the_svg(count, pixels):
    whole, axes = panels(1, 1)
    axes[0, 0].plot(np.zeros(count), np.zeros(count), "o")
    text = drawn(whole).svg
    assert ("data:image/png" in text) == pixels and len(text) < 1_000_000


def test_words_say_what_stands_where_nothing_is_drawn_and_which_rows_a_map_has():
    panel = panels(1, 1)[1][0, 0]
    panel.text(0.5, 0.5, "no angle:\nd = 1")
    panel.set(title="$v_1$ of C", xticks=[], yticks=[])
    assert described(panel) == "v_1 of C: no angle: d = 1"
    panel.imshow(np.eye(2))
    panel.set_yticks([0, 1], ["free", "grassmann"])
    assert described(panel) == "v_1 of C: shows free, grassmann"


@pytest.mark.long
@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("high", [1.01, 1.5, 2, 4, 9, 20, 90, 1e3, 1e5, 1e17])
@pytest.mark.parametrize("low", [3e-7, 0.7, 30.0])
def test_numbers_of_logarithmic_axes_do_not_overlap(axis, high, low):
    whole, axes = panels(1, 1)
    axes[0, 0].plot([low, low * high], [low, low * high])
    axes[0, 0].set(**{f"{axis}scale": "log"})
    readable(whole)
    assert collisions(whole) == []
    view = getattr(axes[0, 0], f"{axis}axis")
    inside = [tick for tick in view.get_major_ticks() if low * 0.9 <= tick.get_loc() <= low * high * 1.1]
    assert len([tick for tick in inside if tick.label1.get_text()]) >= 2


def test_numbers_of_neighbours_are_left_out_and_long_titles_go_on_below():
    whole, axes = panels(1, 1)
    widths = np.array([4096, 64, 32, 18, 17, 16])
    axes[0, 0].plot(widths, widths)
    axes[0, 0].set(xscale="log", yscale="log", title="a title of many words, " * 4)
    numbered(axes[0, 0].xaxis, widths)
    readable(whole)
    assert collisions(whole) == []
    shown = [label.get_text() for label in axes[0, 0].get_xticklabels()]
    assert shown[0] == "16" and shown[1:3] == ["", ""] and shown[-1] == "4096"


def test_collisions_are_seen():
    whole = Figure(figsize=(2, 2))
    axes = whole.subplots()
    axes.set_xticks([0.5, 0.51], ["first", "second"])
    assert ("first", "second") in collisions(whole)
    axes.set_title("much too long for such a figure")
    assert ("much too long for such a figure", "outside") in collisions(whole)


def test_axes_that_show_nothing_are_no_panel():
    figure, axes = panels(1, 3)
    axes[0, 0].plot([0, 1], [0, 1])
    axes[0, 1].set_axis_off()
    axes[0, 2].set_axis_off()
    axes[0, 2].text(0.5, 0.5, "diverged")
    assert len(drawn(figure).panels) == 2

"""Words of a figure that stand on one another, or outside of it."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

SLACK = 1.0  # points: a box of letters has some air


def words(figure):
    """What is written around the axes of a figure, each with its box in points: titles, labels of axes, numbers of ticks."""
    figure.dpi = 72
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        texts = [*axes.texts, axes.title, axes._left_title]
        for axis in (axes.xaxis, axes.yaxis):
            if not axes.axison:
                continue
            low, high = sorted(axis.get_view_interval())
            texts.append(axis.label)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if low <= tick.get_loc() <= high:
                    texts.append(tick.label1)
        found += [one for one in texts if one.get_visible() and one.get_text().strip()]
        legend = axes.get_legend()
        if legend is not None and legend._loc == 9:  # below the axes
            found.append(legend)
    found += [text for text in figure.texts if text.get_text()]
    return [(one.get_text() if isinstance(one, Text) else "legend", one.get_window_extent(renderer)) for one in found]


def collisions(figure):
    """Pairs of words whose boxes share more than their air, and words that reach out of the figure."""
    boxes = words(figure)
    width, height = 72 * figure.get_size_inches()
    out = [
        (text, "outside")
        for text, box in boxes
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK
    ]
    return out + [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK
    ]

"""Figures in tests that look at numbers and words: one of every kind is drawn in full, others like it are that picture."""

from collections import Counter

import numpy as np

from grassmann_ssl.report import drawing

draw = drawing.drawn
laid_out, drawn = set(), {}


def finite(artist):
    """Whether an artist shows nothing, no finite number, some, or finite numbers alone."""
    values = artist.get_ydata() if hasattr(artist, "get_ydata") else getattr(artist, "get_array", lambda: None)()
    if values is None:
        return None
    known = np.isfinite(np.ma.filled(np.ma.asarray(values, float), np.nan))
    return known.size > 0, bool(known.any()), bool(known.all())


def kind(axes):
    """What can make drawing fail: words, scales, and the artists with how much there is of their numbers."""
    artists = Counter((type(one).__name__, finite(one)) for one in axes.get_children())
    words = axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()
    return words, frozenset(artists.items())


def draw_quickly(figure):
    """The picture of the figure, or of one of its kind. To find the room that axes and words need is done once for the same titles."""
    same = tuple(map(kind, figure.axes))
    if same not in drawn:
        titles = tuple(axes.get_title() + axes.get_ylabel() for axes in figure.axes)
        if titles in laid_out:
            figure.set_layout_engine("none")
        laid_out.add(titles)
        drawn[same] = draw(figure)
    return drawn[same]


def choose(in_full):
    """Pages of the test that follows have figures drawn as for users, or quickly."""
    drawing.drawn = draw if in_full else draw_quickly

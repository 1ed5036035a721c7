"""A figure as SVG: whole, for the run folder, and cut into its panels, which a page lays out as its window is wide."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from grassmann_ssl.report.words import described

MANY = 5000  # points of one artist; those with more are pixels inside the SVG
DPI = 192  # of these pixels: two for each of a page
BESIDE = 3  # most panels beside each other
MARGIN = 3.0  # points around a panel
UNDATED = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Panel:
    """A part of a figure: the content of an <svg>, its box (x, y, width, height) in points, in words what it shows; a legend is `wide`."""

    content: str
    box: tuple[float, float, float, float]
    words: str
    wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """A figure as the text of an SVG file, its panels, and how many of them are beside each other where there is room."""

    svg: str
    panels: tuple[Panel, ...]
    columns: int


def drawn(figure: Figure) -> Drawing:
    """Draw a figure, once: the same figure gives the same text under the same versions of matplotlib and its fonts.

    A figure with one column of axes is one panel. Of others each of the axes is one, and so is a legend of the figure.
    """
    shown = [axes for axes in figure.axes if _shows(axes)]
    for axes in shown:
        for artist in (*axes.lines, *axes.collections):
            artist.set_rasterized(artist.get_rasterized() or _points(artist) > MANY)
    parts: list[Artist] = [*shown, *figure.legends]
    for k, part in enumerate(parts):
        part.set_gid(f"panel{k}")
    text = io.StringIO()
    figure.dpi = DPI
    # Letters are outlines, so that no font is missing, and what is referred to has the same name in every drawing.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "grassmann_ssl"}):
        FigureCanvasSVG(figure).print_svg(text, metadata=UNDATED)  # type: ignore[no-untyped-call]  # nor to this
    svg = text.getvalue()
    columns = max((spec.get_gridspec().ncols for axes in shown if (spec := axes.get_subplotspec())), default=1)
    return Drawing(svg, tuple(_panels(figure, parts, svg, columns)), _beside(columns))


def _shows(axes: Axes) -> bool:
    """Whether there is anything of these axes in the drawing."""
    anything = axes.axison or axes.has_data() or bool(axes.texts) or axes.get_legend() is not None
    return axes.get_visible() and anything


def _points(artist: Artist) -> int:
    data = getattr(artist, "get_xdata", None) or getattr(artist, "get_offsets", None)
    return len(np.atleast_1d(data())) if data else 0


def _beside(columns: int) -> int:
    """All columns where they are few, else as many as divide them."""
    return next((k for k in (columns, 3, 2) if k <= BESIDE and columns % k == 0), BESIDE)


def _panels(figure: Figure, parts: list[Artist], svg: str, columns: int) -> list[Panel]:
    width, height = (72 * float(size) for size in figure.get_size_inches())
    # What is at the level of the figure stands two spaces deep: groups, and last what they refer to.
    groups = re.findall(r'^  <g id="(\w+)">\n(.*?)^  </g>\n', svg, re.MULTILINE | re.DOTALL)
    shared = svg[svg.rindex(" </g>\n") + len(" </g>\n") :].removesuffix("</svg>\n")
    if columns == 1:
        title = " ".join(figure.get_suptitle().split())
        words = "; ".join(filter(None, [title, *map(described, parts)]))
        whole = "".join(content for _, content in groups)
        return [Panel(_bare(whole + shared), (0.0, 0.0, width, height), words)]
    figure.dpi = 72  # so that a pixel is a point
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib gives it no types
    panels, content = [], dict(groups)
    extents = [np.asarray(part.get_tightbbox(renderer).padded(MARGIN).extents) for part in parts]  # type: ignore[union-attr]
    # Panels are equally wide, so that a page shows their letters in one size.
    usual = max(
        right - left for part, (left, _, right, _) in zip(parts, extents, strict=True) if isinstance(part, Axes)
    )
    for k, (part, (left, bottom, right, top)) in enumerate(zip(parts, extents, strict=True)):
        wide = not isinstance(part, Axes)
        across = right - left if wide else usual
        box = (left + right - across) / 2, height - top, across, top - bottom
        # Outlines of letters are with the panel that is the first to use them; clips are all with the first.
        text = content[f"panel{k}"] + (shared if k == 0 else "")
        panels.append(Panel(_bare(text), box, described(part), wide))
    return panels


def _bare(content: str) -> str:
    """The content without comments, names that nothing refers to, and the space before its lines."""
    content = re.sub(r"<!--.*?-->", "", content, flags=re.DOTALL)
    content = re.sub(r'<g id="[\w.]+">', "<g>", content)
    return re.sub(r"\n\s*", "\n", content)

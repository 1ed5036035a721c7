"""Embeddings that grow from a point to a line, a plane and a volume: a moving picture in SVG, without scripts.

Readers who prefer no motion, and paper, get four of its moments instead.
"""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from grassmann_ssl.report.drawing import Drawing, Panel
from grassmann_ssl.report.style import SERIES

Array = NDArray[np.floating]
WIDTH, HEIGHT, SIDE = 420.0, 340.0, 300.0  # of the picture, and of the cloud in it
SECONDS, REST = 10, 0.2  # of one round, and the share of it that the end is shown
SHAPES = ("a point", "a line", "a plane", "a volume")
LEARNED = 0.5  # of its variance at the end: an axis with less is not there yet
# Right and up as the first, second and third axis are seen: from the side and a little from above.
VIEW = np.array([[0.87, 0.18], [0.5, -0.31], [0.0, 0.93]])
STYLE = (
    ".growth .still{display:none}@media print,(prefers-reduced-motion:reduce){.growth .moving{display:none}.growth .still{display:inline}}"
    ".growth text{font:12px sans-serif}.growth .dot{fill-opacity:.55}.growth .axis{stroke:#999;stroke-width:1}"
)


def growth(time: Array, points: Array, steps: Array, stills: NDArray[np.integer]) -> Drawing:
    """The drawing of points (F, n, 3) at times (F,), with the times of the first three steps, and four frames to show as stills."""
    flat = points @ VIEW
    scale = 0.46 * SIDE / np.abs(flat).max()
    flat, axes = flat * scale * (1, -1), VIEW * (1, -1) * scale * np.abs(points).max()
    variances = points.var(1) / points[-1].var(0)
    words = [_said(time[k], variances[k]) for k in stills]
    parts = [
        f'<g class="growth"><style>{STYLE}</style>',
        '<g class="moving">',
        _cloud(flat, axes, variances),
        _clock(time, steps),
        "</g>",
        '<g class="still">',
        *(_still(flat[k], axes, said, place) for place, (k, said) in enumerate(zip(stills, words, strict=True))),
        "</g></g>",
    ]
    content = "\n".join(parts)
    named = f"embeddings of {points.shape[1]} samples along the directions of the first three steps: {'; '.join(words)}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}" role="img">\n'
        f'<title>{escape(named)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n{content}\n</svg>\n'
    )
    return Drawing(svg, (Panel(content, (0.0, 0.0, WIDTH, HEIGHT), named),), 1)


def _said(time: float, variances: Array) -> str:
    """What the points are at a time."""
    return f"t = {time:.3g}: {SHAPES[int((variances > LEARNED).sum())]}"


def at_rest(frames: int) -> int:
    """How often the last of these frames is repeated."""
    return round(frames * REST / (1 - REST))


def _moving(name: str, values: Array) -> str:
    """An attribute that takes these values one after the other, and rests at the last one."""
    whole = np.append(values, np.repeat(values[-1], at_rest(len(values))))
    text = ";".join(f"{value:.1f}" for value in whole)
    return f'<animate attributeName="{name}" dur="{SECONDS}s" repeatCount="indefinite" values="{text}"/>'


def _axes(axes: Array, x: float, y: float, share: float = 1.0) -> str:
    return "".join(
        f'<line class="axis" x1="{x - share * a:.1f}" y1="{y - share * b:.1f}" x2="{x + share * a:.1f}" y2="{y + share * b:.1f}"/>'
        for a, b in axes
    )


def _cloud(flat: Array, axes: Array, variances: Array) -> str:
    """The points on their way, and the variances along the axes as bars."""
    middle = SIDE / 2
    dots = "".join(
        f'<circle class="dot" r="3" fill="{SERIES[1]["color"]}">{_moving("cx", middle + x)}{_moving("cy", middle + y)}</circle>'
        for x, y in np.moveaxis(flat, 0, -1)
    )
    bars = []
    for k in range(3):
        height = 200 * np.minimum(variances[:, k] / variances.max(), 1)
        color, x = SERIES[k]["color"], SIDE + 20 + 32 * k
        bars.append(
            f'<rect x="{x:g}" width="22" fill="{color}">{_moving("y", 250 - height)}{_moving("height", height)}</rect>'
            f'<text x="{x + 11:g}" y="266" text-anchor="middle">{k + 1}</text>'
        )
    return (
        f'{_axes(axes, middle, middle)}\n{dots}\n{"".join(bars)}\n<text x="{SIDE + 12:g}" y="282">variance along</text>'
    )


def _clock(time: Array, steps: Array) -> str:
    """A line of time with the steps on it, and where it is."""
    y, left, right = HEIGHT - 26, 20.0, SIDE - 20
    at = left + (right - left) * time / time[-1]
    ticks = "".join(
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6:g}" y2="{y + 6:g}"/>'
        f'<text x="{x:.1f}" y="{y + 19:g}" text-anchor="middle">{k}</text>'
        for k, x in enumerate(left + (right - left) * steps / time[-1], 1)
    )
    return (
        f'<line class="axis" x1="{left:g}" x2="{right:g}" y1="{y:g}" y2="{y:g}"/>{ticks}'
        f'<circle r="5" cy="{y:g}" fill="#c1440e">{_moving("cx", at)}</circle>'
        f'<text x="{left:g}" y="{y + 19:g}">steps</text><text x="{right + 12:g}" y="{y + 4:g}">t = {time[-1]:.3g}</text>'
    )


def _still(flat: Array, axes: Array, said: str, place: int) -> str:
    """One moment, in a quarter of the picture."""
    x, y = WIDTH * (0.25 + 0.5 * (place % 2)), HEIGHT * (0.22 + 0.5 * (place // 2))
    dots = "".join(
        f'<circle class="dot" r="2" fill="{SERIES[1]["color"]}" cx="{x + a:.1f}" cy="{y + b:.1f}"/>'
        for a, b in 0.48 * flat
    )
    return f'{_axes(axes, x, y, 0.48)}{dots}<text x="{x:.1f}" y="{y + 88:.1f}" text-anchor="middle">{said}</text>'

"""What a panel of a figure shows, in words: for those who do not see it. Computed from the panel itself."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.legend import Legend

MOST = 12  # names of series or rows that are told


def described(part: Artist) -> str:
    """The title of axes, what stands against what, on which scales, and the names of what is drawn; of a legend its entries."""
    if isinstance(part, Legend):
        return f"legend: {_listed([text.get_text() for text in part.get_texts()])}"
    if not isinstance(part, Axes):
        return ""
    title = next(filter(None, (part.get_title(where) for where in ("center", "left", "right"))), "")
    x, y = part.get_xlabel(), part.get_ylabel()
    against = f"{y} against {x}" if x and y else x or y
    logs = [name for name, scale in (("x", part.get_xscale()), ("y", part.get_yscale())) if scale == "log"]
    scales = f"logarithmic {' and '.join(logs)}" if logs else ""
    rows = [] if y else [label.get_text() for label in part.get_yticklabels()]
    names = _named(part) or [text for text in rows if text.strip("−0123456789. ")]
    said = (against, scales, f"shows {_listed(names)}" if names else "", *_notes(part))
    text = ": ".join(filter(None, (title, ", ".join(filter(None, said)))))
    return " ".join(text.replace("$", "").split())


def _named(part: Axes) -> list[str]:
    """The names in the legend, else those of what is drawn."""
    return list(dict.fromkeys(part.get_legend_handles_labels()[1]))


def _notes(part: Axes) -> list[str]:
    """Texts that stand in place of a drawing."""
    return [] if part.lines or part.images or part.collections else [text.get_text() for text in part.texts]


def _listed(names: list[str]) -> str:
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more} more" if more > 0 else "")

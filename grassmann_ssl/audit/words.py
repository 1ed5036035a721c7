"""A verdict, a number and a whole audit in words."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.rule import Verdict

FEW = 3  # collapsed classes that a repr names,
NAMED = 8  # and a sentence
LISTED = 20  # classes that a table lists


def judgement(verdict: Verdict) -> str:
    """The verdict in one sentence, with what is open."""
    text = verdict.kind if verdict.kind == "undecided" else f"{', '.join(verdict.kinds) or 'no'} collapse"
    if "dimensional" in verdict.kinds:
        forms = (("few dimensions used", verdict.soft), ("dead dimensions", verdict.hard))
        text += f" ({' and '.join(name for name, on in forms if on)})"
    if verdict.classes:
        text += f": {_some(verdict.classes, NAMED, ', ')}"
    if verdict.open:
        text += "; open: " + "; ".join(f"{kind} ({why})" for kind, why in verdict.open.items())
    return text


def short_judgement(verdict: Verdict) -> str:
    """The kinds of collapse found, with the classes; or what is open."""
    if verdict.kind == "undecided":
        return f"undecided, {' and '.join(verdict.open)} open"
    text = ", ".join(verdict.kinds) or "none"
    return f"{text} {_some(verdict.classes, FEW, ' ')}" if verdict.classes else text


def _some(names: Sequence[str], most: int, between: str) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return between.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def number_text(one: Number | None) -> str:
    """A value with its interval, "unknown" where there is none."""
    if one is None or one.value is None:
        return "unknown"
    return f"{one.value:.4g}" + interval_text(one.low, one.high)


def interval_text(low: float | None, high: float | None) -> str:
    """An interval in brackets after a space; one end as a bound, nothing where neither is known."""
    if low is None and high is None:
        return ""
    if low is None:
        return f" [at most {high:.4g}]"
    return f" [at least {low:.4g}]" if high is None else f" [{low:.4g}, {high:.4g}]"


def class_order(rows: Iterable[ClassRow], collapsed: Sequence[str]) -> list[ClassRow]:
    """Collapsed classes first, then those that use few dimensions, last those of which that is unknown."""
    gone = set(collapsed)

    def key(row: ClassRow) -> tuple[bool, bool, float]:
        return row.name not in gone, row.dimensions_used is None, row.dimensions_used or 0.0

    return sorted(rows, key=key)


CLASS_HEADER = ("class", "rows", "dimensions used", "share of the variance", "verdict")


def class_cells(rows: Iterable[ClassRow], collapsed: Sequence[str]) -> tuple[list[tuple[str, ...]], int]:
    """Cells of a table of classes under CLASS_HEADER, in the order of `class_order`, and how many are left out of it."""
    ordered = class_order(rows, collapsed)
    cells: list[tuple[str, ...]] = [
        (
            row.name,
            f"{row.rows:,}",
            "unknown"
            if row.dimensions_used is None
            else f"{row.dimensions_used:.4g}" + interval_text(row.low, row.high),
            "unknown" if row.share_of_variance is None else f"{row.share_of_variance:.3g}",
            "collapsed" if row.name in collapsed else "",
        )
        for row in ordered[:LISTED]
    ]
    return cells, len(ordered) - len(cells)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, escaped."""

    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"

"""Tables as lines of text, no wider than the terminal, and the summary that a run prints."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

from grassmann_ssl.runs import Finding, Outcome, headings

LEAST, WORD = 10, 24  # characters to which a column is narrowed; of a word that is not broken
MOST = {"quantity": 44, "predicted": 40, "measured": 40, "agreement": 44}  # characters of a column before it is wrapped


def terminal_width() -> int:
    """Characters of a line of the terminal; where stdout is none, lines are as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], most: Sequence[int] = (), rule: bool = True
) -> list[str]:
    """Lines of aligned columns under a ruled header; what is longer than `most`, or than the terminal has room for, is wrapped."""
    columns, room = list(zip(header, *rows, strict=True)), terminal_width()
    widths = [max(map(len, column)) for column in columns]
    widths = [min(pair) for pair in zip(widths, most, strict=True)] if most else widths
    words = [max(len(word) for cell in column for word in re.split(r"[\s-]", cell)) for column in columns]
    least = [max(LEAST, word + 1) if word <= WORD else LEAST for word in words]
    while sum(widths) + 2 * (len(widths) - 1) > room:
        spare = [max(0, width - one) and width for width, one in zip(widths, least, strict=True)]
        if not any(spare):
            break
        widths[spare.index(max(spare))] -= 1
    wrapped = [[textwrap.wrap(*cell) for cell in zip(row, widths, strict=True)] for row in (header, *rows)]
    first, *others = (list(itertools.zip_longest(*cells, fillvalue="")) for cells in wrapped)
    rules = [tuple("-" * width for width in widths)] if rule else []
    lines = [*first, *rules, *itertools.chain(*others)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings of an experiment as text; long cells are wrapped."""
    header = headings(findings)
    rows = [[getattr(f, name) or "–" for name in header] for f in findings]
    return "\n".join(table(header, rows, [MOST[name] for name in header]))


def summary(outcome: Outcome) -> str:
    """The printed summary of a run: table, findings, resumption, interrupt."""
    parts = []
    if outcome.table:
        parts += ["\n".join(table(outcome.table.header, outcome.table.rows)), ""]
    parts.append(findings_table(outcome.findings))
    if outcome.resumed:
        parts.append(f"resumed: {outcome.resumed}")
    if outcome.interrupted:
        parts.append(f"interrupted: {outcome.interrupted}; what was recorded until then is kept, the rest is missing")
    return "\n".join(parts)

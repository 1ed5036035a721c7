"""The summary that a run prints."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from grassmann_ssl.runs import Finding, Outcome, headings

MOST = {"quantity": 44, "predicted": 40, "measured": 40, "agreement": 44}  # characters of a column before it is wrapped


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns under a ruled header."""
    whole = [header, *rows]
    widths = [max(len(row[i]) for row in whole) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in whole]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings of an experiment as text; long cells are wrapped."""
    lines: list[tuple[str, ...]] = []
    header = headings(findings)
    for f in findings:
        wrapped = [textwrap.wrap(getattr(f, name) or "–", MOST[name]) for name in header]
        lines += itertools.zip_longest(*wrapped, fillvalue="")
    return "\n".join(table(header, lines))


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

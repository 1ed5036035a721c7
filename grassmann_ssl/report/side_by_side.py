"""The page of several stored runs side by side, from their folders alone: what differs, what they found, and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grassmann_ssl.report import drawing, stored_page
from grassmann_ssl.report.page import Page, filled
from grassmann_ssl.report.runs_table import cell, differing, found, labels
from grassmann_ssl.runs import ConfigError, StoredRun
from grassmann_ssl.runs.disk import replacing


@dataclass(frozen=True)
class Shown:
    """A figure of one run as drawn, and its caption; None where the run has no figure of that name."""

    label: str
    drawing: drawing.Drawing | None = None
    caption: str = ""


def draw_side_by_side(runs: Sequence[StoredRun], out: Path) -> Path:
    """Write the page of several runs, and return its path: figures of the same name are beside each other.

    One self-contained file, replaced as a whole; the same folders give the same bytes. Raises ConfigError as `draw`, and where it cannot be
    written.
    """
    if out.suffix != ".html":
        raise ConfigError(f"out: {out} must end in .html")
    names, rows = labels(runs), [one.row for one in runs]
    pages = [stored_page(one.folder)[1] for one in runs]
    sections = [section for page in pages for section in page.sections]
    titles = {section.name: section.title for section in reversed(sections)}

    def lines(columns: Iterable[str]) -> list[list[str]]:
        return [[name, *(cell(row, name) for row in rows)] for name in columns]

    html = filled(
        "side_by_side.html.j2",
        heading=f"{len(runs)} runs side by side",
        labels=names,
        folders=[str(one.folder) for one in runs],
        settings=lines(differing(runs)),
        found=lines(found(runs)),
        figures=[
            (name, titles[name], [_shown(label, page, name) for label, page in zip(names, pages, strict=True)])
            for name in dict.fromkeys(section.name for section in sections)
        ],
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as scratch:
            scratch.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written: {error.strerror}") from None
    return out


def _shown(label: str, page: Page, name: str) -> Shown:
    for section in page.sections:
        if section.name == name:
            return Shown(label, section.drawn(), section.caption)
    return Shown(label)

"""The page of a run, drawn from its stored record: verdict and findings first, then method, figures, settings; one self-contained file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from grassmann_ssl.report import drawing
from grassmann_ssl.report.links import command_of, docs_of
from grassmann_ssl.report.style import readable
from grassmann_ssl.runs import Outcome, headings

LONG = 20  # letters of a name that may be broken


@dataclass(frozen=True)
class Section:
    """One figure, saved as NAME.svg and shown on the page panel by panel, with its title and caption."""

    name: str
    title: str
    figure: Figure | drawing.Drawing
    caption: str

    def __post_init__(self) -> None:
        if isinstance(self.figure, Figure):
            readable(self.figure)

    def drawn(self) -> drawing.Drawing:
        """Its figure as SVG, which moving pictures are already."""
        return drawing.drawn(self.figure) if isinstance(self.figure, Figure) else self.figure


@dataclass(frozen=True)
class Page:
    """The content of a report: title, lede (plain text: question and method), and figures."""

    title: str
    lede: str
    sections: tuple[Section, ...]


def render(outcome: Outcome, page: Page, folder: Path) -> dict[str, bytes]:
    """The files of a page in `folder`, by name: report.html, and each figure as NAME.svg."""
    drawings = {section.name: section.drawn() for section in page.sections}
    html = _html(outcome, page, drawings, folder).encode("utf-8", "backslashreplace")  # names of files may be anything
    return {f"{name}.svg": one.svg.encode("utf-8", "backslashreplace") for name, one in drawings.items()} | {
        "report.html": html
    }


def filled(template: str, **content: Any) -> str:
    """A template of this room with its content; text is escaped."""
    folder = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(template).render(**content)


def breakable(text: str) -> Markup:
    """Escaped text whose long names, such as paths and settings, may be broken between their parts: never inside a word."""
    parts = re.split(rf"(\S{{{LONG},}})", text)
    return Markup("").join(
        Markup("<wbr>").join(re.split(r"(?<=[=,/_.;])(?=\w)", part)) if k % 2 else part for k, part in enumerate(parts)
    )


def _html(outcome: Outcome, page: Page, drawings: dict[str, drawing.Drawing], folder: Path) -> str:
    verdict = outcome.record.get("verdict")
    return filled(
        "page.html.j2",
        heading=page.title,
        page=page,
        interrupted=outcome.interrupted,
        resumed=outcome.resumed,
        unlogged=outcome.unlogged,
        verdict=verdict.get("judgement") if isinstance(verdict, dict) else None,
        table=outcome.table,
        headings=headings(outcome.findings),
        findings=outcome.findings,
        docs=docs_of(outcome.name, folder),
        drawings=drawings,
        command=command_of(outcome),
        settings={key: value for key, value in outcome.record.items() if key not in ("findings", "table")},
    )

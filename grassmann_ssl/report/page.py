"""The page of a run, drawn from its stored record: findings first, then figures with captions, then settings; one self-contained file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from grassmann_ssl.report.terminal import HEADINGS
from grassmann_ssl.runs import Outcome


@dataclass(frozen=True)
class Section:
    """One figure, saved as NAME.png and embedded in the page, with its title and caption."""

    name: str
    title: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Page:
    """The content of a report: title, lede (plain text: question and method), and figures."""

    title: str
    lede: str
    sections: tuple[Section, ...]


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.dpi = 110
    # One pass over the figure, where savefig takes two to find its layout.
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # matplotlib gives it no types
    return buffer.getvalue()


def embedded(image: bytes) -> str:
    """PNG bytes as a data URL."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def render(outcome: Outcome, page: Page) -> dict[str, bytes]:
    """The files of a page by name: report.html, and each figure as NAME.png."""
    images = {section.name: png(section.figure) for section in page.sections}
    html = _html(outcome, page, images).encode(
        "utf-8", "backslashreplace"
    )  # names of files and classes may be anything
    return {f"{name}.png": image for name, image in images.items()} | {"report.html": html}


def filled(template: str, **content: Any) -> str:
    """A template of this room with its content; text is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((files(__package__) / template).read_text(encoding="utf-8")).render(**content)


def _html(outcome: Outcome, page: Page, images: dict[str, bytes]) -> str:
    return filled(
        "page.html.j2",
        page=page,
        interrupted=outcome.interrupted,
        resumed=outcome.resumed,
        unlogged=outcome.unlogged,
        table=outcome.table,
        headings=HEADINGS,
        findings=outcome.findings,
        images={name: embedded(image) for name, image in images.items()},
        settings={key: value for key, value in outcome.record.items() if key not in ("findings", "table")},
    )

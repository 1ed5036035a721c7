"""Figures and pages, drawn from the stored record of a run alone: one file per experiment."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from grassmann_ssl.runs import ConfigError, Outcome
from grassmann_ssl.runs.disk import replacing
from grassmann_ssl.runs.folder import own

if TYPE_CHECKING:
    from grassmann_ssl.report.page import Page

__all__ = ["PAGES", "draw", "page_of", "stored_page"]

# Experiment -> the module whose function `page` draws its outcome.
PAGES: dict[str, str] = {
    "audit": "grassmann_ssl.report.encoders.audit",
    "collapse": "grassmann_ssl.report.linear.collapse",
    "compare": "grassmann_ssl.report.linear.compare",
    "compare-encoders": "grassmann_ssl.report.encoders.compare_encoders",
    "directpred-table": "grassmann_ssl.report.encoders.directpred_table",
    "kernel-change": "grassmann_ssl.report.networks.kernel_change",
    "ntk": "grassmann_ssl.report.networks.ntk",
    "phase-basin": "grassmann_ssl.report.phase.basin",
    "phase-directpred": "grassmann_ssl.report.phase.directpred",
    "phase-flow-fields": "grassmann_ssl.report.phase.flow_fields",
    "phase-alignment": "grassmann_ssl.report.phase.alignment",
    "phase-portraits": "grassmann_ssl.report.phase.portraits",
    "phase-fixed-points": "grassmann_ssl.report.phase.fixed_points",
    "phase-sweeps": "grassmann_ssl.report.phase.sweeps",
    "phase-ema": "grassmann_ssl.report.phase.ema",
    "phase-symmetry": "grassmann_ssl.report.phase.symmetry",
    "phase-commutator": "grassmann_ssl.report.phase.commutator",
    "pretrain": "grassmann_ssl.report.encoders.train",
    "stepwise": "grassmann_ssl.report.linear.stepwise",
    "stepwise-deep": "grassmann_ssl.report.encoders.stepwise_deep",
    "train": "grassmann_ssl.report.encoders.train",
    "width": "grassmann_ssl.report.networks.width",
}


def page_of(outcome: Outcome) -> Page:
    """The page of an outcome. Raises ConfigError for an experiment without a page."""
    if outcome.name not in PAGES:
        raise ConfigError(f"no page is known for runs of {outcome.name!r}; known are {', '.join(PAGES)}")
    page: Page = import_module(PAGES[outcome.name]).page(outcome)
    return page


def stored_page(folder: str | Path) -> tuple[Outcome, Page]:
    """The outcome that a run folder holds, and its page. Raises ConfigError as `draw`."""
    outcome = Outcome.load(folder)
    try:
        return outcome, page_of(outcome)
    except KeyError as error:
        wrote = outcome.record.get("git_commit") or "an unknown commit"
        raise ConfigError(
            f"{folder}: {error} is not in this run, and its page needs it: {wrote} wrote it; run it again"
        ) from error


def draw(folder: str | Path) -> Path:
    """Draw the page of a run folder from its files, and return the path of its report.html.

    The same files give the same figures, byte for byte, under the same versions of matplotlib and its fonts. Each file is
    replaced atomically. Raises ConfigError for a folder without a readable run, a run without a page, or a run that lacks what the
    page draws (named): another version wrote it.
    """
    # It imports matplotlib, which --help and config errors should not wait for.
    from grassmann_ssl.report.page import render

    folder = Path(folder)
    outcome, page = stored_page(folder)
    files = render(outcome, page, folder)
    for name, content in files.items():
        with replacing(folder / name) as scratch:
            scratch.write_bytes(content)
    own(folder, files)
    return folder / "report.html"

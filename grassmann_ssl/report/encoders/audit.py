"""The page of a collapse audit."""

from __future__ import annotations

from grassmann_ssl.audit import Audit
from grassmann_ssl.audit.decide import DECIDED, PLENTY
from grassmann_ssl.audit.record import restored
from grassmann_ssl.report.page import Page, Section
from grassmann_ssl.runs import Outcome


def page(outcome: Outcome) -> Page:
    """The verdict, what the rows can show, the rule, and the picture of the audit."""
    audit = restored(outcome.record, outcome.arrays)
    file = outcome.record["config"]["file"]
    caption = (
        "First: eigenvalues of the covariance. The line is the population's, estimated, with its band; circles are the sample's, which are "
        "biased: the largest are too large, the smallest too small. Dashed: a dimension is live above it. Then: the variance of z/‖z‖ "
        "with its interval; left of the dashed line all directions are nearly alike."
    )
    if audit.classes:
        caption += " Last: dimensions used within each class, with intervals; collapsed classes are red."
    return Page(
        f"Collapse audit of {file}" if file else "Collapse audit",
        " ".join(
            (
                f"Did these embeddings collapse? {_sentence(audit.judgement)}",
                f"Judged: {audit.judged}.",
                *_evidence(audit),
                f"Rule: {audit.rule}.",
            )
        ),
        (Section("audit", "Spectrum, directions" + (", classes" if audit.classes else ""), audit.plot(), caption),),
    )


def _evidence(audit: Audit) -> list[str]:
    """What so many rows can and cannot show."""
    text, d = [], audit.dimension
    if audit.rows <= d:
        text.append(
            f"They span at most {audit.rows - 1} dimensions, whatever the population; its spectrum is estimated."
        )
    if audit.units >= PLENTY * d:
        text.append(f"With {PLENTY} independent rows per dimension or more, the estimates decide.")
    else:
        text.append(
            f"With fewer than {PLENTY} independent rows per dimension, a question is decided where its {100 * DECIDED:g} % interval "
            "lies on one side of the threshold, and is open otherwise."
        )
    return text


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."

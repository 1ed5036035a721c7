"""The summary a run prints: one line per arm, or per finding."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grassmann_ssl.runs import Finding

HEADER = ("objective", "arm", "collapse", "eff. rank", "angle [rad]", "against theory")
HEADINGS = ("quantity", "predicted", "measured", "agreement")
MOST = (36, 40, 40, 44)  # characters of a column before it is wrapped


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
    for f in findings:
        cells = (f.quantity, *(cell or "–" for cell in (f.predicted, f.measured, f.agreement)))
        wrapped = [textwrap.wrap(cell, most) or [""] for cell, most in zip(cells, MOST, strict=True)]
        lines += itertools.zip_longest(*wrapped, fillvalue="")
    return "\n".join(table(HEADINGS, lines))


def number(value: float | None, digits: int = 3) -> str:
    """A number for people, an en dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def theory_line(agreement: dict, objective: str, arm: str) -> str:
    """What was compared with theory in this arm, in words and numbers."""
    parts = []
    if arm == "free" and "step_times" in agreement:
        error = agreement["step_times"]["max_relative_error"]
        parts.append(
            "step times: " + (f"within {100 * error:.2g} %" if error is not None else agreement["step_times"]["reason"])
        )
    if arm == "free" and "collapse_slope" in agreement:
        slope = agreement["collapse_slope"]
        error = slope["relative_error"]
        parts.append(
            "collapse slope: " + (f"within {100 * error:.2g} %" if error is not None else "not reached in this horizon")
        )
    if arm == "grassmann" and "flow" in agreement:
        parts.append(f"exact flow: projector within {agreement['flow']['max_projector_error']:.2g}")
    angle = agreement["subspace"].get(arm, {}).get("max_principal_angle")
    if not parts:
        if angle is None:
            parts.append("no closed form of the end point")
        else:
            parts.append(
                f"subspace: within {angle:.2g} rad" if angle < 0.1 else f"subspace: still {angle:.2g} rad away"
            )
    return "; ".join(parts)


def verdict(arm_result: dict) -> str:
    """Collapse in words: the kind, and in how many seeds."""
    if arm_result["collapsed"] is None:
        return "diverged"
    kinds = arm_result["kinds"]
    return ", ".join(f"{kind} {count}/{arm_result['seeds']}" for kind, count in kinds.items() if count)


def rows(result: dict) -> list[tuple[str, ...]]:
    """One row per objective and arm, as in HEADER."""
    lines: list[tuple[str, ...]] = []
    for objective, arms in result["arms"].items():
        for arm, record in arms.items():
            agreement = result["agreement"][objective]
            angle = agreement["subspace"].get(arm, {}).get("max_principal_angle")
            lines.append(
                (
                    objective,
                    arm,
                    verdict(record),
                    number(record["effective_rank"]),
                    number(angle, 2),
                    theory_line(agreement, objective, arm),
                )
            )
    return lines


def summary(result: dict) -> str:
    """The table as text."""
    lines = table(HEADER, rows(result))
    law = result["agreement"].get("barlow_twins", {}).get("initialisation_law")
    if law and law["measured_exponent"] is not None:
        lines.append(
            f"free Barlow Twins ends at an angle ~ alpha^{law['measured_exponent']:.3f} from the predicted subspace "
            f"(theory: alpha^{law['predicted_exponent']:.3f})"
        )
    if result["interrupted"]:
        lines.append(f"interrupted: {result['interrupted']}; arms after it were not trained")
    return "\n".join(lines)

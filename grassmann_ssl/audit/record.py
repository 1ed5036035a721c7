"""An audit as plain values for a run folder, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np

from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.result import Audit
from grassmann_ssl.audit.rule import Rule, Verdict

Thing = TypeVar("Thing", Number, ClassRow, Rule)

SPECTRA = ("spectrum", "band", "sample_spectrum")
PLAIN = ("confidence", "rows", "units", "distinct", "dimension", "left_out", "directions")


def stored(audit: Audit) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What JSON can hold of an audit, and its arrays. Numbers that are not finite become None, unknown."""
    verdict = audit.verdict
    record = {
        "verdict": {
            "kind": verdict.kind,
            "kinds": list(verdict.kinds),
            "open": dict(verdict.open),
            "hard": verdict.hard,
            "soft": verdict.soft,
            "classes": list(verdict.classes),
            "judgement": audit.judgement,
            "rule": str(audit.rule),
        },
        "rule": asdict(audit.rule),
        **{name: getattr(audit, name) for name in PLAIN},
        "numbers": [_finite(asdict(one)) for one in audit.numbers],
        "classes": [_finite(asdict(one)) for one in audit.classes],
    }
    return record, {name: getattr(audit, name) for name in SPECTRA}


def restored(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Audit:
    """The inverse of `stored`. Raises KeyError for what is not there."""
    verdict = record["verdict"]
    rest: dict[str, Any] = {name: record[name] for name in PLAIN} | {name: arrays[name] for name in SPECTRA}
    return Audit(
        verdict=Verdict(
            kinds=tuple(verdict["kinds"]),
            open=verdict["open"],
            hard=verdict["hard"],
            soft=verdict["soft"],
            classes=tuple(verdict["classes"]),
        ),
        rule=_made(Rule, record["rule"]),
        numbers=tuple(_made(Number, one) for one in record["numbers"]),
        classes=tuple(_made(ClassRow, one) for one in record["classes"]),
        **rest,
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def _made(kind: type[Thing], values: Mapping[str, Any]) -> Thing:
    return kind(**{one.name: values[one.name] for one in fields(kind)})

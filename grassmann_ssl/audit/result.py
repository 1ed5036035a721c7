"""The result of an audit: verdict, numbers, spectra; as text, table, picture, gate and run folder."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.rule import KINDS, Rule, Verdict

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


class CollapseError(AssertionError):
    """Embeddings fall short of what `Audit.require` asks; the message names what."""


@dataclass(frozen=True)
class Audit:
    """What rows say of the population they come from.

    verdict          kinds of collapse found, and what is open
    rule, confidence the thresholds, and the confidence of the intervals
    rows, units      rows judged, and how many of them are independent; `left_out` were not finite
    dimension        D
    directions       z / ||z|| was judged, not z
    numbers          each with interval, convention and meaning
    classes          dimensions used and share of the variance of every class
    spectrum         (D,) eigenvalues of the population's covariance, estimated; `band` (2, D) its interval
    sample_spectrum  (min(N, D),) eigenvalues of the sample's covariance, which are biased
    """

    verdict: Verdict
    rule: Rule
    confidence: float
    rows: int
    units: int
    dimension: int
    left_out: int
    directions: bool
    numbers: tuple[Number, ...]
    classes: tuple[ClassRow, ...]
    spectrum: Array
    band: Array
    sample_spectrum: Array

    @property
    def kind(self) -> str:
        """none, complete, directional, dimensional, class or undecided: the first of the kinds found."""
        return self.verdict.kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of collapse found."""
        return self.verdict.kinds

    def __getitem__(self, name: str) -> Number:
        """A number by its name. Raises KeyError with the known names."""
        for one in self.numbers:
            if one.name == name:
                return one
        raise KeyError(f"{name}: the numbers of this audit are {', '.join(one.name for one in self.numbers)}")

    @property
    def judgement(self) -> str:
        """The verdict in one sentence."""
        text = self.kind
        if "dimensional" in self.kinds:
            forms = [
                name
                for name, on in (("few dimensions used", self.verdict.soft), ("dead dimensions", self.verdict.hard))
                if on
            ]
            text = ", ".join(self.kinds) + f" ({' and '.join(forms)})"
        elif self.kinds:
            text = ", ".join(self.kinds)
        if self.verdict.classes:
            text += f": {', '.join(self.verdict.classes)}"
        if self.verdict.open:
            text += "; open: " + "; ".join(f"{kind} ({why})" for kind, why in self.verdict.open.items())
        return text

    def frame(self) -> pd.DataFrame:
        """The numbers as a frame of pandas, one row each, by name."""
        import pandas as pd

        columns = ("value", "low", "high", "sample", "convention", "meaning")
        table = {one.name: [getattr(one, column) for column in columns] for one in self.numbers}
        return pd.DataFrame.from_dict(table, orient="index", columns=list(columns))

    def require(self, *, kind: str | tuple[str, ...] | None = None, **least: float) -> None:
        """Raise CollapseError unless the kind is (one of) `kind`, and every number named is at least what is given.

        For example require(kind="none", dimensions_used=20). Raises ValueError for a kind or a number that does not exist.
        """
        short = []
        if kind is not None:
            wanted = (kind,) if isinstance(kind, str) else kind
            unknown = [one for one in wanted if one not in ("none", *KINDS, "undecided")]
            if unknown:
                raise ValueError(f"kind must be of {', '.join(('none', *KINDS, 'undecided'))}, got {unknown[0]!r}")
            if self.kind not in wanted:
                short.append(f"kind is {self.judgement}, not {' or '.join(wanted)}")
        for name, bound in least.items():
            try:
                one = self[name]
            except KeyError as error:
                raise ValueError(str(error.args[0])) from None
            if one.value is None or not one.value >= bound:
                short.append(f"{name} is {_text(one)}, below {bound:g}")
        if short:
            raise CollapseError("; ".join(short))

    def __repr__(self) -> str:
        of = "directions of " if self.directions else ""
        used = _text(self["dimensions_used"])
        return f"Audit({self.kind}: {used} of {self.dimension} dimensions used; {of}{self.rows:,} rows)"

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<tr><td>{html.escape(one.name)}</td><td>{html.escape(_text(one))}</td><td>{html.escape(one.meaning)}</td></tr>"
            for one in self.numbers
        )
        return f"<p><b>{html.escape(self.judgement)}</b></p><table>{lines}</table>"


def _text(one: Number) -> str:
    if one.value is None:
        return "unknown"
    if one.low is None or one.high is None:
        return f"{one.value:.4g}"
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"

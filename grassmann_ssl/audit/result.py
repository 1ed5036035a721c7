"""The result of an audit: verdict, numbers, spectra; as text, table, picture, gate and run folder."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.rule import KINDS, Rule, Verdict
from grassmann_ssl.audit.words import CLASS_HEADER, class_cells, html_table, judgement, number_text, short_judgement
from grassmann_ssl.extras import extra

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


class CollapseError(AssertionError):
    """Embeddings fall short of what `Audit.require` asks; the message names what."""


@dataclass(frozen=True)
class Audit:
    """What rows say of the population they come from.

    verdict          kinds of collapse found, and what is open
    rule, confidence the thresholds, and the confidence of the intervals
    rows, units      rows judged, and how many of them are independent; `left_out` more were not finite
    distinct         rows that differ: without copies
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
    distinct: int
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
        """The verdict in one sentence, with what is open."""
        return judgement(self.verdict)

    @property
    def judged(self) -> str:
        """What was judged: rows, dimensions, groups, what is left out, copies."""
        of = "directions z/‖z‖ of " if self.directions else ""
        text = f"{of}{self.rows:,} rows of {self.dimension:,} dimensions"
        if self.units < self.rows:
            text += f" in {self.units:,} independent groups"
        if self.left_out:
            text += f"; {self.left_out:,} more were not finite and are left out"
        if self.distinct == 1:
            text += ", all of them equal"
        elif self.distinct < self.rows:
            text += f"; only {self.distinct:,} of them are different"
            if self.units == self.rows:
                text += ": if the same inputs come again, they need groups"
        return text

    def frame(self) -> pd.DataFrame:
        """The numbers as a frame of pandas, one row each, by name."""
        columns = ("value", "low", "high", "sample", "convention", "meaning")
        table = {one.name: [getattr(one, column) for column in columns] for one in self.numbers}
        frame: pd.DataFrame = extra("pandas", "Audit.frame").DataFrame.from_dict(
            table, orient="index", columns=list(columns)
        )
        return frame

    def class_frame(self) -> pd.DataFrame:
        """The classes as a frame of pandas, one row each, by name; without rows where no labels were given."""
        columns = ("rows", "dimensions_used", "low", "high", "share_of_variance")
        table: pd.DataFrame = extra("pandas", "Audit.class_frame").DataFrame(
            [[getattr(one, column) for column in columns] for one in self.classes],
            index=[one.name for one in self.classes],
            columns=list(columns),
        )
        return table.assign(collapsed=[one.name in self.verdict.classes for one in self.classes])

    def plot(self) -> Figure:
        """A figure of matplotlib: the spectra of population and sample, the variance of directions, the classes where labels were given."""
        from grassmann_ssl.audit import picture  # matplotlib is imported where it is used

        figure, (top, middle, *last) = picture.stacked(self.judgement, len(self.classes))
        of = "z / ‖z‖" if self.directions else "z"
        picture.spectra(top, of, self.spectrum, self.band, self.sample_spectrum, self.rule.dead)
        picture.directions(middle, self["spread"], self.rule.spread, self.directions)
        if last:
            picture.classes(last[0], self.classes, self.verdict.classes)
        return figure

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a run folder as `grassmann-ssl audit` does: run.json, metrics.parquet, arrays.safetensors and the page.

        Raises ConfigError where the folder holds another run and `overwrite` is false, or something that is no run.
        """
        from grassmann_ssl.run import save_audit  # the one import of a higher room

        save_audit(self, Path(folder), overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Audit:
        """The audit that a run folder holds. Raises ConfigError for a folder without one."""
        from grassmann_ssl.run import load_audit

        return load_audit(Path(folder))

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
                found = self.kind if self.kind == "none" else self.judgement
                short.append(f"kind is {found}, not {' or '.join(wanted)}")
        for name, bound in least.items():
            try:
                one = self[name]
            except KeyError as error:
                raise ValueError(str(error.args[0])) from None
            if one.value is None or not one.value >= bound:
                short.append(f"{name} is {number_text(one)}, below {bound:g}")
        if short:
            raise CollapseError("; ".join(short))

    def __repr__(self) -> str:
        of = "directions of " if self.directions else ""
        numbers = [f"{number_text(self['dimensions_used'])} of {self.dimension} dimensions used"]
        if "complete" in self.kinds:
            numbers = [f"total variance {number_text(self['total_variance'])} in {self.dimension} dimensions"]
        if "directional" in self.kinds:
            numbers.append(f"spread {number_text(self['spread'])}")
        if self.verdict.hard:
            numbers.append(f"{number_text(self['live_dimensions'])} live")
        return f"Audit({short_judgement(self.verdict)}: {', '.join(numbers)}; {of}{self.rows:,} rows)"

    def _repr_html_(self) -> str:
        numbers = html_table(
            ("number", "estimate", "of the sample", "meaning", "convention"),
            [
                (
                    one.name,
                    number_text(one),
                    "" if one.sample is None else f"{one.sample:.4g}",
                    one.meaning,
                    one.convention,
                )
                for one in self.numbers
            ],
        )
        parts = [
            f"<p><b>{html.escape(self.judgement)}</b></p>",
            f"<p>{html.escape(self.judged)}</p>",
            numbers,
            f"<p>{html.escape(str(self.rule))}</p>",
        ]
        if self.classes:
            cells, left = class_cells(self.classes, self.verdict.classes)
            parts.append(html_table(CLASS_HEADER, cells) + (f"<p>and {left:,} more classes</p>" if left else ""))
        return "".join(parts)

"""The cells of a table of predictors: what each is trained with, and what was measured of it, seed by seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Rows of the table: what is called so, and the settings of `train` that make it. Two are controls; no step of "untrained" moves a weight,
# which shows what the probes say of random features.
ROWS: dict[str, tuple[str, str]] = {
    "untrained": ("untrained encoder", "predictor=linear,lr=1e-12"),
    "none": ("no predictor", "predictor=none"),
    "linear": ("SGD", "predictor=linear"),
    "linear-symmetric": ("SGD, symmetric", "predictor=linear-symmetric"),
    "directpred": ("DirectPred", "predictor=directpred"),
    "hybrid": ("DirectPred every {every} steps", "predictor=directpred,predictor_every={every}"),
    "directset": ("DirectSet, exponent {alpha:g}", "predictor=directset,predictor_alpha={alpha!r}"),
    "directcopy": ("DirectCopy", "predictor=directcopy"),
}
SPACES = ("f", "p", "cosine", "unaligned", "asymmetry")  # of metrics.eigenspaces


@dataclass(frozen=True)
class Cell:
    """One setting: a row of the table, with and without EMA and weight decay, at a learning rate of the predictor over the encoder's."""

    row: str
    ema: bool
    decay: bool
    rate: float = 1.0

    def label(self, **options: Any) -> str:
        """The name of its predictor; `options` are those that names of rows have."""
        name = ROWS[self.row][0].format(**options)
        return name if self.rate == 1 else f"{name}, rate {self.rate:g}"

    def settings(self, **options: Any) -> dict[str, str]:
        """The settings of `train` that its predictor has."""
        found = dict(part.split("=") for part in ROWS[self.row][1].format(**options).split(","))
        return found if self.rate == 1 else found | {"predictor_rate": repr(self.rate)}


class Seen:
    """What was measured of the cells, by seed: of the metrics rows and arrays of `compare_encoders`, whose arms they are."""

    def __init__(self, cells: Iterable[Cell], rows: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> None:
        self.cells = list(cells)
        self.seeds = list(dict.fromkeys(row["seed"] for row in rows))
        self._rows = {
            (cell, row["seed"]): row for k, row in enumerate(rows) for cell in [self.cells[k % len(self.cells)]]
        }
        self._arrays = arrays

    def numbers(self, cell: Cell, name: str) -> dict[int, float]:
        """One number of every seed that has it."""
        found = {seed: self._rows[cell, seed].get(name) for seed in self.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def kinds(self, cell: Cell) -> list[str]:
        """The verdict on every seed."""
        return [self._rows[cell, seed]["kind"] for seed in self.seeds]

    def differences(self, cell: Cell, other: Cell, name: str) -> np.ndarray:
        """cell - other of the seeds that have both, (S,)."""
        one, two = self.numbers(cell, name), self.numbers(other, name)
        return np.array([one[seed] - two[seed] for seed in self.seeds if seed in one and seed in two])

    def spaces(self, cell: Cell) -> dict[str, np.ndarray]:
        """`metrics.eigenspaces` over time of the seeds that did not diverge, (S, K, ...) each; empty where there is none."""
        index = self.cells.index(cell)
        starts = [f"arm{index}_seed{k}_predictor_" for k in range(len(self.seeds))]
        whole = [start for start in starts if f"{start}f" in self._arrays]
        return {name: np.stack([self._arrays[start + name] for start in whole]) for name in SPACES if whole}

"""Figures of several panels: each is a part of the run, simulated on its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grassmann_ssl.runs import Run, joined

Arrays = dict[str, NDArray[Any]]
Panel = tuple[dict[str, Any], Arrays, Arrays]


def simulated(run: Run, count: int, panel: Callable[[int], Panel]) -> tuple[list[dict[str, Any]], Arrays, Arrays]:
    """The record, the arrays and the rows of metrics of every panel(k): a list, arrays named NAME_k, and rows with a column `panel`."""
    results, arrays, rows = zip(*run.parts(range(count), panel, lambda k: f"panel {k + 1}"), strict=True)
    named = {f"{name}_{k}": values for k, own in enumerate(arrays) for name, values in own.items()}
    numbered = [{"panel": np.full(len(next(iter(own.values()))), k), **own} for k, own in enumerate(rows)]
    return list(results), named, joined(numbered)

"""What papers report of predictors, each a difference between two cells that a run may or may not show."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grassmann_ssl.experiments.encoders.compare_encoders import COLLAPSED, PROBES, mean_over_seeds, over_seeds
from grassmann_ssl.experiments.encoders.directpred_cells import Cell, Seen
from grassmann_ssl.runs import Finding

LINEAR = "logistic"  # the probe of the papers
MARGIN = 0.01  # of an accuracy: what is lower by less does not count as lower
TIAN = "Tian et al. 2021"


@dataclass(frozen=True)
class Claim:
    """The linear probe of `cell` against that of `other` is `expected`: higher, lower, or not lower; `reported`: what the source says."""

    cell: Cell
    other: Cell
    expected: str
    reported: str


def cell(row: str, words: str = "EMA, decay", rate: float = 1.0) -> Cell:
    """A cell from words: "EMA, decay", "EMA", "decay", or "" for neither."""
    return Cell(row, "EMA" in words, "decay" in words, rate)


SGD, SYMMETRIC = "linear", "linear-symmetric"
CLAIMS = (
    Claim(cell(SYMMETRIC, "decay"), cell(SGD, "decay"), "lower", f"36.6 ± 1.9 against 72.9 ± 0.2 % ({TIAN}, Table 3, STL-10)"),
    Claim(cell(SYMMETRIC), cell(SGD), "not lower", f"75.1 ± 0.5 against 74.5 ± 0.5 % ({TIAN}, Table 3, STL-10)"),
    Claim(cell(SYMMETRIC), cell(SYMMETRIC, "decay"), "higher", f"75.1 ± 0.5 against 36.6 ± 1.9 % ({TIAN}, Table 3, STL-10)"),
    Claim(cell(SGD), cell(SGD, "decay"), "higher", f"74.5 ± 0.5 against 72.9 ± 0.2 % ({TIAN}, Table 3, STL-10)"),
    Claim(cell(SGD), cell(SGD, "EMA"), "higher", f"74.5 ± 0.5 against 70.6 ± 1.1 % ({TIAN}, Tables 3 and 2, STL-10)"),
    Claim(cell(SGD, "decay"), cell(SGD, ""), "higher", f"72.9 ± 0.2 against 71.4 % ({TIAN}, Tables 3 and 5, STL-10)"),
    Claim(cell(SYMMETRIC, "decay"), cell(SYMMETRIC, ""), "lower", f"36.6 ± 1.9 against 43.0 % ({TIAN}, Tables 3 and 5, STL-10)"),
    Claim(
        cell("directpred"), cell(SGD), "higher",
        f"77.9 ± 0.2 against 75.1 ± 0.5 %, CIFAR-10: 85.2 ± 0.2 against 84.5 ± 0.2 % ({TIAN}, Table 8, STL-10, 100 epochs)",
    ),
    Claim(
        cell("hybrid"), cell(SGD), "higher",
        f"77.5 ± 0.1 against 75.1 ± 0.5 %, CIFAR-10: 84.9 ± 0.3 against 84.5 ± 0.2 % ({TIAN}, Table 8, STL-10, 100 epochs)",
    ),
    Claim(
        cell("hybrid"), cell("directpred"), "not lower",
        f"77.5 ± 0.1 against 77.9 ± 0.2 %, after 500 epochs 80.3 ± 0.6 against 78.9 ± 1.2 % ({TIAN}, Table 8, STL-10)",
    ),
    Claim(
        cell("directcopy"), cell("directpred"), "not lower",
        "rivals or outperforms it on CIFAR-10, CIFAR-100, STL-10, ImageNet (Wang et al. 2021, abstract; tables not readable here)",
    ),
)  # fmt: skip


def of_rates(cells: Iterable[Cell]) -> Iterator[Claim]:
    """The learning rates of the predictor among the cells against 1: Fig. 6."""
    for one in cells:
        if one.rate != 1:
            yield Claim(
                one, Cell(one.row, one.ema, one.decay), "higher" if one.rate > 1 else "lower",
                f"a larger rate leaves a smaller basin of collapse ({TIAN}, observation 1; the values of Fig. 6 are not readable here)",
            )  # fmt: skip


def verdict(differences: np.ndarray, expected: str, margin: float = MARGIN) -> str:
    """Whether the mean of differences (S,) is as expected, by its 95 % interval: above 0, below 0, or, not lower, above -margin."""
    value = mean_over_seeds(differences, -np.inf, np.inf) if len(differences) else None
    if value is None or value["low"] is None:
        return "too few seeds to judge"
    low, high = value["low"], value["high"]
    if expected == "lower":
        low, high = -high, -low
    least = -margin if expected == "not lower" else 0.0
    if low > least:
        return "as reported"
    return "the opposite" if high < least else f"not told apart by {len(differences)} seeds"


def judged(claim: Claim, seen: Seen, **options: Any) -> dict[str, Any] | None:
    """A claim, as recorded: what was measured of both cells, their differences, and the verdict; None where a cell is not in the run."""
    if not {claim.cell, claim.other} <= set(seen.cells):
        return None
    found: dict[str, Any] = {}
    for name in (*PROBES, "dimensions_used"):
        values = [np.array(list(seen.numbers(one, name).values())) for one in (claim.cell, claim.other)]
        differences = seen.differences(claim.cell, claim.other, name)
        if len(differences):
            found[name] = {
                "means": [float(one.mean()) for one in values],
                "difference": mean_over_seeds(differences, -np.inf, np.inf),
            }
    names = _named(claim, **options)
    return {
        "quantity": f"{names[0]} against {names[1]}", "expected": claim.expected, "reported": claim.reported,
        "cells": [asdict(claim.cell), asdict(claim.other)], "measured": found,
        "verdict": verdict(seen.differences(claim.cell, claim.other, LINEAR), claim.expected) if LINEAR in found else "nothing to judge",
    }  # fmt: skip


def _named(claim: Claim, **options: Any) -> tuple[str, str]:
    """Names of both cells with what they have in common said once, with the second."""
    one, two = claim.cell, claim.other
    both = [_with("EMA", two.ema)] * (one.ema == two.ema) + [_with("decay", two.decay)] * (one.decay == two.decay)
    own = [
        [_with("EMA", c.ema)] * (one.ema != two.ema) + [_with("decay", c.decay)] * (one.decay != two.decay)
        for c in (one, two)
    ]
    names = [c.label(**options) for c in (one, two)]
    if names[0] == names[1]:
        names[1] = ""
    first = ", ".join([names[0], *own[0]])
    return first, " ".join(filter(None, [", ".join(filter(None, [names[1], *own[1]])), f"({', '.join(both)})"]))


def _with(what: str, has: bool) -> str:
    return f"{'with' if has else 'without'} {what}"


def finding(one: dict[str, Any]) -> Finding:
    """A judged claim as a line."""
    said = []
    for name, value in one["measured"].items():
        unit = 1 if name == "dimensions_used" else 100
        what = "dimensions used" if name == "dimensions_used" else f"{name} probe"
        a, b = (f"{unit * mean:.1f}" for mean in value["means"])
        said.append(f"{what} {a} against {b}: {over_seeds(value['difference'], unit, 1, '+')}")
    order = [said[list(one["measured"]).index(LINEAR)]] if LINEAR in one["measured"] else []
    text = "; ".join(order + [line for line in said if line not in order])
    return Finding(one["quantity"], f"{one['expected']}: {one['reported']}", text or None, one["verdict"])


def collapse(seen: Seen) -> Finding | None:
    """What becomes of an encoder without predictor and EMA; None where there is none."""
    cells = [one for one in seen.cells if one.row == "none"]
    if not cells:
        return None
    kinds = seen.kinds(cells[-1])
    fallen = sum(kind in COLLAPSED for kind in kinds)
    decided = fallen + kinds.count("none")
    agreement = "undecided"
    if decided:
        agreement = (
            "as predicted" if fallen == decided else "not as predicted" if not fallen else f"in {fallen} of {decided}"
        )
    return Finding(
        "no predictor, without EMA: collapse",
        f"W → 0 in the linear model, dW/dt = −W (X′ + η I) ({TIAN}, eq. (3) with W_p = I)",
        f"collapsed in {fallen} of {decided} ({', '.join(f'{kind} {kinds.count(kind)}' for kind in dict.fromkeys(kinds))})",
        agreement,
    )


def aligned(seen: Seen, **options: Any) -> Iterator[dict[str, Any]]:
    """Of predictors that SGD trains: cosines and asymmetry at the start and the end, and whether they are as Fig. 2 has them.

    Cosines are means over all eigenvectors of F, and weighted by their eigenvalues. With weight decay, as the figure, where there is any.
    """
    decays = max((one.decay for one in seen.cells), default=False)
    for one in seen.cells:
        of_sgd = one.row in (SGD, SYMMETRIC) and one.rate == 1 and one.decay == decays
        spaces = seen.spaces(one) if of_sgd else {}
        if not spaces:
            continue
        cosine, f = spaces["cosine"], spaces["f"]
        weighted = (f * cosine).sum(-1) / np.maximum(f.sum(-1), np.finfo(float).tiny)
        other, skew = (spaces[name][..., 0] for name in ("unaligned", "asymmetry"))
        means = {"unaligned": other[:, -1]}
        for name, path in (("all", cosine.mean(-1)), ("weighted", weighted), ("asymmetry", skew)):
            means |= {f"{name}_start": path[:, 0], f"{name}_end": path[:, -1]}
        yield {
            "cell": asdict(one),
            "quantity": ", ".join([one.label(**options), _with("EMA", one.ema), _with("decay", one.decay)]),
            **{
                name: mean_over_seeds(values, 0.0, 2.0 if "asymmetry" in name else 1.0)
                for name, values in means.items()
            },
            **{
                f"{name}_verdict": verdict(means[f"{name}_end"] - means["unaligned"], "higher")
                for name in ("all", "weighted")
            },
            "asymmetry_verdict": verdict(skew[:, -1] - skew[:, 0], "lower") if one.row == SGD else None,
        }


def aligned_findings(one: dict[str, Any]) -> Iterator[Finding]:
    """Lines of one cell of `aligned`."""
    said = {name: over_seeds(value, 1, 2) for name, value in one.items() if isinstance(value, dict) and "mean" in value}
    for name, words in (
        ("all", "mean |cos| of eigenvectors u of F and W_p u"),
        ("weighted", "the same weighted by the eigenvalues of F"),
    ):
        yield Finding(
            f"{one['quantity']}: {words}",
            f"grows towards 1 ({TIAN}, Fig. 2, STL-10; values not readable here)",
            f"{said[f'{name}_end']} at the end, {said[f'{name}_start']} at the start; directions unrelated to F have "
            f"{said['unaligned']} under the same W_p",
            one[f"{name}_verdict"],
        )
    if one["asymmetry_verdict"]:
        yield Finding(
            f"{one['quantity']}: asymmetry ‖W_p − W_pᵀ‖/‖W_p‖",
            f"falls ({TIAN}, Fig. 2, STL-10; values not readable here)",
            f"{said['asymmetry_end']} at the end, {said['asymmetry_start']} at the start",
            one["asymmetry_verdict"],
        )

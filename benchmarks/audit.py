"""Calibration of the collapse audit: samples of populations whose verdict is known, and the same with the peers' rules."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import paired
from grassmann_ssl.audit import Rule, audit_embeddings, judge
from grassmann_ssl.audit.decide import judge_sample
from grassmann_ssl.audit.moments import Sample, sample_of
from grassmann_ssl.audit.rule import participation
from grassmann_ssl.metrics.pairs import on_sphere

NAME = "audit"
PAGE = "docs/audit.md"
DIMENSIONS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
RATIOS = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 20, 64)  # N / D
PEERS_WORK = 2**30  # N D min(N, D) of the largest sample that the peers judge, too
BLOCK = 2**21  # entries that are drawn at a time
# Populations of every family and dimension, twice as many up to 64, fewer above 512: entries, dtype, mean, basis and scale are drawn.
VARIANTS = 5
PAIRS = ((8192, 512), (4096, 2048), (512, 2048), (50_000, 2048))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Rows (z + mean) scale with covariance of a known spectrum in a random basis; the truth is `judge` of it.

    student  entries of Student's t with 5 degrees of freedom instead of Gaussian ones
    mean     of every dimension, in units of the root mean square deviation
    cone     judged by directions: length of the mean over that of the spread; 0 where z is judged
    classes  variance within each class over the sum of the spectrum; () where there are none
    """

    family: str
    spectrum: Array
    student: bool
    dtype: torch.dtype
    mean: float
    scale: float
    seed: int
    cone: float = 0.0
    classes: tuple[float, ...] = ()

    @property
    def dimension(self) -> int:
        return len(self.spectrum)

    def truth(self) -> Any:
        """The verdict on the population."""
        total = float(self.spectrum.sum())
        if self.cone:
            # Far from the origin z/||z|| varies by the spread across the mean, over the length of the mean.
            return judge(self.spectrum, mean=self.cone * np.sqrt(total))
        if not self.classes:
            return judge(self.spectrum)
        # All classes have an isotropic covariance, and the covariance of their centres adds to its mean.
        away = self.centres().numpy()
        away = away - away.mean(0)
        whole = float(np.mean(self.classes)) * self.spectrum
        whole[: len(away)] += np.linalg.eigvalsh(away @ away.T / len(away))[::-1].clip(min=0)
        return judge(whole, classes={str(k): share * total for k, share in enumerate(self.classes)})

    def centres(self) -> Tensor:
        """Centres (C, D) of the classes: they carry the variance that the classes do not."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        drawn = torch.randn(len(self.classes), self.dimension, generator=generator, dtype=torch.float64)
        return drawn * (1 - float(np.mean(self.classes))) ** 0.5

    def rows(self, n: int) -> tuple[Tensor, Tensor | None]:
        """A sample of n rows, and the labels of its classes. Samples of other sizes share no row with it: cells are independent."""
        seed = int(np.random.SeedSequence((self.seed, n)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        d = self.dimension
        labels = torch.randint(len(self.classes), (n,), generator=generator) if self.classes else None
        mirrors = [F.normalize(torch.randn(d, generator=generator, dtype=torch.float64), dim=0) for _ in range(3)]
        deviation = self.mean * (float(np.sqrt(self.spectrum.mean())) or 1.0)
        if self.cone:
            deviation = self.cone * float(np.sqrt(self.spectrum.sum() / d))
        root, share = (torch.tensor(v, dtype=torch.float64).sqrt() for v in (self.spectrum, self.classes))
        centres = self.centres() if self.classes else None
        found = torch.empty(n, d, dtype=self.dtype)
        for start in range(0, n, block := max(1, BLOCK // d)):
            own = slice(start, start + block)
            z = self._entries(found[own].shape, generator).double()
            if labels is not None and centres is not None:
                z = share[labels[own], None] * z + centres[labels[own]]
            z *= root
            for mirror in mirrors:
                z.addr_(z @ mirror, mirror, alpha=-2)
            found[own] = z.add_(deviation).mul_(self.scale)
        return found, labels

    def _entries(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Independent entries of variance 1, drawn in float32: five times as fast."""
        z = torch.randn(shape, generator=generator)
        if not self.student:
            return z
        # chi^2 with 5 degrees of freedom: twice two exponential ones, and the square of a normal one.
        chi = torch.randn(shape, generator=generator).square_()
        chi -= 2 * (1 - torch.rand(shape, generator=generator)).mul_(1 - torch.rand(shape, generator=generator)).log_()
        return z.mul_(chi.reciprocal_().mul_(3).sqrt_())


def spectra(d: int) -> dict[str, Array]:
    """Families of spectra."""
    k = np.arange(1, d + 1)
    some = max(1, d // 16)
    return {
        "isotropic": np.ones(d),
        "rank 3": (k <= 3) * 1.0,
        "rank D/8": (k <= d // 8) * 1.0,
        "half dead": (k <= d // 2) * 1.0,
        "one, rest at 2 %": np.where(k == 1, 1.0, 4e-4),
        "spiked": np.where(k <= some, 30.0, 1.0),
        "constant": np.zeros(d),
        **{f"k^-{alpha:g}": k**-alpha for alpha in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)},
    }


def populations(dimensions: tuple[int, ...], variants: int, seed: int = 0) -> list[Population]:
    """Every family in every dimension, `variants` times."""
    rng = np.random.default_rng(seed)
    found = []
    for d in dimensions:
        for _ in range(2 * variants if d <= 64 else max(1, min(variants, 512 * variants // d))):

            def drawn(family: str, spectrum: Array, **more: Any) -> Population:
                dtype = torch.float32 if rng.random() < 0.7 else torch.float16
                scale = float(np.exp(rng.uniform(-4, 4))) if dtype == torch.float32 else 1.0
                mean = float(rng.choice([0, 1, 10, 100]))
                return Population(
                    family, spectrum, bool(rng.random() < 0.5), dtype, mean, scale, int(rng.integers(2**31)), **more
                )

            found += [drawn(family, spectrum) for family, spectrum in spectra(d).items()]
            found += [drawn(f"cone {ratio:g}", np.ones(d), cone=ratio) for ratio in (2.0, 30.0, 100.0)]
            found += [drawn("class of one point", np.ones(d), classes=(1.0, 0.6, 0.6, 0.0))]
    return found


def samples(population: Population, work: float = math.inf, ratios: tuple[float, ...] = RATIOS) -> list[int]:
    """Numbers of rows, at least 3; N D min(N, D) at most `work`."""
    wanted = [round(ratio * population.dimension) for ratio in ratios]
    return [n for n in wanted if n >= 3 and _work(n, population.dimension) <= work]


def _work(n: int, d: int) -> int:
    return n * d * min(n, d)


def cell(population: Population, n: int, peers: dict[str, Callable[[Tensor], float]]) -> dict[str, Any]:
    """The verdict on one sample beside the truth, whether the 95 % interval covers, and the scores of the peers."""
    rows, labels = population.rows(n)
    seen = on_sphere(rows) if population.cone else rows
    sample = sample_of(seen)
    classes = {} if labels is None else _classes(seen, labels, len(population.classes))
    verdict = judge_sample(sample, Rule(), directions=bool(population.cone), classes=classes).verdict
    truth, used = population.truth(), sample.dimensions_used(0.95)
    plain = not population.cone and not population.classes and truth.kind != "complete"
    return {
        "family": population.family,
        "d": population.dimension,
        "n": n,
        "student": population.student,
        "dtype": str(population.dtype).removeprefix("torch."),
        "mean": population.mean,
        "truth": truth.kind,
        "found": verdict.kind,
        "soft": truth.soft,
        "hard": truth.hard,
        "found_soft": verdict.soft,
        "found_hard": verdict.hard,
        "covered": bool(used.low <= participation(population.spectrum) <= used.high) if plain else None,
        "scores": {name: float(score(rows.float())) for name, score in peers.items()}
        if _work(n, population.dimension) <= PEERS_WORK
        else {},
    }


def _classes(rows: Tensor, labels: Tensor, count: int) -> dict[str, Sample]:
    chosen = {str(k): rows[labels == k] for k in range(count)}
    return {name: sample_of(own) for name, own in chosen.items() if len(own) > 1}


def rules() -> dict[str, Callable[[Tensor], float]]:
    """Scores of the peers, higher for a larger rank or spread: what each compares with a threshold."""

    def singular(z: Tensor) -> Tensor:
        gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
        return torch.linalg.eigvalsh(gram.double()).clamp_min(0).sqrt()

    def rankme(z: Tensor) -> float:
        values = singular(z)
        p = values / values.sum().clamp_min(1e-30) + 1e-7
        return float((-(p * p.log()).sum()).exp()) / z.shape[1]

    def spread(z: Tensor) -> float:
        return float(F.normalize(z, dim=1).std(0).mean()) * z.shape[1] ** 0.5

    def live(z: Tensor) -> float:
        values = singular(z - z.mean(0)).square()
        return float((values > 1e-4 * values.max()).sum()) / z.shape[1] if values.max() > 0 else 0.0

    found: dict[str, Callable[[Tensor], float]] = {
        "RankMe / D": rankme,
        "std of l2-normalised rows (lightly)": spread,
        "share of l_k > 1e-4 l_1": live,
    }
    monai = monai_score()
    if monai is not None:
        found["MONAI effective rank"] = monai
    return found


def monai_score() -> Callable[[Tensor], float] | None:
    """1 - effective_rank_score of MONAI, from its one file; None where MONAI is not installed."""
    try:
        path = next(f for f in files("monai") or () if str(f).endswith("metrics/embedding_collapse.py")).locate()
    except (PackageNotFoundError, StopIteration):
        return None
    nothing = types.SimpleNamespace
    stubs: dict[str, dict[str, Any]] = {
        "monai": {},
        "monai.metrics": {},
        "monai.metrics.metric": {"Metric": object},
        "monai.utils": {"optional_import": lambda *names, **settings: (nothing, False)},
    }
    missing = [name for name in stubs if name not in sys.modules]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(stubs[name])
    try:
        spec = importlib.util.spec_from_file_location("monai_embedding_collapse", str(path))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name in missing:
            del sys.modules[name]

    def score(z: Tensor) -> float:
        scores = module.compute_embedding_collapse(z, reduction="none", include_indicators=["effective_rank"])
        return 1 - float(scores["effective_rank_score"])

    return score


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """What the calibration asks for, as counts and shares; and the peers, each at the threshold that is best for it in hindsight."""
    decided = [c for c in cells if c["found"] != "undecided"]
    wrong = [c for c in decided if c["found"] != c["truth"]]
    enough = [c for c in cells if c["n"] >= 64 and (c["truth"] in ("complete", "directional") or c["soft"])]
    hard = [c for c in cells if c["hard"] and c["n"] >= 4 * c["d"]]
    many = [c for c in cells if c["n"] >= 20 * c["d"]]
    families = sorted({c["family"] for c in cells})
    plain = [c for c in cells if c["covered"] is not None and c["n"] >= 12]
    return {
        "cells": len(cells),
        "decided": len(decided),
        "wrong": len(wrong),
        "isotropic_called_collapsed": sum(c["family"] == "isotropic" and c["found"] not in ("none", "undecided") for c in cells),
        "decided_of_complete_directional_soft_from_64_rows": _share([c["found"] != "undecided" for c in enough]),
        "decided_of_hard_from_4_rows_per_dimension": _share([c["found"] != "undecided" for c in hard]),
        "undecided_from_20_rows_per_dimension": sum(c["found"] == "undecided" for c in many),
        "coverage": {f: _share([c["covered"] for c in plain if c["family"] == f]) for f in families if any(c["family"] == f for c in
        plain)}, "decided_by_family": {f: _share([c["found"] != "undecided" for c in cells if c["family"] == f]) for f in families},
        "right": {"ours, of the decided": _share([c["found"] == c["truth"] for c in decided])} | _peers(cells),
    }  # fmt: skip


def _peers(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Share of cells that a peer's score tells right, collapsed or not, at the best single threshold; those of z alone are asked."""
    asked = [c for c in cells if c["scores"] and not c["family"].startswith(("cone", "class"))]
    truth = np.array([c["truth"] != "none" for c in asked])
    found = {}
    for name in asked[0]["scores"] if asked else ():
        score = np.array([c["scores"][name] for c in asked])
        order = np.argsort(score)
        # Called collapsed: all below the threshold.
        right = np.concatenate([[0], np.cumsum(truth[order])]) + np.concatenate(
            [np.cumsum(~truth[order][::-1])[::-1], [0]]
        )
        found[name] = float(right.max() / len(asked))
    return found


def _share(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def run(
    device: torch.device,
    repeats: int,
    dimensions: tuple[int, ...] = DIMENSIONS,
    variants: int = VARIANTS,
    pairs: tuple[tuple[int, int], ...] = PAIRS,
    target: float = 0.2,
) -> list[dict[str, Any]]:
    """The summary of all cells, the cells that were judged wrong, and the cost beside one Gram product with its eigenvalues."""
    peers = rules()
    asked = populations(dimensions, variants)
    cells = [cell(one, n, peers) for one in asked for n in samples(one)]
    wrong = [c for c in cells if c["found"] not in ("undecided", c["truth"])]
    records: list[dict[str, Any]] = [
        {
            "kind": "calibration",
            "populations": len(asked),
            **summary(cells),
            "wrong_cells": wrong,
            "peers_work": PEERS_WORK,
        }
    ]
    for n, d in pairs:
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)

        def gram(z: Tensor = z) -> Tensor:
            x = z - z.mean(0)
            return torch.linalg.eigvalsh(x @ x.T if len(x) < x.shape[1] else x.T @ x)

        times = paired(partial(audit_embeddings, z), {"gram": gram}, device, repeats, target)
        records.append({"kind": "cost", "n": n, "d": d, **times})
    return records


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """The calibration, then coverage by family, then the cost."""
    lines = ["| measured | asked | device | value |", "|---|---|---|---|"]
    for result in results:
        for record in result["records"]:
            rows = _cost(record) if record["kind"] == "cost" else _calibration(record)
            lines += [f"| {what} | {wanted} | {result['device']} | {value} |" for what, wanted, value in rows]
    return lines


def _cost(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    what = (
        f"time of `audit_embeddings`, {record['n']:,} × {record['d']:,} float32, over a Gram matrix and its eigenvalues"
    )
    ratio = 1 / record["ratio_to_ours"]["gram"]["median"]
    return [(what, "1.3", f"{ratio:.2f} ({record['seconds']['ours']['median']:.2g} s)")]


def _calibration(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    soft, hard = (
        share(record[name])
        for name in (
            "decided_of_complete_directional_soft_from_64_rows",
            "decided_of_hard_from_4_rows_per_dimension",
        )
    )
    return [
        ("populations, samples", "600", f"{record['populations']:,}, {record['cells']:,}"),
        ("verdicts other than the population's", "1 %", f"{record['wrong']} of {record['decided']:,} decided"),
        ("isotropic populations called collapsed", "0", f"{record['isotropic_called_collapsed']}"),
        ("complete, directional, soft: decided with 64 rows or more", "90 %", soft),
        ("dead dimensions: decided with 4 D rows or more", "100 %", hard),
        ("undecided with 20 D rows or more", "0", f"{record['undecided_from_20_rows_per_dimension']}"),
        *((f"95 % interval of dimensions used: {k}", "88 to 99 %", share(v)) for k, v in record["coverage"].items()),
        *((f"right, collapsed or not: {name}", "", share(value)) for name, value in record["right"].items()),
    ]

"""Predictors trained or set in closed form, with and without EMA and weight decay: the tables and Figs. 2 and 6 of Tian et al. 2021."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import tyro

from grassmann_ssl.data.files import DataOptions
from grassmann_ssl.experiments.encoders import directpred_claims as claims
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig, compared, over_seeds
from grassmann_ssl.experiments.encoders.directpred_cells import ROWS, Cell, Seen
from grassmann_ssl.experiments.encoders.train_config import DATA
from grassmann_ssl.nn.encoders import ENCODERS
from grassmann_ssl.runs import ConfigError, LoggedConfig, Outcome, Progress, Run, RunFolder, Table, choice


@dataclass(frozen=True, kw_only=True)
class DirectPredTableConfig(LoggedConfig):
    """Predictors by SGD and in closed form, with and without EMA and weight decay: the tables of Tian et al. 2021 in kind."""

    NAME: ClassVar[str] = "directpred-table"
    EXAMPLE: ClassVar[str] = "directpred-table --seeds 3 --steps 200"
    RESUMES: ClassVar[bool] = True
    data: Annotated[str, choice(DATA)] = "digits"
    """data, as in train"""
    data_options: Annotated[DataOptions, tyro.conf.arg(name=DataOptions.PREFIX)] = field(default_factory=DataOptions)
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """encoder, as in train"""
    predictors: tuple[Annotated[str, choice(ROWS)], ...] = tuple(ROWS)
    """rows of the table: predictors, and two controls, an encoder that is not trained and one without predictor"""
    dim: int = 16
    """embedding dimension d"""
    batch: int = 64
    """batch size"""
    lr: float = 0.2
    """peak learning rate of SGD with momentum 0.9, decayed to 0 by a cosine"""
    teacher: float = 0.9
    """initial momentum of the EMA teacher, rising to 1, of the cells with EMA; 0: no such cells"""
    weight_decay: float = 0.01
    """weight decay of the cells with it; 0: no such cells"""
    every: int = 5
    """hybrid: steps between two settings of the predictor by DirectPred; SGD trains it between"""
    alpha: float = 0.25
    """exponent of DirectSet; DirectPred has 1/2, DirectCopy 1"""
    rates: tuple[float, ...] = (0.1, 10.0)
    """learning rates of the symmetric predictor over that of the encoder, besides 1, without EMA (Fig. 6)"""
    seeds: int = 3
    """seeds per cell; split, views and initial weights of a seed are shared by all cells"""
    steps: int = 120
    """optimizer steps per training"""
    records: int = 12
    """number of recorded spectra"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_one_of("predictors", ROWS)
        if not self.predictors or len(set(self.predictors)) < len(self.predictors):
            given = " ".join(self.predictors) or "none"
            raise ConfigError(f"predictors must be some of {', '.join(ROWS)}, each once, got {given}")
        self.need("every", least=2)
        self.need("alpha", "lr", above=0)
        self.need("teacher", "weight_decay", least=0)
        if self.rates:
            self.need("rates", above=0)
        if 1 in self.rates or len(set(self.rates)) < len(self.rates):
            given = " ".join(f"{rate:g}" for rate in self.rates)
            raise ConfigError(f"rates must differ from each other and from 1, which is always there, got {given}")
        self.compared()

    @property
    def options(self) -> dict[str, Any]:
        """What the names and settings of rows depend on."""
        return {"every": self.every, "alpha": self.alpha}

    def cells(self) -> list[Cell]:
        """The cells of the table, row by row."""
        averaged, decayed = ((False, True) if on else (False,) for on in (self.teacher, self.weight_decay))
        found: list[Cell] = []
        for row in self.predictors:
            whole = [Cell(row, ema, decay) for ema in averaged for decay in decayed]
            found += {"untrained": whole[:1], "none": whole[: len(decayed)][-1:]}.get(row, whole)
            if row == claims.SYMMETRIC:
                found += [Cell(row, False, decayed[-1], rate) for rate in self.rates]
        return found

    def arm(self, cell: Cell) -> str:
        """The settings of a cell as an arm of `compare-encoders`."""
        settings = {
            "objective": "negative_cosine", "encoder": self.encoder, "batch": self.batch, "dim": self.dim, "lr": self.lr,
            "teacher": self.teacher if cell.ema else 0.0, "weight_decay": self.weight_decay if cell.decay else 0.0,
        } | cell.settings(**self.options)  # fmt: skip
        return ",".join(f"{name}={value}" for name, value in settings.items())

    def compared(self) -> CompareEncodersConfig:
        """All cells as arms of `compare-encoders`. Raises ConfigError for settings that cannot be run."""
        return CompareEncodersConfig(
            data=self.data, data_options=self.data_options, arms=tuple(self.arm(cell) for cell in self.cells()),
            seeds=self.seeds, steps=self.steps, records=self.records, seed=self.seed, device=self.device,
        )  # fmt: skip


def directpred_table(
    config: DirectPredTableConfig, progress: Progress | None = None, folder: RunFolder | None = None
) -> Outcome:
    """Train every cell on every seed as `compare_encoders` does, and hold the differences that papers report against those found here.

    A difference of the linear probe is judged by its 95 % interval over seeds, paired by seed: as reported, the opposite, or not told
    apart; "not lower" allows for one point. Of fewer than three seeds nothing is judged. Eigenspaces are those of the predictor and of
    F = E[z z^T] on fixed views of training samples. Interrupts, parts and errors are those of `compare_encoders`.
    """
    run = Run(config)
    record, columns, arrays, data = compared(run, config.compared(), progress, folder)
    cells, options = config.cells(), config.options
    for one, cell in zip(record["arms"], cells, strict=True):
        one |= {"label": cell.label(**options), "cell": asdict(cell)}
    seen = Seen(cells, record["runs"], arrays)
    told = [*claims.CLAIMS, *claims.of_rates(cells)]
    record["claims"] = [one for claim in told if (one := claims.judged(claim, seen, **options))]
    record["eigenspaces"] = list(claims.aligned(seen, **options))
    record["table"] = asdict(_table(record))
    findings = [claims.finding(one) for one in record["claims"]]
    findings += filter(None, [claims.collapse(seen)])
    findings += [line for one in record["eigenspaces"] for line in claims.aligned_findings(one)]
    return run.finish([*findings, data], record, columns, arrays)


def _table(record: dict[str, Any]) -> Table:
    """One line per cell: collapse, dimensions used, probes."""
    shown = [name for name in (claims.LINEAR, "ridge", "knn") if any(one[name] for one in record["arms"])]
    rows = []
    for one in record["arms"]:
        cell = one["cell"]
        numbers = [("dimensions_used", 1), *((name, 100) for name in shown)]
        rows.append(
            (
                one["label"], *("yes" if cell[name] else "no" for name in ("ema", "decay")),
                f"{one['collapsed']} of {one['decided']}",
                *(over_seeds(one[name], unit, 1) if one[name] else "diverged" for name, unit in numbers),
            )
        )  # fmt: skip
    header = ("predictor", "EMA", "decay", "collapsed", "dimensions used", *(f"{name} probe, %" for name in shown))
    return Table(
        "Predictors",
        header,
        tuple(rows),
        "Means over seeds with their 95 % intervals; of fewer than three, the values.",
    )

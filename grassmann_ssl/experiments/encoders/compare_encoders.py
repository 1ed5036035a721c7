"""Comparison of constraints, objectives and predictors for encoders, with shared data, views and initial weights per seed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
import torch
from scipy import stats

from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.fitting import fit, prepare
from grassmann_ssl.experiments.encoders.train_config import DATA, TrainConfig
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, Tick, choice, setting, ticking
from grassmann_ssl.training.watch import Diverged

PROBES = ("knn", "ridge", "logistic")
KINDS = ("none", "dimensional", "complete", "diverged")
FIXED = ("seed", "device", "out", "overwrite", "checkpoint", "save_every", "data", "steps", "records")


@dataclass(frozen=True, kw_only=True)
class CompareEncodersConfig(RunConfig):
    """Train several arms of an encoder on several seeds and compare them: collapse, ranks, probes, learning steps, cost."""

    NAME: ClassVar[str] = "compare-encoders"
    data: Annotated[str, choice(DATA)] = "digits"
    """images, as in train"""
    arms: tuple[str, ...] = (
        "constraint=none",
        "constraint=grassmann",
        "constraint=feature-orthonormal",
        "predictor=directpred",
        "objective=vicreg,lr=0.005",
    )
    """arms, each a comma-separated list of NAME=VALUE settings of `train` that differ from the defaults; the first is the baseline of the
    paired tests"""
    seeds: int = 5
    """seeds per arm; split, views and initial weights of a seed are shared by all arms"""
    steps: int = 600
    """optimizer steps per run"""
    records: int = 40
    """number of recorded spectra"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need("seeds", "steps", least=1)
        self.need("records", least=2)
        if not self.arms:
            raise ConfigError("arms must not be empty")
        if len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms: {' '.join(self.arms)} names one twice")
        for arm in self.arms:
            self.train_config(arm, self.seed)

    def train_config(self, arm: str, seed: int) -> TrainConfig:
        """The settings of one run. Raises ConfigError, naming the arm, for settings that cannot be run."""
        base: dict[str, Any] = {
            "data": self.data,
            "steps": self.steps,
            "records": self.records,
            "device": self.device,
            "seed": seed,
        }
        try:
            return TrainConfig.of(**base, **dict(_settings(arm)))
        except ConfigError as error:
            raise ConfigError(f"arm {arm!r}: {error}") from None


def _settings(arm: str) -> Iterable[tuple[str, Any]]:
    types = {one.name: one.type for one in TrainConfig.known() if one.name not in FIXED}
    for part in filter(None, arm.split(",")):
        name, equals, text = part.partition("=")
        name = name.strip().replace("-", "_").replace(".", "_")
        if not equals or name not in types:
            raise ConfigError(f"{part!r} is not NAME=VALUE with NAME one of {', '.join(types)}")
        options: Any = get_args(types[name]) or (types[name],)
        kind = next(option for option in options if option is not type(None))
        try:
            yield name, kind(text.strip())
        except ValueError:
            raise ConfigError(f"{name} must be a {kind.__name__}, got {text!r}") from None


def compare_encoders(config: CompareEncodersConfig, progress: Progress | None = None) -> Outcome:
    """Train every arm on every seed, evaluate each run, and compare arms: 95 % intervals over seeds, paired t tests against the first arm.

    A run whose loss is not finite counts as diverged and has no numbers. Ctrl-C keeps the completed seeds. Raises ConfigError before
    training for settings that cannot be run.
    """
    run = Run(config)
    process = Process(0, 1, run.device)
    tick = ticking(progress, len(config.arms) * config.seeds * config.steps)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    interrupted = None
    for k in range(config.seeds):
        try:
            of_seed, arrays_of_seed = _seed(config, k, process, tick)
        except KeyboardInterrupt:
            if not rows:
                raise
            interrupted = f"in seed {k + 1} of {config.seeds}, which is left out"
            break
        rows += of_seed
        arrays |= arrays_of_seed
    summaries = [_summary(config, arm, rows) for arm in config.arms]
    record = {"probes": list(PROBES), "arms": summaries, "runs": rows, "interrupted": interrupted}
    columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in ("arm", "seed", "kind", *_NUMBERS)}
    return run.finish(_findings(config, record), record, columns, arrays)


def _seed(
    config: CompareEncodersConfig, k: int, process: Process, tick: Tick
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """All arms on the k-th seed: metrics rows and spectra."""
    rows, arrays, seed = [], {}, config.seed + k
    with setting("data"):
        split = load_split(config.data, torch.Generator().manual_seed(seed)).to(process.device)
    if k == 0:
        _check_arms(config, split, process)
    for index, arm in enumerate(config.arms):
        settings = config.train_config(arm, seed)
        label = f"seed {seed}: {arm}"
        try:
            trained = fit(settings, split, process, lambda _, label=label: tick(label))
        except Diverged:
            rows.append({"arm": arm, "seed": seed, "kind": "diverged"})
            continue
        if trained.interrupted:
            raise KeyboardInterrupt
        judged = evaluation.judge(settings, trained.arm, split)
        record, _, found = evaluation.collect(settings, trained, judged)
        rows.append({"arm": arm, "seed": seed, **_row(record)})
        for name in ("time", "spectrum_z", "spectrum_directions"):
            arrays[f"arm{index}_seed{k}_{name}"] = found[name]
    return rows, arrays


def _check_arms(config: CompareEncodersConfig, split: Split, process: Process) -> None:
    """Raise ConfigError, naming the arm, for an arm that does not fit the images."""
    for arm in config.arms:
        try:
            prepare(config.train_config(arm, config.seed), split, process)
        except ConfigError as error:
            raise ConfigError(f"arm {arm!r}: {error}") from None


_NUMBERS = (*PROBES, "rank_z", "rank_h", "directions_rank", "least_over_largest", "steps_detected", "seconds_per_step")


def _row(record: dict[str, Any]) -> dict[str, Any]:
    ranks = record["ranks"]
    probes = record["probes"] or {}
    return {
        "kind": record["verdict"]["kind"],
        **{name: probes[name]["accuracy"] for name in PROBES if name in probes},
        "rank_z": ranks["z"]["effective_rank"],
        "rank_h": ranks["h"]["effective_rank"],
        "directions_rank": ranks["directions"]["effective_rank"],
        "least_over_largest": record["least_over_largest"],
        "steps_detected": record["steps_detected"]["count"],
        "seconds_per_step": record["seconds_per_step"],
    }


def _summary(config: CompareEncodersConfig, arm: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["arm"] == arm]
    base = {row["seed"]: row for row in rows if row["arm"] == config.arms[0]}
    kinds = {kind: sum(row["kind"] == kind for row in own) for kind in KINDS}
    collapsed = kinds["dimensional"] + kinds["complete"]
    judged = len(own) - kinds["diverged"]
    summary: dict[str, Any] = {"arm": arm, "kinds": kinds, "seeds": len(own)}
    summary["collapse_interval"] = list(wilson_interval(collapsed, judged)) if judged else None
    for name in _NUMBERS:
        values = np.array([row[name] for row in own if row.get(name) is not None])
        summary[name] = mean_interval(values) if len(values) else None
        pairs = [(row[name], base[row["seed"]].get(name)) for row in own if row.get(name) is not None]
        differences = np.array([a - b for a, b in pairs if b is not None])
        if arm != config.arms[0] and name in PROBES and len(differences) > 1:
            summary[f"{name}_against_first"] = mean_interval(differences) | {"p": _paired(differences)}
    return summary


def mean_interval(values: np.ndarray) -> dict[str, float | None]:
    """Mean and 95 % Student t interval over seeds; no interval for a single seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _paired(differences: np.ndarray) -> float:
    """p value of the paired t test; 1 if all differences vanish."""
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _findings(config: CompareEncodersConfig, record: dict[str, Any]) -> list[Finding]:
    lines = []
    for summary in record["arms"]:
        kinds = summary["kinds"]
        interval = summary["collapse_interval"]
        probe = " ".join(f"{name} {_share(summary[name])}" for name in PROBES if summary[name])
        against = summary.get("ridge_against_first")
        lines.append(
            Finding(
                summary["arm"] or "defaults",
                None,
                f"collapsed in {kinds['dimensional'] + kinds['complete']} of {summary['seeds']}"
                + (f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f} %)" if interval else "")
                + (f", diverged in {kinds['diverged']}" if kinds["diverged"] else "")
                + (f"; {probe}" if probe else "")
                + f"; rank of z {_number(summary['rank_z'])} of d, of z/|z| {_number(summary['directions_rank'])}"
                + (
                    f"; {1000 * summary['seconds_per_step']['mean']:.1f} ms per step"
                    if summary["seconds_per_step"]
                    else ""
                ),
                None
                if against is None
                else f"ridge {100 * against['mean']:+.1f} points against the first arm, p = {against['p']:.2g}",
            )
        )
    return lines


def _share(value: dict[str, float | None]) -> str:
    mean, low, high = (None if v is None else 100 * v for v in (value["mean"], value["low"], value["high"]))
    return f"{mean:.1f} %" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")


def _number(value: dict[str, float | None] | None) -> str:
    return "–" if value is None else f"{value['mean']:.2f}"

"""Comparison of constraints, objectives and predictors for encoders, with shared data, views and initial weights per seed."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro
from scipy import stats

from grassmann_ssl.audit import Rule
from grassmann_ssl.data.files import DataOptions
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.fitting import fit, prepare
from grassmann_ssl.experiments.encoders.material import Material, material_of
from grassmann_ssl.experiments.encoders.train_config import DATA, TrainConfig
from grassmann_ssl.metrics.intervals import FEWEST, mean_interval, wilson_interval
from grassmann_ssl.runs import (
    ConfigError,
    Finding,
    LoggedConfig,
    Logs,
    Outcome,
    Part,
    Parts,
    Progress,
    Run,
    RunFolder,
    Tick,
    choice,
    ticking,
    toml,
)
from grassmann_ssl.training.watch import Diverged

PROBES = ("knn", "ridge", "logistic")
SPEAKING = ("objective", "constraint", "predictor")  # settings whose values say which setting they are of
COLLAPSED = ("complete", "directional", "dimensional")
KINDS = ("none", *COLLAPSED, "undecided", "diverged")
FIXED = (
    "seed", "device", "out", "overwrite", "resume", "save_every", "data", "size", "labels", "array", "steps", "records", "embeddings",
    "log",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CompareEncodersConfig(LoggedConfig):
    """Train several arms of an encoder on several seeds and compare them: collapse, ranks, probes, learning steps, cost."""

    NAME: ClassVar[str] = "compare-encoders"
    EXAMPLE: ClassVar[str] = (
        'compare-encoders --arms "objective=nt_xent|barlow_twins,constraint=none|grassmann" --seeds 3'
    )
    RESUMES: ClassVar[bool] = True
    data: Annotated[str, choice(DATA)] = "digits"
    """data, as in train"""
    data_options: Annotated[DataOptions, tyro.conf.arg(name=DataOptions.PREFIX)] = field(default_factory=DataOptions)
    arms: tuple[str, ...] = (
        "objective=negative_cosine",
        "objective=negative_cosine,constraint=grassmann",
        "objective=negative_cosine,constraint=feature-orthonormal",
        "objective=negative_cosine,predictor=directpred",
        "objective=vicreg,lr=0.005",
    )
    """arms, each a comma-separated list of NAME=VALUE settings of `train` that differ from the defaults; the first is the baseline of the
    paired tests. NAME=A|B stands for an arm with each, and with every combination where several settings have alternatives; options of an
    objective follow its name, as in objective=nt_xent:temperature=0.1|vicreg:variance=10"""
    common: str = ""
    """settings that all arms share, in the form of an arm; an arm's own win"""
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
        object.__setattr__(self, "arms", tuple(one for arm in self.arms for one in _alternatives(arm)))
        if len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms: {' '.join(self.arms)} names one twice")
        for arm in self.arms:
            self.train_config(arm, self.seed)

    def train_config(self, arm: str, seed: int) -> TrainConfig:
        """The settings of one run. Raises ConfigError, naming the arm, for settings that cannot be run."""
        base: dict[str, Any] = {
            "data": self.data,
            **asdict(self.data_options),
            "steps": self.steps,
            "records": self.records,
            "device": self.device,
            "seed": seed,
        }
        try:
            return TrainConfig.of(**base, **dict([*_settings(self.common), *_settings(arm)]))
        except ConfigError as error:
            raise ConfigError(f"arm {arm!r}: {error}") from None


def _alternatives(arm: str) -> list[str]:
    """The arms that one with alternatives stands for, the last setting running fastest."""
    choices = [
        [f"{name}{equals}{value}" for value in values.split("|")]
        for name, equals, values in (part.partition("=") for part in arm.split(","))
    ]
    return [",".join(one) for one in itertools.product(*choices)]


def labels(arms: Sequence[str]) -> list[str]:
    """What arms are called: values of `SPEAKING` without their names, as "nt_xent, grassmann", where that tells all arms apart."""
    short = [", ".join(_short(part) for part in arm.split(",")) or "defaults" for arm in arms]
    return short if len({*short}) == len(short) else [arm or "defaults" for arm in arms]


def _short(part: str) -> str:
    name, _, value = part.partition("=")
    if name.strip() not in SPEAKING:
        return part.strip()
    return f"no {name.strip()}" if value.strip() == "none" else value.strip()


def _settings(arm: str) -> Iterable[tuple[str, Any]]:
    known = [one.name for one in TrainConfig.known() if one.name not in FIXED]
    for part in filter(None, arm.split(",")):
        name, equals, text = part.partition("=")
        name = name.strip().replace("-", "_").replace(".", "_")
        if not equals or name not in known:
            raise ConfigError(f"{part!r} is not NAME=VALUE with NAME one of {', '.join(known)}")
        yield name, toml.from_text(TrainConfig, name, text.strip())


def compare_encoders(
    config: CompareEncodersConfig, progress: Progress | None = None, folder: RunFolder | None = None
) -> Outcome:
    """Train every arm on every seed, evaluate each run, and compare arms: 95 % intervals over seeds, paired t tests against the first arm.

    Both need three seeds; of fewer the values themselves are shown.
    A run whose loss is not finite counts as diverged and has no numbers. Ctrl-C keeps the completed seeds. The folder, if one is given,
    keeps every finished training and the checkpoint of the one that is not, until all are compared. Raises ConfigError before training for
    settings that cannot be run.
    """
    run = Run(config)
    record, columns, arrays, data = compared(run, config, progress, folder)
    return run.finish([*_findings(config, record), data], record, columns, arrays)


def compared(
    run: Run, config: CompareEncodersConfig, progress: Progress | None, folder: RunFolder | None
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray], Finding]:
    """What `compare_encoders` finds: record, metrics columns, arrays, and which data there were; `run` may be that of another config."""
    process = Process(0, 1, run.device)
    total = len(config.arms) * config.seeds
    tick = ticking(progress, total * config.steps)
    parts = Parts(folder)
    seeds = run.parts(
        range(config.seeds),
        lambda k: _seed(config, k, process, tick, parts, run.logs, None if k else progress),
        lambda k: f"seed {config.seed + k}",
    )
    run.resumed = parts.resumed(total)
    rows = [row for of_seed, *_ in seeds for row in of_seed]
    arrays = {name: values for _, of_seed, _ in seeds for name, values in of_seed.items()}
    summaries = [
        {"label": label, **summary_of(config, arm, rows)}
        for label, arm in zip(labels(config.arms), config.arms, strict=True)
    ]
    rule = Rule()
    record = {
        "collapse_rule": str(rule), "thresholds": asdict(rule), "probes": list(PROBES), "arms": summaries, "runs": rows,
    }  # fmt: skip
    columns = {name: np.array([row[name] for row in rows]) for name in ("arm", "seed", "kind")}
    for name in _NUMBERS:
        columns[name] = np.array([math.nan if row.get(name) is None else row[name] for row in rows])
    return record, columns, arrays, seeds[0][-1]


def _seed(
    config: CompareEncodersConfig,
    k: int,
    process: Process,
    tick: Tick,
    parts: Parts,
    logs: Logs,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], Finding]:
    """All arms on the k-th seed: metrics rows, spectra, and which data they saw."""
    seed = config.seed + k
    material = material_of(config.train_config(config.arms[0], seed), process, progress)
    if k == 0:
        _check_arms(config, material, process)
    notes = {f"samples of {config.data}": material.fingerprint}
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for index, arm in enumerate(config.arms):
        own_tick = _labelled(tick, f"seed {seed}: {arm}")
        settings = config.train_config(arm, seed)
        train = partial(_arm, settings, arm, material.seen_by(settings), process, own_tick, logs)
        row, found = parts.of(f"seed{seed}-arm{index}", notes, train, partial(own_tick, "", config.steps))
        rows.append(row)
        arrays |= {f"arm{index}_seed{k}_{name}": values for name, values in found.items()}
    return rows, arrays, material.finding()


def _labelled(tick: Tick, label: str) -> Tick:
    """The same with one label for all."""
    return lambda _, steps=1: tick(label, steps)


def _arm(
    settings: TrainConfig,
    arm: str,
    material: Material,
    process: Process,
    tick: Tick,
    logs: Logs,
    checkpoint: Callable[[], Path | None],
) -> Part:
    """One arm on one seed: its row, its spectra over time, and its predictor where that is a matrix."""
    row = {"arm": arm, "seed": settings.seed}
    try:
        with logs.of(f"seed {settings.seed} {arm}") as log:
            trained = fit(settings, material, process, tick, checkpoint, log)
    except Diverged as error:
        return row | {"kind": "diverged", "reason": str(error)}, {}
    judged = evaluation.judge(trained.arm, material)
    record, _, found = evaluation.collect(settings, trained, judged)
    row |= {**_row(record), "features": found["spectrum_h"].shape[-1]}
    return row, {name: values for name, values in found.items() if name != "spectrum_h"}


def _check_arms(config: CompareEncodersConfig, material: Material, process: Process) -> None:
    """Raise ConfigError, naming the arm, for an arm that does not fit the data."""
    for arm in config.arms:
        try:
            settings = config.train_config(arm, config.seed)
            prepare(settings, material.seen_by(settings), process)
        except ConfigError as error:
            raise ConfigError(f"arm {arm!r}: {error}") from None


_NUMBERS = (
    *PROBES, "dimensions_used", "rank_z", "rank_h", "directions_rank", "least_over_largest", "steps_detected", "seconds_per_step",
)  # fmt: skip


def _row(record: dict[str, Any]) -> dict[str, Any]:
    ranks, verdict = record["ranks"], record["verdict"]
    probes = record["probes"] or {}
    used, live = (verdict["numbers"][name] for name in ("dimensions_used", "live_dimensions"))
    return {
        "kind": verdict["kind"],
        "kinds": verdict["kinds"],
        "open": verdict["open"],
        "judged": record["judged"],
        "judged_rows": verdict["rows"],
        "dimensions": verdict["dimensions"],
        "dimensions_used": used["value"],
        "dimensions_used_interval": [used["low"], used["high"]],
        "live_bounds": [round(live["low"]), round(live["high"])],
        **{name: probes[name]["accuracy"] for name in PROBES if name in probes},
        "rank_z": ranks["z"]["effective_rank"],
        "rank_h": ranks["h"]["effective_rank"],
        "directions_rank": ranks["directions"]["effective_rank"],
        "least_over_largest": record["least_over_largest"],
        "steps_detected": record["steps_detected"]["count"],
        "skipped": evaluation.skipped_in_words(record) if record["steps_skipped"] else None,
        "seconds_per_step": record["seconds_per_step"],
    }


_UNTRAINED = {"judged": None, "judged_rows": None, "dimensions": 0, "features": 0}


def summary_of(config: CompareEncodersConfig, arm: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Kinds, means and tests of one arm over its seeds. Undecided seeds count neither as collapsed nor as decided."""
    own = [row for row in rows if row["arm"] == arm]
    base = {row["seed"]: row for row in rows if row["arm"] == config.arms[0]}
    kinds = {kind: sum(row["kind"] == kind for row in own) for kind in KINDS}
    collapsed = sum(kinds[kind] for kind in COLLAPSED)
    decided = collapsed + kinds["none"]
    summary: dict[str, Any] = {"arm": arm, "kinds": kinds, "seeds": len(own), "means": list(_NUMBERS)}
    summary |= {"collapsed": collapsed, "decided": decided}
    summary["collapse_interval"] = list(wilson_interval(collapsed, decided)) if decided else None
    bounds = np.array([row["live_bounds"] for row in own if "live_bounds" in row])
    summary["live_bounds"] = [int(bounds[:, 0].min()), int(bounds[:, 1].max())] if len(bounds) else None
    summary["open"] = [f"{kind} ({why})" for row in own for kind, why in row.get("open", {}).items()]
    summary["diverged"] = [row["reason"] for row in own if row["kind"] == "diverged"]
    summary["skipped"] = [row["skipped"] for row in own if row.get("skipped")]
    whole = next((row for row in own if row["kind"] != "diverged"), _UNTRAINED)
    summary |= {name: whole[name] for name in ("judged", "judged_rows", "dimensions")}
    for name in _NUMBERS:
        values = np.array([row[name] for row in own if row.get(name) is not None])
        summary[name] = mean_over_seeds(values, *_range(name, values, whole)) if len(values) else None
        pairs = [(row[name], base[row["seed"]].get(name)) for row in own if row.get(name) is not None]
        differences = np.array([a - b for a, b in pairs if b is not None])
        if arm != config.arms[0] and name in PROBES and len(differences) > 1:
            summary[f"{name}_against_first"] = mean_over_seeds(differences, -1.0, 1.0) | {"p": _paired(differences)}
    return summary


def _range(name: str, values: np.ndarray, row: dict[str, Any]) -> tuple[float, float]:
    """The range of a number of `_NUMBERS`: shares in [0, 1], times above 0, ranks and dimensions used in [1, d], counts in [0, d].

    The rank of a spectrum that vanishes is 0: with one of those ranks are in [0, d].
    """
    if name == "seconds_per_step":
        return 0.0, math.inf
    if name in PROBES or name == "least_over_largest":
        return 0.0, 1.0
    least = 1.0 if ("rank" in name or name == "dimensions_used") and values.all() else 0.0
    return least, float(row["features" if name == "rank_h" else "dimensions"])


def mean_over_seeds(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Mean over seeds, its 95 % interval within the range (None for fewer than three seeds), and the values; rounding is clipped off."""
    kept = np.clip(values, low, high)
    interval = mean_interval(kept, low, high)
    first, last = interval or (None, None)
    return {"mean": float(kept.mean()), "low": first, "high": last, "values": kept.tolist()}


def _paired(differences: np.ndarray) -> float | None:
    """p value of the paired t test; 1 if all differences vanish, None for fewer than three, as of the interval."""
    if len(differences) < FEWEST:
        return None
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _findings(config: CompareEncodersConfig, record: dict[str, Any]) -> list[Finding]:
    """One line per arm, of measurements alone: no theory predicts them."""
    return [Finding(one["label"], None, measured(one), _against(one)) for one in record["arms"]]


def measured(summary: dict[str, Any]) -> str:
    """What was measured of an arm, in words."""
    kinds, interval = summary["kinds"], summary["collapse_interval"]
    counted = f"collapsed in {summary['collapsed']} of {summary['decided']}"
    parts = [counted + (f" ({_span(interval[0], interval[1], 100, 0)} %)" if interval else "")]
    if kinds["undecided"]:
        parts[0] += f", undecided in {kinds['undecided']}"
    if kinds["diverged"]:
        parts[0] += f", diverged in {kinds['diverged']} ({'; '.join(dict.fromkeys(summary['diverged']))})"
    if summary["skipped"]:
        parts.append(f"steps skipped in float16: {'; '.join(dict.fromkeys(summary['skipped']))}")
    if summary["open"]:
        parts.append(f"open: {'; '.join(dict.fromkeys(summary['open']))}")
    if summary["live_bounds"]:
        used = f"{over_seeds(summary['dimensions_used'], 1, 2)}" if summary["dimensions_used"] else "unknown"
        what = "z" if summary["judged"] == "z" else "z/|z|"
        low, high = summary["live_bounds"]
        live = f"{low}" if low == high else f"{low} to {high}"
        parts.append(
            f"{used} of {summary['dimensions']} dimensions of {what} used, {live} live, over {summary['judged_rows']:,} rows"
        )
    parts += [f"{name} {over_seeds(summary[name], 100, 1)} %" for name in PROBES if summary[name]]
    for name, what in (("rank_z", "z"), ("directions_rank", "z/|z|")):
        if summary[name]:
            parts.append(f"rank of {what} {over_seeds(summary[name], 1, 2)} of {summary['dimensions']}")
    if summary["seconds_per_step"]:
        parts.append(f"{over_seeds(summary['seconds_per_step'], 1000, 1)} ms per step")
    return "; ".join(parts)


def _against(summary: dict[str, Any]) -> str | None:
    against = summary.get("ridge_against_first")
    if against is None:
        return None
    tested = "" if against["p"] is None else f", p = {against['p']:.2g}"
    return f"ridge {over_seeds(against, 100, 1, '+')} points against the first arm{tested}"


def over_seeds(value: dict[str, Any], unit: float, digits: int, sign: str = "") -> str:
    """Mean and interval, or the values themselves where there are too few seeds for an interval."""
    if value["low"] is None:
        return " and ".join(f"{unit * one:{sign}.{digits}f}" for one in value["values"])
    return f"{unit * value['mean']:{sign}.{digits}f} [{_span(value['low'], value['high'], unit, digits, sign)}]"


def _span(low: float, high: float, unit: float, digits: int, sign: str = "") -> str:
    return f"{unit * low:{sign}.{digits}f} to {unit * high:{sign}.{digits}f}"

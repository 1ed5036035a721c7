"""Evaluation of a trained encoder: collapse verdict, ranks, probes, and learning steps."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.audit import Audit, Number, audit_embeddings
from grassmann_ssl.data.batches import Split
from grassmann_ssl.experiments.encoders.encoder_arms import Arm
from grassmann_ssl.experiments.encoders.fitting import Trained
from grassmann_ssl.experiments.encoders.guarantees import guarantees, lag_observed
from grassmann_ssl.experiments.encoders.material import EvaluationViews, Material
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.metrics.accumulate import SecondMoments, mean_variance
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.metrics.lidar import lidar
from grassmann_ssl.metrics.probes import knn_accuracy, logistic_probe, ridge_probe
from grassmann_ssl.metrics.ranks import SpectralSummary, eigenvalues, spectral_summary
from grassmann_ssl.metrics.steps import LEAST_RECORDS, detect_steps, eigenvalue_steps
from grassmann_ssl.nn.feature_orthonormal import feature_lag
from grassmann_ssl.nn.joint_embedding import embeddings
from grassmann_ssl.runs import Finding

JUDGED = 2048  # most rows that are judged: a cap of the cost alone, the audit is right for any number
LIDAR_IMAGES, LIDAR_VIEWS = 512, 8


@dataclass(frozen=True)
class Judgement:
    """The evaluation of a trained encoder. Probes are of the representation h; None without labels."""

    verdict: dict[str, Any]
    audit: Audit
    z: SpectralSummary
    directions: SpectralSummary
    h: SpectralSummary
    lidar_h: float
    lidar_z: float
    probes: dict[str, float] | None
    tested: int


def judge(arm: Arm, material: Material) -> Judgement:
    """Evaluate an encoder on views of what it was trained on, and probe its representation of labelled samples, if there are any."""
    first = material.view(0, JUDGED)
    seen = [embeddings(arm.method, first)]
    count = max(2, min(len(seen[0]["z"]), LIDAR_IMAGES))
    # LiDAR takes at least as many samples as views of each.

    def other(k: int) -> dict[str, Tensor]:
        view = material.view(k, JUDGED)  # forgotten before the next is drawn: its noise is as large as the samples
        return embeddings(arm.method, view if k < 2 else view.first(count))

    seen += [other(k) for k in range(1, min(LIDAR_VIEWS, count, material.count))]
    moments = {name: SecondMoments.of(rows) for name, rows in seen[0].items()}
    summaries = {name: spectral_summary(m, center=True) for name, m in moments.items()}

    def stacked(name: str) -> Tensor:
        return torch.stack([rows[name][:count] for rows in seen], 1)

    verdict, audit = _verdict(arm, first, seen[0]["z"], seen[1]["z"])
    labelled = material.labelled
    return Judgement(
        verdict,
        audit,
        summaries["z"],
        summaries["directions"],
        summaries["h"],
        float(lidar(stacked("h"))),
        float(lidar(stacked("z"))),
        None if labelled is None else _probes(arm, labelled),
        0 if labelled is None else len(labelled.test),
    )


def collapse_verdict(arm: Arm, material: Material) -> dict[str, Any]:
    """The verdict of `judge` alone, as it is recorded."""
    first = material.view(0, JUDGED)
    z = embeddings(arm.method, first)["z"]
    z_positive = embeddings(arm.method, material.view(1, JUDGED))["z"]  # whose view is forgotten at once, as in `judge`
    return _verdict(arm, first, z, z_positive)[0]


def _verdict(arm: Arm, view: EvaluationViews, z: Tensor, z_positive: Tensor) -> tuple[dict[str, Any], Audit]:
    """The collapse audit of z, or of z / ||z|| where the loss sees directions only, and what the constraint guarantees.

    Without labels: the losses do not see them, and a class that is one point is what some of them seek.
    """
    first = next(iter(view))
    pixels = mean_variance(view) if first.is_floating_point() else None  # tokens have none
    directional = arm.loss.directional
    audit = audit_embeddings(
        z, z_positive=z_positive, directions=directional, input_variance=None if directional else pixels
    )
    sample = eigenvalues(SecondMoments.of(z), center=True)
    least, largest = float(sample[-1]), float(sample[0])
    observed = [_dimensions(audit, "z / ||z||" if directional else "z")]
    if pixels:
        observed.append(f"mean variance of z per dimension {float(sample.mean()) / pixels:.3g} of that of the input")
    if directional:
        observed.append(f"variance of z / ||z|| {_with_interval(audit['spread'])}, 1 on the whole sphere")
    if arm.feature_layer is not None:
        with arm.features_of_last_layer() as caught:
            embeddings(arm.method, view)
        observed += lag_observed(feature_lag(arm.feature_layer, torch.cat(caught)), least, largest)
    found = {
        "kind": audit.kind,
        "kinds": list(audit.kinds),
        "judgement": audit.judgement,
        "open": dict(audit.verdict.open),
        "hard": audit.verdict.hard,
        "soft": audit.verdict.soft,
        "rule": str(audit.rule),
        "thresholds": asdict(audit.rule),
        "rows": audit.rows,
        "dimensions": audit.dimension,
        "confidence": audit.confidence,
        "numbers": {one.name: {end: getattr(one, end) for end in ("value", "low", "high")} for one in audit.numbers},
        "guaranteed": list(guarantees(*arm.last_weight)),
        "observed": observed,
    }
    return found, audit


def _dimensions(audit: Audit, what: str) -> str:
    """Dimensions used and alive, with what bounds them."""
    live = audit["live_dimensions"]
    bounds = "" if live.low == live.high else f" (between {live.low:.0f} and {live.high:.0f})"
    return (
        f"{_with_interval(audit['dimensions_used'])} of {audit.dimension} dimensions of {what} used, {live.value:.0f}{bounds} live, over "
        f"{audit.rows:,} rows"
    )


def _with_interval(one: Number) -> str:
    return "unknown" if one.value is None else f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]"


def _probes(arm: Arm, split: Split) -> dict[str, float] | None:
    if split.train_labels is None or split.test_labels is None:
        return None
    rows = [embeddings(arm.method, images)["h"] for images in (split.train, split.test)]
    given = (rows[0], split.train_labels, rows[1], split.test_labels)
    return {
        "knn": knn_accuracy(*given, k=min(20, len(rows[0]))),
        "ridge": ridge_probe(*given).accuracy,
        "logistic": logistic_probe(*given).accuracy,
    }


def collect(
    config: TrainConfig, trained: Trained, judged: Judgement
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The record, the metrics columns and the arrays of a run."""
    steps, values = trained.recorder.stacked()
    time = trained.arm.time_of(steps.numpy(), config)
    spectra = values["z"].double().numpy()
    enough = len(time) > LEAST_RECORDS  # the first is at t = 0, which steps in log t leave out
    found = eigenvalue_steps(time, spectra, log_time=True) if enough else ()
    loss = values["loss"].double().numpy()
    falls = detect_steps(time[1:], loss[1:], falling=True, log_time=True).times if enough else ()
    learned = sorted(eigenvalue.highest for eigenvalue in found if eigenvalue.highest is not None)
    seen = "directions" if trained.arm.loss.directional else "z"
    record = {
        "verdict": judged.verdict,
        "judged": seen,
        "ranks": {
            name: {key: _plain(value) for key, value in asdict(getattr(judged, name)).items() if key != "spectrum"}
            for name in ("z", "directions", "h")
        },
        "lidar": {"h": judged.lidar_h, "z": judged.lidar_z},
        "probes": None
        if judged.probes is None
        else {
            name: {"accuracy": share, "interval": list(wilson_interval(round(share * judged.tested), judged.tested))}
            for name, share in judged.probes.items()
        },
        "tested": judged.tested,
        "constrained": trained.arm.constrained,
        "least_over_largest": _least_over_largest(getattr(judged, seen)),
        "steps_detected": {"count": len(learned), "times": learned},
        "steps_of_loss": {"count": len(falls), "times": list(falls)},
        "steps_done": trained.done,
        "steps_skipped": trained.recorder.watch.skipped,
        "unsaved": trained.unsaved,
        "seconds_per_step": _plain(trained.seconds_per_step),
        "parameters": sum(p.numel() for p in trained.arm.method.parameters()),
    }
    metrics: dict[str, np.ndarray] = {"step": steps.numpy(), "time": time, "loss": loss}
    metrics |= {f"probe_{name}": values[name].numpy() for name in ("knn", "ridge") if name in values}
    for name in ("z", "directions"):
        for k, column in enumerate(values[name].double().numpy().T):
            metrics[f"{name}_{k + 1}"] = column
    arrays = {"time": time} | {f"spectrum_{name}": values[name].double().numpy() for name in ("z", "directions", "h")}
    arrays |= {name: value.double().numpy() for name, value in values.items() if name.startswith("predictor_")}
    return record, metrics, arrays


def stored_embeddings(arm: Arm, material: Material) -> dict[str, np.ndarray]:
    """h (n, k), z (n, d) and labels (n,) of all samples, unaugmented, as train_h, ..., test_labels; no labels where there are none.

    Without labelled samples, of one view of the first rows, as h and z.
    """
    content: dict[str, np.ndarray] = {}
    split = material.labelled
    if split is None:
        rows = embeddings(arm.method, material.view(0, JUDGED))
        return {name: rows[name].numpy(force=True) for name in ("h", "z")}
    for part, images, labels in (
        ("train", split.train, split.train_labels),
        ("test", split.test, split.test_labels),
    ):
        rows = embeddings(arm.method, images)
        content |= {f"{part}_{name}": rows[name].numpy(force=True) for name in ("h", "z")}
        if labels is not None:
            content[f"{part}_labels"] = labels.numpy(force=True)
    return content


def _least_over_largest(summary: SpectralSummary) -> float:
    """l_d / l_1 of the spectrum that the verdict uses; 0 if all of it vanishes."""
    largest = float(summary.spectrum[0])
    return float(summary.spectrum[-1]) / largest if largest > 0 else 0.0


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict_in_words(verdict: dict[str, Any]) -> str:
    """A recorded verdict with what was observed."""
    return "; ".join([verdict["judgement"], *verdict["observed"]])


def skipped_in_words(record: dict[str, Any]) -> str:
    """How many of the steps done left the weights as they were."""
    return f"{record['steps_skipped']} of {record['steps_done']}: the gradient overflowed, and the scale of the loss was halved"


def findings(config: TrainConfig, record: dict[str, Any]) -> list[Finding]:
    """The findings of a training run."""
    ranks = record["ranks"]
    lines = [
        Finding(
            "collapse",
            "; ".join(record["verdict"]["guaranteed"]) or "nothing is guaranteed of the last layer",
            verdict_in_words(record["verdict"]),
        ),
        Finding(
            f"ranks of z, d = {config.dim}",
            f"at most {config.dim}",
            f"RankMe {ranks['z']['rankme']:.2f}, effective {ranks['z']['effective_rank']:.2f}, LiDAR {record['lidar']['z']:.2f}",
        ),
        Finding(
            "ranks of h",
            None,
            f"RankMe {ranks['h']['rankme']:.2f}, effective {ranks['h']['effective_rank']:.2f}, LiDAR {record['lidar']['h']:.2f}",
        ),
    ]
    for name, probe in (record["probes"] or {}).items():
        low, high = probe["interval"]
        lines.append(
            Finding(
                f"{name} probe of h",
                None,
                f"{100 * probe['accuracy']:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} % on {record['tested']} test samples",
            )
        )
    for name, what in (("steps_detected", "eigenvalues of cov z"), ("steps_of_loss", "the loss")):
        steps = record[name]
        times = ", ".join(f"{t:.3g}" for t in steps["times"])
        lines.append(Finding(f"steps of {what}", None, f"{steps['count']}" + (f", at t = {times}" if times else "")))
    if config.precision == "float16":
        lines.append(Finding("steps skipped in float16", None, skipped_in_words(record)))
    cost = record["seconds_per_step"]
    measured = None if cost is None else f"{1000 * cost:.1f} ms"
    lines.append(Finding(f"time per step, {record['parameters']:,} parameters", None, measured))
    return lines

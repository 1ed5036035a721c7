"""Evaluation of a trained encoder: collapse verdict, ranks, probes, and learning steps."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data.augment import as_floating
from grassmann_ssl.data.batches import Split
from grassmann_ssl.experiments.encoders.encoder_arms import Arm
from grassmann_ssl.experiments.encoders.fitting import Trained, seen_views
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.metrics.lidar import lidar
from grassmann_ssl.metrics.pairs import alignment, uniformity
from grassmann_ssl.metrics.probes import knn_accuracy, logistic_probe, ridge_probe
from grassmann_ssl.metrics.ranks import SpectralSummary, spectral_summary
from grassmann_ssl.metrics.steps import LEAST_RECORDS, detect_steps, eigenvalue_steps
from grassmann_ssl.metrics.verdict import EmbeddingVerdict, embedding_verdict
from grassmann_ssl.nn.feature_orthonormal import feature_lag
from grassmann_ssl.nn.joint_embedding import embeddings
from grassmann_ssl.runs import Finding

JUDGED = 2048  # most images from which ranks and verdicts are estimated
LIDAR_VIEWS = 8


@dataclass(frozen=True)
class Judgement:
    """The evaluation of a trained encoder. Probes are of the representation h; None without labels."""

    verdict: EmbeddingVerdict
    z: SpectralSummary
    directions: SpectralSummary
    h: SpectralSummary
    lidar_h: float
    lidar_z: float
    alignment: float
    uniformity: float
    probes: dict[str, float] | None
    tested: int


def judge(config: TrainConfig, arm: Arm, split: Split) -> Judgement:
    """Evaluate an encoder on views of training images, and probe its representation on unaugmented images."""
    images = split.train[:JUDGED]
    views = [seen_views(images, arm.augmentation, config.seed, images.device, k) for k in range(LIDAR_VIEWS)]
    seen = [embeddings(arm.method, view) for view in views]
    first, second = seen[:2]
    moments = {name: SecondMoments.of(rows) for name, rows in first.items()}
    lag = None
    if arm.feature_layer is not None:
        with arm.features_of_last_layer() as caught:
            embeddings(arm.method, views[0])
        lag = feature_lag(arm.feature_layer, torch.cat(caught))
    pixels = SecondMoments.of(views[0].flatten(1))
    reference = float(pixels.covariance.diagonal().mean())
    verdict = embedding_verdict(
        moments["z"],
        constraint_rank=arm.constraint_rank,
        feature_lag=lag,
        input_variance=reference,
        directions=moments["directions"] if arm.loss.directional else None,
    )
    summaries = {name: spectral_summary(m, center=True) for name, m in moments.items()}
    count = max(2, min(len(images), 512))

    def stacked(name: str) -> Tensor:
        return torch.stack([rows[name][:count] for rows in seen], 1)

    return Judgement(
        verdict,
        summaries["z"],
        summaries["directions"],
        summaries["h"],
        float(lidar(stacked("h"))),
        float(lidar(stacked("z"))),
        float(alignment(first["z"], second["z"])),
        float(uniformity(first["z"])),
        _probes(arm, split),
        len(split.test),
    )


def _probes(arm: Arm, split: Split) -> dict[str, float] | None:
    if split.train_labels is None or split.test_labels is None:
        return None
    rows = [embeddings(arm.method, as_floating(images))["h"] for images in (split.train, split.test)]
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
    learned = sorted(t for eigenvalue in found for t in eigenvalue.times[:1])
    seen = "directions" if trained.arm.loss.directional else "z"
    record = {
        "verdict": asdict(judged.verdict),
        "judged": seen,
        "ranks": {
            name: {key: _plain(value) for key, value in asdict(getattr(judged, name)).items() if key != "spectrum"}
            for name in ("z", "directions", "h")
        },
        "lidar": {"h": judged.lidar_h, "z": judged.lidar_z},
        "alignment": judged.alignment,
        "uniformity": judged.uniformity,
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
        "interrupted": f"after step {trained.done} of {config.steps}" if trained.interrupted else None,
        "seconds_per_step": _plain(trained.seconds_per_step),
        "parameters": sum(p.numel() for p in trained.arm.method.parameters()),
    }
    metrics: dict[str, np.ndarray] = {"step": steps.numpy(), "time": time, "loss": loss}
    for name in ("z", "directions"):
        for k, column in enumerate(values[name].double().numpy().T):
            metrics[f"{name}_{k + 1}"] = column
    arrays = {"time": time} | {f"spectrum_{name}": values[name].double().numpy() for name in ("z", "directions", "h")}
    return record, metrics, arrays


def _least_over_largest(summary: SpectralSummary) -> float:
    """l_d / l_1 of the spectrum that the verdict uses; 0 if all of it vanishes."""
    largest = float(summary.spectrum[0])
    return float(summary.spectrum[-1]) / largest if largest > 0 else 0.0


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def findings(config: TrainConfig, record: dict[str, Any]) -> list[Finding]:
    """The findings of a training run."""
    verdict, ranks = record["verdict"], record["ranks"]
    guaranteed, observed = ("; ".join(verdict[name]) for name in ("guaranteed", "observed"))
    lines = [
        Finding(
            "collapse",
            guaranteed or "nothing is guaranteed of the last layer",
            verdict["kind"] + (f": {observed}" if observed else ""),
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
                f"{100 * probe['accuracy']:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} % on {record['tested']} test images",
            )
        )
    for name, what in (("steps_detected", "eigenvalues of cov z"), ("steps_of_loss", "the loss")):
        steps = record[name]
        times = ", ".join(f"{t:.3g}" for t in steps["times"])
        lines.append(Finding(f"steps of {what}", None, f"{steps['count']}" + (f", at t = {times}" if times else "")))
    cost = record["seconds_per_step"]
    measured = None if cost is None else f"{1000 * cost:.1f} ms"
    lines.append(Finding(f"time per step, {record['parameters']:,} parameters", None, measured))
    return lines

"""The contents of a run folder: run.json, metrics.parquet, arrays.safetensors, report.html, staircase.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from grassmann_ssl.report import figures, html
from grassmann_ssl.report.page import png
from grassmann_ssl.runs.folder import write_json

if TYPE_CHECKING:
    from grassmann_ssl.experiments.linear.compare import Comparison

SCALARS = ("effective_rank", "participation_ratio", "rankme", "weight_effective_rank", "orthonormality_error")
SPECTRA = ("singular_values", "cross_eigenvalues", "covariance_eigenvalues")


def write_run(comparison: Comparison, folder: Path) -> None:
    """Write everything a run leaves into an existing, empty folder."""
    write_json(folder / "run.json", comparison.result)
    pq.write_table(metrics_table(comparison), folder / "metrics.parquet", compression="zstd")
    (folder / "arrays.safetensors").write_bytes(save(arrays(comparison)))
    (folder / "report.html").write_text(html.render(comparison), encoding="utf-8")
    if ("barlow_twins", "free") in comparison.arms and comparison.config.barlow_lambda == 1:
        (folder / "staircase.png").write_bytes(png(figures.staircase(comparison)))


def metrics_table(comparison: Comparison) -> pa.Table:
    """One row per objective, arm, seed and logged step.

    All values are of the recorded weights, whose true scale is exp(log_norm) times theirs; spectra are lists in decreasing order;
    principal_angle and flow_projector_error are null where theory has no prediction.
    """
    tables = []
    for (name, arm), run in comparison.arms.items():
        steps, seeds = run.trajectory.loss.shape
        rows = steps * seeds

        def flat(values: np.ndarray | torch.Tensor | None, rows: int = rows) -> pa.Array:
            if values is None:
                return pa.nulls(rows, pa.float64())
            return pa.array(np.asarray(values, dtype=np.float64).reshape(rows))

        columns = {
            "objective": pa.array([name] * rows),
            "arm": pa.array([arm] * rows),
            "seed": pa.array(np.tile(np.arange(seeds), steps)),
            "step": pa.array(np.repeat(run.trajectory.step.numpy(), seeds)),
            "time": flat(np.repeat(run.trajectory.time.numpy(), seeds)),
            "loss": flat(run.trajectory.loss),
            "gradient_norm": flat(run.trajectory.gradient_norm),
            "log_norm": flat(run.trajectory.log_norm),
            "principal_angle": flat(run.angles),
            "flow_projector_error": flat(run.flow_errors),
            **{key: flat(run.spectra[key]) for key in SCALARS},
        }
        for key in SPECTRA:
            values = run.spectra[key].reshape(-1)
            offsets = np.arange(rows + 1, dtype=np.int32) * comparison.config.dim
            columns[key] = pa.ListArray.from_arrays(offsets, values)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def arrays(comparison: Comparison) -> dict[str, torch.Tensor]:
    """Moments of the data, the initial draw, and the last recorded weights of every arm (S, m, d)."""
    content = {
        "moments/cross": comparison.moments.cross,
        "moments/second": comparison.moments.second,
        "moments/mean": comparison.moments.mean,
        "weights/initial_draw": comparison.initial.cpu(),
    }
    for (name, arm), run in comparison.arms.items():
        content[f"weights/{name}/{arm}"] = run.trajectory.weights[-1]
    for name, prediction in comparison.predictions.items():
        for arm, subspace in prediction.subspaces.items():
            content[f"predicted_subspace/{name}/{arm}"] = torch.tensor(subspace)
    return {key: value.contiguous() for key, value in content.items()}

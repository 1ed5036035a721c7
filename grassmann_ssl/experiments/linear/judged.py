"""Evaluation of one trained arm: end state, agreement with theory, metrics rows, and the predicted curves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear import agreement, measure
from grassmann_ssl.experiments.linear.predictions.base import Prediction
from grassmann_ssl.training import Trajectory

STORED = 40
"""about how many of the logged steps of an arm have rows in the metrics; the curves of the page have all of them"""


@dataclass(frozen=True)
class Judged:
    """The evaluation of one arm: its end state, its agreement with theory, the metrics of some of its logged steps, and arrays."""

    end: dict[str, Any]
    agreement: dict[str, Any]
    rows: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


def input_variance(moments: Moments) -> float:
    """Mean variance of the input coordinates, tr(Cov) / m."""
    return float(moments.covariance.trace() / len(moments.mean))


def judge(prediction: Prediction, arm: str, trajectory: Trajectory, moments: Moments) -> Judged:
    """Measure one arm and compare it with its prediction."""
    name = prediction.objective.name
    finite = torch.isfinite(trajectory.weights).flatten(1).all(1)
    if not finite.all():
        kept = trajectory.first(int(finite.int().argmin()))
        end = {
            "learning_rate": trajectory.learning_rate,
            "steps": int(kept.step[-1]),
            "collapsed": None,
            "effective_rank": None,
            "orthonormality_error": None,
            "reason": f"diverged: the weights of some seed are not finite after t = {kept.time[-1]:.3g}",
        }
        spectra = measure.spectra(kept, moments)
        rows = _rows(name, arm, kept, spectra, None, None)
        return Judged(end, {}, rows, _drawn(prediction, arm, kept) | _course(prediction, arm, kept, spectra, None))
    spectra = measure.spectra(trajectory, moments)
    free = arm == "free"
    steps = prediction.step_times(trajectory.weights[0].double().numpy()) if free else None
    end = agreement.arm_result(
        trajectory, spectra, input_variance(moments), constrained=not free, predicted_steps=steps
    )
    agreements: dict[str, Any] = {}
    exact_end = flow_errors = angles = None
    if prediction.matrix is not None and arm == "grassmann":
        agreements["flow"], flow_errors, exact_end = agreement.flow(trajectory, prediction)
    if arm in prediction.subspaces:
        target = prediction.subspaces[arm]
        angles = measure.angles_to(trajectory.weights, target)
        expected = None if exact_end is None else measure.angles_to(torch.as_tensor(exact_end), target)
        agreements["subspace"] = {arm: agreement.subspace(angles, expected)}
    else:
        none = {"max_principal_angle": None, "median_principal_angle": None, "reason": prediction.reasons[arm]}
        agreements["subspace"] = {arm: none}
    time = trajectory.time.numpy()
    if free and prediction.matrix is not None:
        agreements["collapse_slope"] = agreement.collapse_slope(
            time, spectra["singular_values"], prediction.matrix, trajectory.learning_rate
        )
    if free and prediction.staircase:
        agreements["step_times"] = agreement.step_times(time, spectra["cross_eigenvalues"], steps)
    rows = _rows(name, arm, trajectory, spectra, angles, flow_errors)
    arrays = _drawn(prediction, arm, trajectory) | _course(prediction, arm, trajectory, spectra, angles)
    return Judged(end, agreements, rows, arrays)


def _rows(
    name: str,
    arm: str,
    trajectory: Trajectory,
    spectra: dict[str, np.ndarray],
    angles: np.ndarray | None,
    flow_errors: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The metrics columns of one arm, a row per seed and step: evenly spaced ones of the logged steps, about STORED, and the last."""
    every = max(1, (len(trajectory.step) - 1) // STORED)
    kept = np.array(sorted({*range(0, len(trajectory.step), every), len(trajectory.step) - 1}))
    unknown = np.full(trajectory.loss.shape, np.nan)
    values = {
        "loss": trajectory.loss.double().numpy(),
        "gradient_norm": trajectory.gradient_norm.double().numpy(),
        "log_norm": trajectory.log_norm.double().numpy(),
        "principal_angle": unknown if angles is None else angles,
        "flow_projector_error": unknown if flow_errors is None else flow_errors,
        **spectra,
    }
    steps, seeds = len(kept), trajectory.loss.shape[1]
    return {
        "objective": np.full(steps * seeds, name),
        "arm": np.full(steps * seeds, arm),
        "seed": np.tile(np.arange(seeds), steps),
        "step": np.repeat(trajectory.step.numpy()[kept], seeds),
        "time": np.repeat(trajectory.time.numpy()[kept], seeds),
        **{key: value[kept].reshape(steps * seeds, *value.shape[2:]) for key, value in values.items()},
    }


def _course(
    prediction: Prediction, arm: str, trajectory: Trajectory, spectra: dict[str, np.ndarray], angles: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What the page draws of an arm at all K logged steps, as course/OBJECTIVE/ARM/NAME.

    time (K,); loss, effective_rank and principal_angle (3, K): the smallest, the median and the largest over seeds, trace losses at
    ||W||_F^2 = d; first_loss (K,) and first_spectrum (K, d) of the first seed: of free weights the spectrum that the prediction names,
    and else the eigenvalues of the covariance of the embedding.
    """
    loss, singular = trajectory.loss.double().numpy(), spectra["singular_values"]
    trace = prediction.matrix is not None
    values = {
        "loss": loss * singular.shape[-1] / np.square(singular).sum(-1) if trace else loss,
        "effective_rank": spectra["effective_rank"],
        "principal_angle": np.full_like(loss, np.nan) if angles is None else angles,
    }
    course = {
        "time": trajectory.time.numpy(),
        **{name: np.stack([one.min(1), np.median(one, 1), one.max(1)]) for name, one in values.items()},
        "first_loss": loss[:, 0],
        "first_spectrum": spectra[prediction.free_spectrum if arm == "free" else "covariance_eigenvalues"][:, 0],
    }
    return {f"course/{prediction.objective.name}/{arm}/{name}": value for name, value in course.items()}


def _drawn(prediction: Prediction, arm: str, trajectory: Trajectory) -> dict[str, np.ndarray]:
    """The last recorded weights of an arm and, of free weights, the predicted curves from the first recorded ones at the logged times."""
    name = prediction.objective.name
    content = {f"weights/{name}/{arm}": trajectory.weights[-1].numpy()}
    if arm == "free":
        curves = prediction.curves(trajectory.time.numpy(), trajectory.weights[0].double().numpy())
        content |= {f"predicted_{curve}/{name}/free": values for curve, values in curves.items()}
    return content

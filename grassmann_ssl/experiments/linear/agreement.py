"""Agreement of measurement and prediction, as recorded in run.json."""

from typing import Any

import numpy as np

import theory
from grassmann_ssl.experiments.linear import measure
from grassmann_ssl.experiments.linear.predictions.base import Prediction
from grassmann_ssl.experiments.linear.verdicts import kinds_of, live_dimensions, unfinished
from grassmann_ssl.metrics import first_crossing
from grassmann_ssl.training import Trajectory

Arrays = dict[str, np.ndarray]
KINDS = ("none", "dimensional", "complete", "unfinished")
HALF = 0.5  # of the rise of an eigenvalue of C to 1: its step


def arm_result(
    trajectory: Trajectory,
    spectra: Arrays,
    input_variance: float,
    constrained: bool,
    predicted_steps: np.ndarray | None = None,
) -> dict[str, Any]:
    """The `arms.<objective>.<arm>` record: the end state of the arm over its seeds.

    With `predicted_steps` (S, d), the times of the steps in increasing order, arms whose steps are still to come are unfinished.
    """
    end, log_scale = spectra["covariance_eigenvalues"][-1], 2 * trajectory.log_norm[-1].double().numpy()
    judged = kinds_of(end, input_variance, log_scale)
    steps = {}
    if predicted_steps is not None:
        judged = unfinished(judged, end, input_variance, log_scale, predicted_steps, end=float(trajectory.time[-1]))
        steps = {
            "steps_learned": (spectra["cross_eigenvalues"][-1] >= HALF).sum(-1).tolist(),
            "steps_predicted": np.isfinite(predicted_steps).sum(-1).tolist(),
        }
    kinds = {kind: judged.count(kind) for kind in KINDS}
    seeds, collapsed = len(judged), kinds["dimensional"] + kinds["complete"]
    return {
        "learning_rate": trajectory.learning_rate,
        "steps": int(trajectory.step[-1]),
        "horizon": float(trajectory.time[-1]),
        "wall_time_s": round(trajectory.wall_time, 3),
        "collapsed": 2 * collapsed > seeds,
        "collapsed_seeds": collapsed,
        "seeds": seeds,
        "kind": max(kinds, key=lambda kind: kinds[kind]),
        "kinds": kinds,
        "kind_of_seed": judged,
        **steps,
        "effective_rank": float(np.median(spectra["effective_rank"][-1])),
        "rankme": float(np.median(spectra["rankme"][-1])),
        "weight_effective_rank": float(np.median(spectra["weight_effective_rank"][-1])),
        "live_dimensions": float(np.median(live_dimensions(end))),
        "log_norm": float(np.median(trajectory.log_norm[-1].numpy())),
        "loss": float(np.median(trajectory.loss[-1].numpy())),
        "orthonormality_error": float(spectra["orthonormality_error"][-1].max()) if constrained else None,
    }


def step_times(time: np.ndarray, cross_eigenvalues: np.ndarray, predicted: np.ndarray | None) -> dict[str, Any]:
    """Half-rise times of the sorted eigenvalues of C against theory (Simon et al. 2023, eq. for aligned initialisation by QR).

    `predicted` (S, d), as `Prediction.step_times` returns them. Errors are largest for nearly simultaneous modes, whose sorted
    eigenvalues repel each other. Steps predicted after the end of the run are left out and counted in `beyond_horizon`; a
    predicted step that was not seen leaves the error null, with a reason.
    """
    measured = first_crossing(time, cross_eigenvalues, HALF)
    if predicted is None:
        return {
            "predicted": None,
            "measured": _listed(measured),
            "beyond_horizon": None,
            "max_relative_error": None,
            "median_relative_error": None,
            "reason": "only the first step time is known for lambda other than 1",
        }
    # Eigenvalues are sorted, so the k-th to rise is compared with the k-th predicted time.
    inside = predicted < time[-1]
    error = np.abs(measured - predicted) / np.where(np.isfinite(predicted) & (predicted > 0), predicted, np.nan)
    missed = int((inside & np.isnan(error)).sum())
    counted = error[inside & ~np.isnan(error)]
    result: dict[str, Any] = {
        "predicted": _listed(predicted),
        "measured": _listed(measured),
        "beyond_horizon": int((~inside).sum()),
        "max_relative_error": float(counted.max()) if len(counted) and not missed else None,
        "median_relative_error": float(np.median(counted)) if len(counted) and not missed else None,
    }
    if missed:
        result["reason"] = f"{missed} predicted steps were not seen"
    elif not len(counted):
        result["reason"] = "no step is predicted within the run: raise steps"
    return result


def subspace(angles: np.ndarray, theory_angle: np.ndarray | None) -> dict[str, Any]:
    """Largest principal angle at the end of the run, over seeds; `expected` is that of the exact flow at that time."""
    result = {
        "max_principal_angle": float(angles[-1].max()),
        "median_principal_angle": float(np.median(angles[-1])),
    }
    if theory_angle is not None:
        result["expected_max_principal_angle"] = float(theory_angle.max())
    return result


def collapse_slope(
    time: np.ndarray, singular_values: np.ndarray, matrix: np.ndarray, learning_rate: float
) -> dict[str, Any]:
    """Slope of log(sigma_2/sigma_1) of free weights under a trace loss, against -2 (lambda_2 - lambda_1).

    `at_learning_rate` is the slope of the discrete law W <- (I - 2 lr C) W, log|(1 - 2 lr lambda_2)/(1 - 2 lr lambda_1)| / lr: the
    prediction at a finite learning rate, a relative change of lr (lambda_1 + lambda_2) to first order.
    """
    if singular_values.shape[-1] < 2:
        return {"predicted": None, "measured": None, "relative_error": None, "reason": "d = 1 has no sigma_2"}
    predicted = float(theory.constrained.collapse_slope(matrix))
    measured = measure.collapse_slope(time, singular_values)
    first, second = theory.constrained.spectrum(matrix)[0][:2]
    if measured is None or predicted == 0:
        ratio = float(np.median(singular_values[-1, :, 1] / singular_values[-1, :, 0]))
        reason = (
            f"the horizon t = {time[-1]:.3g} does not reach the asymptotic regime: predicted slope {predicted:.2g}, "
            f"and sigma_2/sigma_1 is still {ratio:.2g} (median over seeds)"
        )
        return {"predicted": predicted, "measured": None, "relative_error": None, "reason": reason}
    return {
        "predicted": predicted,
        "at_learning_rate": float(
            np.log(np.abs((1 - 2 * learning_rate * second) / (1 - 2 * learning_rate * first))) / learning_rate
        ),
        "measured": float(np.median(measured)),
        "relative_error": float(np.abs(measured / predicted - 1).max()),
    }


def flow(trajectory: Trajectory, prediction: Prediction) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A constrained trace-loss run against the exact Grassmannian flow at t = learning rate x step.

    Returns the record, the projector errors (K, S) and the theory's bases at the last time (S, m, d).
    """
    assert prediction.matrix is not None
    time = trajectory.time.numpy()
    exact = theory.constrained.grassmann_flow(time, trajectory.weights[0].double().numpy(), prediction.matrix)
    exact = np.moveaxis(exact, -3, 0)
    errors = measure.projector_errors(trajectory.weights, exact)
    record = {"max_projector_error": float(errors.max()), "median_projector_error": float(np.median(errors.max(0)))}
    return record, errors, exact[-1]


def _listed(array: np.ndarray) -> list[list[float | None]]:
    """Nested lists with None for nan and infinity, which JSON does not have."""
    return [[float(x) if np.isfinite(x) else None for x in row] for row in array]

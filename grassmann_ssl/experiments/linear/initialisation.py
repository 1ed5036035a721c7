"""Scaling law of free Barlow Twins: final angle to the predicted subspace against the initialisation scale.

Before the last step every mode i > d grows as alpha e^{4 gamma_i t}; when mode d saturates the gradient dies and freezes them, so
that the final angle to the top-d subspace follows alpha^(1 - gamma_{d+1}/gamma_d). The constrained flow has no such memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear import agreement, measure
from grassmann_ssl.experiments.linear.predictions.base import Prediction
from grassmann_ssl.training import ARMS, train_full_batch


def horizon_steps(scales: tuple[float, ...], initial: np.ndarray, prediction: Prediction, learning_rate: float) -> int:
    """1.2 times the optimizer steps until the last predicted step time of the smallest scale, over all seeds."""
    aligned = theory.stepwise.aligned_initialisation(min(scales) * initial, prediction.cross)
    last = theory.stepwise.step_times(aligned.singular_values, aligned.gamma).max()
    return int(np.ceil(1.2 * last / learning_rate))


def initialisation_law(
    scales: tuple[float, ...],
    initial: Tensor,
    moments: Moments,
    prediction: Prediction,
    learning_rate: float,
    logged: int,
    on_step: Callable[[], object],
) -> dict[str, Any]:
    """Train free Barlow Twins from every scale x seed in one batch and fit the exponent of the final angle.

    `initial` (S, m, d): the unscaled Gaussian draw. Returns the record for run.json. KeyboardInterrupt propagates: a partial scan has no
    exponent.
    """
    factors = torch.tensor(scales, dtype=initial.dtype, device=initial.device)
    weights = factors[:, None, None, None] * initial
    steps = horizon_steps(scales, initial.double().cpu().numpy(), prediction, learning_rate)
    assert prediction.objective.from_moments is not None
    trajectory = train_full_batch(
        prediction.objective.from_moments(moments.to(initial)),
        weights,
        ARMS["free"](),
        learning_rate=learning_rate,
        steps=steps,
        log_every=max(1, steps // logged),
        on_step=on_step,
    )
    time = trajectory.time.numpy()
    angles = measure.angles_to(trajectory.weights[-1], prediction.subspaces["free"])
    w = trajectory.weights.double()
    eigenvalues = torch.linalg.eigvalsh(w.mT @ (moments.cross @ w)).flip(-1).numpy()
    medians = np.median(angles, axis=-1)
    start = initial.double().cpu().numpy()
    predicted = [prediction.step_times(scale * start) for scale in scales]
    # Rounding errors of eps at weights near 1 excite every mode: smaller scales have no effect.
    fitted = np.array(scales) > 10 * torch.finfo(initial.dtype).eps
    exponent = measure.exponent(np.array(scales)[fitted], medians[fitted]) if fitted.sum() > 1 else None
    return {
        "scales": list(scales),
        "steps": steps,
        "median_angles": medians.tolist(),
        "angles": angles.tolist(),
        "predicted_exponent": float(theory.stepwise.initialisation_exponent(prediction.gamma, prediction.dim)),
        "measured_exponent": None if exponent is None else float(exponent),
        "fitted_scales": np.array(scales)[fitted].tolist(),
        "step_time_errors": [
            agreement.step_times(time, eigenvalues[:, k], times)["max_relative_error"]
            for k, times in enumerate(predicted)
        ],
    }

"""The predictions for one objective on given data: learning rates, subspaces, collapse."""

from dataclasses import dataclass

import numpy as np

import theory
from grassmann_ssl.data import Moments
from grassmann_ssl.objectives import TRACE_LOSSES, Objective, trace_matrix
from theory import barlow_twins, landscape

PREDICTED = ("barlow_twins", "spectral_contrastive", *TRACE_LOSSES)  # objectives with a theory of training


@dataclass(frozen=True)
class LearningRate:
    """The default learning rate of an arm, and the stability limit of theory."""

    default: float
    limit: float
    meaning: str


@dataclass(frozen=True)
class Prediction:
    """The closed-form predictions for one objective; None where theory has no prediction, with the reason in `reasons`.

    subspaces   arm -> the subspace (m, k) that the arm's weights approach; k < d: their k leading left singular vectors
    matrix      C of a trace loss, (m, m)
    """

    objective: Objective
    dim: int
    cross: np.ndarray
    second: np.ndarray
    gamma: np.ndarray
    matrix: np.ndarray | None
    subspaces: dict[str, np.ndarray]
    reasons: dict[str, str]

    def learning_rate(self, arm: str, lambda_: float) -> LearningRate:
        """The learning rate of an arm: a fraction of the stability limit that keeps discrete steps close to the flow.

        The fractions are such that on the digits the finite learning rate changes step times and slopes by about 1 % and the
        projector by less than 2e-2, while 6000 steps reach the end of the flow.
        """
        if self.matrix is not None:
            return self._trace_learning_rate(arm)
        if self.objective.name == "spectral_contrastive":
            if arm == "free":
                limit = landscape.quartic_max_learning_rate(self.cross, self.second, self.dim)
                return LearningRate(
                    _share(0.1, limit), limit, "2 / largest Hessian eigenvalue at the predicted minimiser"
                )
            limit = landscape.quartic_grassmann_max_learning_rate(self.cross, self.second)
            return LearningRate(_share(0.5, limit), limit, "2 / an upper bound of the Riemannian Hessian")
        stiffness = max(1.0, lambda_)
        if arm == "free":
            limit = theory.stepwise.max_learning_rate(self.gamma) / stiffness
            return LearningRate(_share(0.024, limit), limit, "1 / (4 gamma_1), times 1 / lambda where lambda > 1")
        limit = barlow_twins.max_learning_rate(self.gamma, self.dim) / stiffness
        return LearningRate(
            _share(0.05, limit), limit, "2 / fastest rate at the predicted minimiser, over lambda where lambda > 1"
        )

    def _trace_learning_rate(self, arm: str) -> LearningRate:
        assert self.matrix is not None
        if arm != "free":
            limit = theory.constrained.max_learning_rate(self.matrix)
            return LearningRate(_share(0.02, limit), limit, "1 / (lambda_m - lambda_1)")
        eigenvalues, _ = theory.constrained.spectrum(self.matrix)
        limit = theory.constrained.max_free_learning_rate(self.matrix)
        # If every mode decays there is no slope to resolve, only a vanishing scale: larger steps.
        default = 0.1 / eigenvalues[-1] if eigenvalues[0] >= 0 else 0.005 / np.abs(eigenvalues).max()
        return LearningRate(float(default), limit, "1 / lambda_m, the largest eigenvalue of C where it is positive")


def predict(objective: Objective, moments: Moments, dim: int, arms: tuple[str, ...]) -> Prediction:
    """The predictions for one objective from float64 population moments."""
    cross, second = moments.cross.numpy(), moments.second.numpy()
    gamma, vectors = theory.stepwise.spectrum(cross)
    subspaces: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    matrix = None
    if objective.is_trace:
        matrix = trace_matrix(objective.name, moments).numpy()
        eigenvalues, bottom = theory.constrained.spectrum(matrix)
        subspaces["grassmann"] = bottom[:, :dim]
        if eigenvalues[0] < 0:
            subspaces["free"] = bottom[:, :1]
        else:
            reasons["free"] = "the weights shrink to zero: the loss singles out no subspace"
    elif objective.name == "spectral_contrastive":
        mu, weights, _ = landscape.quartic_minimiser(cross, second, dim)
        if mu[-1] > 0:
            subspaces["free"] = np.linalg.qr(weights)[0]
        else:
            reasons["free"] = "Gamma has fewer than d positive directions: the minimiser has lower rank"
        reasons["grassmann"] = "Gamma and Sigma do not commute: no closed form of the constrained minimiser is known"
    else:
        if not objective.rotation_invariant:
            reasons["free"] = "where training ends is known in closed form for lambda = 1 only"
        elif gamma[dim - 1] > 0:
            subspaces["free"] = vectors[:, :dim]
        else:
            reasons["free"] = "Gamma has fewer than d positive eigenvalues: some directions of the minimiser are free"
        subspaces["grassmann"] = barlow_twins.minimiser(cross, dim)
    if objective.rotation_invariant and "grassmann" in subspaces:
        subspaces["stiefel"] = subspaces["grassmann"]
    else:
        reasons.setdefault(
            "stiefel", reasons.get("grassmann", "no closed form is known for this loss under the constraint")
        )
    return Prediction(
        objective,
        dim,
        cross,
        second,
        gamma,
        matrix,
        {arm: v for arm, v in subspaces.items() if arm in arms},
        {arm: v for arm, v in reasons.items() if arm in arms and arm not in subspaces},
    )


def _share(fraction: float, limit: float) -> float:
    """A fraction of the limit, or the fraction itself if there is no limit (d = m: the Grassmannian is a point)."""
    return fraction * limit if np.isfinite(limit) else fraction

"""Trace losses, tr W^T C W: free weights collapse onto the lowest eigenvector of C, constrained ones onto the d lowest."""

from functools import cached_property

import numpy as np

import theory
from grassmann_ssl.experiments.linear.predictions.base import Array, LearningRate, Prediction
from grassmann_ssl.objectives import trace_matrix


class TracePrediction(Prediction):
    """Predictions for a trace loss."""

    free_spectrum = "singular_values"

    @cached_property
    def matrix(self) -> Array:
        """C (m, m)."""
        return trace_matrix(self.objective.name, self.moments).numpy()

    @cached_property
    def modes(self) -> tuple[Array, Array]:
        """Eigenvalues (m,) of C, increasing, and its eigenvectors (m, m)."""
        return theory.constrained.spectrum(self.matrix)

    def learning_rate(self, arm: str) -> LearningRate:
        """A share of 1 / (lambda_m - lambda_1) under the constraint; of free weights, so that each mode grows by little in a step."""
        if arm != "free":
            limit = theory.constrained.max_learning_rate(self.matrix)
            return LearningRate.share(0.02, limit, "1 / (lambda_m - lambda_1)")
        eigenvalues, _ = self.modes
        limit = theory.constrained.max_free_learning_rate(self.matrix)
        # If every mode decays there is no slope to resolve, only a vanishing scale: larger steps.
        default = 0.1 / eigenvalues[-1] if eigenvalues[0] >= 0 else 0.005 / np.abs(eigenvalues).max()
        meaning = "1 / lambda_m, the largest eigenvalue of C where it is positive"
        return LearningRate(float(default), limit, meaning)

    def _free(self) -> Array | str:
        eigenvalues, bottom = self.modes
        return bottom[:, :1] if eigenvalues[0] < 0 else "the weights shrink to zero: the loss singles out no subspace"

    def _grassmann(self) -> Array:
        return self.modes[1][:, : self.dim]

    def curves(self, time: Array, initial: Array) -> dict[str, Array]:
        """singular_values (K, d) of exp(-2 C t) W(0), up to a factor at each time, of the first seed."""
        direction, _ = theory.constrained.free_flow(time, initial[0], self.matrix)
        return {"singular_values": np.linalg.svd(direction, compute_uv=False)}

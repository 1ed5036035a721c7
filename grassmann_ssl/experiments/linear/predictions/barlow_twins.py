"""Barlow Twins without normalisation: the staircase of free weights (Simon et al. 2023), and the constrained minimiser."""

import numpy as np

import theory
from grassmann_ssl.experiments.linear.predictions.base import Array, LearningRate, Prediction


class BarlowTwinsPrediction(Prediction):
    """Predictions for Barlow Twins; most of them for lambda = 1."""

    staircase = True
    free_spectrum = "cross_eigenvalues"

    def learning_rate(self, arm: str) -> LearningRate:
        """A share of 1 / (4 gamma_1) of free weights, of 2 over the fastest rate at the constrained minimiser."""
        stiffness = max(1.0, self.objective.options["lambda_"])
        if arm == "free":
            limit = theory.stepwise.max_learning_rate(self.gamma) / stiffness
            return LearningRate.share(0.024, limit, "1 / (4 gamma_1), times 1 / lambda where lambda > 1")
        limit = theory.barlow_twins.max_learning_rate(self.gamma, self.dim) / stiffness
        meaning = "2 / fastest rate at the predicted minimiser, over lambda where lambda > 1"
        return LearningRate.share(0.05, limit, meaning)

    def _free(self) -> Array | str:
        if not self.objective.rotation_invariant:
            return "where training ends is known in closed form for lambda = 1 only"
        gamma, vectors = self.spectrum
        if gamma[self.dim - 1] > 0:
            return vectors[:, : self.dim]
        return "Gamma has fewer than d positive eigenvalues: some directions of the minimiser are free"

    def _grassmann(self) -> Array:
        return theory.barlow_twins.minimiser(self.cross, self.dim)

    def step_times(self, initial: Array) -> Array | None:
        """Step times (S, d) of free weights from their start (S, m, d), in increasing order; None where lambda is not 1."""
        if not self.objective.rotation_invariant:
            return None
        aligned = theory.stepwise.aligned_initialisation(initial, self.cross)
        return np.sort(theory.stepwise.step_times(aligned.singular_values, aligned.gamma), axis=-1)

    def curves(self, time: Array, initial: Array) -> dict[str, Array]:
        """step_times (S, d); loss (K,) and eigenvalues (K, d) of the first seed; none where lambda is not 1."""
        if not self.objective.rotation_invariant:
            return {}
        aligned = theory.stepwise.aligned_initialisation(initial, self.cross)
        first = aligned.singular_values[0], aligned.gamma
        return {
            "step_times": theory.stepwise.step_times(aligned.singular_values, aligned.gamma),
            "loss": theory.stepwise.loss(time, *first),
            "eigenvalues": theory.stepwise.eigenvalues(time, *first),
        }

"""The spectral contrastive loss: free weights end at its minimiser in closed form."""

from functools import cached_property

import numpy as np

from grassmann_ssl.experiments.linear.predictions.base import Array, LearningRate, Prediction
from theory import landscape


class SpectralContrastivePrediction(Prediction):
    """Predictions for the spectral contrastive loss."""

    @cached_property
    def minimiser(self) -> tuple[Array, Array]:
        """Spectrum (d,) of the embedding at the minimum, and the weights (m, d) there."""
        mu, weights, _ = landscape.quartic_minimiser(self.cross, self.second, self.dim)
        return mu, weights

    def learning_rate(self, arm: str) -> LearningRate:
        """A share of 2 over the largest eigenvalue of the Hessian."""
        if arm == "free":
            limit = landscape.quartic_max_learning_rate(self.cross, self.second, self.dim)
            return LearningRate.share(0.1, limit, "2 / largest Hessian eigenvalue at the predicted minimiser")
        limit = landscape.quartic_grassmann_max_learning_rate(self.cross, self.second)
        return LearningRate.share(0.5, limit, "2 / an upper bound of the Riemannian Hessian")

    def _free(self) -> Array | str:
        mu, weights = self.minimiser
        if mu[-1] > 0:
            return np.linalg.qr(weights)[0]
        return "Gamma has fewer than d positive directions: the minimiser has lower rank"

    def _grassmann(self) -> str:
        return "Gamma and Sigma do not commute: no closed form of the constrained minimiser is known"

    def curves(self, time: Array, initial: Array) -> dict[str, Array]:
        """spectrum (d,) of the embedding at the minimum."""
        return {"spectrum": self.minimiser[0]}

"""The predictions for an objective, by its name."""

from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear.predictions.barlow_twins import BarlowTwinsPrediction
from grassmann_ssl.experiments.linear.predictions.base import Prediction
from grassmann_ssl.experiments.linear.predictions.spectral_contrastive import SpectralContrastivePrediction
from grassmann_ssl.experiments.linear.predictions.trace import TracePrediction
from grassmann_ssl.objectives import TRACE_LOSSES, Objective

PREDICTED: dict[str, type[Prediction]] = {
    "barlow_twins": BarlowTwinsPrediction,
    "spectral_contrastive": SpectralContrastivePrediction,
    **dict.fromkeys(TRACE_LOSSES, TracePrediction),
}
"""objective -> what theory says of its training"""


def predict(objective: Objective, moments: Moments, dim: int, arms: tuple[str, ...]) -> Prediction:
    """The predictions for one objective from float64 population moments."""
    return PREDICTED[objective.name](objective, moments, dim, arms)

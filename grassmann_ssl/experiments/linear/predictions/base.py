"""What theory says of training one objective on given data, before it is trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

import theory
from grassmann_ssl.data import Moments
from grassmann_ssl.objectives import Objective

Array = np.ndarray


@dataclass(frozen=True)
class LearningRate:
    """The default learning rate of an arm, and the stability limit of theory."""

    default: float
    limit: float
    meaning: str

    @classmethod
    def share(cls, fraction: float, limit: float, meaning: str) -> "LearningRate":
        """A fraction of the limit, or the fraction itself if there is no limit (d = m: the Grassmannian is a point)."""
        return cls(fraction * limit if np.isfinite(limit) else fraction, limit, meaning)


@dataclass(frozen=True)
class Prediction(ABC):
    """The closed-form predictions for one objective, from float64 population moments: learning rates, subspaces, curves.

    Default learning rates are fractions of the stability limit that keep discrete steps close to the flow: on the digits the finite
    learning rate changes step times and slopes by about 1 % and the projector by less than 2e-2, while 6000 steps reach the end of
    the flow.
    """

    objective: Objective
    moments: Moments
    dim: int
    arms: tuple[str, ...]

    staircase: ClassVar[bool] = False
    """whether free weights learn one eigenvalue of C = W^T Gamma W after the other, each in a step to 1"""
    free_spectrum: ClassVar[str] = "covariance_eigenvalues"
    """which measured spectrum of free weights is drawn"""

    @property
    def cross(self) -> Array:
        """Gamma, (m, m)."""
        return self.moments.cross.numpy()

    @property
    def second(self) -> Array:
        """Sigma, (m, m)."""
        return self.moments.second.numpy()

    @cached_property
    def spectrum(self) -> tuple[Array, Array]:
        """Eigenvalues (m,) of Gamma, decreasing, and its eigenvectors (m, m)."""
        return theory.stepwise.spectrum(self.cross)

    @property
    def gamma(self) -> Array:
        """Eigenvalues (m,) of Gamma, decreasing."""
        return self.spectrum[0]

    @property
    def matrix(self) -> Array | None:
        """C of a trace loss (m, m), else None."""
        return None

    @cached_property
    def subspaces(self) -> dict[str, Array]:
        """Arm -> the subspace (m, k) that its weights approach; k < d: their k leading left singular vectors."""
        return {arm: end for arm, end in self._ends.items() if not isinstance(end, str)}

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Arm -> why no subspace is predicted, for the other arms."""
        return {arm: end for arm, end in self._ends.items() if isinstance(end, str)}

    @cached_property
    def _ends(self) -> dict[str, Array | str]:
        return {arm: self._free() if arm == "free" else self._constrained(arm) for arm in self.arms}

    def _constrained(self, arm: str) -> Array | str:
        end = self._grassmann()
        if arm == "grassmann" or isinstance(end, str) or self.objective.rotation_invariant:
            return end
        return "no closed form is known for this loss under the constraint"

    @abstractmethod
    def _free(self) -> Array | str:
        """The subspace that free weights approach, or why none is predicted."""

    @abstractmethod
    def _grassmann(self) -> Array | str:
        """The subspace that weights on the Grassmannian approach, or why none is predicted."""

    @abstractmethod
    def learning_rate(self, arm: str) -> LearningRate:
        """The learning rate of an arm."""

    def step_times(self, initial: Array) -> Array | None:
        """Step times (S, d) of free weights from their start (S, m, d), in increasing order; None where theory has none."""
        return None

    @abstractmethod
    def curves(self, time: Array, initial: Array) -> dict[str, Array]:
        """What is predicted of free weights from their start (S, m, d) at K times, by name."""

"""What theory knows of stepwise learning before training, one function a loss."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import theory
from grassmann_ssl.runs import ConfigError

Array = NDArray[np.float64]
COMMUTE = 1e-10


@dataclass(frozen=True)
class Law:
    """Predictions for one loss, from moments Gamma and Sigma (m, m) and initial weights (S, m, d).

    growth   largest growth rate of W W^T from the origin, over 4; times lambda where that is stiffer
    times    step times (S, d)
    moment   M, whose eigenvalues of W^T M W are measured
    heights  their final values (d,); a step time is at half height
    curves   their course (K, d) in time (K,), first seed; None without a closed form
    gamma    spectrum of Gamma, where mean step times and the final subspace follow from it
    plateau  height of the first plateau, where it is not the final one
    closed   whether the times are a closed form; else they are an integration of the flow from the same weights, which training
             discretises: no independent prediction
    """

    growth: float
    times: Array
    moment: Array
    heights: Array
    curves: Callable[[Array], Array] | None = None
    gamma: Array | None = None
    plateau: float | None = None
    closed: bool = True


def barlow_twins(cross: Array, second: Array, initial: Array, lambda_: float) -> Law:
    """Simon et al. 2023, arXiv 2303.15438; for lambda other than 1 `theory.off_diagonal`."""
    d = initial.shape[-1]
    gamma, _ = theory.stepwise.spectrum(cross)
    positive = int((gamma > 0).sum())
    if positive < d:
        raise ConfigError(
            f"dim = {d} is above {positive}, the number of positive eigenvalues of Gamma: the rest is never learned"
        )
    growth, heights = _largest(cross) * max(1.0, lambda_), np.ones(d)
    aligned = theory.stepwise.aligned_initialisation(initial, cross)
    if lambda_ != 1:
        times = theory.off_diagonal.step_times(aligned.singular_values, aligned.gamma, lambda_)
        return Law(growth, times, cross, heights, plateau=theory.off_diagonal.plateau(d, lambda_).height)
    times = theory.stepwise.step_times(aligned.singular_values, aligned.gamma)
    first = theory.stepwise.aligned_initialisation(initial[0], cross)
    return Law(
        growth,
        times,
        cross,
        heights,
        curves=lambda time: theory.stepwise.eigenvalues(time, first.singular_values, first.gamma),
        gamma=gamma,
    )


def quartic(cross: Array, second: Array, initial: Array, beta: float = 1.0) -> Law:
    """Spectral contrastive loss (beta = 1) and squared VICReg: `theory.landscape` and `theory.losses`.

    In closed form where B and Sigma commute, their product being symmetric to COMMUTE of its size, and modes of faster growth end
    higher: what is measured are eigenvalues by their size.
    """
    d = initial.shape[-1]
    attraction = theory.landscape.squared_vicreg_attraction(cross, second, beta)
    heights = theory.landscape.quartic_minimiser(attraction, second, d)[0]
    if heights[-1] <= 0:
        alive = int((heights > 0).sum())
        raise ConfigError(
            f"dim = {d} is above {alive}, the number of dimensions that do not collapse: lower dim or beta"
        )
    product, growth = attraction @ second, _largest(attraction)
    modes = theory.losses.quartic_modes(attraction, second, d)
    commute = np.abs(product - product.T).max() <= COMMUTE * np.abs(product).max()
    if not commute or np.any(np.diff(modes.variance) > 0):
        times = theory.losses.quartic_step_times(initial, attraction, second)
        return Law(growth, times, second, heights, closed=False)
    start = theory.stepwise.aligned_initialisation(initial, attraction).singular_values
    return Law(
        growth,
        modes.step_times(start),
        second,
        heights,
        curves=lambda time: modes.second * modes.singular_values(time, start[0]) ** 2,
    )


def infonce(cross: Array, second: Array, initial: Array) -> Law:
    """InfoNCE on the population of Gaussian data, whose moments are diagonal: `theory.losses`."""
    d = initial.shape[-1]
    gamma, sigma = cross.diagonal()[:d], second.diagonal()[:d]
    noise = sigma - gamma

    def variances(weights: Array) -> Array:
        return sigma * theory.stepwise.aligned_initialisation(weights, cross).singular_values ** 2

    return Law(
        _largest(cross / 2),  # growth of s is 2 a0
        theory.losses.infonce_step_times(variances(initial), gamma, noise),
        second,
        np.sort(theory.losses.infonce_final_variance(gamma, noise))[::-1],
        curves=lambda time: theory.losses.infonce_variance(time, variances(initial[0]), gamma, noise),
    )


def _largest(matrix: Array) -> float:
    return float(np.linalg.eigvalsh(matrix)[-1])


LAWS: dict[str, Callable[..., Law]] = {
    "barlow_twins": barlow_twins,
    "spectral_contrastive": quartic,
    "squared_vicreg": quartic,
    "infonce": infonce,
}

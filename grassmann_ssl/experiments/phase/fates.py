"""Fates of simulated modes: end time, step count, and the verdict collapsed or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grassmann_ssl.experiments.phase.modes import modes
from grassmann_ssl.runs import ConfigError
from grassmann_ssl.training import simulate

Array = NDArray[np.float64]
MEBIBYTE = 2**20
STEP_TIMES_RATE = 0.5  # Runge-Kutta 4 is stable to 2.8 and follows the fastest decay to 3e-4 a step
MOST_STEPS = 200_000
APART = 1000  # resolution of the figure: how far apart its points are, relative to one another


@dataclass(frozen=True)
class Fates:
    """Ends of simulated modes (N,). collapsed: `fell`; finite: False where the simulation diverged, which is no verdict."""

    p: Array
    s: Array
    collapsed: NDArray[np.bool_]
    finite: NDArray[np.bool_]


def fell(half: Array, end: Array) -> NDArray[np.bool_]:
    """Whether a strength fell by half or more over the second half of a simulation: the verdict "collapsed".

    The strength of a mode that survives has levelled off by then, or still grows. That of one that collapses falls as exp(-2 eta t);
    without weight decay it falls exponentially too, and as 1/t in the marginal case. Fixed points and basins do not enter.
    Below the smallest normal number, where floating-point numbers no longer fall, it has collapsed.
    """
    return np.isfinite(end) & (end <= np.maximum(half / 2, np.finfo(np.float64).tiny))


def horizon(
    eta: Array | float, tau: Array | float, *, alpha_p: float, sigma2: float, farthest: float, finest: float
) -> Array:
    """Time after which starts (p, s) that a figure resolves have separated. `farthest` bounds |p|, `finest` is the resolution in s.

    With A = 1 + sigma2 and gap = sqrt|tau^2 - 4 eta A|: p decays with rate eta or faster down to the saddle p_-; neighbours separate there
    with rate p_- gap, or pass its ghost beyond the critical eta at about that rate; s then decays with rate 2 eta.
    At eta = 0 the slow passage is at p = 0, where dp/dt = tau (p^2 + alpha_p c) with c = s - p^2 / alpha_p takes
    pi / (tau sqrt(alpha_p c)); three times that lets a survivor converge.
    """
    eta, tau = np.broadcast_arrays(np.asarray(eta, float), np.asarray(tau, float))
    a = 1 + sigma2
    decay = np.where(eta > 0, eta, 1.0)
    gap = np.sqrt(np.maximum(np.abs(tau**2 - 4 * eta * a), 1e-4 * tau**2))
    saddle = np.where(4 * eta * a < tau**2, 2 * decay / (tau + gap), tau / (2 * a))
    descent = 1 + np.log(np.maximum(farthest / saddle, 1))
    passage = 3 * np.pi / (tau * np.sqrt(alpha_p * finest))
    time: Array = np.where(eta > 0, np.log(APART) / (saddle * gap) + descent / decay, passage)
    return time


def even_steps(
    until: Array | float, p: Array, s: Array, *, eta: Array | float, tau: Array | float, alpha_p: float, sigma2: float
) -> int:
    """Number of steps (even) that resolves the fastest rate along the way from every start (p, s) until `until`.

    The rate is the diagonal of the Jacobian of eqs. (11)-(12), bounded on the way: p stays between its start, 0 and
    tau / (1 + sigma2), and c = s - p^2 / alpha_p only decays, eq. (14). The coupling of p and s makes the fastest eigenvalue up to
    1.4 times as large, and leaves a step far within the stability region of Runge-Kutta 4. Raises ConfigError for systems too stiff
    to be simulated.
    """
    a = 1 + sigma2
    highest = np.maximum(np.abs(p), np.asarray(tau) / a)
    largest = np.maximum(s, s + (highest**2 - p**2) / alpha_p)
    steepest = np.maximum(np.abs(p * (tau - a * p)), np.asarray(tau) ** 2 / (4 * a))
    rate = alpha_p * a * largest + 3 * np.asarray(eta) + 2 * steepest
    steps = 2 * int(np.ceil(np.max(until * rate) / STEP_TIMES_RATE / 2))
    if steps > MOST_STEPS:
        raise ConfigError(
            f"these settings need {steps:,} steps of the fastest mode until the slowest has settled; the most is {MOST_STEPS:,}: "
            "use a weight decay eta of 0 or a larger one, or smaller starts"
        )
    return steps


def fates(
    p: Array,
    s: Array,
    *,
    eta: Array | float,
    tau: Array | float,
    alpha_p: float,
    sigma2: float,
    until: Array | float,
    steps: int,
    device: torch.device,
    memory: int,
    compiled: bool = False,
    on_step: Callable[[int], object] = lambda cells: None,
) -> Fates:
    """Simulate modes (N,) by Runge-Kutta 4 in float64 to the time `until` and classify them; `memory` in MiB.

    eta, tau and until are numbers, or arrays (N,); with an array of times every mode takes `steps` (even) equal steps to its own.
    """

    def tensor(value: Array | float) -> Tensor | float:
        return torch.as_tensor(value, dtype=torch.float64, device=device) if np.ndim(value) else float(value)

    own = np.ndim(until) > 0
    settings = {"eta": tensor(eta), "tau": tensor(tau), "alpha_p": alpha_p, "sigma2": sigma2}
    run = simulate(
        _in_own_time if own else modes,
        {"p": torch.as_tensor(p, device=device), "s": torch.as_tensor(s, device=device)},
        settings | {"unit": tensor(until)} if own else settings,
        step=1 / steps if own else float(until) / steps,
        steps=steps,
        log_every=steps // 2,
        memory=memory * MEBIBYTE,
        compiled=compiled,
        on_step=on_step,
    )
    final, half, end = run["p"][-1].numpy(), run["s"][1].numpy(), run["s"][2].numpy()
    return Fates(final, end, fell(half, end), np.isfinite(final) & np.isfinite(end))


def _in_own_time(p: Tensor, s: Tensor, *, unit: Tensor, **settings: Tensor | float) -> dict[str, Tensor]:
    return {name: unit * slope for name, slope in modes(p, s, **settings).items()}

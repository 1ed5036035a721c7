"""Theory in the plane (p, s) of one mode: fixed points, and the separatrix between collapse and survival."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import theory


def fixed_points(*, tau: float, eta: float, alpha_p: float, sigma2: float) -> dict[str, Any]:
    """Fixed points (p, s = p^2 / alpha_p) of eqs. (11)-(12): `stable` and `saddles`, lists of points.

    Without weight decay they form two lines, s = 0 and p = `line`; with weight decay `line` is None.
    """
    if _everything_collapses(tau, eta, sigma2):
        return {"stable": [[0.0, 0.0]], "saddles": [], "line": None}
    lower, upper = (float(p) for p in theory.predictor.modes.fixed_points(eta, tau=tau, sigma2=sigma2))
    if eta == 0:
        return {"stable": [], "saddles": [], "line": upper}
    return {
        "stable": [[0.0, 0.0], [upper, upper**2 / alpha_p]],
        "saddles": [[lower, lower**2 / alpha_p]],
        "line": None,
    }


def separatrix(
    extent: tuple[float, float, float, float], *, tau: float, eta: float, alpha_p: float, sigma2: float
) -> NDArray[np.float64]:
    """The separatrix (k, 2) within `extent` = (p from, to, s from, to); empty where everything collapses."""
    if _everything_collapses(tau, eta, sigma2):
        return np.empty((0, 2))
    return theory.predictor.basin.separatrix(tau=tau, eta=eta, alpha_p=alpha_p, sigma2=sigma2, extent=extent)


def _everything_collapses(tau: float, eta: float, sigma2: float) -> bool:
    return eta > float(theory.predictor.modes.critical_eta(tau, sigma2))

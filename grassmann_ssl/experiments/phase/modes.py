"""Right-hand sides of the decoupled modes of learning with a linear predictor and a stop-gradient, for `simulate`.

Tian, Chen, Ganguli, "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs", ICML 2021, arXiv 2102.06810. One mode
has an eigenvalue p of the predictor W_p and s of the correlations F = W X W^T of the online outputs; the target is W_a = tau W.
Data: X = I, augmentation X' = sigma2 I. alpha_p: learning rate of the predictor relative to the trunk's; eta: weight decay of both;
beta: rate of the moving average. Time is learning rate x step. Every argument is a number or a tensor with one entry per cell.
"""

from torch import Tensor

Number = float | Tensor


def modes(p: Tensor, s: Tensor, *, tau: Number, alpha_p: Number, eta: Number, sigma2: Number) -> dict[str, Tensor]:
    """dp/dt = alpha_p s [tau - (1 + sigma2) p] - eta p and ds/dt = 2 p s [tau - (1 + sigma2) p] - 2 eta s, eqs. (11)-(12)."""
    pull = s * (tau - (1 + sigma2) * p)
    return {"p": alpha_p * pull - eta * p, "s": 2 * (p * pull - eta * s)}


def modes_with_target(
    p: Tensor, s: Tensor, tau: Tensor, *, alpha_p: Number, eta: Number, sigma2: Number, beta: Number
) -> dict[str, Tensor]:
    """The same with an EMA target: s dtau/dt = beta (1 - tau) s - tau (ds/dt) / 2, eq. (13), divided by s."""
    growth = p * (tau - (1 + sigma2) * p) - eta  # (ds/dt) / (2 s): stays finite where s is zero
    slopes = modes(p, s, tau=tau, alpha_p=alpha_p, eta=eta, sigma2=sigma2)
    return slopes | {"tau": beta * (1 - tau) - tau * growth}

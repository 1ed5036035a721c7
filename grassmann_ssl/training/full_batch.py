"""Full-batch gradient descent of a linear model, free or on a manifold: one loop for every arm."""

import time
from collections.abc import Callable
from functools import partial

import geoopt
import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.interrupt import Interrupted
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.optim import RiemannianSGD
from grassmann_ssl.training.recorder import Recorder, Trajectory
from grassmann_ssl.training.schedules import evenly_spaced

ARMS: dict[str, Callable[[], geoopt.Manifold]] = {
    "free": geoopt.Euclidean,
    "grassmann": Grassmann,
    "stiefel": Stiefel,
}


@torch.no_grad()
def train_full_batch(
    loss: Callable[[Tensor], Tensor],
    weights: Float[Tensor, " *b m d"],
    manifold: geoopt.Manifold,
    *,
    learning_rate: float,
    steps: int,
    log_every: int = 1,
    homogeneous: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> Trajectory:
    """Riemannian gradient descent W <- Retr_W(-lr grad L(W)); on a Euclidean manifold W <- W - lr dL/dW.

    `loss` maps weights (..., m, d) to a loss per leading index (...): seeds and settings advance together as one tensor program,
    each as if alone. The gradient is its method `gradient` where it has one, as the losses of `Objective.from_moments` do, else
    torch's; the loss itself is evaluated at logged steps. Records step 0 (the weights given), every `log_every`-th and the last.
    `homogeneous`: the loss is homogeneous of degree 2 and the weights are free, so that the update is linear in them: at every
    logged step the weights are divided by their Frobenius norm, whose logarithm is recorded. Directions are untouched, and weights
    that blow up or shrink never leave the range of the dtype.
    A run whose gradient is not finite has NaN weights from then on, on a manifold as on a Euclidean one.
    Time = learning_rate x step. Raises Interrupted, a KeyboardInterrupt that carries the trajectory recorded until Ctrl-C, if it has more
    than the start.
    """
    parameter = geoopt.ManifoldParameter(weights.clone(), manifold=manifold)
    free = isinstance(manifold, geoopt.Euclidean)
    optimizer = None if free else RiemannianSGD([parameter], lr=learning_rate)
    gradient_of = getattr(loss, "gradient", None) or partial(_gradient, loss)
    recorder = Recorder(evenly_spaced(steps, log_every))
    log_norm = weights.new_zeros(weights.shape[:-2])
    start = time.perf_counter()

    def recorded() -> Trajectory:
        logged, kept = recorder.stacked()
        return Trajectory(
            step=logged,
            time=logged.double() * learning_rate,
            learning_rate=learning_rate,
            wall_time=time.perf_counter() - start,
            **kept,
        )

    try:
        for step in range(steps + 1):
            due = recorder.due(step)
            if due and homogeneous:
                norm = torch.linalg.matrix_norm(parameter)
                parameter.div_(norm[..., None, None])
                log_norm = log_norm + norm.log()
            gradient = gradient_of(parameter)
            if due:
                recorder.record(
                    step,
                    loss=loss(parameter),
                    gradient_norm=torch.linalg.matrix_norm(manifold.egrad2rgrad(parameter, gradient)),
                    log_norm=log_norm,
                    weights=parameter,
                )
            if step < steps:
                if optimizer is None:
                    parameter.add_(gradient, alpha=-learning_rate)
                else:
                    parameter.grad = gradient
                    optimizer.step(finite=True)  # a run that is not finite is the only one that its NaN reach
                on_step()
    except KeyboardInterrupt:
        if not recorder.done:
            raise
        raise Interrupted(recorded(), recorder.done, steps) from None
    return recorded()


def _gradient(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """The gradient of a loss per leading index, by autograd."""
    weights = weights.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(weights).sum()
    (gradient,) = torch.autograd.grad(value, weights)
    return gradient

"""A linear layer whose outputs, not only its weight, keep full rank: rows orthonormal in the metric of its input covariance."""

import warnings
from typing import Any

import geoopt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.manifolds.generalized import GeneralizedGrassmann
from grassmann_ssl.nn.constrain import Constrained, constrain, constraints
from grassmann_ssl.precision import no_autocast
from grassmann_ssl.sharding import whole, write

RIDGE = 1e-4  # of the mean eigenvalue of the covariance, added to it: a dead feature must not make it singular


class FeatureOrthonormalLinear(Constrained, nn.Linear):
    """nn.Linear with W B W^T = I, B the running covariance of its inputs: outputs have the covariance I, up to the lag of B.

    z = h W^T + b, h (..., n), W (p, n), p < n, a point of GeneralizedGrassmann(B). Forward passes in training collect the rows h of a step:
    of all views, parts and processes. `follow`, to be called after the optimizer's step, moves the running mean and covariance by them,
    m <- m + a (m_step - m), C <- (1 - a)(C + a (m_step - m)(m_step - m)^T) + a C_step, a = 1 - `decay`; the first step sets them. It then
    sets B = C + ridge I and transports W and the states of its optimizer. A layer without gradient, as that of a teacher, collects no
    rows. With e the largest eigenvalue of B^{-1/2} (cov h - B) B^{-1/2} in absolute value, eigenvalues of
    cov z lie within e of 1: full rank and unit variance are guaranteed while e < 1. The centred covariance is used, since a second
    moment of features with a large mean says little of their variance. Moments and B are part of the state_dict.
    A forward pass in training warns once where the weight has been stepped and `follow` was not called: B then stays as it is.
    Made from a layer by `feature_orthonormal`.
    """

    decay: float
    feature_mean: Tensor
    feature_covariance: Tensor
    seen: Tensor
    metric: Tensor
    _step: tuple[int, Tensor, Tensor] | None = None  # count, mean and scatter of the rows since the last `follow`
    _first: tuple[int, int] | None = None  # the `_written` that saw the first of these rows

    def forward(self, h: Float[Tensor, " *b n"]) -> Float[Tensor, " *b p"]:
        if self.training and self.weight.requires_grad:
            self.observe(h.detach())
        return super().forward(h)

    @torch.no_grad()
    def observe(self, h: Float[Tensor, " *b n"]) -> None:
        """Add a batch of features, at least one row, to those of the step."""
        with no_autocast(h.device.type):
            rows = h.flatten(0, -2).to(self.weight.dtype)
            count, mean = len(rows), rows.mean(0)
            centred = rows - mean
            scatter = centred.T @ centred
            if self._step is None:
                self._first = self._written()
            else:
                before, mean_before, scatter_before = self._step
                shift, share = mean - mean_before, count / (before + count)
                mean = mean_before + share * shift
                scatter = scatter_before + scatter + before * share * torch.outer(shift, shift)
                count += before
            self._step = count, mean, scatter

    def _written(self) -> tuple[int, int] | None:
        """Which tensor the weight is, and how often it was written; None where that says nothing of steps, as of sharded ones."""
        weight = self.weight
        known = (
            type(weight) is geoopt.ManifoldParameter and not torch.compiler.is_compiling() and not weight.is_inference()
        )
        return (id(weight), weight._version) if known else None

    def _look(self) -> None:
        super()._look()
        before, now = self._first, self._written()
        if self._step is None or self._watch.warned or not before or not now or before[0] != now[0] or before == now:
            return
        self._watch.warned = True
        warnings.warn(
            f"weight of {type(self).__name__}({self.extra_repr()}) was stepped, and `follow` was not called: the running covariance of its "
            "inputs stays as it was, and the covariance of its outputs is not kept. Call layer.follow(optimizer) after optimizer.step()",
            stacklevel=3,
        )

    def _move(self) -> None:
        """Move the running moments by the rows of the step, if there were any."""
        if self._step is None:
            return
        count, own, scatter = self._step[0], *(moment.to(self.feature_mean) for moment in self._step[1:])
        self._step = None
        mean = total(own) / process_count()  # all processes hold equally many rows
        apart = own - mean
        covariance = total(scatter / count + torch.outer(apart, apart)) / process_count()
        seen = self.seen.to(mean)
        share = 1 - self.decay * seen
        shift = mean - self.feature_mean
        spread = share * seen * torch.outer(shift, shift)
        self.feature_covariance.copy_((1 - share) * (self.feature_covariance + spread) + share * covariance)
        self.feature_mean.add_(share * shift)
        self.seen.fill_(True)

    @torch.no_grad()
    def follow(self, *optimizers: torch.optim.Optimizer) -> None:
        """Move the running covariance by the rows of the step, set B to it, transport the weight and its tangent states in the optimizers.

        Once per step. Subspaces stay, bases change. Does not wait for the device. Before the first batch it does nothing.
        Rounding leaves W B W^T - I of the order of eps times the condition of B, at most 1/RIDGE times the number of features.
        """
        self._move()
        layout = self._constraints["weight"]
        ridge = RIDGE * self.feature_covariance.diagonal().mean()
        moment = self.feature_covariance + ridge * torch.eye(self.in_features).to(self.feature_covariance)
        moment = torch.where(self.seen, moment, self.metric)
        states = [
            optimizer.state[self.weight][key]
            for optimizer in optimizers
            for key in getattr(optimizer, "momentum_keys", ())
            if key in optimizer.state.get(self.weight, {})
        ]
        manifold: Any = layout.manifold
        manifold.follow(moment)
        self.metric.copy_(manifold.b)
        tensors = (self.weight, *states)
        # In the dtype of the weight, to which the states of an optimizer come with their next step.
        points = manifold.carry(*(layout.to_point(whole(t.detach()).to(self.weight.dtype)) for t in tensors))
        for tensor, carried in zip(tensors, points, strict=True):
            write(tensor, layout.to_weight(carried))

    @torch.no_grad()
    def adopt(self, other: "FeatureOrthonormalLinear") -> None:
        """Copy the metric of another layer, in which the weight must be orthonormal already."""
        manifold: Any = self._constraints["weight"].manifold
        manifold.follow(other.metric)
        self.metric.copy_(other.metric)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        metric = state_dict.get(prefix + "metric")
        if isinstance(metric, Tensor) and metric.shape == self.metric.shape and not self.metric.is_meta:
            # The weight is checked against the metric that it was saved with.
            manifold: Any = self._constraints["weight"].manifold
            manifold.replace(metric.detach().to(self.metric))
        super()._load_from_state_dict(state_dict, prefix, *args)


def feature_orthonormal(layer: nn.Linear, *, decay: float = 0.98) -> FeatureOrthonormalLinear:
    """The same linear layer, its weight projected onto the manifold for B = I; from the first `follow` on, B tracks its inputs.

    Raises ValueError unless 1 <= out_features < in_features and 0 <= decay < 1, and where the layer is constrained already.
    """
    p, n = layer.weight.shape
    if not 1 <= p < n:
        raise ValueError(
            f"a feature-orthonormal layer needs fewer outputs than inputs, got in_features = {n}, out_features = {p}"
        )
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
    if type(layer) is not nn.Linear:
        raise ValueError(f"layer must be an nn.Linear without constraint, got {type(layer).__name__}")
    weight = layer.weight
    identity = torch.eye(n, dtype=weight.dtype, device=weight.device)
    layer.__class__ = FeatureOrthonormalLinear
    assert isinstance(layer, FeatureOrthonormalLinear)
    layer.decay = decay
    layer.register_buffer("feature_mean", torch.zeros_like(identity[0]))
    layer.register_buffer("feature_covariance", torch.zeros_like(identity))
    layer.register_buffer("seen", torch.tensor(False, device=weight.device))
    layer.register_buffer("metric", identity.clone())
    constrain(layer, manifold=GeneralizedGrassmann(identity), transpose=True)
    return layer


def feature_lag(layer: FeatureOrthonormalLinear, h: Float[Tensor, " k n"]) -> float:
    """e = ||B^{-1/2} (cov h - B) B^{-1/2}||_2 of features h: eigenvalues of cov z lie within e of 1. Waits for the device."""
    manifold: Any = constraints(layer)["weight"].manifold
    centred = (h - h.mean(0)).to(manifold.b)
    covariance = centred.T @ centred / len(h)
    white = torch.linalg.solve_triangular(manifold.factor, covariance, upper=False)
    white = torch.linalg.solve_triangular(manifold.factor, white.mT, upper=False)
    values = torch.linalg.eigvalsh((white + white.mT) / 2)
    return float((values - 1).abs().max())

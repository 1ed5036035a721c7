"""The arms of `kernel-change` (ways to train a two-layer ReLU network), and their measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.experiments.linear.measure import relative_change
from grassmann_ssl.experiments.networks.layers import descend
from grassmann_ssl.experiments.networks.relu_kernels import (
    active,
    features,
    last_layer_kernel,
    neural_tangent_kernel,
    outputs,
)
from grassmann_ssl.manifolds import Grassmann

Weights = tuple[Tensor, Tensor]  # Q (S, h, m) and W2 (S, h, d)

LEFT = 0.5  # relative change of the last-layer kernel that ends the lazy regime
BLOWN_UP = 1e6  # and that counts as divergence
LOOKS = 10  # steps between kernel measurements


@dataclass(frozen=True)
class Arm:
    """One arm: its loss, whether the first layer is trained, and whether trained weights are on the Grassmannian."""

    title: str
    loss: str
    first_moves: bool
    constrained: bool


ARMS = {
    "supervised": Arm("supervised", "supervised", True, False),
    "barlow_twins": Arm("Barlow Twins", "barlow_twins", True, False),
    "free": Arm("trace loss, free", "trace", True, False),
    "last": Arm("trace loss, W₂ constrained, W₁ fixed", "trace", False, True),
    "both": Arm("trace loss, W₁ and W₂ constrained", "trace", True, True),
}
MEASURES = theory.lazy.Exponents._fields


@dataclass(frozen=True)
class Task:
    """The shared task: views (n, m) of the triplets, losses of the outputs, and the matrix of the trace loss.

    losses take outputs (S, n, d) to (S,); graph (n, n) is A in tr(f^T A f), the trace loss of outputs f.
    """

    views: Tensor
    losses: dict[str, Callable[[Tensor], Tensor]]
    graph: Tensor


def train(task: Task, start: Weights, arm: Arm, rate: float, steps: int, on_step: Callable[[], object]) -> Weights:
    """The final weights of an arm."""
    h, manifold = start[1].shape[-2], Grassmann("polar") if arm.constrained else geoopt.Euclidean()
    fixed = features(task.views, start[0])

    def loss(*weights: Tensor) -> Tensor:
        phi = features(task.views, weights[0]) if arm.first_moves else fixed
        return task.losses[arm.loss](outputs(phi, weights[-1]))

    moving = start if arm.first_moves else start[1:]
    end = descend(
        loss,
        moving,
        [manifold] * len(moving),
        learning_rate=rate / h,
        steps=steps,
        on_step=on_step,
    )
    return end[0] if arm.first_moves else start[0], end[-1]


def train_free(
    task: Task, start: Weights, rate: float, early: int, steps: int, on_step: Callable[..., object]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Train the free trace loss: its measures (S,) at step `early`, and the times at which each run leaves the lazy regime and diverges.

    Ends early when all runs have diverged. `left` and `diverged` (S,) are times, inf if never; `change` (L, S) is the relative
    change of the last-layer kernel over time.
    """
    h, arm = start[1].shape[-2], ARMS["free"]
    kernel = last_layer_kernel(features(task.views, start[0]), start[1], False)
    measured: dict[str, np.ndarray] = {}
    changes: list[np.ndarray] = []

    last = 0

    def observe(step: int, weights: tuple[Tensor, ...]) -> bool:
        nonlocal last
        last = step
        if step == early:
            measured.update(measure(task, start, (weights[0], weights[1]), arm))
        if step % LOOKS == 0:
            now = last_layer_kernel(features(task.views, weights[0]), weights[1], False)
            change = relative_change(now, kernel).numpy(force=True)
            changes.append(np.where(np.isfinite(change), change, np.inf))
        return bool(measured) and bool(np.all(changes[-1] > BLOWN_UP))

    def loss(q: Tensor, w: Tensor) -> Tensor:
        return task.losses[arm.loss](outputs(features(task.views, q), w))

    descend(
        loss, start, [geoopt.Euclidean()] * 2, learning_rate=rate / h, steps=steps, observe=observe, on_step=on_step
    )
    on_step(steps - last)
    path = np.stack(changes)
    times = {
        name: np.where((path > level).any(0), (path > level).argmax(0) * LOOKS * rate, np.inf)
        for name, level in (("left", LEFT), ("diverged", BLOWN_UP))
    }
    return measured, times | {"change": path}


def measure(task: Task, start: Weights, end: Weights, arm: Arm) -> dict[str, np.ndarray]:
    """Relative changes (S,) of both kernels, of the last layer's weights, and the share of switched units.

    With W1 fixed the whole kernel is that of the last layer.
    """
    x = task.views
    last = [last_layer_kernel(features(x, q), w, arm.constrained) for q, w in (end, start)]
    whole = [neural_tangent_kernel(x, q, w, arm.constrained) for q, w in (end, start)] if arm.first_moves else last
    switched = (active(x, end[0]) != active(x, start[0])).double().mean((-2, -1)).numpy(force=True)
    finite = np.isfinite(end[0].sum((-2, -1)).numpy(force=True))
    changes = {"last_layer": last, "whole": whole, "movement": (end[1], start[1])}
    return {
        **{name: relative_change(*pair).numpy(force=True) for name, pair in changes.items()},
        "switched": np.where(finite, switched, np.inf),
    }


def exact_change(task: Task, start: Weights, time: float) -> np.ndarray:
    """The change (S,) of Phi (I - P2) Phi^T by the exact flow of W2, dW2/dt = -2 (I - P2) Phi^T A Phi W2.

    The flow moves W2 only within the n + d directions of [Phi^T, W2], in which it is computed.
    """
    phis, graph = features(task.views, start[0]).numpy(force=True), task.graph.numpy(force=True)
    changes = []
    for phi, w in zip(phis, start[1].numpy(force=True), strict=True):
        basis = np.linalg.qr(np.concatenate([phi.T, w], axis=1))[0]
        inside = phi @ basis
        end = theory.constrained.grassmann_flow(time, basis.T @ w, inside.T @ graph @ inside)
        first, last = (phi @ phi.T - (phi @ v) @ (phi @ v).T for v in (w, basis @ end))
        changes.append(np.linalg.norm(last - first) / np.linalg.norm(first))
    return np.array(changes)


def growth_rates(task: Task, start: Weights) -> np.ndarray:
    """lambda (S,), the smallest eigenvalue of Theta^{1/2} (A (x) I) Theta^{1/2} at the start: free outputs grow as e^{-2 lambda t}.

    0 where it is not negative beyond rounding: nothing grows.
    """
    kernel = neural_tangent_kernel(task.views, *start, False).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    identity = torch.eye(start[1].shape[-1], dtype=kernel.dtype, device=kernel.device)
    values, vectors = torch.linalg.eigh(kernel)
    root = vectors * values.clamp_min(0).sqrt()[..., None, :]
    rates = torch.linalg.eigvalsh(root.mT @ torch.kron(task.graph, identity) @ root).numpy(force=True)
    return np.where(rates[:, 0] < -1e-9 * np.abs(rates).max(-1), rates[:, 0], 0.0)


def predicted_exponent(arm: Arm, measure: str, growing: bool) -> float | None:
    """The exponent of h in a measure of an arm; None where none is predicted. growing: the trace loss has a negative eigenvalue."""
    if arm.constrained:
        exponents = theory.lazy.constrained(growing=growing, first_layer=arm.first_moves)
    else:
        exponents = theory.lazy.free("relu")
    exponent: float | None = exponents._asdict()[measure]
    return exponent

"""Probes of frozen features: k nearest neighbours, ridge regression, logistic regression. On the features' device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from grassmann_ssl.metrics.pairs import on_sphere
from grassmann_ssl.precision import no_autocast

CHUNK_ELEMENTS = 2**24  # similarities held at a time: 64 MiB in float32
PENALTIES = tuple(10.0**power for power in range(-8, 5))


@dataclass(frozen=True)
class RidgeProbe:
    """accuracy on the test rows, the chosen penalty, and the leave-one-out mean squared error of every penalty of the grid."""

    accuracy: float
    penalty: float
    penalties: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class LogisticProbe:
    """accuracy on the test rows; the final objective, the largest entry of its gradient / n, and whether the fit has converged."""

    accuracy: float
    objective: float
    gradient: float
    converged: bool


class _Split(NamedTuple):
    x: Tensor  # (n, d), float64
    y: Tensor  # (n,), the number of a class
    test_x: Tensor
    test_y: Tensor  # -1 for a label that no training row has
    classes: int


@torch.no_grad()
def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of weighted k nearest neighbours: a class scores sum of exp(cos(z, z_i) / temperature) over its own among the k nearest.

    Features are normalised to unit length; zero rows stay 0. Ties between classes go to the smaller label; ties for the k-th neighbour are
    broken arbitrarily. Similarities in float32, or float64 for float64 features; chunked over test rows. Labels are any integers.
    Raises ValueError for shapes that do not fit, empty sets, features that are not finite, and unless 1 <= k <= n and temperature > 0.
    Source: Wu et al. 2018, arXiv 1805.01978; its defaults are k = 200, temperature = 0.07.
    """
    _check(train, train_labels, test, test_labels)
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be between 1 and the {len(train)} training rows, got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    bank, queries = on_sphere(train), on_sphere(test)
    known, y, test_y = _classes(train_labels, test_labels)
    right = torch.zeros((), dtype=torch.int64, device=train.device)
    rows = max(1, CHUNK_ELEMENTS // len(train))
    with no_autocast(train.device.type):
        for query, truth in zip(torch.split(queries, rows), torch.split(test_y, rows), strict=True):
            similarity, nearest = (query @ bank.T).topk(k, dim=1)
            # Relative to the nearest one, so that no temperature overflows.
            weights = ((similarity - similarity[:, :1]) / temperature).exp()
            votes = weights.new_zeros(len(query), known).scatter_add_(1, y[nearest], weights)
            right += (votes.argmax(1) == truth).sum()
    return int(right) / len(test)


@torch.no_grad()
def ridge_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    penalties: Sequence[float] | None = None,
) -> RidgeProbe:
    """Accuracy of ridge regression on one-hot labels, the penalty chosen by exact leave-one-out error on the training rows.

    min over W, b of |X W + 1 b^T - Y|_F^2 + penalty |W|_F^2; the class of the largest output. The error of row i predicted without it is
    r_i / (1 - h_i), r the residuals of the full fit and h_i = 1/n + sum_k (X_c V)_ik^2 / (l_k + penalty), X_c^T X_c = V diag(l) V^T:
    one decomposition for all penalties. The smallest mean squared error wins; ties go to the larger penalty. `penalties` None is
    1e-8 ... 1e4 times the mean of the l_k. Closed form, in float64. Raises ValueError for shapes that do not fit, features that are not
    finite and penalties that are not positive. Source: Allen 1974 (PRESS); Hastie, Tibshirani & Friedman 2009, eq. (7.64).
    """
    split = _split(train, train_labels, test, test_labels)
    mean = split.x.mean(0)
    x, one_hot = split.x - mean, F.one_hot(split.y, split.classes).double()
    y = one_hot - one_hot.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp_min(0)
    if penalties is None:
        size = float(values.mean()) or 1.0
        grid = tuple(p * size for p in PENALTIES)
    else:
        grid = tuple(sorted(float(p) for p in penalties))
    if not grid or not grid[0] > 0:
        raise ValueError(f"penalties must be one or more positive numbers, got {penalties}")
    scores = x @ vectors
    target = scores.T @ y
    squares = scores.square()
    errors = []
    for penalty in grid:
        shrunk = 1 / (values + penalty)
        residual = y - scores @ (shrunk[:, None] * target)
        leverage = 1 / len(x) + squares @ shrunk
        # A leverage of 1 is a row that nothing else predicts: with rounding its error is large, not infinite or of either sign.
        spare = (1 - leverage).clamp_min(torch.finfo(leverage.dtype).eps)
        errors.append((residual / spare[:, None]).square().mean())
    losses = tuple(torch.stack(errors).tolist())
    best = max(range(len(grid)), key=lambda i: (-losses[i], grid[i]))
    weights = vectors @ (target / (values + grid[best])[:, None])
    outputs = (split.test_x - mean) @ weights + one_hot.mean(0)
    return RidgeProbe(_accuracy(outputs, split.test_y), grid[best], grid, losses)


@torch.no_grad()
def logistic_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    penalty: float = 1.0,
    max_iterations: int = 1000,
    tolerance: float = 1e-7,
) -> LogisticProbe:
    """Accuracy of multinomial logistic regression, fitted by full-batch L-BFGS in float64 until it has converged.

    min over W, b of sum_i -log softmax(W^T x_i + b)_{y_i} + (penalty / 2) |W|_F^2, x the features standardised by mean and standard
    deviation (biased) of the training rows; constant features are 0. The objective of scikit-learn's LogisticRegression(C = 1 / penalty)
    after StandardScaler. Deterministic: starts from 0. Converged where no entry of the gradient of the objective / n is above
    `tolerance`; the result says whether it was within `max_iterations`. Raises ValueError for shapes that do not fit, features that are
    not finite and penalty <= 0.
    """
    split = _split(train, train_labels, test, test_labels)
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, got {penalty}")
    n, d = split.x.shape
    mean, std = split.x.mean(0), split.x.std(0, correction=0)
    # The mean of a constant is off by rounding.
    constant = std <= 4 * torch.finfo(train.dtype).eps * mean.abs()
    scale = torch.where(constant, 0, 1 / torch.where(constant, 1, std))
    x, test_x = ((v - mean) * scale for v in (split.x, split.test_x))
    x = torch.cat([x, x.new_ones(n, 1)], 1)
    one_hot = F.one_hot(split.y, split.classes).double()
    shrink = torch.full((d + 1, 1), penalty / n, dtype=x.dtype, device=x.device)
    shrink[-1] = 0  # the intercept is free
    weights = torch.zeros(d + 1, split.classes, dtype=x.dtype, device=x.device)
    weights.grad = torch.zeros_like(weights)

    def objective() -> Tensor:
        log_p = (x @ weights).log_softmax(1)
        weights.grad = x.T @ (log_p.exp() - one_hot) / n + shrink * weights
        return (shrink * weights.square()).sum() / 2 - (log_p * one_hot).sum() / n

    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(objective)  # type: ignore[no-untyped-call]  # torch gives it no types
    value = float(objective()) * n
    gradient = float(weights.grad.abs().max())
    outputs = test_x @ weights[:-1] + weights[-1]
    return LogisticProbe(_accuracy(outputs, split.test_y), value, gradient, gradient <= tolerance)


def _accuracy(outputs: Tensor, truth: Tensor) -> float:
    return int((outputs.argmax(1) == truth).sum()) / len(truth)


def _classes(train_labels: Tensor, test_labels: Tensor) -> tuple[int, Tensor, Tensor]:
    """The number of training classes, and both sets of labels as numbers of such classes, -1 for others."""
    known, y = train_labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]  # torch gives it no types
    place = torch.searchsorted(known, test_labels).clamp_max(len(known) - 1)
    return len(known), y, torch.where(known[place] == test_labels, place, -1)


def _split(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> _Split:
    _check(train, train_labels, test, test_labels)
    classes, y, test_y = _classes(train_labels, test_labels)
    return _Split(train.double(), y, test.double(), test_y, classes)


def _check(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> None:
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if features.ndim != 2 or not len(features) or features.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"{name} must be a non-empty (n, d) array, d as train {tuple(train.shape)}, got {tuple(features.shape)}"
            )
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"{name}_labels must be {len(features)} integers, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} must be finite, and some features are not")

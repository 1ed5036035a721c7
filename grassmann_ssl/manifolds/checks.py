"""Diagnostics that return numbers: of gradients, Hessians, retractions, whole manifolds and the rotation invariance of a loss.

Each works for any geoopt manifold, of this package or not, and for points with leading batch dimensions, which count as one product
manifold: a loss of shape (...,) is summed. Compute in float64: in float32 a slope has one or two decades of steps to show itself.

    >>> import torch
    >>> from grassmann_ssl.manifolds import Grassmann
    >>> from grassmann_ssl.manifolds.checks import check_gradient
    >>> generator = torch.Generator().manual_seed(0)
    >>> a = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    >>> x = Grassmann().random(8, 3, dtype=torch.float64, generator=generator)
    >>> slope = check_gradient(lambda x: (x * (a @ x)).sum(), Grassmann(), x, generator=generator, raises=True)
    >>> round(slope.slope, 1)
    2.0
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.manifolds.derivatives import Loss, call, derivative, evaluate, hessian, name_of
from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.orthonormal import householder_qr
from grassmann_ssl.manifolds.slopes import CLEAR, MARGIN, Slope, fit, judged, log_steps, rounding, tiny_steps


def check_gradient(
    loss: Loss,
    manifold: geoopt.Manifold,
    x: Tensor,
    *,
    direction: Tensor | None = None,
    raises: bool = False,
    generator: torch.Generator | None = None,
) -> Slope:
    """Taylor test of a gradient: |f(R_x(t d)) - f(x) - t <grad f(x), d>| falls like t^2.

    grad is `manifold.egrad2rgrad` of autograd's gradient, R `manifold.retr`, d `direction` at length 1, or a random tangent vector. The
    slope is that towards small t, above the rounding of the loss (which is measured), so that in float64 relative errors of the gradient
    of 1e-3, and mostly of 1e-4, show. X (..., n, p), or what the manifold takes, is projected first; float64 recommended: in float32
    errors of 10 % may pass, and right gradients may have no straight stretch. Raises AssertionError with
    the numbers if `raises`; ValueError for a point off the manifold, a direction that is not tangent, and a loss that is
    not finite, not deterministic or does not depend on X. Source: Boumal 2023, sec. 4.8.
    """
    f = _Function(loss, x, manifold)
    egrad = f.gradient(twice=False)[1]
    grad = manifold.egrad2rgrad(f.x, egrad)
    d = _direction(manifold, f.x, direction, generator)
    slope = _inner(manifold, f.x, grad, d)
    normal = _ratio(_size(grad - manifold.proju(f.x, grad)), _size(egrad))
    result = _taylor(f, manifold.retr, d, (slope,), normal_part=normal)
    return judged(result, f"the gradient of {f.name} on {manifold}", raises)


def check_hessian(
    loss: Loss,
    manifold: geoopt.Manifold,
    x: Tensor,
    *,
    direction: Tensor | None = None,
    raises: bool = False,
    generator: torch.Generator | None = None,
) -> Slope:
    """Taylor test of a Hessian: |f(Exp_x(t d)) - f(x) - t <grad, d> - t^2/2 <d, Hess d>| falls like t^3.

    Hess d is `manifold.ehess2rhess` of autograd's second derivative along d; where the manifold has none, the derivative of
    `egrad2rgrad` along d, projected, which is the Hessian where the metric is that of the surrounding space. Exp is `manifold.expmap`, or
    `retr`, which must then be of second order. Also <u, Hess v> - <v, Hess u> for random u, v (`asymmetry`) and the
    normal part of Hess d. Otherwise, errors included, as `check_gradient`. Source: Boumal 2023, sec. 6.8.
    """
    f = _Function(loss, x, manifold)
    leaf, egrad = f.gradient(twice=True)
    product = hessian(manifold, leaf, egrad)
    egrad = egrad.detach()
    d = _direction(manifold, f.x, direction, generator)
    hd = product(d)
    terms = _inner(manifold, f.x, manifold.egrad2rgrad(f.x, egrad), d), _inner(manifold, f.x, d, hd) / 2
    u, v = (_direction(manifold, f.x, None, generator) for _ in range(2))
    hu, hv = product(u), product(v)
    normal = _ratio(_size(hd - manifold.proju(f.x, hd)), _size(hd) + _size(egrad))
    difference = abs(_inner(manifold, f.x, u, hv) - _inner(manifold, f.x, v, hu))
    asymmetry = _ratio(difference, _size(hu) + _size(hv) + _size(egrad))
    along = manifold.expmap if call(manifold.expmap, f.x, d) is not None else manifold.retr
    result = _taylor(f, along, d, terms, normal_part=normal, asymmetry=asymmetry)
    return judged(result, f"the Hessian of {f.name} on {manifold}", raises)


def check_retraction(
    manifold: geoopt.Manifold,
    x: Tensor,
    *,
    order: int = 2,
    direction: Tensor | None = None,
    raises: bool = False,
    generator: torch.Generator | None = None,
) -> Slope:
    """The order of a retraction: the distance of `retr` from `expmap` after a step t falls like t^{order + 1}.

    On the Grassmannian it is the distance of the subspaces (`manifold.dist`), elsewhere the norm of the difference. order 1 or 2. Raises
    NotImplementedError where the manifold has no `expmap`; otherwise as `check_gradient`.
    """
    x = _checked_point(manifold, x)
    d = _direction(manifold, x, direction, generator)

    def residual(t: float) -> float:
        with torch.no_grad():
            return _gap(manifold, manifold.retr(x, t * d), manifold.expmap(x, t * d))

    eps = torch.finfo(x.dtype).eps
    steps = log_steps(eps)
    residuals = np.array([residual(t) for t in steps])
    size = _size(x)
    noise = max(residual(t) for t in tiny_steps(eps))
    fitted = fit(steps, residuals, np.full(len(steps), noise + eps * size), size * math.sqrt(eps))
    result = Slope(steps, residuals, expected=order + 1.0, tolerance=MARGIN * eps, **fitted)
    return judged(result, f"the retraction of {manifold}", raises)


def check_manifold(
    manifold: geoopt.Manifold, x: Tensor, *, raises: bool = False, generator: torch.Generator | None = None
) -> dict[str, float]:
    """Residuals, by name, of the identities that the operations of a manifold must satisfy at X; NaN where it lacks an operation.

    Projections are idempotent, self-adjoint and tangent; `projx`, `retr` and `expmap` end on the manifold, the last two with the right
    derivative at 0, transports in tangent spaces there; exp and log invert each other, and the norm of the log is the distance, at
    distance 1/2; distance is symmetric; `parallel_transport` preserves inner products. Vectors are random of length 1, so residuals are
    relative. "On the manifold" and "tangent" are measured by the smallest tolerance that the manifold's own check accepts. Infinite where
    a result is not finite or a factorization fails. float64 recommended. Raises AssertionError naming those above 1e4 eps if `raises`,
    ValueError for a point off the manifold.
    """
    x = _checked_point(manifold, x)
    with torch.no_grad():
        found = {name: _residual(test) for name, test in _identities(manifold, x, generator).items()}
    tolerance = MARGIN * torch.finfo(x.dtype).eps
    failed = {name: value for name, value in found.items() if value > tolerance}  # false for NaN
    if raises and failed:
        numbers = ", ".join(f"{name}: {value:.3g}" for name, value in failed.items())
        raise AssertionError(f"{manifold} fails with residuals above {tolerance:.3g}: {numbers}")
    return found


@dataclass(frozen=True)
class RotationInvariance:
    """The largest change |f(XQ) - f(X)| / (1 + |f(X)|), and the largest ||skew(X^H G)|| / (1 + ||G||) of a Euclidean gradient G."""

    change: float
    vertical_part: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether both are within `tolerance`."""
        return self.change <= self.tolerance and self.vertical_part <= self.tolerance


def check_rotation_invariance(
    loss: Loss, x: Tensor, *, draws: int = 8, raises: bool = False, generator: torch.Generator | None = None
) -> RotationInvariance:
    """Whether a loss is a function of the subspace alone: f(X Q) = f(X) for random orthogonal (unitary) Q.

    X (..., n, p); every leading index gets its own Q, so views that share one are stacked as rows. The gradient of such a loss has no part
    along X -> X Q: X^H G is Hermitian, which is measured at every X Q drawn. float64 recommended; the tolerance is 1e4 eps. Raises
    AssertionError with the numbers if `raises`, ValueError for a loss that is not finite or does not depend on X, and for draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    x = x.detach().as_subclass(Tensor)
    p = x.shape[-1]
    start = evaluate(loss, x).detach()
    change = vertical = 0.0
    for _ in range(draws):
        gaussian = torch.randn(*x.shape[:-2], p, p, dtype=x.dtype, device=x.device, generator=generator)
        y = (x @ householder_qr(gaussian)).requires_grad_()
        value = evaluate(loss, y)
        change = max(change, float(((value.detach() - start).abs() / (1 + start.abs())).max()))
        g = derivative(loss, value, y, twice=False)
        product = y.detach().mH @ g
        part = torch.linalg.matrix_norm((product - product.mH) / 2) / (1 + torch.linalg.matrix_norm(g))
        vertical = max(vertical, float(part.max()))
    result = RotationInvariance(change, vertical, MARGIN * torch.finfo(x.dtype).eps)
    if raises and not result.ok:
        raise AssertionError(
            f"{name_of(loss)} is not rotation-invariant: it changes by {change:.3g}, and its gradient has a vertical part "
            f"of {vertical:.3g}; tolerance {result.tolerance:.3g}"
        )
    return result


def smallest_tolerance(check: Callable[[float], bool]) -> float:
    """The smallest tolerance, to 3 %, at which a check passes; 0 below 1e-18, infinite if it fails at 1e6."""
    low, high = -18.0, 6.0
    if check(10**low):
        return 0.0
    if not check(10**high):
        return math.inf
    while high - low > 0.0125:
        middle = (low + high) / 2
        low, high = (low, middle) if check(10**middle) else (middle, high)
    return float(10**high)


# Losses and their derivatives


class _Function:
    """A loss around a checked point, as numbers: batches summed."""

    def __init__(self, loss: Loss, x: Tensor, manifold: geoopt.Manifold) -> None:
        self.loss, self.name = loss, name_of(loss)
        self.x = _checked_point(manifold, x)
        self.eps = torch.finfo(self.x.dtype).eps
        self.start = self(self.x)
        if not math.isfinite(self.start):
            raise ValueError(f"the loss {self.name} must be finite at x, got {self.start}")
        again = self(self.x)
        if abs(again - self.start) > CLEAR * self.eps * abs(self.start):
            raise ValueError(
                f"the loss {self.name} must be deterministic, but gave {self.start:.17g}, then {again:.17g}"
            )

    def __call__(self, x: Tensor) -> float:
        with torch.no_grad():
            return float(evaluate(self.loss, x).double().sum())

    def gradient(self, twice: bool) -> tuple[Tensor, Tensor]:
        """A leaf at the point, and the Euclidean gradient there; with its graph if `twice`."""
        leaf = self.x.clone().requires_grad_()
        return leaf, derivative(self.loss, evaluate(self.loss, leaf), leaf, twice)


# Points, vectors and their sizes


def _checked_point(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """X put exactly on the manifold: an error of 1e-7, from float32 data say, would look like one of the gradient."""
    x = x.detach().as_subclass(Tensor)
    good, reason = manifold.check_point_on_manifold(x, explain=True)
    if not good:
        raise ValueError(f"x must lie on {manifold}: {reason}")
    with torch.no_grad():
        point: Tensor = manifold.projx(x)
    return point


def _direction(manifold: geoopt.Manifold, x: Tensor, given: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """A tangent vector of length 1 at every point of the batch; 0 where the tangent space is."""
    if given is None:
        # The sum of two draws: a generator of the seed that x came from may give, first, a matrix whose span is that of x.
        draws = (torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator) for _ in range(2))
        ambient = sum(draws, torch.zeros_like(x))
        u = manifold.proju(x, ambient)
    else:
        u = ambient = given.detach().as_subclass(Tensor)
        if u.shape != x.shape:
            raise ValueError(f"direction must have the shape of x, {tuple(x.shape)}, got {tuple(u.shape)}")
        good, reason = manifold.check_vector_on_tangent(x, u, explain=True)
        if not good:
            raise ValueError(f"direction must be tangent at x: {reason}")
    norm = manifold.norm(x, u, keepdim=True)
    nothing = norm <= 100 * torch.finfo(x.dtype).eps * _size(ambient)
    if given is not None and bool(nothing.any()):
        raise ValueError("direction must not be zero at any point of the batch")
    return torch.where(nothing, 0, u / torch.where(nothing, 1, norm))


def _inner(manifold: geoopt.Manifold, x: Tensor, u: Tensor, v: Tensor) -> float:
    return float(manifold.inner(x, u, v).double().sum())


def _size(u: Tensor) -> float:
    return float(torch.linalg.vector_norm(u))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else part


def _gap(manifold: geoopt.Manifold, x: Tensor, y: Tensor) -> float:
    """How far two points are apart; on the Grassmannian the basis must not count."""
    base = _unwrapped(manifold)
    return _size(base.dist(x, y)) if isinstance(base, Grassmann) else _size(x - y)


def _unwrapped(manifold: geoopt.Manifold) -> geoopt.Manifold:
    """The manifold inside a `Validated`."""
    return getattr(manifold, "wrapped", manifold)


# Slopes


def _taylor(
    f: _Function,
    retract: Callable[[Tensor, Tensor], Tensor],
    d: Tensor,
    terms: tuple[float, ...],
    *,
    normal_part: float,
    asymmetry: float = 0.0,
) -> Slope:
    def value_at(t: float) -> float:
        with torch.no_grad():
            return f(retract(f.x, t * d))

    def at(t: float) -> tuple[float, float]:
        """Value minus expansion, and the size of what was subtracted."""
        value = value_at(t)
        model = [term * t**k for k, term in enumerate(terms, start=1)]
        return abs(value - f.start - sum(model)), abs(value) + abs(f.start) + sum(map(abs, model))

    steps = log_steps(f.eps)
    residuals, sizes = np.array([at(t) for t in steps]).T
    noise = max(at(t)[0] for t in tiny_steps(f.eps)) + rounding(value_at, f.eps)
    typical = float(np.nanmax(sizes))
    fitted = fit(steps, residuals, noise + f.eps * sizes, typical * math.sqrt(f.eps))
    return Slope(
        steps,
        residuals,
        expected=len(terms) + 1.0,
        normal_part=normal_part,
        asymmetry=asymmetry,
        tolerance=MARGIN * f.eps,
        **fitted,
    )


# Identities of a manifold


def _identities(
    manifold: geoopt.Manifold, x: Tensor, generator: torch.Generator | None
) -> dict[str, Callable[[], float]]:
    """The tests of `check_manifold` by name: each gives its residual, or raises NotImplementedError."""
    m = manifold
    ambient_inner = _unwrapped(m).inner  # of vectors that are not tangent, too
    ambient, other = (torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator) for _ in range(2))
    ambient, other = ambient / _size(ambient), other / _size(other)
    v, w = (_direction(m, x, None, generator) for _ in range(2))
    u = _direction(m, x, None, generator) / 2

    def on_manifold(y: Tensor) -> float:
        return smallest_tolerance(lambda tolerance: bool(m.check_point_on_manifold(y, atol=tolerance, rtol=0.0)))

    def tangent(y: Tensor, moved: Tensor) -> float:
        return smallest_tolerance(
            lambda tolerance: bool(m.check_vector_on_tangent(y, moved, ok_point=True, atol=tolerance, rtol=0.0))
        )

    def largest(values: Tensor) -> float:
        return float(values.abs().max())

    def near() -> Tensor:
        """A point at distance 1/2."""
        end: Tensor | None = call(m.expmap, x, u)
        return m.retr(x, u) if end is None else end

    def velocity(curve: Callable[[Tensor, Tensor], Tensor]) -> float:
        h = 0.003  # the formula is of sixth order: truncation about 1e-15, rounding 500 eps
        weights = (3 / 4, -3 / 20, 1 / 60)
        steps = (k * (curve(x, i * h * v) - curve(x, -i * h * v)) for i, k in enumerate(weights, start=1))
        return _size(sum(steps, torch.zeros_like(x)) / h - v)

    def parallel() -> float:
        if not hasattr(m, "parallel_transport"):
            raise NotImplementedError
        y = near()
        moved = [m.parallel_transport(x, y, vector) for vector in (v, w)]
        return max(
            largest(m.inner(y, moved[i], moved[j]) - m.inner(x, (v, w)[i], (v, w)[j])) for i, j in ((0, 0), (0, 1))
        )

    return {
        "proju idempotent": lambda: _size(m.proju(x, m.proju(x, ambient)) - m.proju(x, ambient)),
        "proju self-adjoint": lambda: largest(
            ambient_inner(x, m.proju(x, ambient), other) - ambient_inner(x, ambient, m.proju(x, other))
        ),
        "proju tangent": lambda: tangent(x, m.proju(x, ambient)),
        "egrad2rgrad tangent": lambda: tangent(x, m.egrad2rgrad(x, ambient)),
        "projx on the manifold": lambda: on_manifold(m.projx(x + 0.1 * ambient)),
        "retr on the manifold": lambda: on_manifold(m.retr(x, u)),
        "expmap on the manifold": lambda: on_manifold(m.expmap(x, u)),
        "retr starts along its vector": lambda: velocity(m.retr),
        "expmap starts along its vector": lambda: velocity(m.expmap),
        "logmap tangent": lambda: tangent(x, m.logmap(x, near())),
        "exp inverts log": lambda: _gap(m, m.expmap(x, m.logmap(x, near())), near()),
        "log inverts exp": lambda: _size(m.logmap(x, m.expmap(x, u)) - u),
        "dist is the norm of log": lambda: largest(m.dist(x, near()) - m.norm(x, m.logmap(x, near()))),
        "dist symmetric": lambda: largest(m.dist(x, near()) - m.dist(near(), x)),
        "transp tangent": lambda: tangent(near(), m.transp(x, near(), v)),
        "transp_follow_retr tangent": lambda: tangent(m.retr(x, u), m.transp_follow_retr(x, u, v)),
        "transp_follow_expmap tangent": lambda: tangent(m.expmap(x, u), m.transp_follow_expmap(x, u, v)),
        "retr_transp tangent": lambda: tangent(*m.retr_transp(x, u, v)),
        "expmap_transp tangent": lambda: tangent(*m.expmap_transp(x, u, v)),
        "parallel_transport isometric": parallel,
    }


def _residual(test: Callable[[], float]) -> float:
    try:
        value = test()
    except NotImplementedError:
        return math.nan
    # Of a matrix that is not finite or has lost its rank.
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # public, but not in torch's stubs
        return math.inf
    return value if math.isfinite(value) else math.inf

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
from dataclasses import dataclass, field
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.orthonormal import householder_qr

Loss = Callable[[Tensor], Tensor]

PER_DECADE = 6  # steps per decade
CLEAR = 30.0  # a residual says something where it is this many times the rounding: then it is known to 3 %
STRAIGHT = 0.03  # decades by which the points of a straight stretch may leave their line
SHORTFALL = (
    0.1,
    0.3,
)  # how far below the expected slope a slope may be, at least and over one decade: short stretches tell less
MARGIN = 1e4  # rounding tolerance of identities, in eps


@dataclass(frozen=True, eq=False)
class Slope:
    """How fast a residual falls with the step t: |residual| ~ t^slope.

    `steps`, `residuals`: what was measured, steps increasing, of the length of the direction 1. `slope` is that of the straight stretch
    `fitted` (first and one past the last index) of log residual over log t; NaN where there is none. `exact`: the residual is rounding at
    every step, and the slope infinite. `normal_part`: how far the gradient (or Hessian times direction) is from its own projection,
    relative to the Euclidean one; `asymmetry`: |<u, H v> - <v, H u>|, relative too; both 0 where they do not apply.
    """

    steps: np.ndarray = field(repr=False)
    residuals: np.ndarray = field(repr=False)
    slope: float
    expected: float
    exact: bool
    fitted: tuple[int, int]
    normal_part: float = 0.0
    asymmetry: float = 0.0
    tolerance: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the slope is at least the expected one less 0.1 (0.3 / decades where it was fitted over fewer than three decades), and
        the other numbers within `tolerance`.

        More than expected is no fault: a Hessian that vanishes along the direction, say, gives a gradient the slope 3.
        """
        small = max(self.normal_part, self.asymmetry) <= self.tolerance
        decades = (self.fitted[1] - self.fitted[0]) / PER_DECADE
        shortfall = max(SHORTFALL[0], SHORTFALL[1] / decades) if decades else 0.0
        return small and self.slope >= self.expected - shortfall  # false for NaN

    def plot(self, ax: Any = None) -> Any:
        """Residuals over steps, both logarithmic, with a line of the expected slope; on new matplotlib axes unless given some."""
        if ax is None:
            import matplotlib.pyplot as plt  # not before it is used: importing it takes a second

            ax = plt.subplots()[1]
        first, last = self.fitted
        shown = np.isfinite(self.residuals) & (self.residuals > 0)
        ax.loglog(self.steps[shown], self.residuals[shown], ".", color="0.6", label="residual")
        if last > first:
            steps, residuals = self.steps[first:last], self.residuals[first:last]
            ax.loglog(steps, residuals, "o", color="#12507b", label=f"slope {self.slope:.2f}")
            middle = np.exp(np.log(steps).mean()), np.exp(np.log(residuals).mean())
            line = middle[1] * (steps / middle[0]) ** self.expected
            ax.loglog(steps, line, "--", color="#c1440e", label=f"expected slope {self.expected:g}")
        ax.set_xlabel("step t")
        ax.set_ylabel("residual")
        ax.legend()
        return ax


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
    return _judged(result, f"the gradient of {f.name} on {manifold}", raises)


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
    normal part of Hess d. Otherwise as `check_gradient`. Source: Boumal 2023, sec. 6.8.
    """
    f = _Function(loss, x, manifold)
    leaf, egrad = f.gradient(twice=True)
    hessian = _hessian(manifold, leaf, egrad)
    egrad = egrad.detach()
    d = _direction(manifold, f.x, direction, generator)
    hd = hessian(d)
    terms = _inner(manifold, f.x, manifold.egrad2rgrad(f.x, egrad), d), _inner(manifold, f.x, d, hd) / 2
    u, v = (_direction(manifold, f.x, None, generator) for _ in range(2))
    hu, hv = hessian(u), hessian(v)
    normal = _ratio(_size(hd - manifold.proju(f.x, hd)), _size(hd) + _size(egrad))
    difference = abs(_inner(manifold, f.x, u, hv) - _inner(manifold, f.x, v, hu))
    asymmetry = _ratio(difference, _size(hu) + _size(hv) + _size(egrad))
    along = manifold.expmap if _call(manifold.expmap, f.x, d) is not None else manifold.retr
    result = _taylor(f, along, d, terms, normal_part=normal, asymmetry=asymmetry)
    return _judged(result, f"the Hessian of {f.name} on {manifold}", raises)


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
    steps = _steps(eps)
    residuals = np.array([residual(t) for t in steps])
    size = _size(x)
    noise = max(residual(t) for t in _tiny_steps(eps))
    fit = _fit(steps, residuals, np.full(len(steps), noise + eps * size), size * math.sqrt(eps))
    result = Slope(steps, residuals, expected=order + 1.0, tolerance=MARGIN * eps, **fit)
    return _judged(result, f"the retraction of {manifold}", raises)


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

    X (..., n, p); every leading index gets its own Q. The gradient of such a loss has no part along X -> X Q: X^H G is Hermitian,
    which is measured at every X Q drawn. float64 recommended; the tolerance is 1e4 eps. Raises AssertionError with the
    numbers if `raises`, ValueError for a loss that is not finite or does not depend on X, and for draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    x = x.detach().as_subclass(Tensor)
    p = x.shape[-1]
    start = _evaluate(loss, x).detach()
    change = vertical = 0.0
    for _ in range(draws):
        gaussian = torch.randn(*x.shape[:-2], p, p, dtype=x.dtype, device=x.device, generator=generator)
        y = (x @ householder_qr(gaussian)).requires_grad_()
        value = _evaluate(loss, y)
        change = max(change, float(((value.detach() - start).abs() / (1 + start.abs())).max()))
        g = _derivative(loss, value, y, twice=False)
        product = y.detach().mH @ g
        part = torch.linalg.matrix_norm((product - product.mH) / 2) / (1 + torch.linalg.matrix_norm(g))
        vertical = max(vertical, float(part.max()))
    result = RotationInvariance(change, vertical, MARGIN * torch.finfo(x.dtype).eps)
    if raises and not result.ok:
        raise AssertionError(
            f"{_name(loss)} is not rotation-invariant: it changes by {change:.3g}, and its gradient has a vertical part "
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
        self.loss, self.name = loss, _name(loss)
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
            return float(_evaluate(self.loss, x).double().sum())

    def gradient(self, twice: bool) -> tuple[Tensor, Tensor]:
        """A leaf at the point, and the Euclidean gradient there; with its graph if `twice`."""
        leaf = self.x.clone().requires_grad_()
        return leaf, _derivative(self.loss, _evaluate(self.loss, leaf), leaf, twice)


def _evaluate(loss: Loss, x: Tensor) -> Tensor:
    value = loss(x)
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss {_name(loss)} must return a real tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"the loss {_name(loss)} must return a real tensor, got {value.dtype}")
    return value


def _derivative(loss: Loss, value: Tensor, leaf: Tensor, twice: bool) -> Tensor:
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=twice, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the loss {_name(loss)} must depend on x through torch operations, but has no gradient")
    if not bool(torch.isfinite(gradient.detach()).all()):
        raise ValueError(f"the gradient of the loss {_name(loss)} must be finite, but holds NaN or infinity")
    return gradient


def _hessian(manifold: geoopt.Manifold, leaf: Tensor, egrad: Tensor) -> Callable[[Tensor], Tensor]:
    """U -> the Riemannian Hessian times U."""
    x, fixed = leaf.detach(), egrad.detach()

    def from_euclidean(u: Tensor) -> Tensor:
        return manifold.ehess2rhess(x, fixed, _vector_product(egrad, leaf, u).detach(), u)

    def from_gradient_field(u: Tensor) -> Tensor:
        # The derivative along u, as the derivative with respect to w of w's product with the transposed Jacobian.
        w = torch.zeros_like(x, requires_grad=True)
        with torch.enable_grad():
            field = manifold.egrad2rgrad(leaf, egrad)
            transposed = _vector_product(field, leaf, w, twice=True)
            return manifold.proju(x, _vector_product(transposed, w, u)).detach()

    has_own = hasattr(manifold, "ehess2rhess") and _call(from_euclidean, torch.zeros_like(x)) is not None
    return from_euclidean if has_own else from_gradient_field


def _vector_product(output: Tensor, leaf: Tensor, vector: Tensor, twice: bool = False) -> Tensor:
    if not output.requires_grad:  # constant
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(
        output, leaf, vector, retain_graph=True, create_graph=twice, allow_unused=True, materialize_grads=True
    )
    return product


def _name(loss: Loss) -> str:
    return getattr(loss, "__qualname__", type(loss).__name__)


# Points, vectors and their sizes


def _checked_point(manifold: geoopt.Manifold, x: Tensor) -> Tensor:
    """X put exactly on the manifold: an error of 1e-7, from float32 data say, would look like one of the gradient."""
    x = x.detach().as_subclass(Tensor)
    good, reason = manifold.check_point_on_manifold(x, explain=True)
    if not good:
        raise ValueError(f"x must lie on {manifold}: {reason}")
    with torch.no_grad():
        return manifold.projx(x)


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


def _call(operation: Callable, *args: Any) -> Any:
    """The result, or None where the manifold does not implement the operation."""
    try:
        return operation(*args)
    except NotImplementedError:
        return None


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

    steps = _steps(f.eps)
    residuals, sizes = np.array([at(t) for t in steps]).T
    noise = max(at(t)[0] for t in _tiny_steps(f.eps)) + _rounding(value_at, f.eps)
    typical = float(np.nanmax(sizes))
    fit = _fit(steps, residuals, noise + f.eps * sizes, typical * math.sqrt(f.eps))
    return Slope(
        steps,
        residuals,
        expected=len(terms) + 1.0,
        normal_part=normal_part,
        asymmetry=asymmetry,
        tolerance=MARGIN * f.eps,
        **fit,
    )


def _steps(eps: float) -> np.ndarray:
    """From eps^{3/4}, where a wrong gradient still shows above rounding, to 1, which is within the usual injectivity radii."""
    decades = -0.75 * math.log10(eps)
    return np.logspace(-decades, 0, round(PER_DECADE * decades) + 1)


def _rounding(value: Callable[[float], float], eps: float) -> float:
    """Three standard deviations of the rounding of a smooth function, which may exceed that of its result.

    From sixth differences, in which steps of eps^{1/5} leave about eps^{6/5} of the function itself. Nearby values alone could all be
    rounded to the same. Source: Moré & Wild 2011, SIAM J. Sci. Comput. 33, 1292.
    """
    values = np.array([value(j * eps**0.2) for j in range(1, 13)])
    scale = math.factorial(6) ** 2 / math.factorial(12)
    return 3 * math.sqrt(scale * np.square(np.diff(values, 6)).mean())


def _tiny_steps(eps: float) -> np.ndarray:
    """Steps after which nothing but rounding, or a jump, can have happened."""
    return eps * np.logspace(0, 2, 8)


def _fit(steps: np.ndarray, residuals: np.ndarray, floor: np.ndarray, small: float) -> dict[str, Any]:
    """Slope of log residual over log step on the straight stretch that begins nearest to the rounding floor.

    A stretch of at least a decade is asked for, or else the longest. Nearest to the floor because errors of a derivative win over the terms
    left out only towards t = 0. Residuals nowhere a decade of steps above the floor are rounding, if they are also `small`.
    """
    clear = np.isfinite(residuals) & (residuals > CLEAR * floor)
    if clear.sum() < PER_DECADE:
        exact = bool(np.isfinite(residuals).all() and residuals.max() <= small)
        return {"slope": math.inf if exact else math.nan, "exact": exact, "fitted": (0, 0)}
    log_t, log_r = np.log10(steps), np.log10(np.where(clear, residuals, 1))
    best, slope = (0, 0), math.nan
    for first in range(len(steps)):
        last = first + 3
        while last < len(steps) and clear[first : last + 1].all():
            line = np.polyfit(log_t[first : last + 1], log_r[first : last + 1], 1)
            if np.abs(np.polyval(line, log_t[first : last + 1]) - log_r[first : last + 1]).max() > STRAIGHT:
                break
            last += 1
            if last - first > best[1] - best[0]:
                best, slope = (first, last), float(line[0])
        if best[1] - best[0] > PER_DECADE:
            break
    return {"slope": slope, "exact": False, "fitted": best}


def _judged(result: Slope, what: str, raises: bool) -> Slope:
    if raises and not result.ok:
        raise AssertionError(
            f"{what} fails: slope {result.slope:.3g} (expected {result.expected:g}), normal part {result.normal_part:.3g}, "
            f"asymmetry {result.asymmetry:.3g} (tolerance {result.tolerance:.3g})"
        )
    return result


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
        end = _call(m.expmap, x, u)
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
    except torch.linalg.LinAlgError:  # of a matrix that is not finite or has lost its rank
        return math.inf
    return value if math.isfinite(value) else math.inf

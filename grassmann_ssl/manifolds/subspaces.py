"""Subspaces given by orthonormal bases: angles and distances between them, nearest bases, exponential moving averages.

Bases X, Y are (..., n, p), in float32, float64, complex64 or complex128; leading dimensions broadcast. Nothing sees more of a basis than
its span unless it says so. Matrices of size p x p are factorized in double precision: that costs little beside the products with n x p
matrices, and the equal singular values of nearly equal subspaces, the worst case of single-precision solvers, are told apart.
Sources: BG73 = Bjorck & Golub 1973, Math. Comp. 27, 579; KA02 = Knyazev & Argentati 2002, SIAM J. Sci. Comput. 23, 2009;
BZA = Bendokat, Zimmermann, Absil, arXiv 2011.13699; YL16 = Ye & Lim 2016, SIAM J. Matrix Anal. 37, 1176.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from grassmann_ssl.manifolds.applied import applied, watched
from grassmann_ssl.manifolds.matrix_functions import arc_ratio, minus_product, unitary_factor
from grassmann_ssl.manifolds.orthonormal import cholesky_qr
from grassmann_ssl.manifolds.tall import column_norms, double, inner_products, norm, triangle
from grassmann_ssl.precision import FULL, Operation, no_autocast
from grassmann_ssl.registry import nearest

ROUNDING = 8
"""Sines of up to so many eps are rounding."""

TOLERANCE = 0.05
"""By so much sin^2 + cos^2 may differ from 1: points stored in half precision, or near the manifold only, still have angles."""


def _on_bases(*names: str) -> Callable[[Operation], Operation]:
    """Check the bases, arguments of these names, and switch autocast off: in bfloat16 no angle has more than two digits."""

    def decorated(function: Operation) -> Operation:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            x = given[names[0]]
            for name in names:
                _check_basis(given[name], name, x, names[0])
            with no_autocast(x.device.type):
                return function(*args, **kwargs)

        return cast(Operation, wrapped)

    return decorated


def _check_basis(y: Tensor, name: str, x: Tensor, first: str) -> None:
    if not isinstance(y, Tensor) or y.dtype not in FULL:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} must be a float32, float64, complex64 or complex128 tensor, got {got}")
    if y.ndim < 2 or not y.shape[-2] >= y.shape[-1] >= 1:
        raise ValueError(f"{name} must have shape (..., n, p) with n >= p >= 1, got {tuple(y.shape)}")
    if y.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of {first}, {x.dtype}, got {y.dtype}")
    same_shape(x, y, name, first)


def same_shape(x: Tensor, y: Tensor, name: str = "y", first: str = "x") -> None:
    """Raise ValueError unless Y is of the n and p of X: matrix products take other shapes, in silence or with a line of their own."""
    if y.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"{name} must have n, p = {tuple(x.shape[-2:])} as {first} has, got shape {tuple(y.shape)}")


@_on_bases("x", "y")
def principal_angles(x: Tensor, y: Tensor) -> Float[Tensor, " *b p"]:
    """Principal angles (..., p) between span(X) and span(Y), in increasing order, radians in [0, pi/2].

    theta_i = atan2(s_i, c_i), c the singular values of X^H Y and s those of Y - X X^H Y: accurate to a few eps everywhere,
    where arccos loses half the digits near 0 and arcsin near pi/2. Where p > n - p, 2p - n of them are 0.
    The gradient is that of a function of the subspaces, horizontal: -sum_i g_i h_i r_i^H in X, where Log_X(Y) = sum_i theta_i h_i r_i^H
    with unit h_i, and h_i := 0 where theta_i is 0 to rounding. Symmetric functions of the angles have exact gradients at repeated
    angles and at 0, wherever they are differentiable: sum_i theta_i^2 has -2 Log_X(Y). Second derivatives need distinct angles, none 0.
    Forward mode (jvp, jacfwd, hessian) gives the same; but torch takes the jvp of any autograd.Function for a constant, so that
    jacfwd(jacfwd(f)) is 0 here: take hessian(f).
    NaN where sin^2 + cos^2 differs from 1 by more than 5 %: X or Y is not orthonormal. Raises ValueError for shapes that do not match,
    TypeError for other dtypes. Source: BG73; KA02.
    """
    return applied(_PrincipalAngles, x, y)


@_on_bases("x", "y")
@torch.no_grad()
def principal_vectors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (..., p) and bases U of span(X) and V of span(Y), (..., n, p), with U^H V = diag(cos theta); no gradient.

    Where angles repeat, the vectors are one choice of several. Raises as `principal_angles`. Source: BG73.
    """
    angles, left, right, _ = _principal_frames(x, y, differentiable=False)
    return angles, x @ left, y @ right


def relative_position(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (..., p), directions H (..., n, p) and basis R (..., p, p) with Log_X(Y) = H diag(angles) R^H.

    The columns of H have length 1, or 0 where the angle is 0 to rounding; H diag(angles) is horizontal relative to its own size. With
    angles closer than about sqrt(eps) near 0, one SVD of the cosines mixes them: the logarithm does not notice, but single angles
    are those of `principal_angles`. They increase as far as the cosines tell them apart. Five n x p x p products and one p x p SVD.
    Source: BZA, algorithm 5.3, with atan2.
    """
    angles, sines, aligned, basis = _aligned(x, y)
    return angles, _unit(aligned, sines), basis


def logarithm(x: Tensor, y: Tensor) -> Tensor:
    """Log_X(Y) = H (theta / sin theta)(P) W^H (..., n, p), with the residual H = Y - X X^H Y and the polar decomposition X^H Y = W P.

    With X^H Y = R cos(theta) Q^H this is H Q diag(theta / sin theta) R^H, which is BZA's; but no singular vector is left in it, so that
    derivatives exist, in either mode and to any order, at equal angles and at 0. Horizontal relative to its own size.
    """
    overlap, residual = _overlap_and_residual(x, y)
    wide = _wide(overlap)
    factor = unitary_factor(wide)
    cosines = factor.mH @ wide
    return residual @ (arc_ratio((cosines + cosines.mH) / 2) @ factor.mH).to(x.dtype)


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """The sum of squared principal angles (...,), to a relative error of a few eps also where it is tiny; its gradient is -2 Log_X(Y).

    sum theta^2 = ||Y - X X^H Y||_F^2 + sum (theta^2 - sin^2 theta) with theta = arccos c: the first sum is accurate, and in the second the
    error eps / theta of arccos near 0 is multiplied by the slope 4 theta^3 / 3. One svd of values only. NaN where sin^2 + cos^2
    differs from 1 by more than 5 %: X or Y is not orthonormal.
    """
    return applied(_SquaredDistance, x, y)


def geodesic_distance(x: Tensor, y: Tensor) -> Tensor:
    """The root of `squared_distance` (...,), with gradient 0 where that is rounding."""
    squared = squared_distance(x, y)
    if not watched(squared):
        return squared.sqrt()
    apart = squared > x.shape[-1] * (ROUNDING * torch.finfo(squared.dtype).eps) ** 2
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), squared.detach().sqrt())


@_on_bases("x", "y")
def distance(x: Tensor, y: Tensor, kind: str = "geodesic") -> Float[Tensor, " *b"]:
    """Distance (...,) between span(X) and span(Y), a function of their principal angles theta, the largest of which is theta_p:

    geodesic (sum theta^2)^{1/2}; chordal (sum sin^2 theta)^{1/2}; projection sin theta_p; binet-cauchy (1 - prod cos^2 theta)^{1/2};
    fubini-study arccos prod cos theta; procrustes 2 (sum sin^2(theta/2))^{1/2}; spectral 2 sin(theta_p/2);
    martin (-log prod cos^2 theta)^{1/2}, which is infinite at theta_p = pi/2 and no metric: the triangle inequality fails.
    Errors are a few eps, also of tiny distances: nothing is subtracted. Gradients are exact where the distance is differentiable, 0 at
    span(X) = span(Y), where it is not, and 0 where it is infinite. Second derivatives of the geodesic distance exist where first ones do,
    those of the others at distinct angles. Raises ValueError for unknown kinds, and as `principal_angles`. Source: YL16, table 2.
    """
    if kind not in DISTANCES:
        raise ValueError(f"kind must be one of {', '.join(DISTANCES)}, got {kind!r}{nearest(str(kind), DISTANCES)}")
    if kind == "geodesic":  # not by single angles, which have no second derivatives where they are equal
        return geodesic_distance(x, y)
    return DISTANCES[kind](principal_angles(x, y))


@_on_bases("x", "y")
@torch.no_grad()
def cut_locus_margin(x: Tensor, y: Tensor) -> Float[Tensor, " *b"]:
    """pi/2 minus the largest principal angle (...,), to eps; no gradient. Where it is 0 the logarithm is not unique.

    Raises as `principal_angles`.
    """
    cosines, sines = _cosines_and_sines(x, y)
    return torch.atan2(cosines[..., -1], sines[..., -1]).to(x.real.dtype)


@_on_bases("x", "y")
def procrustes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The basis Y Q of span(Y) nearest to the basis X in the Frobenius norm, (..., n, p), and Q (..., p, p), unitary.

    Q is the unitary polar factor of Y^H X, with exact gradient also where singular values repeat; where the largest angle is pi/2 it is
    one of several. Raises as `principal_angles`. Source: Golub & Van Loan 2013, sec. 6.4.1.
    """
    rotation = unitary_factor(_wide(inner_products(y, x))).to(x.dtype)
    return y @ rotation, rotation


@_on_bases("x")
def projector(x: Tensor) -> Inexact[Tensor, " *b n n"]:
    """The orthogonal projector X X^H (..., n, n) onto span(X). Raises as `principal_angles`."""
    return x @ x.mH


def basis(projector: Tensor, p: int) -> Inexact[Tensor, " *b n p"]:
    """An orthonormal basis (..., n, p) of the range of an orthogonal projector (..., n, n) of rank p.

    By eigh of the n x n matrix: the projector itself costs n^2, and only a full decomposition shows whether it is one. Waits for the
    device. The gradient is that of the subspace. Raises ValueError for another shape or p, and where ||P - X X^H||_F is above sqrt(eps),
    TypeError for other dtypes.
    """
    n = projector.shape[-1]
    if projector.dtype not in FULL:
        raise TypeError(f"projector must be float32, float64, complex64 or complex128, got {projector.dtype}")
    if projector.ndim < 2 or projector.shape[-2] != n:
        raise ValueError(f"projector must have shape (..., n, n), got {tuple(projector.shape)}")
    if not 1 <= p <= n:
        raise ValueError(f"p must be between 1 and n = {n}, got {p}")
    with no_autocast(projector.device.type):
        if not bool(projector.isfinite().all()):
            raise ValueError("projector must be finite, but it has entries that are NaN or infinite")
        leading = torch.linalg.eigh(projector.detach())[1][..., -p:]
        error = torch.linalg.matrix_norm(projector.detach() - leading @ leading.mH)
        largest = float(error.max()) if error.numel() else 0.0
        if largest > math.sqrt(torch.finfo(projector.dtype).eps):
            raise ValueError(
                f"projector must be an orthogonal projector of rank p = {p}, but ||P - X X^H|| = {largest:.3g}"
            )
        # P moves its range: the derivative of eigh, which does not exist where eigenvalues repeat, is not needed.
        return cholesky_qr(projector @ leading)


@_on_bases("x")
def complement(x: Tensor) -> Inexact[Tensor, " *b n m"]:
    """An orthonormal basis (..., n, n - p) of the orthogonal complement of span(X), by Householder QR.

    The gradient is that of the subspace. Raises ValueError for p = n, and as `principal_angles`.
    """
    n, p = x.shape[-2:]
    if p == n:
        raise ValueError(f"x must have p < n: the complement of all of a space of dimension n = {n} has no basis")
    rest = torch.linalg.qr(x.detach(), mode="complete")[0][..., p:]
    return cholesky_qr(rest - x @ inner_products(x, rest))  # what changes nothing but carries the derivative


@_on_bases("teacher", "student")
@torch.no_grad()
def geodesic_ema(teacher: Tensor, student: Tensor, decay: float) -> Inexact[Tensor, " *b n p"]:
    """Exp_T((1 - decay) Log_T(S)) (..., n, p), the exponential moving average of subspaces, for teacher networks; no gradient.

    The basis is the one of its span nearest to that of the teacher; that of the student does not matter. It stays orthonormal over any
    number of updates. Where the largest angle is pi/2 the way is one of several. Raises ValueError for decays outside [0, 1], and as
    `principal_angles`. Source: EAS98, eq. (2.65): Edelman, Arias, Smith 1998, SIAM J. Matrix Anal. 20, 303.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    angles, directions, frame = relative_position(teacher, student)
    angles = ((1 - decay) * angles)[..., None, :]
    end = ((teacher @ frame) * angles.cos() + directions * angles.sin()) @ frame.mH
    return 1.5 * end - 0.5 * end @ inner_products(end, end)  # Newton-Schulz: rounding would pile up over the updates


class _SquaredDistance(torch.autograd.Function):
    """No singular value is differentiated: the derivatives, by `logarithm`, are exact at Y = X and at equal angles."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        overlap = inner_products(x, y)
        residual = norm(minus_product(y, x, overlap))
        cosines: Tensor = torch.linalg.svdvals(overlap)
        angles = cosines.clamp_max(1).acos()
        sines = angles.sin()
        # Of every sum of squares one call: at this size a call costs what it computes.
        excess = torch.linalg.vecdot(angles - sines, angles + sines)
        squares = torch.addcmul(torch.linalg.vecdot(cosines, cosines), residual, residual)
        return _of_bases(torch.addcmul(excess, residual, residual), squares, x.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        factor = -2 * gradient[..., None, None]
        with no_autocast(x.device.type):
            return (factor * logarithm(x, y)).sum_to_size(x.shape), (factor * logarithm(y, x)).sum_to_size(y.shape)

    @staticmethod
    def jvp(ctx: Any, x_moved: Tensor, y_moved: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        with no_autocast(x.device.type):
            return -2 * (_real_inner(logarithm(x, y), x_moved) + _real_inner(logarithm(y, x), y_moved)).sum(-1)


class _PrincipalAngles(torch.autograd.Function):
    """The angles, with the gradient supplied: singular values have none where they repeat, and lose the one at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        cosines, sines = _cosines_and_sines(x, y)
        angles = torch.atan2(sines, cosines).to(x.real.dtype)
        return _of_bases(angles, cosines.square() + sines.square(), 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        with no_autocast(x.device.type):
            forth, left, back, right = _directions(x, y)
            g = gradient[..., None, :]
            by_x, by_y = -(g * forth) @ left.mH, -(g * back) @ right.mH
        return by_x.sum_to_size(x.shape), by_y.sum_to_size(y.shape)

    @staticmethod
    def jvp(ctx: Any, x_moved: Tensor, y_moved: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        with no_autocast(x.device.type):
            forth, left, back, right = _directions(x, y)
            return -(_real_inner(forth, x_moved @ left) + _real_inner(back, y_moved @ right))


def _directions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H, A, K, B with d theta_i = -Re(h_i^H dX a_i) - Re(k_i^H dY b_i); h_i = k_i = 0 where theta_i is 0 to rounding."""
    angles, left, right, residual = _principal_frames(x, y)
    forth = _unit(residual, column_norms(residual))
    # From V = U cos + H sin the other way round, U = V cos + K sin: no second residual is needed.
    back = angles.sin()[..., None, :] * (x @ left) - angles.cos()[..., None, :] * forth
    return forth, left, (forth != 0).any(-2, keepdim=True) * back, right


def _of_bases(values: Tensor, squares: Tensor, expected: int) -> Tensor:
    """The values, NaN where the sum of sin^2 + cos^2 shows matrices that are not orthonormal. An error would wait for the device."""
    within = squares.clamp((1 - TOLERANCE) * expected, (1 + TOLERANCE) * expected)
    return values.masked_fill(squares != within, math.nan)


def _real_inner(u: Tensor, v: Tensor) -> Tensor:
    """Re u_i^H v_i of the columns (..., p)."""
    product = (u.conj() * v).real if u.is_complex() else u * v
    return product.sum(-2)


def _norm(values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return length


def _sqrt(squared: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    return torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)


def _cos(angles: Tensor) -> Tensor:
    """cos theta, exactly 0 at the rounded pi/2 and never negative."""
    return (torch.pi / 2 - angles).clamp_min(0).sin()


def _fold(values: Tensor, combine: Callable[[Tensor, Tensor], Tensor], neutral: float) -> Tensor:
    """Combine the values along the last dimension in pairs; a product whose derivative is a polynomial, so right at any number of zeros."""
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = torch.nn.functional.pad(values, (0, 1), value=neutral)
        values = combine(values[..., ::2], values[..., 1::2])
    return values[..., 0]


def _binet_cauchy(angles: Tensor) -> Tensor:
    # 1 - (1 - a)(1 - b) = a + b (1 - a): the complement of a product of cosines, with no cancellation
    squared = _fold(angles.sin().square(), lambda a, b: a + b * (1 - a), 0.0)
    return _sqrt(squared)


def _fubini_study(angles: Tensor) -> Tensor:
    return torch.atan2(_binet_cauchy(angles), _fold(_cos(angles), torch.mul, 1.0))


def _martin(angles: Tensor) -> Tensor:
    squared_sine, cosine = angles.sin().square(), _cos(angles)
    near = -torch.log1p(-squared_sine.clamp_max(0.5))
    far = -2 * torch.where(cosine > 0, cosine, 1).log()
    finite = _sqrt(torch.where(squared_sine < 0.5, near, far).sum(-1))
    return torch.where((cosine > 0).all(-1), finite, math.inf)


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "geodesic": _norm,
    "chordal": lambda angles: _norm(angles.sin()),
    "projection": lambda angles: angles[..., -1].sin(),
    "binet-cauchy": _binet_cauchy,
    "fubini-study": _fubini_study,
    "procrustes": lambda angles: 2 * _norm((angles / 2).sin()),
    "spectral": lambda angles: 2 * (angles[..., -1] / 2).sin(),
    "martin": _martin,
}


def _wide(a: Tensor) -> Tensor:
    return a.to(double(a.dtype))


def _overlap_and_residual(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """X^H Y and the part of Y orthogonal to X; taken twice, it is so relative to its own size, and X need not be quite orthonormal."""
    overlap = inner_products(x, y)
    residual = minus_product(y, x, overlap)
    return overlap, minus_product(residual, x, inner_products(x, residual))


def _aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angles, their sines, the residual of Y in the basis in which X^H Y is diagonal, whose columns have these lengths, and that basis."""
    overlap, residual = _overlap_and_residual(x, y)
    basis, cosines, turn = torch.linalg.svd(_wide(overlap))
    residual = residual @ turn.mH.to(x.dtype)
    sines = column_norms(residual)
    return torch.atan2(sines, cosines.to(sines.dtype)), sines, residual, basis.to(x.dtype)


def _cosines_and_sines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both (..., p) in the order of increasing angles, in double precision."""
    overlap, residual = _overlap_and_residual(x, y)
    return torch.linalg.svdvals(_wide(overlap)), torch.linalg.svdvals(
        _wide(triangle(residual, differentiable=False))
    ).flip(-1)


def _principal_frames(x: Tensor, y: Tensor, differentiable: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angles (..., p), unitary A and B (..., p, p) with (X A)^H Y B = diag(cos), and the residual of Y B, of lengths sin.

    The right singular vectors of the cosines tell small angles apart as badly as those of the sines do angles near pi/2. Both are
    eigenvectors of (S^H S)^{1/2} - (C^H C)^{1/2}, whose eigenvalues sin - cos have slope 1 or more in the angle.
    """
    overlap, residual = _overlap_and_residual(x, y)
    left, cosines, right = torch.linalg.svd(_wide(overlap))
    _, sines, other = torch.linalg.svd(_wide(triangle(residual, differentiable)))
    difference = (other.mH * sines[..., None, :]) @ other - (right.mH * cosines[..., None, :]) @ right
    frame = torch.linalg.eigh(difference)[1]
    angles = torch.atan2(sines.flip(-1), cosines).to(x.real.dtype)
    return angles, (left @ right @ frame).to(x.dtype), frame.to(x.dtype), residual @ frame.to(x.dtype)


def _unit(directions: Tensor, lengths: Tensor) -> Tensor:
    """Columns scaled to length 1; 0 where the length is rounding only."""
    there = lengths > ROUNDING * torch.finfo(lengths.dtype).eps
    return directions * (there / torch.where(there, lengths, 1))[..., None, :]

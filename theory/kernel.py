"""Stepwise learning in function space: Barlow Twins of a kernel method, from the kernel matrix alone.

Simon et al., ICML 2023, arXiv 2303.15438, section 5. A model f(x) = W^T phi(x) with feature map phi, kernel
K(x, y) = phi(x)^T phi(y), trained as in `theory.stepwise` on n positive pairs (x_i, x'_i). Nothing but kernel values enters:
    Ktilde (2n, 2n)   kernel matrix of the stacked list (x_1 .. x_n, x'_1 .. x'_n),
    k(x) (2n,)        kernel values of x with the stacked list, one column for each new x,
    K_Gamma = (1/2n) Ktilde^{1/2} J Ktilde^{1/2},  J = [[0, I_n], [I_n, 0]] exchanges the views,
    K_Gamma b_j = gamma_j b_j,   u_j(x) = b_j^T Ktilde^{-1/2} k(x)   (functions of norm 1, orthogonal, in the space of K).
The gamma_j are the non-zero eigenvalues of the cross-moment Gamma of the features, perhaps negative, and u_j = v_j^T phi
with v_j its eigenvectors: trajectories, step times and losses are those of `theory.stepwise` with these gamma_j.
For a network, Ktilde is its (empirical) neural tangent kernel, averaged over outputs. The prediction holds while that kernel
stays constant and for outputs that start small, f_0 -> 0; f_0 = 0 itself, as in a centred network, is a saddle.
Unit of time: t = learning rate x step on L = ||C - I||_F^2, C = (1/2n) sum_i (f(x_i) f(x'_i)^T + f(x'_i) f(x_i)^T), that is
gradient flow in function space df(x)/dt = -sum_a K(x, x_a) dL/df(x_a) over the stacked list.
Outputs are found up to one rotation of R^d. All functions raise ValueError for arrays that are not finite or do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory import _validation as check
from theory import stepwise
from theory._validation import Array


@dataclass(frozen=True, eq=False)
class KernelModes:
    """Eigenvalues gamma_j of K_Gamma and their functions u_j(x) = sum_a coefficients_aj K(x_a, x), x_a the stacked list."""

    gamma: Array  # (r,), decreasing, positive and negative, none zero
    coefficients: Array  # (2n, r)
    values: Array  # (2n, r), u_j at the stacked list: Ktilde^{1/2} b_j


def kernel_modes(kernel: ArrayLike, cutoff: float = 1e-9) -> KernelModes:
    """Modes with gamma_j != 0 of the kernel matrix Ktilde (2n, 2n) of the stacked list (x_1 .. x_n, x'_1 .. x'_n).

    b_j, gamma_j: eigenvectors and eigenvalues of K_Gamma; u_j at the stacked list = Ktilde^{1/2} b_j; coefficients
    J Ktilde^{1/2} b_j / (2n gamma_j), which define the same functions as Ktilde^{-1/2} b_j and need no inverse: singular
    and badly conditioned kernels (repeated samples) cost no accuracy. Eigenvalues of Ktilde up to 2n eps kappa_1 are
    rounding and count as zero.
    Modes with |gamma_j| <= cutoff kappa_1 / 2n, kappa_1 the largest eigenvalue of Ktilde and a bound of 2n |gamma_j|,
    count as zero: they are rounding, or would be learned 1/cutoff times later. The relative error of the others is about
    eps kappa_1 / (2n |gamma_j|). There may be no mode left. Order of modes and signs of functions as in `spectrum`.
    Raises ValueError unless `kernel` is square with an even number of rows, symmetric, positive semi-definite (1e-10,
    relative) and not zero, and 0 < cutoff < 1. Source: Proposition 5.1 of the paper; form without inverse derived here.
    """
    if check.positive_number("cutoff", cutoff) >= 1:
        raise ValueError(f"cutoff must be < 1, got {cutoff}")
    matrix = check.positive_semidefinite("kernel", kernel)
    if matrix.shape[0] % 2:
        raise ValueError(f"kernel must have an even number 2n of rows, one for each view, got {matrix.shape[0]}")
    sizes, vectors = np.linalg.eigh(matrix)
    if sizes[-1] <= 0:
        raise ValueError("kernel must not be zero")
    # Eigenvalues as small as rounding are zero: their square roots, 1e-8 of the largest, would make modes out of nothing.
    rounding = sizes.size * np.finfo(np.float64).eps * sizes[-1]
    root = (vectors * np.sqrt(np.where(sizes > rounding, sizes, 0.0))) @ vectors.T
    gamma, b = stepwise.spectrum(_pair_average(root))
    kept = np.abs(gamma) > cutoff * sizes[-1] / sizes.size
    values = root @ b[:, kept]
    return KernelModes(gamma[kept], _exchange(values) / (sizes.size * gamma[kept]), values)


def embeddings(modes: KernelModes, columns: ArrayLike, d: int) -> Array:
    """Embeddings (..., q, d) after all steps: f_j(x) = gamma_j^{-1/2} u_j(x), j <= d, up to one rotation of R^d.

    columns (..., 2n, q): k(x) for each of q samples. Reached from small weights; of all functions without loss this one
    has the smallest norm, sum_j 1/gamma_j (`stepwise.minimum_norm`). Raises ValueError if fewer than d gamma are
    positive. Source: Proposition 5.1 of the paper.
    """
    d = _positive(modes, d)
    return _functions(modes, columns, d) / np.sqrt(modes.gamma[:d])


def training_embeddings(modes: KernelModes, d: int) -> Array:
    """Embeddings (2n, d) of the stacked list after all steps: F = Ktilde^{1/2} [b_1 .. b_d] diag(gamma_j^{-1/2}).

    Their cross-moment is the identity, (1/2n) F^T J F = I_d. Validity, errors and source as `embeddings`.
    """
    d = _positive(modes, d)
    return modes.values[:, :d] / np.sqrt(modes.gamma[:d])


def flow_embeddings(t: ArrayLike, modes: KernelModes, columns: ArrayLike, s0: ArrayLike) -> Array:
    """Embeddings (..., T, q, d) during training from an aligned start: f_j(x, t) = s_j(t) u_j(x), j <= d.

    s0 (..., d): norms of the initial outputs f_j(x, 0) = s0_j u_j(x); s_j(t) of `stepwise.singular_values`. columns
    (2n, q): k(x) for each of q samples. Unit of time: t = learning rate x step, gradient flow in function space.
    Exact for every s0 >= 0. Small random starts follow the start that `stepwise.aligned_initialisation` describes, up to
    a rotation; outputs that start at exactly 0 stay there. Negative gamma_j among the first d decay.
    Raises ValueError if there are fewer than d modes, for t < 0 or s0 < 0. Source: Proposition 4.1 and section 5.
    """
    start = check.non_negative("s0", s0, at_least=1)
    d = start.shape[-1]
    if d > modes.gamma.size:
        raise ValueError(f"s0 (..., d) needs d <= {modes.gamma.size}, the number of modes, got shape {start.shape}")
    functions = _functions(modes, check.array("columns", columns, ndim=2), d)
    return stepwise.singular_values(t, start, modes.gamma[:d])[..., None, :] * functions


def _functions(modes: KernelModes, columns: ArrayLike, d: int) -> Array:
    """u_j(x) (..., q, d)."""
    values = check.array("columns", columns, at_least=2)
    rows = modes.coefficients.shape[0]
    if values.shape[-2] != rows:
        raise ValueError(f"columns must have shape (..., {rows}, q) to fit the kernel, got {values.shape}")
    return np.swapaxes(values, -1, -2) @ modes.coefficients[:, :d]


def _positive(modes: KernelModes, d: int) -> int:
    d, count = check.integer("d", d), int((modes.gamma > 0).sum())
    if count == 0:
        raise ValueError("modes has no positive eigenvalue: nothing will be learned")
    if d > count:
        raise ValueError(f"d must be at most {count}, the number of positive eigenvalues, got {d}")
    return d


def _exchange(rows: Array) -> Array:
    """J rows: the two views of every pair exchanged, rows (2n, ...)."""
    return np.roll(rows, rows.shape[0] // 2, axis=0)


def _pair_average(root: Array) -> Array:
    """(1/2n) root^T J root, symmetric to the last bit: its entries may all be as small as rounding."""
    product: Array = root.T @ _exchange(root) / root.shape[0]
    return (product + product.T) / 2

"""How training changes wide two-layer networks: powers of the width h, and how long an unbounded loss stays lazy.

f(x) = h^{-1/2} sum_k v_k phi(u_k^T x), k = 1 .. h, with u_k and v_k of order one in every width: the kernel of the last layer,
(1/h) sum_k phi(u_k^T x) phi(u_k^T y), and that of the first, (1/h) sum_k v_k v_k^T phi'(u_k^T x) phi'(u_k^T y) (x^T y), have limits
as h grows. Time is of order one: t = learning rate x step with df/dt = -Theta dL/df, so that every weight moves by its gradient,
h^{-1/2} of its size (Lee et al. 2019, arXiv 1902.06720, bound both moves and kernel by that).
Its direction has a sign that is independent of what the weight multiplies: a change of the kernel is a sum of such signs.
    smooth phi : every unit changes by a share h^{-1/2}: the kernels change by h^{-1}  (Dyer & Gur-Ari 2020, arXiv 1909.11304).
    relu       : phi is as smooth in the last layer's kernel. In the first layer's a share h^{-1/2} of the units, those that were as
                 close to their kink, switch on or off, each by all of its term: h^{-3/4}. Derived here.
Under an orthogonality constraint the kernel is the projected one, Phi (I - W2 W2^T) Phi^T for the last layer: it changes at any width,
since the projection moves with the weights (Esser, Mukherjee & Ghoshdastidar, arXiv 2309.02011, ask the question). Derived here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from theory import _validation as check

MOVE = -0.5  # the size of a weight's gradient, from the factor h^{-1/2} of the outputs


class Exponents(NamedTuple):
    """Powers of h of what training changes; None where nothing is predicted, or where there is nothing of the kind.

    last_layer  relative change of the last layer's kernel
    whole       relative change of the whole tangent kernel
    movement    relative change of the last layer's weights
    switched    share of pairs (unit, input) at which a ReLU switched
    """

    last_layer: float | None
    whole: float | None
    movement: float | None
    switched: float | None


def independent_signs(share: float = 0.0, size: float = 0.0) -> float:
    """The power of h of (1/h) sum_k e_k a_k, e_k = +-1 independent, over h^{1 + share} of the h units, |a_k| ~ h^size.

    The root of h^{1 + share} terms, over h: (share - 1)/2 + size. With neither, -1/2: the part of the tangent kernel of a random
    network that couples two outputs, (1/h) sum_k v_ka v_kb (..), a != b, over the part that does not.
    """
    return (share - 1) / 2 + size


def free(activation: Literal["relu", "smooth"]) -> Exponents:
    """Without constraint, any loss, after a time of order one: -1, -3/4, -1/2, -1/2 for relu and -1, -1, -1/2, None for smooth ones.

    Of a loss that is not bounded from below, up to the time of `lazy_time_slope`. Raises ValueError for other activations.
    """
    if activation not in ("relu", "smooth"):
        raise ValueError(f"activation must be relu or smooth, got {activation!r}")
    smooth = independent_signs(size=MOVE)
    if activation == "smooth":
        return Exponents(smooth, smooth, MOVE, None)
    return Exponents(smooth, independent_signs(share=MOVE), MOVE, MOVE)


def constrained(*, growing: bool, first_layer: bool) -> Exponents:
    """A trace loss tr(f^T A f) with orthonormal W2 (h, d), and with orthonormal W1 where the first layer is trained.

    growing: A has a negative eigenvalue in the span of the features. Then 0: W2 turns to the bottom-d eigenspace of Phi^T A Phi, an
    angle of order one away, and the projection with it. Otherwise that eigenspace is the null space of Phi^T A Phi, which is nearly all
    of R^h: with W1 fixed W2 loses only its part in the at most n other directions, a share (n / h)^{1/2}, and the kernel changes by its
    square; with W1 trained nothing is predicted. With W1 fixed the whole kernel is that of the last layer.
    """
    if growing:
        return Exponents(0.0, 0.0, 0.0, 0.0 if first_layer else None)
    return Exponents(None, None, None, None) if first_layer else Exponents(2 * MOVE, 2 * MOVE, MOVE, None)


def lazy_time_slope(lambda_: float) -> float:
    """The factor 1 / (4 |lambda|) in front of log h in the time at which a free trace loss leaves the lazy regime.

    lambda_ < 0: the smallest eigenvalue of Theta^{1/2} (A (x) I) Theta^{1/2}, Theta the tangent kernel at the start. Outputs grow as
    e^{2 |lambda| t}, df/dt = -2 Theta A f, weights with them, and the kernel changes by e^{4 |lambda| t} / h, which reaches order one
    at t = log(h) / (4 |lambda|) + const. Raises ValueError unless lambda_ < 0: nothing grows then. Derived here.
    """
    if check.number("lambda_", lambda_) >= 0:
        raise ValueError(f"lambda_ must be < 0, got {lambda_}: nothing grows, and training stays lazy")
    return -1 / (4 * lambda_)

"""Two-layer ReLU networks, batched over seeds, and their tangent kernels.

f(x) = sqrt(h) W2^T phi(W1^T x), phi = max(0, .), W1 (m, h) and W2 (h, d), kept as Q = W1^T (h, m) so that both weights are tall. At the
start Q and W2 have orthonormal columns: units and outputs are of order one in every width h. Both weights move by
-(lr / h) dL/dW, t = lr x step: then df/dt = -Theta dL/df with a kernel that has a limit as h grows,
    Theta = (1/h) J J^T = Phi Phi^T (x) I + (first layer),    Phi = phi(x Q^T)  (n, h),
J the Jacobian of the outputs. A weight on the Grassmannian moves by the projected gradient, and its part of the kernel is
(1/h) J (I - P) J^T with P = W W^T: Phi (I - P2) Phi^T for the last layer. Leading dimensions are seeds.

Their scaling with the width: `theory.lazy`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def features(x: Float[Tensor, " n m"], q: Float[Tensor, " *b h m"]) -> Float[Tensor, " *b n h"]:
    """Phi = phi(x Q^T)."""
    return (x @ q.mT).relu()


def active(x: Float[Tensor, " n m"], q: Float[Tensor, " *b h m"]) -> Bool[Tensor, " *b n h"]:
    """Which units are active at which input."""
    return x @ q.mT > 0


def outputs(phi: Float[Tensor, " *b n h"], w: Float[Tensor, " *b h d"]) -> Float[Tensor, " *b n d"]:
    """f = sqrt(h) Phi W2."""
    f: Tensor = w.shape[-2] ** 0.5 * (phi @ w)
    return f


def last_layer_kernel(
    phi: Float[Tensor, " *b n h"], w: Float[Tensor, " *b h d"], constrained: bool
) -> Float[Tensor, " *b n n"]:
    """Phi Phi^T, or Phi (I - W2 W2^T) Phi^T for a last layer on the Grassmannian: the same for every output."""
    kernel = phi @ phi.mT
    if constrained:
        along = phi @ w
        kernel = kernel - along @ along.mT
    return kernel


def neural_tangent_kernel(
    x: Float[Tensor, " n m"], q: Float[Tensor, " *b h m"], w: Float[Tensor, " *b h d"], constrained: bool
) -> Float[Tensor, " *b n n d d"]:
    """Theta[i, j, a, b] = (1/h) <grad f_a(x_i), grad f_b(x_j)>, with both gradients projected where both layers are `constrained`.

    First layer: (x_i . x_j) sum_k W2_ka W2_kb 1[unit k on at x_i] 1[on at x_j], less (x_i . x_j) (v_ia . v_jb) with
    v_ia = Q^T (W2_a * on(x_i)) if constrained.
    """
    on = active(x, q).to(x.dtype)
    d = w.shape[-1]
    last = last_layer_kernel(features(x, q), w, constrained)
    kernel = last[..., None, None] * torch.eye(d, dtype=x.dtype, device=x.device)
    inner = x @ x.mT
    weighted = [on * w[..., None, :, a] for a in range(d)]
    inside = [part @ q for part in weighted]
    for a in range(d):
        for b in range(a, d):
            first = weighted[a] @ weighted[b].mT
            if constrained:
                first = first - inside[a] @ inside[b].mT
            kernel[..., a, b] += inner * first
            if b > a:
                kernel[..., b, a] += inner * first.mT
    return kernel

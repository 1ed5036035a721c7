"""The empirical neural tangent kernel of a network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def empirical_ntk(
    model: nn.Module, x: Float[Tensor, " n *i"], y: Float[Tensor, " k *i"] | None = None, *, chunk: int = 256
) -> Float[Tensor, " n k d d"]:
    """K_ab(x_i, y_j) = sum over parameters of (df_a/dtheta)(x_i) . (df_b/dtheta)(y_j), for outputs f (d,) of one sample.

    Shapes (n, ...), (k, ...) -> (n, k, d, d); y = x where not given. The sum is over all parameters that require a gradient. On the
    device and in the dtype of the inputs. Jacobians are held for `chunk` samples of x and of y at a time: memory 2 chunk d times the
    number of parameters. Samples must not interact in the model (no batch normalisation in training mode). Theory takes `scalar_kernel`
    of it.
    Raises ValueError for chunk < 1, or where no parameter requires a gradient. Source: Jacot et al. 2018, arXiv 1806.07572.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model must have a parameter that requires a gradient")
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = dict(model.named_buffers())

    def output(trained: dict[str, Tensor], sample: Tensor) -> Tensor:
        batch: Tensor = functional_call(model, {**trained, **fixed, **buffers}, (sample[None],))
        return batch[0]

    def jacobian(samples: Tensor) -> list[Tensor]:
        """(samples, d, size) of every parameter."""
        return [part.flatten(2) for part in vmap(jacrev(output), (None, 0))(parameters, samples).values()]

    def block(left: list[Tensor], right: list[Tensor]) -> Tensor:
        return torch.stack([torch.einsum("iap,jbp->ijab", a, b) for a, b in zip(left, right, strict=True)]).sum(0)

    rows = []
    columns = torch.split(x if y is None else y, chunk)
    with torch.no_grad():
        for i, left in enumerate(torch.split(x, chunk)):
            own = jacobian(left)
            blocks = [block(own, own if y is None and i == j else jacobian(right)) for j, right in enumerate(columns)]
            rows.append(torch.cat(blocks, 1))
    return torch.cat(rows)


def scalar_kernel(kernel: Float[Tensor, " *b n k d d"]) -> Float[Tensor, " *b n k"]:
    """K = (1/d) sum_a Theta_aa: the kernel with Theta_ab = delta_ab K that is closest to Theta. Shapes (..., d, d) -> (...)."""
    return kernel.diagonal(dim1=-2, dim2=-1).mean(-1)


def not_scalar(kernel: Float[Tensor, " *b n k d d"]) -> Float[Tensor, " *b"]:
    """||Theta - K (x) I||_F / ||Theta||_F, the relative distance of a kernel from its `scalar_kernel` K.

    Shapes (..., n, k, d, d) -> (...).
    """
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    rest = kernel - scalar_kernel(kernel)[..., None, None] * identity
    share: Tensor = rest.flatten(-4).norm(dim=-1) / kernel.flatten(-4).norm(dim=-1)
    return share

"""Functions with derivatives of their own, called at the cost of their formula where nobody can ask for a derivative."""

import torch
from torch import Tensor


def watched(*inputs: Tensor) -> bool:
    """Whether autograd or a transform of torch.func may ask for a derivative of what is computed from these."""
    return (
        (torch.is_grad_enabled() and any(t.requires_grad for t in inputs))
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
    )


def applied(function: type[torch.autograd.Function], *inputs: Tensor) -> Tensor:
    """function.apply(*inputs); the forward formula alone where nobody watches.

    torch takes 40 us to find the arguments of an `apply`, as long as the distance of two small matrices.
    """
    result: Tensor = function.apply(*inputs) if watched(*inputs) else function.forward(*inputs)  # type: ignore[no-untyped-call]  # torch gives it no types
    return result

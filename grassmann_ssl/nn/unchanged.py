"""Modules of a caller's that are as they were where something is refused."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def unchanged_on_error(*modules: nn.Module) -> Iterator[None]:
    """Puts modules back if the block raises: their classes, modes and hooks, values, gradients and classes of parameters, and buffers.

    Parameters stay the same objects, as an optimizer may hold them; those of lazy modules that got their values stay as drawn. Costs a copy
    of the weights while the block runs.
    """
    parts = {part: None for module in modules for part in module.modules()}
    tensors = {
        id(x): x for part in parts for x in (*part._parameters.values(), *part._buffers.values()) if x is not None
    }
    states = [(part, part.__class__, {name: _copied(value) for name, value in part.__dict__.items()}) for part in parts]
    values = [
        (x, x.__class__, dict(x.__dict__), x.grad, x.detach().clone(), x.requires_grad)
        for x in tensors.values()
        if not is_lazy(x)
    ]
    try:
        yield
    except BaseException:
        for part, kind, state in states:
            part.__class__ = kind
            part.__dict__.clear()
            part.__dict__.update(state)
        with torch.no_grad():
            for x, of, attributes, gradient, value, requires in values:
                x.__class__ = of
                x.__dict__.clear()
                x.__dict__.update(attributes)
                x.data, x.grad = value, gradient
                x.requires_grad_(requires)
        raise


def _copied(value: Any) -> Any:
    """Of a dictionary or a set, such as that of the parameters or of the hooks, a copy; anything else itself."""
    return copy.copy(value) if isinstance(value, (dict, set)) else value

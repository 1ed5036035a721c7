"""Losses and manifolds compute in float32 or float64, under autocast and for half-precision inputs too."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor

FULL = (torch.float32, torch.float64, torch.complex64, torch.complex128)
HALF = (torch.float16, torch.bfloat16)
Operation = TypeVar("Operation", bound=Callable[..., Any])


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of keyword arguments that runs outside autocast, with half-precision tensors widened to float32 first."""

    @functools.wraps(loss)
    def wrapped(**arguments: Any) -> Tensor:
        kind = next(value.device.type for value in arguments.values() if isinstance(value, Tensor))
        widened = {name: _widened(value) for name, value in arguments.items()}
        with no_autocast(kind):
            return loss(**widened)

    return wrapped


def in_full_precision(method: Operation) -> Operation:
    """Run a method of a manifold in float32 or float64 (or complex), autocast switched off. Raises TypeError for others.

    Under autocast X^T X would be computed in bfloat16, and a point would leave the manifold by 4e-3. Half-precision tensors are taken
    where the manifold `stores_half`: they are widened to float32 and what comes out is rounded back.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = stored = None
        for a in (*args, *kwargs.values()):
            if isinstance(a, Tensor):
                kind = a.device.type
                if a.dtype not in FULL:
                    stored = a.dtype
                    if stored not in HALF or not self.stores_half:
                        raise refusal(f"tensors of {self.name}.{method.__name__}", stored)
        if stored is not None:
            args = tuple(_widened(a) for a in args)
            kwargs = {name: _widened(a) for name, a in kwargs.items()}
        if not autocast_is_on(kind):  # a context that does nothing takes 1 us
            result = method(self, *args, **kwargs)
        else:
            with torch.autocast(kind, enabled=False):
                result = method(self, *args, **kwargs)
        return result if stored is None else _rounded(result, stored)

    return cast(Operation, wrapped)


def no_autocast(device_type: str | None) -> contextlib.AbstractContextManager[object]:
    """Autocast switched off where it is on."""
    if autocast_is_on(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def autocast_is_on(device_type: str | None) -> TypeGuard[str]:
    """Whether operations on such a device are autocast."""
    return device_type not in (None, "meta") and torch.is_autocast_enabled(device_type)


def refusal(where: str, dtype: torch.dtype) -> TypeError:
    """The error for a dtype in which an operation does not compute."""
    advice = "; Grassmann(retraction='polar') takes half-precision points" if dtype in HALF else ""
    return TypeError(f"{where} must be float32, float64, complex64 or complex128, got {dtype}{advice}")


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def _rounded(result: Any, dtype: torch.dtype) -> Any:
    if isinstance(result, tuple):
        return tuple(_rounded(part, dtype) for part in result)
    return result.to(dtype) if isinstance(result, Tensor) and result.dtype == torch.float32 else result

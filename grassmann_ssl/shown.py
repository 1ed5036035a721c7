"""What a value prints in a notebook: a line, whatever it holds."""

from dataclasses import fields
from typing import Any

LONG = 60  # letters of a value that is shown as it is


class Shown:
    """Base of dataclasses whose `repr` is short: arrays by their type and shape, other values as they are where they are short.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> @dataclass(repr=False)
    ... class Point(Shown):
    ...     x: torch.Tensor
    ...     steps: int
    >>> Point(torch.zeros(2, 3), 4)
    Point(x=float32 (2, 3), steps=4)
    """

    def __repr__(self) -> str:
        parts: Any = self
        told = ", ".join(f"{one.name}={short(getattr(self, one.name))}" for one in fields(parts) if one.repr)
        return f"{type(self).__name__}({told})"


def short(value: Any) -> str:
    """A value in a few words."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        if len(shape) == 0:
            return f"{float(value):.6g}"
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    if len(text) <= LONG and "\n" not in text:
        return text
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"<{type(value).__name__}{size}>"

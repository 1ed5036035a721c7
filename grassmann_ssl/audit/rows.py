"""What the audit takes for rows: arrays of numpy and torch, frames of pandas, with what is refused or left out."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FIRST = 8  # entries that tell most rows apart
CHUNK = 2**20  # entries of rows that are worked on at a time: what is made of them stays in the cache


def as_rows(z: Any, tokens: str | None = None, groups: Any = None, name: str = "z") -> tuple[Tensor, Tensor | None]:
    """Rows (N, D), floating, and the group of every row, None where every row is its own.

    (N, T, D) needs `tokens`: "mean" pools the T tokens of a sample into one row, "rows" takes every token as a row, with its sample as its
    group. Raises ValueError, in one line that names the argument, for another type, shape or dtype, and for groups that do not fit.
    """
    rows = as_tensor(z, name)
    if rows.ndim == 3 and tokens is None:
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)}: say tokens='mean' (one row per sample) or tokens='rows' (every token a row, in groups)"
        )
    if rows.ndim not in (2, 3) or (rows.ndim == 2 and tokens is not None):
        wanted = "(N, D), or (N, T, D) with tokens" if tokens is None else "(N, T, D) where tokens is given"
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(rows.shape)}")
    own = None
    if rows.ndim == 3 and tokens == "mean":
        rows = rows.mean(1, dtype=rows.dtype if rows.dtype.itemsize > 2 else torch.float32)
    elif rows.ndim == 3:
        own = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        rows = rows.flatten(0, 1)
    if not rows.shape[0] or not rows.shape[1]:
        raise ValueError(f"{name} must have at least one row and one dimension, got shape {tuple(rows.shape)}")
    if groups is not None:
        if own is not None:
            raise ValueError("groups must not be given with tokens='rows': the samples are the groups")
        own = as_labels(groups, len(rows), "groups").to(rows.device)
    return rows, own


def as_tensor(z: Any, name: str) -> Tensor:
    """A floating tensor of a torch or numpy array or a pandas frame, without a copy where there is one already."""
    if type(z).__module__.split(".")[0] == "pandas":
        z = _of_pandas(z, name)
    if isinstance(z, np.ndarray):
        if z.dtype.kind in "biu":
            raise ValueError(f"{name} must be floating, got dtype {z.dtype}: convert it with .astype('float32')")
        if z.dtype.kind != "f":
            raise ValueError(f"{name} must hold real numbers alone, got dtype {z.dtype}")
        if isinstance(z, np.ma.MaskedArray):
            z = z.filled(np.nan)
        if z.dtype.itemsize > 8 or not z.dtype.isnative:
            z = z.astype(np.float64 if z.dtype.itemsize > 4 else z.dtype.newbyteorder("="))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
            return torch.from_numpy(np.ascontiguousarray(z) if any(s < 0 for s in z.strides) else z)
    if not isinstance(z, Tensor):
        raise ValueError(f"{name} must be an array of numpy or torch or a frame of pandas, got {_of_another_kind(z)}")
    if z.is_nested:
        raise ValueError(f"{name} must have a number in every place, got a nested tensor")
    if z.is_complex():
        raise ValueError(f"{name} must hold real numbers alone, got dtype {z.dtype}")
    if z.dtype not in FLOATS:
        known = ", ".join(str(one).removeprefix("torch.") for one in FLOATS)
        raise ValueError(f"{name} must be of {known}, got {z.dtype}: convert it with .float()")
    if z.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got layout {z.layout}: convert it with .to_dense()")
    return z.detach()


def _of_another_kind(z: Any) -> str:
    """The kind of what is no array, and how an array is made of it."""
    kind = type(z).__name__
    if isinstance(z, str | os.PathLike):
        return f"{kind}: for a file there is `grassmann-ssl audit FILE`, and grassmann_ssl.data.load_array"
    if hasattr(z, "toarray"):
        return f"{kind}: convert it with .toarray()"
    if isinstance(z, list | tuple) and z and isinstance(z[0], Tensor):
        return f"{kind} of tensors: convert it with torch.cat or torch.stack"
    return f"{kind}: convert it with np.asarray" if isinstance(z, list | tuple) or hasattr(z, "__array__") else kind


def _of_pandas(frame: Any, name: str) -> np.ndarray:
    """The numbers of a frame in their own dtype; those that are missing become NaN."""
    columns = dict(frame.dtypes) if frame.ndim == 2 else {frame.name: frame.dtype}
    for column, kind in columns.items():
        if kind.kind not in "biuf":
            values = frame[column] if frame.ndim == 2 else frame
            lists = len(values) and isinstance(values.iloc[0], (list, tuple, np.ndarray))
            holds = "lists: make an array of it with np.stack" if lists else str(kind)
            raise ValueError(f"{name} must hold real numbers alone, and column {column!r} holds {holds}")
        if kind.kind != "f" and any(other.kind == "f" for other in columns.values()):
            raise ValueError(
                f"{name} has a column {column!r} of {kind} among floating ones: leave it out, or convert it if it is a dimension"
            )
    numbers: np.ndarray = frame.to_numpy()
    if numbers.dtype.kind == "O":  # the types of pandas that know missing values
        kind = np.result_type(*(getattr(one, "numpy_dtype", one) for one in columns.values()))
        numbers = frame.to_numpy(kind, na_value=np.nan if kind.kind == "f" else 0)  # integers are refused anyway
    return numbers


def as_labels(labels: Any, n: int, name: str) -> Tensor:
    """The number (N,) of the class of every row, in the order of `names_of`. Raises ValueError for another length or missing labels."""
    values = _flat(labels, name)
    if values.shape != (n,):
        raise ValueError(f"{name} must have one entry for each of the {n} rows, got shape {tuple(values.shape)}")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))


def names_of(labels: Any, name: str = "labels") -> tuple[str, ...]:
    """The different labels in their order, as text."""
    return tuple(str(value) for value in np.unique(_flat(labels, name)))


def _flat(labels: Any, name: str) -> np.ndarray:
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.dtype.kind == "O":
        if not all(isinstance(value, (str, int, bool)) for value in values.ravel()):
            raise ValueError(f"{name} must be integers or texts, one for each row, and some are neither")
        values = values.astype(str)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must not be missing, and {int((~np.isfinite(values)).sum())} are not finite")
        whole = (values == np.floor(values)) & (np.abs(values) < 2**53)
        if not whole.all():
            raise ValueError(f"{name} must be integers or texts, and {int((~whole).sum())} are fractions")
        values = values.astype(np.int64)
    elif values.dtype.kind not in "iubSU":
        raise ValueError(f"{name} must be integers or texts, got dtype {values.dtype}")
    return values


def magnitude(z: Tensor) -> float:
    """The largest |entry|; not finite where one is not."""
    least, most = z.aminmax()  # NaN where an entry is NaN
    return float(torch.maximum(-least, most))


def finite_rows(z: Tensor) -> Tensor:
    """Whether every entry of a row is finite, (N,)."""
    return torch.cat([rows.isfinite().all(1) for rows in torch.split(z, max(1, CHUNK // z.shape[1]))])


def distinct_rows(z: Tensor) -> int:
    """How many rows (N, D) differ, by a hash of 64 bits; of whole rows only where the first entries are alike."""
    _, place, count = torch.unique(_hashes(z[:, :FIRST]), return_inverse=True, return_counts=True)
    shared = (count[place] > 1).nonzero()[:, 0]
    if not len(shared):
        return len(z)
    parts = [_hashes(z[rows]) for rows in torch.split(shared, max(1, CHUNK // z.shape[1]))]
    return len(z) - len(shared) + len(torch.unique(torch.cat(parts)))


def _hashes(z: Tensor) -> Tensor:
    """One number of 64 bits for each row; equal for equal rows."""
    drawn = torch.randint(-(2**62), 2**62, (2, z.shape[1]), generator=torch.Generator().manual_seed(0))
    first, second = (2 * drawn + 1).to(z.device).unbind()
    x = wide(z) + 0.0  # -0 is 0
    bits = x.view(torch.int64 if x.dtype == torch.float64 else torch.int32) * first
    mixed: Tensor = (bits ^ (bits >> 32)) * second
    return mixed.sum(1)


def wide(z: Tensor) -> Tensor:
    """In float32, or float64 for float64."""
    return z if z.dtype == torch.float64 else z.float()


def in_range(rows: Tensor, largest: float) -> tuple[Tensor, float]:
    """Rows of this magnitude in their dtype, their fourth powers in its range, and the power of two that they were divided by."""
    if largest == 0 or 1e-4 < largest < 1e4:
        return rows, 1.0
    power = math.floor(math.log2(largest))
    half = power // 2  # in two steps, each of which is in the range of float32
    return rows * 2.0**-half * 2.0 ** (half - power), 2.0**power

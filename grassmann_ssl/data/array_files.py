"""Arrays from local files: .npy, .npz, .safetensors, .parquet, .csv. Nothing in a file is run, and no object is made from it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from grassmann_ssl.data.room import check_memory
from grassmann_ssl.registry import nearest
from grassmann_ssl.streams import plain

NAMED = (".npz", ".safetensors")  # hold several arrays, each with a name
TABLES = (".parquet", ".csv")
KINDS = (".npy", *NAMED, *TABLES)
CODE = (".pt", ".pth", ".pkl", ".ckpt", ".bin")  # reading them would run what is in them


def load_array(path: str | Path, name: str | None = None) -> np.ndarray | Tensor:
    """The array in a file, of numpy, or of torch from .safetensors; that of an .npy stays on the disk until it is used.

    Of .parquet and .csv (N, D), a dimension for each column; an index of pandas is left out. A column of a .parquet that holds lists is an
    array, (N, D) with D numbers in each list. A first line of a .csv that is all numbers is a row, unless it counts the columns,
    0, 1, 2, ... `name` chooses an array where the file holds several, or a column of lists beside others.
    Raises ValueError, in one line that names the file, where it is missing, of another kind, empty or broken, where a name is needed
    (the known ones are listed), unknown or without use, for arrays of Python objects, for columns that are not numbers, and for lists of
    different lengths.
    """
    path, kind = _of_known_kind(path)
    if kind == ".parquet":
        column = _column_of_lists(path, name)
        if column is not None:
            return _lists(path, column)
    if name is not None and kind not in NAMED:
        raise ValueError(f"{path} holds one array without a name, and {name!r} was asked for")
    if kind == ".npy":
        return _npy(path)
    if kind == ".npz":
        return _npz(path, name)
    if kind == ".safetensors":
        return _safetensors(path, name)
    return _numbers(path, _table(path, kind))


def file_and_name(text: str) -> tuple[str, str | None]:
    """A file, and the name of what is meant in it, of FILE or FILE:NAME."""
    file, colon, name = text.rpartition(":")
    return (file, name) if colon and Path(file).suffix.lower() in KINDS and not Path(text).exists() else (text, None)


def load_column(path: str | Path, name: str | None = None) -> np.ndarray:
    """One entry for each row, (N,): the only array or column of a file, or that of this name; integers, texts or other values.

    Raises ValueError as `load_array`, and where there are several columns and none is named, or some entries are missing.
    """
    path, kind = _of_known_kind(path)
    if kind not in TABLES:
        array = load_array(path, name)
        values = array.numpy() if isinstance(array, Tensor) else array
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise ValueError(f"{path} must hold one entry for each row, (N,), got shape {values.shape}")
        return values
    table = _table(path, kind)
    if name is None and table.num_columns != 1:
        raise ValueError(
            f"{path} must have one column, got {table.num_columns}: {_shown(table.column_names)}; FILE:NAME chooses one"
        )
    names = table.column_names
    column = table.column(0 if name is None else names.index(_chosen(path, names, name, "column")))
    if column.null_count:
        raise ValueError(f"{path} has {column.null_count} of {len(column)} entries missing")
    return column.to_numpy() if _is_number(column.type) else np.asarray(column.to_pylist())


def _of_known_kind(path: str | Path) -> tuple[Path, str]:
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        hint = ": .npy is written by np.save" if kind in CODE else nearest(kind, KINDS) if kind else ""
        raise ValueError(f"{path} must end in one of {', '.join(KINDS)}{hint}")
    if not path.is_file():
        raise ValueError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    return path, kind


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line: files come from anywhere, and readers fail on broken ones in many ways."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
        if "bject" in reason and path.suffix.lower() in (".npy", ".npz"):
            reason = "it holds Python objects, which are never loaded; store an array of numbers or of texts"
        if any(word in reason for word in ("mmap length", "not a zip file", "magic string")):
            reason = "it is cut short, or of another kind"
        raise ValueError(f"{path} cannot be read: {reason}") from None


def _chosen(path: Path, known: Sequence[str], name: str | None, what: str = "array") -> str:
    if name is None and len(known) == 1:
        return known[0]
    if not known:
        raise ValueError(f"{path} holds no {what}")
    if name is None:
        raise ValueError(f"{path} holds {len(known)} {what}s, and one must be chosen by its name: {_shown(known)}")
    if name not in known:
        raise ValueError(f"{path} has no {what} {name!r}: known are {_shown(known)}{nearest(name, known)}")
    return name


def _cut(name: str, most: int = 60) -> str:
    return name if len(name) <= most else f"{name[:most]}…"


def _shown(names: Sequence[str], most: int = 20) -> str:
    return plain(", ".join(map(_cut, names[:most]))) + (f" and {len(names) - most} more" if len(names) > most else "")


def _npy(path: Path) -> np.ndarray:
    with reading(path):
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        return array


def array_names(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz. Raises ValueError where it cannot be read."""
    with reading(Path(path)), zipfile.ZipFile(path) as archive:
        return _names(archive)


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [one.removesuffix(".npy") for one in archive.namelist() if one.endswith(".npy")]


def _npz(path: Path, name: str | None) -> np.ndarray:
    with reading(path):
        archive = zipfile.ZipFile(path)
    with archive:
        chosen = _chosen(path, _names(archive), name)
        check_memory(str(path), archive.getinfo(f"{chosen}.npy").file_size)
        with reading(path), archive.open(f"{chosen}.npy") as member:
            array: np.ndarray = np.lib.format.read_array(member)
            return array


def _safetensors(path: Path, name: str | None) -> Tensor:
    from safetensors import safe_open

    with reading(path):
        file: Any = safe_open(path, framework="pt")
        known = sorted(file.keys())
    chosen = _chosen(path, known, name)
    with reading(path):
        tensor: Tensor = file.get_tensor(chosen)
        return tensor


def _table(path: Path, kind: str) -> Any:
    """A table of pyarrow, without the index of a frame of pandas."""
    with reading(path):
        if kind == ".csv":
            table = _csv(path)
        else:
            import pyarrow.parquet as pq

            table = pq.ParquetFile(path).read()
            index = (table.schema.pandas_metadata or {}).get("index_columns", [])
            table = table.drop_columns([one for one in index if one in table.column_names])
    if not table.num_columns or not len(table):
        raise ValueError(f"{path} has {len(table)} rows of {table.num_columns} columns, and at least one is needed")
    return table


def _csv(path: Path) -> Any:
    from pyarrow import csv

    table = csv.read_csv(path)
    names = table.column_names
    # pandas counts the columns of a frame without names: "0,1,2" is then a header; a single 0 is more likely a label.
    counted = len(names) > 1 and names == [str(k) for k in range(len(names))]
    if all(map(_is_text_of_number, names)) and not counted:
        table = csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))
    return table


def _column_of_lists(path: Path, name: str | None) -> str | None:
    """The column of a .parquet that is meant, of those that hold lists; None where there are none."""
    with reading(path):
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
    lists = [field.name for field in schema if _is_list(field.type)]
    if not lists:
        return None
    if name is None and len(schema) > 1:
        raise ValueError(
            f"{path} has {len(schema)} columns, and one of lists must be chosen by its name: {_shown(lists)}"
        )
    return _chosen(path, lists, name)


def _lists(path: Path, name: str) -> np.ndarray:
    """The lists of numbers of a column, (N, D); what is missing within one becomes NaN."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with reading(path):
        column = pq.ParquetFile(path).read(columns=[name]).column(name)
        kind = column.type.value_type
        missing, lengths = column.null_count, np.asarray(pc.list_value_length(column).fill_null(0))
        values = pc.list_flatten(column).to_numpy() if _is_number(kind) else None
    if values is None:
        raise ValueError(f"{path}: column {name!r} holds lists of {kind}, and only numbers are dimensions")
    if missing:
        raise ValueError(f"{path}: column {name!r} has {missing} of {len(lengths)} lists missing")
    if not len(values):
        raise ValueError(f"{path}: column {name!r} holds no numbers")
    if (lengths != lengths[0]).any():
        other = int((lengths != lengths[0]).argmax())
        raise ValueError(
            f"{path}: column {name!r} must hold lists of one length, got {lengths[0]} numbers in row 0 and {lengths[other]} in row {other}"
        )
    rows: np.ndarray = values.reshape(len(lengths), lengths[0])
    return rows if rows.dtype.kind == "f" else rows.astype(np.float64)


def _numbers(path: Path, table: Any) -> np.ndarray:
    """The columns of a table side by side, (N, D); float64, or the dtype of all columns where that is floating."""
    for place, field in enumerate(table.schema):
        if not field.name:
            raise ValueError(f"{path}: column {place + 1} has no name; if it is an index, write the file without it")
        if not _is_number(field.type):
            alone = (
                "; columns are separated by commas" if table.num_columns == 1 and path.suffix.lower() == ".csv" else ""
            )
            raise ValueError(
                f"{path}: column {_cut(field.name)!r} holds {field.type}, and only numbers are dimensions{alone}"
            )
    kinds = [np.dtype(field.type.to_pandas_dtype()) for field in table.schema]
    for place, (field, own) in enumerate(zip(table.schema, kinds, strict=True)):
        # A number that is the same in all rows has no point in a .csv; one that is not counts or names the rows.
        if own.kind != "f" and any(one.kind == "f" for one in kinds) and _varies(table.column(place)):
            raise ValueError(
                f"{path}: column {_cut(field.name)!r} holds {field.type} among floating numbers: leave it out, or write it as floating ones"
            )
    kind = kinds[0] if len(set(kinds)) == 1 else np.dtype(np.float64)
    rows = np.empty((len(table), table.num_columns), kind if kind.kind == "f" else np.float64)
    for place in range(table.num_columns):
        rows[:, place] = table.column(place).to_numpy()  # what is missing becomes NaN
    return rows


def _varies(column: Any) -> bool:
    import pyarrow.compute as pc

    ends = pc.min_max(column)
    return bool(ends["min"] != ends["max"])


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text_of_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

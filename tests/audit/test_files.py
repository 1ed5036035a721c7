"""Arrays in files of every known kind: what is read is what was written; what is broken is one line that names the file."""

import io
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from grassmann_ssl.data import load_array, load_column
from grassmann_ssl.data.array_files import file_and_name

ROWS = np.random.default_rng(0).standard_normal((12, 3))


def write(folder, kind, rows=ROWS):
    """One array in a file of this kind."""
    path = folder / f"z{kind}"
    if kind == ".npy":
        np.save(path, rows)
    elif kind == ".npz":
        np.savez_compressed(path, z=rows)
    elif kind == ".safetensors":
        save_file({"z": torch.from_numpy(rows)}, path)
    elif kind == ".parquet":
        pd.DataFrame(rows, columns=["a", "b", "c"]).to_parquet(path)
    else:
        pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(path, index=False)
    return path


KINDS = [".npy", ".npz", ".safetensors", ".parquet", ".csv"]


def refused(path, *words, load=load_array, name=None):
    """The message of the refusal: one line with the file and these words."""
    with pytest.raises(ValueError) as caught:
        load(path, name) if name else load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message, message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written(tmp_path, kind):
    found = load_array(write(tmp_path, kind))
    assert isinstance(found, torch.Tensor) == (kind == ".safetensors")
    np.testing.assert_array_equal(np.asarray(found), ROWS)
    shutil.move(tmp_path / f"z{kind}", tmp_path / f"z{kind.upper()}")
    np.testing.assert_array_equal(np.asarray(load_array(tmp_path / f"z{kind.upper()}")), ROWS)


def test_an_npy_stays_on_the_disk_and_a_dtype_stays_what_it_is(tmp_path):
    assert isinstance(load_array(write(tmp_path, ".npy")), np.memmap)
    for kind in (".npy", ".npz", ".safetensors"):
        assert np.asarray(load_array(write(tmp_path, kind, ROWS.astype(np.float16)))).dtype == np.float16
    save_file({"z": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "b.safetensors")
    assert load_array(tmp_path / "b.safetensors").dtype == torch.bfloat16
    assert load_array(write(tmp_path, ".parquet", ROWS.astype(np.float32))).dtype == np.float32
    np.save(tmp_path / "order.npy", np.asfortranarray(ROWS))
    np.testing.assert_array_equal(load_array(tmp_path / "order.npy"), ROWS)


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_of_several_arrays_one_is_chosen_by_name(tmp_path, kind):
    path = tmp_path / f"two{kind}"
    arrays = {"train": ROWS, "test": 2 * ROWS}
    np.savez(path, **arrays) if kind == ".npz" else save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    np.testing.assert_array_equal(np.asarray(load_array(path, "test")), 2 * ROWS)
    refused(path, "holds 2 arrays", "train", "test")
    refused(path, "has no array 'tset'", "train", "did you mean test?", name="tset")


@pytest.mark.parametrize("kind", [".npy", ".csv", ".parquet"])
def test_a_name_without_use_is_refused(tmp_path, kind):
    refused(write(tmp_path, kind), "holds one array without a name", name="z")


def test_no_object_is_made_from_a_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    trap = np.array([Trap(), Trap()], dtype=object)
    np.save(tmp_path / "trap.npy", trap)
    np.savez(tmp_path / "trap.npz", z=trap)
    for name in ("trap.npy", "trap.npz"):
        refused(tmp_path / name, "Python objects")
    shutil.copy(tmp_path / "trap.npy", tmp_path / "bare.npy")
    (tmp_path / "bare.npy").write_bytes((tmp_path / "trap.npy").read_bytes()[128:])
    refused(tmp_path / "bare.npy", "cannot be read")
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_missing_empty_or_of_another_kind_is_named(tmp_path):
    refused(tmp_path / "z.npy", "is missing")
    refused(
        tmp_path / "z.pt", "must end in one of .npy, .npz, .safetensors, .parquet, .csv: .npy is written by np.save"
    )
    refused(tmp_path / "z", "must end in one of")
    refused(tmp_path / "z.parque", "did you mean .parquet?")
    (tmp_path / "folder.npy").mkdir()
    refused(tmp_path / "folder.npy", "is not a file")
    for kind in KINDS:
        (tmp_path / f"empty{kind}").touch()
        refused(tmp_path / f"empty{kind}", "is empty")
    for kind in KINDS[:-1]:
        (tmp_path / f"text{kind}").write_text("this is no array\n" * 9)
        refused(tmp_path / f"text{kind}", "cannot be read")
    for kind in KINDS:
        path = tmp_path / f"bytes{kind}"
        path.write_bytes(write(tmp_path, ".npz").read_bytes())
        if kind != ".npz":
            refused(path)


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_a_column_that_is_not_a_number_is_named(tmp_path, kind):
    frame = pd.DataFrame({"a": [0.5, 1.5], "who": ["x", "y"]})
    path = tmp_path / f"f{kind}"
    frame.to_parquet(path) if kind == ".parquet" else frame.to_csv(path, index=False)
    refused(path, "column 'who' holds", "string, and only numbers are dimensions")


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_integers_among_floating_columns_are_no_dimension(tmp_path, kind):
    """They count rows or name classes. In a .csv a 0 may be a unit that is dead."""
    frame = pd.DataFrame({"a": [0.5, 1.5, 2.5], "id": [7, 8, 9]})
    path = tmp_path / f"f{kind}"
    frame.to_parquet(path) if kind == ".parquet" else frame.to_csv(path, index=False)
    refused(path, "column 'id' holds int64 among floating numbers: leave it out")
    (tmp_path / "dead.csv").write_text("a,b\n0.5,0\n1.5,0\n")
    assert load_array(tmp_path / "dead.csv").tolist() == [[0.5, 0], [1.5, 0]]


@pytest.mark.parametrize("between", [";", "\t", " "])
def test_columns_that_commas_do_not_separate_are_told(tmp_path, between):
    lines = [between.join(f"{column}{row}" for column in "abcdefghijklmnopqrstuvwxyz" * 4) for row in range(3)]
    (tmp_path / "f.csv").write_text("\n".join(lines))
    refused(tmp_path / "f.csv", "…' holds string", "columns are separated by commas")


def test_an_index_is_no_dimension(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"], index=pd.Index([7, 5] * 6, name="row"))
    frame.to_parquet(tmp_path / "f.parquet")
    np.testing.assert_array_equal(load_array(tmp_path / "f.parquet"), ROWS)
    frame.rename_axis(None).to_csv(tmp_path / "f.csv")
    refused(tmp_path / "f.csv", "column 1 has no name; if it is an index, write the file without it")


def test_the_first_line_of_numbers_is_a_row_unless_it_counts_the_columns(tmp_path):
    np.savetxt(tmp_path / "bare.csv", ROWS, delimiter=",")
    np.testing.assert_allclose(load_array(tmp_path / "bare.csv"), ROWS)
    pd.DataFrame(ROWS).to_csv(tmp_path / "counted.csv", index=False)
    np.testing.assert_allclose(load_array(tmp_path / "counted.csv"), ROWS)
    (tmp_path / "labels.csv").write_text("0\n1\n1\n")
    assert load_column(tmp_path / "labels.csv").tolist() == [0, 1, 1]


def test_what_is_missing_in_a_table_is_not_a_number_and_integers_are_numbers(tmp_path):
    (tmp_path / "f.csv").write_text("a,b\n1,2.5\n,4\nnan,inf\n")
    np.testing.assert_array_equal(load_array(tmp_path / "f.csv"), [[1, 2.5], [np.nan, 4], [np.nan, np.inf]])
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}).to_parquet(tmp_path / "i.parquet")
    found = load_array(tmp_path / "i.parquet")
    assert found.dtype == np.float64 and found.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_a_column_of_lists_is_an_array(tmp_path, kind, dtype):
    value = pa.from_numpy_dtype(dtype)
    rows = (10 * ROWS).astype(dtype)
    type_of = {"list": pa.list_(value), "large_list": pa.large_list(value), "fixed_size_list": pa.list_(value, 3)}[kind]
    column = pa.array([*rows], type_of)
    pq.write_table(pa.table({"z": column}), tmp_path / "z.parquet", row_group_size=5)
    found = load_array(tmp_path / "z.parquet")
    np.testing.assert_array_equal(found, rows)
    assert found.dtype == (dtype if np.dtype(dtype).kind == "f" else np.float64)
    several = pa.table({"id": np.arange(12), "z": column, "text": ["a"] * 12, "other": column})
    pq.write_table(several, tmp_path / "several.parquet")
    np.testing.assert_array_equal(load_array(tmp_path / "several.parquet", "z"), rows)
    refused(tmp_path / "several.parquet", "has 4 columns, and one of lists must be chosen by its name: z, other")
    refused(tmp_path / "several.parquet", "has no array 'oter'", "did you mean other?", name="oter")


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[1.0, 2.0], [3.0]], "must hold lists of one length, got 2 numbers in row 0 and 1 in row 1"),
        ([[1.0, 2.0], None], "has 1 of 2 lists missing"),
        ([[], []], "holds no numbers"),
        ([["a"], ["b"]], "holds lists of string, and only numbers are dimensions"),
        ([[[1.0]], [[2.0]]], "holds lists of list<"),
    ],
)
def test_lists_that_are_no_rows_are_refused(tmp_path, lists, words):
    kind = pa.list_(pa.float64()) if lists == [[], []] else None
    pq.write_table(pa.table({"z": pa.array(lists, kind)}), tmp_path / "z.parquet")
    refused(tmp_path / "z.parquet", "column 'z'", words)


def test_what_is_missing_in_a_list_is_not_a_number(tmp_path):
    pq.write_table(pa.table({"z": [[1.0, None], [3.0, 4.0]]}), tmp_path / "z.parquet")
    np.testing.assert_array_equal(load_array(tmp_path / "z.parquet"), [[1, np.nan], [3, 4]])


def test_labels_are_one_entry_for_each_row(tmp_path):
    names = np.array(["cat", "dog", "cat"])
    np.save(tmp_path / "names.npy", names)
    np.save(tmp_path / "column.npy", np.arange(3)[:, None])
    save_file({"y": torch.arange(3)}, tmp_path / "y.safetensors")
    pd.DataFrame({"y": names}).to_csv(tmp_path / "y.csv", index=False)
    pd.DataFrame({"y": pd.Categorical(names)}).to_parquet(tmp_path / "y.parquet")
    for name in ("names.npy", "y.csv", "y.parquet"):
        assert load_column(tmp_path / name).tolist() == names.tolist()
    for name in ("column.npy", "y.safetensors"):
        assert load_column(tmp_path / name).tolist() == [0, 1, 2]
    refused(write(tmp_path, ".npy"), "must hold one entry for each row", "(12, 3)", load=load_column)
    refused(write(tmp_path, ".csv"), "must have one column, got 3: a, b, c", load=load_column)
    two = write(tmp_path, ".csv")
    assert file_and_name(f"{two}:b") == (str(two), "b") and file_and_name(str(two)) == (str(two), None)
    assert load_column(two, "b").tolist() == load_array(two)[:, 1].tolist()
    refused(two, "has no column 'd': known are a, b, c", load=load_column, name="d")
    save_file({"z": torch.ones(3, 2), "y": torch.arange(3)}, tmp_path / "both.safetensors")
    assert load_column(tmp_path / "both.safetensors", "y").tolist() == [0, 1, 2]
    (tmp_path / "a.csv:b").write_text("y\n1\n")  # a name of a file, as it is
    assert file_and_name(str(tmp_path / "a.csv:b")) == (str(tmp_path / "a.csv:b"), None)
    pd.DataFrame({"y": ["cat", None]}).to_parquet(tmp_path / "gap.parquet")
    refused(tmp_path / "gap.parquet", "has 1 of 2 entries missing", load=load_column)


BYTES = {}


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for kind in KINDS:
        BYTES[kind] = write(folder, kind).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_cut_and_changed_files_are_read_or_refused_in_one_line(tmp_path_factory, kind, data):
    """No other error, no file but the broken one, no warning. A .csv that is cut may still be a whole one."""
    folder = tmp_path_factory.mktemp("broken")
    path = folder / f"z{kind}"
    content = bytearray(BYTES[kind])
    cut = data.draw(st.integers(0, len(content)), "cut")
    content = content[:cut]
    for _ in range(data.draw(st.integers(0, 4), "changes")) if content else ():
        content[data.draw(st.integers(0, len(content) - 1), "place")] = data.draw(st.integers(0, 255), "byte")
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for load in (load_array, load_column):
            try:
                load(path)
            except ValueError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert [one.name for one in folder.iterdir()] == [path.name]
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", [".npy", ".npz", ".safetensors", ".parquet"])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    path = tmp_path / f"z{kind}"
    for cut in range(0, len(BYTES[kind]), max(1, len(BYTES[kind]) // 200)):
        path.write_bytes(BYTES[kind][:cut])
        refused(path)


def test_a_member_that_says_it_is_larger_than_it_is_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**20)})
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("z.npy", header.getvalue())
    refused(tmp_path / "z.npz", "cannot be read")


def test_names_of_arrays_are_shown_in_one_line(tmp_path):
    np.savez(tmp_path / "z.npz", **{"a\n\x1b[2J": np.zeros(2), "b": np.zeros(2)})
    refused(tmp_path / "z.npz", r"one must be chosen by its name: a\n\x1b[2J, b")

"""Loaders of images on small files in the real formats, whole and damaged."""

import gzip
import json
import re
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from grassmann_ssl.data.batches import load_split
from grassmann_ssl.data.binary_files import cifar10, cifar100, idx, stl10
from grassmann_ssl.data.files import arrays, load
from grassmann_ssl.data.images import Images, bundled
from grassmann_ssl.data.pictures import image_folder


def rng(seed=0):
    return np.random.default_rng(seed)


def random_bytes(*shape, seed=0):
    return rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(path, *words):
    """A ValueError that names the path and has the words."""
    return pytest.raises(ValueError, match=".*".join(re.escape(str(word)) for word in (path, *words)))


# --- CIFAR


def write_cifar10(folder, sizes=(2, 1, 3, 1, 2)):
    """Random images, whose labels are 0, 1, ..."""
    images, labels = random_bytes(sum(sizes) + 2, 3, 32, 32), np.arange(sum(sizes) + 2, dtype=np.uint8) % 10
    records = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
    start = 0
    for i, n in enumerate((*sizes, 2)):
        name = f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"
        (folder / name).write_bytes(b"".join(records[start : start + n]))
        start += n
    return images, labels


def test_cifar10_is_read_batch_by_batch(tmp_path):
    images, labels = write_cifar10(tmp_path)
    for train, part in ((True, slice(0, 9)), (False, slice(9, 11))):
        found = cifar10(tmp_path, train)
        assert np.array_equal(found.images, images[part]) and found.labels.tolist() == labels[part].tolist()
        assert found.images.dtype == torch.uint8 and found.classes == tuple("0123456789")
    # The pixel of row 2, column 5 in the blue plane of the first record.
    assert (
        cifar10(tmp_path).images[0, 2, 2, 5] == (tmp_path / "data_batch_1.bin").read_bytes()[1 + 2 * 1024 + 2 * 32 + 5]
    )


def test_class_names_are_those_of_the_meta_file(tmp_path):
    write_cifar10(tmp_path)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (tmp_path / "batches.meta.txt").write_text("\n".join([*names, "", ""]))
    assert cifar10(tmp_path).classes == tuple(names)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with refused(tmp_path / "batches.meta.txt", "2 names", "10 are needed"):
        cifar10(tmp_path)


def test_cifar100_keeps_the_fine_label(tmp_path):
    images = random_bytes(3, 3, 32, 32)
    for name in ("train", "test"):
        content = b"".join(bytes([4, fine]) + image.tobytes() for fine, image in zip((99, 0, 50), images, strict=True))
        (tmp_path / f"{name}.bin").write_bytes(content)
    for train in (True, False):
        found = cifar100(tmp_path, train)
        assert np.array_equal(found.images, images) and found.labels.tolist() == [99, 0, 50]
        assert len(found.classes) == 100
    (tmp_path / "test.bin").write_bytes(bytes([20, 1]) + images[0].tobytes())
    with refused(tmp_path / "test.bin", "coarse label 20 of record 0", "0..19"):
        cifar100(tmp_path, train=False)


def test_a_cifar_file_that_is_missing_is_named_with_those_needed(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with refused(tmp_path, "data_batch_1.bin, data_batch_2.bin", "data_batch_5.bin", "missing: data_batch_3.bin"):
        cifar10(tmp_path)
    with refused(tmp_path, "test.bin", "missing: test.bin"):
        cifar100(tmp_path, train=False)


@pytest.mark.parametrize(("size", "needed"), [(0, 3073), (3072, 3073), (3074, 3073), (2 * 3073 - 1, 2 * 3073)])
def test_a_cifar_file_of_broken_records_is_refused(tmp_path, size, needed):
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").write_bytes(bytes(size))
    with refused(tmp_path / "data_batch_4.bin", f"has {size} bytes", needed):
        cifar10(tmp_path)


def test_a_cifar_label_out_of_range_is_refused(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073) + bytes([10]) + bytes(3072))
    with refused(tmp_path / "test_batch.bin", "label 10 of record 1", "0..9"):
        cifar10(tmp_path, train=False)


# --- STL-10


def write_stl10(folder, split="train", labels=(1, 10, 3)):
    images = random_bytes(3, 3, 96, 96)
    content = b""
    for image in images:
        for plane in image:
            content += b"".join(plane[:, column].tobytes() for column in range(96))
    (folder / f"{split}_X.bin").write_bytes(content)
    if labels is not None:
        (folder / f"{split}_y.bin").write_bytes(bytes(labels))
    return images


@pytest.mark.parametrize("split", ["train", "test", "unlabeled"])
def test_stl10_is_turned_to_rows_and_counts_labels_from_zero(tmp_path, split):
    images = write_stl10(tmp_path, split, None if split == "unlabeled" else (1, 10, 3))
    found = stl10(tmp_path, split)
    assert np.array_equal(found.images, images) and found.images.is_contiguous()
    if split == "unlabeled":
        assert found.labels is None and found.classes == ()
    else:
        assert found.labels.tolist() == [0, 9, 2] and len(found.classes) == 10


def test_damaged_stl10_is_refused(tmp_path):
    with refused(tmp_path, "train_X.bin, train_y.bin", "missing: train_X.bin, train_y.bin"):
        stl10(tmp_path)
    with pytest.raises(ValueError, match="split must be one of train, test, unlabeled, got 'valid'"):
        stl10(tmp_path, "valid")
    write_stl10(tmp_path, labels=(1, 2))
    with refused(tmp_path / "train_y.bin", "has 2 bytes", "3 are needed"):
        stl10(tmp_path)
    write_stl10(tmp_path, labels=(1, 0, 2))
    with refused(tmp_path / "train_y.bin", "label 0 of record 1", "1..10 are needed"):
        stl10(tmp_path)
    content = (tmp_path / "train_X.bin").read_bytes()
    (tmp_path / "train_X.bin").write_bytes(content[:-1])
    with refused(tmp_path / "train_X.bin", f"has {3 * 27648 - 1} bytes", 3 * 27648):
        stl10(tmp_path)


# --- IDX


def idx_bytes(array):
    magic = {3: 0x803, 1: 0x801}[array.ndim]
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def write_idx(folder, part="train", compress=False):
    images, labels = random_bytes(4, 5, 6), np.array([0, 3, 1, 3], np.uint8)
    paths = []
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        paths.append(folder / f"{part}-{kind}-ubyte{'.gz' if compress else ''}")
        paths[-1].write_bytes(gzip.compress(content) if compress else content)
    return images, labels, *paths


@pytest.mark.parametrize("compress", [False, True])
def test_idx_is_read_plain_and_compressed(tmp_path, compress):
    images, labels, images_path, labels_path = write_idx(tmp_path, compress=compress)
    found = idx(images_path, labels_path)
    assert np.array_equal(found.images, images[:, None]) and found.labels.tolist() == labels.tolist()
    assert found.classes == ("0", "1", "2", "3")
    assert idx(images_path).labels is None


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_idx_is_refused(tmp_path, compress):
    _, _, path, labels_path = write_idx(tmp_path, compress=compress)
    content = gzip.decompress(path.read_bytes()) if compress else path.read_bytes()

    def write(data, to=path):
        to.write_bytes(gzip.compress(data) if compress else data)

    with refused(labels_path, "0x00000801", "0x00000803 is needed"):
        idx(labels_path)
    write(content[:-1])
    with refused(path, "has", "bytes", len(content)):
        idx(path)
    write(content + b"x")
    with refused(path, "has", "bytes", len(content)):
        idx(path)
    write(content[:10])
    with refused(path, "10 bytes", "16"):
        idx(path)
    write(struct.pack(">4I", 0x803, 0, 5, 6))
    with refused(path, "is empty"):
        idx(path)
    # A header that promises far more than any file of this size can hold is refused before memory is taken for it.
    write(struct.pack(">4I", 0x803, 2**31, 2**31, 2**31) + bytes(100))
    with refused(path, "its header needs", 2**93 + 16):
        idx(path)
    write(content)
    write(idx_bytes(np.array([1, 2], np.uint8)), labels_path)
    with refused(labels_path, "2 labels", "4 images"):
        idx(path, labels_path)
    labels_path.unlink()
    with refused(labels_path, "is missing"):
        idx(path, labels_path)


def test_a_gzip_file_that_is_cut_or_is_none_is_refused(tmp_path):
    *_, path, _ = write_idx(tmp_path, compress=True)
    whole = path.read_bytes()
    for content in (whole[:-20], b"no gzip at all, but some text", whole[:30] + b"\xff" * 40 + whole[70:]):
        path.write_bytes(content)
        with refused(path, "gzip"):
            idx(path)


# --- folders of pictures


def write_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_folder_of_pictures_has_its_subfolders_as_classes(tmp_path):
    pictures = random_bytes(4, 5, 7, 3)
    for name, picture in zip(("dog/b.png", "cat/z.PNG", "dog/deeper/a.png", "cat/a.png"), pictures, strict=True):
        write_picture(tmp_path / name, picture)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "._a.png").write_text("what some systems leave")
    (tmp_path / ".cache").mkdir()
    found = image_folder(tmp_path)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.images, pictures[[3, 1, 0, 2]].transpose(0, 3, 1, 2))
    assert found.images.is_contiguous()


def test_grey_pictures_stay_grey_unless_one_has_colours(tmp_path):
    grey = random_bytes(4, 4)
    write_picture(tmp_path / "a" / "1.png", grey)
    found = image_folder(tmp_path)
    assert found.images.shape == (1, 1, 4, 4) and np.array_equal(found.images[0, 0], grey)
    write_picture(tmp_path / "b" / "1.png", random_bytes(4, 4, 3))
    found = image_folder(tmp_path)
    assert found.images.shape == (2, 3, 4, 4) and np.array_equal(found.images[0], np.stack([grey] * 3))


def test_transparency_and_palettes_become_colours_without_a_warning(tmp_path):
    colours = random_bytes(4, 4, 4)
    write_picture(tmp_path / "a" / "rgba.png", colours)
    palette = Image.fromarray(colours[..., :3]).quantize(4)
    palette.save(tmp_path / "a" / "palette.png", transparency=bytes([0, 100, 200, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = image_folder(tmp_path)
    assert np.array_equal(found.images[0], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(found.images[1], colours[..., :3].transpose(2, 0, 1))


def test_jpeg_is_what_pillow_decodes(tmp_path):
    write_picture(tmp_path / "a" / "1.jpg", random_bytes(8, 8, 3))
    with Image.open(tmp_path / "a" / "1.jpg") as picture:
        expected = np.asarray(picture)
    assert np.array_equal(image_folder(tmp_path).images[0], expected.transpose(2, 0, 1))


def test_mixed_sizes_are_refused_by_name_unless_a_size_is_given(tmp_path):
    flat = np.full((6, 12, 3), 40, np.uint8)
    flat[:, 3:9] = 200  # the centre square
    write_picture(tmp_path / "a" / "1.png", flat)
    write_picture(tmp_path / "b" / "2.png", np.full((9, 9, 3), 70, np.uint8))
    write_picture(tmp_path / "b" / "3.png", np.full((2, 3, 3), 90, np.uint8))
    with refused(tmp_path / "a" / "1.png", "12 x 6", tmp_path / "b" / "2.png", "9 x 9"):
        image_folder(tmp_path)
    found = image_folder(tmp_path, size=6)
    assert found.images.shape == (3, 3, 6, 6)
    assert [int(image.min()) for image in found.images] == [int(image.max()) for image in found.images] == [200, 70, 90]


def test_resizing_averages_details_that_are_too_fine(tmp_path):
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 200
    write_picture(tmp_path / "a" / "1.png", stripes)
    small = image_folder(tmp_path, size=4).images.float()
    assert (small - 100).abs().max() <= 15  # the border sees half a triangle of weights


def test_damaged_folders_are_refused(tmp_path):
    with refused(tmp_path / "none", "is not a folder"):
        image_folder(tmp_path / "none")
    with refused(tmp_path, "has no pictures"):
        image_folder(tmp_path)
    write_picture(tmp_path / "a" / "1.png", random_bytes(30, 30, 3))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        image_folder(tmp_path, size=0)
    (tmp_path / "b").mkdir()
    with refused(tmp_path / "b", "has no pictures", ".png or .jpg"):
        image_folder(tmp_path)
    bad = tmp_path / "b" / "1.png"
    whole = (tmp_path / "a" / "1.png").read_bytes()
    for content in (b"", b"no picture at all", whole[:20], whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with refused(bad, "cannot be read as a picture"):
            image_folder(tmp_path)
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(bad)
    with refused(bad, "8 bits a channel"):
        image_folder(tmp_path)


def test_the_need_for_pillow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        image_folder(tmp_path)


# --- arrays


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 4, 5), (3, 3, 4, 5)])
def test_npy_images_with_and_without_labels(tmp_path, shape, fortran):
    images = random_bytes(*shape)
    np.save(tmp_path / "x.npy", np.asfortranarray(images) if fortran else images)
    found = arrays(tmp_path / "x.npy")
    assert np.array_equal(found.images, images.reshape(3, -1, 4, 5)) and found.labels is None and found.classes == ()
    for dtype in ("int64", "uint8", ">i4", "uint64"):
        np.save(tmp_path / "y.npy", np.array([2, 0, 2]).astype(dtype))
        found = arrays(tmp_path / "x.npy", tmp_path / "y.npy")
        assert found.labels.tolist() == [2, 0, 2] and found.classes == ("0", "1", "2")


def test_safetensors_images_with_and_without_labels(tmp_path):
    images, path = torch.from_numpy(random_bytes(3, 3, 4, 5)), tmp_path / "x.safetensors"
    save_file({"images": images}, path)
    assert torch.equal(arrays(path).images, images) and arrays(path).labels is None
    for dtype in (torch.int64, torch.uint8, torch.int32, torch.uint64):
        save_file({"images": images, "labels": torch.tensor([1, 0, 1]).to(dtype), "more": torch.ones(2)}, path)
        assert arrays(path).labels.tolist() == [1, 0, 1] and arrays(path).labels.dtype == torch.int64
    with pytest.raises(ValueError, match=r"labels must be the array labels of"):
        arrays(path, path)


@pytest.mark.parametrize("change", [-1, 1, -180])
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_arrays_cut_or_with_a_tail_are_refused(tmp_path, kind, change):
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, random_bytes(3, 8, 8))
    else:
        save_file({"images": torch.from_numpy(random_bytes(3, 8, 8))}, path)
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    with refused(path, f"has {len(content) + change} bytes", f"needs {len(content)}"):
        arrays(path)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 some zip", bytes(range(200)), b"\xff" * 200])
def test_arrays_of_another_kind_are_refused(tmp_path, kind, content):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    with refused(path):
        arrays(path)


@pytest.mark.parametrize(
    "header", [b"{((((((((((", b"{'descr': '|u1', 'shape': (9" + b"0" * 5000 + b",)}", b"\0" * 40, b"9" * 60]
)
@pytest.mark.parametrize("place", ["images", "labels"])
def test_an_npy_header_that_is_no_header_is_one_line(tmp_path, header, place):
    """numpy reads it with Python's own tokenizer, which raises errors of its own."""
    broken, whole = tmp_path / "broken.npy", tmp_path / "whole.npy"
    text = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    broken.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(100))
    np.save(whole, random_bytes(3, 8, 8))
    with refused(broken, "cannot be read") as caught:
        arrays(*((broken,) if place == "images" else (whole, broken)))
    assert "\n" not in str(caught.value)


def test_a_safetensors_header_that_lies_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for header in (
        {"images": {"dtype": "U8", "shape": [9, 9, 9], "data_offsets": [0, 12]}},
        {"images": {"dtype": "U8", "shape": [1, 3, 4], "data_offsets": [0]}},
        {"images": {"dtype": "U8", "shape": [1, 3, 4], "data_offsets": [4, 12]}},
        ["images"],
        {},
        "[" * 5000,
    ):
        text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
        with refused(path):
            arrays(path)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 4, 4), None, r"images must be uint8 .*got float32 \(3, 4, 4\)"),
        (torch.zeros(3, 2, 4, 4, dtype=torch.uint8), None, r"images must be uint8 of shape .*got uint8 \(3, 2, 4, 4\)"),
        (torch.zeros(3, 4, dtype=torch.uint8), None, r"images must be uint8 of shape .*got uint8 \(3, 4\)"),
        (torch.zeros(0, 4, 4, dtype=torch.uint8), None, "images must not be empty"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "2 labels, but .* has 3 images"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3), r"labels must be integers .*got float32 \(3,\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.tensor([0, -1, 0]), r"labels must be in 0\.\.65535, got -1"),
        (
            torch.zeros(3, 4, 4, dtype=torch.uint8),
            torch.tensor([0, 2**63 + 5, 0], dtype=torch.uint64),
            r"labels must be in 0\.\.65535",
        ),
        (
            torch.zeros(3, 4, 4, dtype=torch.uint8),
            torch.tensor([0, 65536, 0]),
            r"labels must be in 0\.\.65535, got 65536",
        ),
    ],
)
def test_arrays_of_other_types_and_shapes_are_refused(tmp_path, kind, images, labels, message):
    path, labels_path = tmp_path / f"x.{kind}", None
    if kind == "npy":
        np.save(path, images.numpy())
        if labels is not None:
            labels_path = tmp_path / "y.npy"
            np.save(labels_path, labels.numpy())
    else:
        save_file({"images": images} if labels is None else {"images": images, "labels": labels}, path)
    with pytest.raises(ValueError, match=message):
        arrays(path, labels_path)


def test_python_objects_and_unknown_endings_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object))
    with refused(path, "images must be uint8", "object"):
        arrays(path)
    with refused(tmp_path, "y.npy", "missing: y.npy"):
        arrays(tmp_path / "y.npy")
    (tmp_path / "x.pt").write_bytes(b"anything")
    with refused(tmp_path / "x.pt", "must be a .npy, .npz or .safetensors file"):
        arrays(tmp_path / "x.pt")
    save_file({"pixels": torch.zeros(2)}, tmp_path / "x.safetensors")
    with refused(tmp_path / "x.safetensors", "must hold a tensor images", "pixels"):
        arrays(tmp_path / "x.safetensors")


# --- by name


def test_load_finds_the_part_of_each_format(tmp_path):
    write_cifar10(tmp_path)
    for train in (True, False):
        assert torch.equal(load("cifar10", tmp_path, train).images, cifar10(tmp_path, train).images)
    for split in ("train", "test"):
        (tmp_path / f"{split}.bin").write_bytes(bytes([0, len(split)]) + bytes(3072))
        write_stl10(tmp_path, split, (5, 5, len(split)))
    write_stl10(tmp_path, "unlabeled", None)
    assert load("cifar100", tmp_path).labels.tolist() == [5] and load("cifar100", tmp_path, False).labels.tolist() == [
        4
    ]
    assert load("stl10", tmp_path).labels.tolist() == [4, 4, 4]
    assert load("stl10", tmp_path, train=False).labels.tolist() == [4, 4, 3]
    assert load("stl10_unlabeled", tmp_path).labels is None


def test_load_of_idx_takes_a_folder_or_a_file(tmp_path):
    images, *_ = write_idx(tmp_path, "train", compress=True)
    write_idx(tmp_path, "t10k")
    assert np.array_equal(load("idx", str(tmp_path)).images[:, 0], images)
    assert load("idx", tmp_path, train=False).labels.tolist() == [0, 3, 1, 3]
    assert load("idx", tmp_path / "t10k-images-idx3-ubyte").labels is None
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with refused(tmp_path, "missing: t10k-labels-idx1-ubyte"):
        load("idx", tmp_path, train=False)


def test_load_of_a_folder_has_parts_where_it_has_train(tmp_path):
    write_picture(tmp_path / "whole" / "a" / "1.png", random_bytes(4, 4))
    write_picture(tmp_path / "parts" / "train" / "a" / "1.png", random_bytes(4, 4))
    write_picture(tmp_path / "parts" / "test" / "a" / "1.png", random_bytes(5, 5))
    assert load("folder", tmp_path / "whole").images.shape == (1, 1, 4, 4)
    assert load("folder", tmp_path / "parts").images.shape == (1, 1, 4, 4)
    assert load("folder", tmp_path / "parts", train=False).images.shape == (1, 1, 5, 5)
    np.save(tmp_path / "x.npy", random_bytes(2, 4, 4))
    assert load("arrays", tmp_path / "x.npy").images.shape == (2, 1, 4, 4)
    for name, path in (("folder", "whole"), ("arrays", "x.npy"), ("idx", "x.npy"), ("stl10_unlabeled", "")):
        with refused(name, tmp_path / path, "has no test part"):
            load(name, tmp_path / path, train=False)


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match="unknown format 'mnist': known are cifar10, cifar100, stl10, stl10_unlabeled, idx"
    ):
        load("mnist", tmp_path)


# --- in memory


def test_images_hold_their_rules():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    assert Images(images, labels, ("a", "b")).classes == ("a", "b")
    with pytest.raises(ValueError, match=r"got \(2, 2, 4, 4\)"):
        Images(images[:, :2], None, ())
    with pytest.raises(ValueError, match="non-empty"):
        Images(images[:0], None, ())
    with pytest.raises(ValueError, match="no labels, got 1 names"):
        Images(images, None, ("a",))
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.0, got 1 for image 1"):
        Images(images, labels, ("a",))


def test_embedded_digits_are_the_scanned_ones():
    found = bundled("digits")
    assert found.images.shape == (1797, 1, 8, 8) and found.classes == tuple("0123456789")
    assert found.labels.bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # of scikit-learn's description
    from sklearn.datasets import load_digits

    scaled = load_digits().images * 255 / 16
    assert np.abs(found.images[:, 0].numpy() - scaled).max() <= 0.5
    assert found.images.min() == 0 and found.images.max() == 255


def test_embedded_photos_are_patches_of_their_photo():
    from sklearn.datasets import load_sample_images

    found = bundled("photos", 5, 9, torch.Generator().manual_seed(0))
    assert found.images.shape == (5, 3, 9, 9) and found.labels.tolist() == [0, 0, 1, 1, 1]
    assert found.classes == ("china", "flower")
    photos = load_sample_images().images
    for patch, label in zip(found.images, found.labels, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(photos[label], (9, 9), axis=(0, 1))
        corners = (windows[:, :, :, 0, 0] == patch[:, 0, 0].numpy()).all(-1)
        assert any(np.array_equal(windows[i, j], patch) for i, j in np.argwhere(corners))
    again = bundled("photos", 5, 9, torch.Generator().manual_seed(0))
    assert torch.equal(again.images, found.images) and len(found.images.flatten(1).unique(dim=0)) == 5


def test_embedded_photos_of_the_full_height_exist():
    assert bundled("photos", 2, 427, torch.Generator().manual_seed(0)).images.shape == (2, 3, 427, 427)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("cats",), "known are digits, photos"),
        (("digits", 5), "digits takes no n"),
        (("photos", 5, 9), "photos needs n, size and generator"),
        (("photos", 1, 9, torch.Generator()), "n must be at least 2"),
        (("photos", 2, 428, torch.Generator()), r"size must be in 1\.\.427, got 428"),
    ],
)
def test_bad_embedded_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        bundled(*settings)


# --- parts: nothing is dropped in silence


def split(data, **options):
    return load_split(data, torch.Generator().manual_seed(1), **options)


def write_classes(folder, names, shape=(4, 4), each=1):
    for name in names:
        for k in range(each):
            write_picture(folder / name / f"{k}.png", random_bytes(*shape))


def test_classes_are_numbered_by_the_training_part(tmp_path):
    write_classes(tmp_path / "train", "abc")
    write_classes(tmp_path / "test", "ac")
    found = split(f"folder:{tmp_path}")
    assert found.train_labels.tolist() == [0, 1, 2] and found.test_labels.tolist() == [0, 2]
    assert load("folder", tmp_path, train=False).classes == ("a", "b", "c")
    write_classes(tmp_path / "test", ["bb"])
    with refused(tmp_path / "test", "class 'bb'", tmp_path / "train", "a, b, c", "did you mean b?"):
        split(f"folder:{tmp_path}")


def test_classes_of_arrays_that_only_the_test_part_has_are_refused(tmp_path):
    write_idx(tmp_path, "train")
    images, labels = tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"
    images.write_bytes(idx_bytes(random_bytes(2, 5, 6)))
    labels.write_bytes(idx_bytes(np.array([0, 1], np.uint8)))
    assert split(f"idx:{tmp_path}").test_labels.tolist() == [0, 1]
    labels.write_bytes(idx_bytes(np.array([0, 4], np.uint8)))
    with pytest.raises(ValueError, match="the test part has the class '4', which the training part has not"):
        split(f"idx:{tmp_path}")


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_broken_test_part_is_an_error_and_not_a_third_of_the_training_part(tmp_path, part):
    write_classes(tmp_path / "train", "ab", each=3)
    write_classes(tmp_path / part, "ab", each=2)
    assert len(split(f"folder:{tmp_path}").test) == 4
    broken = tmp_path / part / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:30])
    with refused(broken, "cannot be read"):
        split(f"folder:{tmp_path}")


def test_broken_and_incomplete_binary_test_parts_are_errors(tmp_path):
    (tmp_path / "c").mkdir()
    write_cifar10(tmp_path / "c")
    (tmp_path / "c" / "test_batch.bin").write_bytes(bytes(100))
    with refused(tmp_path / "c" / "test_batch.bin", "has 100 bytes"):
        split(f"cifar10:{tmp_path / 'c'}")
    (tmp_path / "i").mkdir()
    write_idx(tmp_path / "i", "train")
    *_, labels = write_idx(tmp_path / "i", "t10k", compress=True)
    labels.unlink()
    with refused(tmp_path / "i", "missing: t10k-labels"):
        split(f"idx:{tmp_path / 'i'}")
    (tmp_path / "i" / "t10k-images-idx3-ubyte.gz").unlink()
    assert "these a random third, since there is no test part" in split(f"idx:{tmp_path / 'i'}").described


def test_of_two_test_parts_one_is_read_and_the_other_named(tmp_path):
    for part in ("train", "test", "val"):
        write_classes(tmp_path / part, "a", each=3)
    found = split(f"folder:{tmp_path}")
    assert len(found.test) == 3 and "passed over in train: 1 folder val beside test" in found.described


@pytest.mark.parametrize(("train", "test"), [((4, 4, 3), (4, 4)), ((4, 4), (4, 4, 3))])
def test_both_parts_of_a_folder_are_grey_or_neither(tmp_path, train, test):
    write_classes(tmp_path / "train", "ab", train)
    write_classes(tmp_path / "test", "ab", test)
    found = split(f"folder:{tmp_path}")
    assert found.train.shape == found.test.shape == (2, 3, 4, 4)


def test_what_is_passed_over_is_counted_by_its_reason(tmp_path):
    write_classes(tmp_path, "ab", each=2)
    for name in ("a/.hidden.png", "a/.ipynb_checkpoints/0.png", ".cache/0.png", "loose.png"):
        write_picture(tmp_path / name, random_bytes(4, 4))
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "b" / "README").write_text("no picture")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = image_folder(tmp_path)
    assert len(found.images) == 4 and found.notes == (
        f"passed over in {tmp_path.name}: 1 .txt, 1 broken link, 3 hidden, 1 picture beside the folders of classes, 1 without ending",
    )


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "PNG"])
def test_whatever_pillow_reads_is_a_picture(tmp_path, ending):
    write_picture(tmp_path / "a" / f"1.{ending}", random_bytes(6, 6, 3))
    with Image.open(tmp_path / "a" / f"1.{ending}") as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(image_folder(tmp_path).images[0], expected.transpose(2, 0, 1))


def test_links_to_folders_are_followed_once(tmp_path):
    write_picture(tmp_path / "far" / "1.png", random_bytes(4, 4))
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "round").symlink_to(tmp_path / "far")
    assert image_folder(tmp_path / "data").labels.tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["RGB;16B", "I;16"])
def test_sixteen_bits_a_channel_are_refused(tmp_path, mode):
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    if mode == "I;16":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    else:
        path.write_bytes(png_of_sixteen_bits(random_bytes(4, 4, 6)))
    with refused(path, "more than 8 bits a channel"):
        image_folder(tmp_path)


def png_of_sixteen_bits(samples):
    """A PNG of red, green, blue with two bytes each, which Pillow cannot write: samples (h, w, 6)."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_applied(tmp_path, orientation):
    upright = np.zeros((6, 9), np.uint8)
    upright[:2, :3] = 255  # the corner at the top left
    turn = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
            6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1]}  # fmt: skip
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turn[orientation])).save(tmp_path / "a" / "1.png", exif=exif)
    write_picture(tmp_path / "a" / "2.png", upright)
    found = image_folder(tmp_path).images
    assert torch.equal(found[0], found[1])


def test_a_folder_without_sub_folders_has_no_labels(tmp_path):
    for k in range(4):
        write_picture(tmp_path / f"{k}.png", random_bytes(4, 4))
    (tmp_path / "empty").mkdir()
    found = image_folder(tmp_path)
    assert found.images.shape == (4, 1, 4, 4) and found.labels is None and found.classes == ()
    assert found.notes == (f"passed over in {tmp_path.name}: 1 empty folder",)
    assert split(f"folder:{tmp_path}").train_labels is None
    for part in ("train", "test"):
        write_picture(tmp_path / "parts" / part / "1.png", random_bytes(4, 4))
    assert split(f"folder:{tmp_path / 'parts'}").test_labels is None
    write_classes(tmp_path / "parts" / "test", "a")
    with refused(tmp_path / "parts", "class 'a'", "it has none"):
        split(f"folder:{tmp_path / 'parts'}")


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path):
    frames = [Image.fromarray(frame) for frame in random_bytes(3, 4, 4)]
    (tmp_path / "a").mkdir()
    frames[0].save(tmp_path / "a" / "1.gif", save_all=True, append_images=frames[1:])
    found = image_folder(tmp_path)
    assert len(found.images) == 1 and found.notes == (f"of several frames the first is read: 1 in {tmp_path.name}",)


def test_pictures_of_unequal_size_are_read_at_a_size(tmp_path):
    write_picture(tmp_path / "a" / "1.png", random_bytes(5, 9))
    write_picture(tmp_path / "a" / "2.png", random_bytes(8, 6))
    write_picture(tmp_path / "b" / "3.png", random_bytes(4, 4))
    with refused("unless `size` is given", tmp_path / "a" / "1.png"):
        split(f"folder:{tmp_path}")
    assert split(f"folder:{tmp_path}", size=4).train.shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match="digits is bundled and takes no size, got 4"):
        split("digits", size=4)
    with pytest.raises(ValueError, match="idx takes no size, got 4"):
        split(f"idx:{tmp_path}", size=4)


def test_fewer_than_three_images_leave_no_test_part(tmp_path):
    write_classes(tmp_path, "ab")
    with pytest.raises(ValueError, match="at least 3 are needed, got 2"):
        split(f"folder:{tmp_path}")


@pytest.mark.parametrize("kind", ["npy", "NPY", "npz", "safetensors"])
@pytest.mark.parametrize(("shape", "expected"), [
    ((3, 5, 4, 3), (3, 3, 5, 4)), ((3, 5, 4, 1), (3, 1, 5, 4)), ((3, 3, 4, 3), (3, 3, 4, 3)), ((3, 5, 4), (3, 1, 5, 4)),
])  # fmt: skip
def test_channels_may_come_last(tmp_path, kind, shape, expected):
    images, path = random_bytes(*shape), tmp_path / f"x.{kind}"
    if kind.lower() == "npy":
        with path.open("wb") as file:
            np.save(file, images)
    elif kind == "npz":
        np.savez(path, images=images, labels=np.array([2, 0, 1]), more=np.ones(2))
    else:
        save_file({"images": torch.from_numpy(images), "labels": torch.tensor([2, 0, 1])}, path)
    found = arrays(path)
    last = len(shape) == 4 and shape[1] not in (1, 3)
    assert found.images.shape == expected and found.images.is_contiguous()
    assert np.array_equal(found.images, (images.transpose(0, 3, 1, 2) if last else images.reshape(expected)))
    if kind in ("npz", "safetensors"):
        assert found.labels.tolist() == [2, 0, 1]


def test_arrays_are_chosen_by_name_and_labelled_by_a_file(tmp_path):
    images = random_bytes(4, 5, 5)
    np.savez(tmp_path / "x.npz", pixels=images, more=np.ones(3))
    np.savez(tmp_path / "one.npz", anything=images)
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    assert np.array_equal(arrays(tmp_path / "one.npz").images[:, 0], images)
    with refused(tmp_path / "x.npz", "no array 'images'", "pixels, more"):
        arrays(tmp_path / "x.npz")
    with refused(tmp_path / "objects.npz", "never loaded"):
        arrays(tmp_path / "objects.npz")
    (tmp_path / "names.csv").write_text("animal\ndog\ncat\ndog\ncat\n")
    found = arrays(tmp_path / "x.npz", labels=tmp_path / "names.csv", array="pixels")
    assert found.labels.tolist() == [1, 0, 1, 0] and found.classes == ("cat", "dog")
    data = split(f"arrays:{tmp_path / 'x.npz'}", labels=str(tmp_path / "names.csv"), array="pixels")
    assert len(data.train) == 3 and data.test_labels is not None
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "names.npy", np.array(["dog", "cat", "dog", "cat"]))
    assert arrays(tmp_path / "x.npy", labels=tmp_path / "names.npy").labels.tolist() == [1, 0, 1, 0]
    np.save(tmp_path / "shares.npy", np.ones(4))
    with refused(tmp_path / "shares.npy", "labels must be integers"):
        arrays(tmp_path / "x.npy", labels=tmp_path / "shares.npy")
    with refused(tmp_path / "x.npy", "holds one array without a name"):
        arrays(tmp_path / "x.npy", array="pixels")

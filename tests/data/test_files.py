"""Loaders of images on small files in the real formats, whole and damaged."""

import gzip
import json
import re
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from grassmann_ssl.data.files import arrays, cifar10, cifar100, idx, image_folder, load, stl10
from grassmann_ssl.data.images import Images, bundled


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
    with refused(tmp_path, "has no sub-folders"):
        image_folder(tmp_path)
    write_picture(tmp_path / "a" / "1.png", random_bytes(30, 30, 3))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        image_folder(tmp_path, size=0)
    (tmp_path / "b").mkdir()
    with refused(tmp_path / "b", "has no pictures", ".png, .jpg, .jpeg"):
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
    with pytest.raises(ValueError, match=r"labels must be the tensor labels of"):
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
    with refused(tmp_path / "x.pt", "must be a .npy or a .safetensors file"):
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

"""The binary formats of CIFAR-10, CIFAR-100, STL-10 and MNIST, read from local files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grassmann_ssl.data.images import Images
from grassmann_ssl.data.room import check_memory
from grassmann_ssl.data.stored import Pixels, StoredImages, held

STL10_SPLITS = ("train", "test", "unlabeled")
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
# One deflate symbol of 2 bits codes at most 258 bytes.
LARGEST_DEFLATE_RATIO = 1032


def cifar10(folder: str | Path, train: bool = True) -> Images:
    """CIFAR-10, binary version: data_batch_1.bin to data_batch_5.bin, or test_batch.bin where `train` is false.

    A record is 1 byte of label (0..9) and 3072 bytes of pixels: the red plane, the green one, the blue one, each 32 x 32 in row-major
    order. Returns (n, 3, 32, 32); the names of the classes are the lines of batches.meta.txt, or the numbers where it is absent.
    Raises ValueError where a file is missing (lists the files needed), empty or not a whole number of records (names the file,
    its bytes and the bytes needed), or where a label is out of range.
    Format: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    return _cifar(Path(folder), names, "batches.meta.txt", labels_per_record=1, classes=10)


def cifar100(folder: str | Path, train: bool = True) -> Images:
    """CIFAR-100, binary version: train.bin, or test.bin where `train` is false; the labels are the fine ones.

    A record is 1 byte of coarse label (0..19, not kept), 1 byte of fine label (0..99) and 3072 bytes of pixels as in CIFAR-10. Returns
    (n, 3, 32, 32); the names of the classes are the lines of fine_label_names.txt, or the numbers where it is absent. Raises ValueError
    as `cifar10`. Format: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    return _cifar(
        Path(folder), ["train.bin" if train else "test.bin"], "fine_label_names.txt", labels_per_record=2, classes=100
    )


def stl10(folder: str | Path, split: str = "train") -> Images:
    """STL-10, binary version: {split}_X.bin and {split}_y.bin, with split one of train, test, unlabeled (no labels).

    An image is 27648 bytes: the red plane, the green one, the blue one, each 96 x 96 in column-major order, turned here into row-major
    order; a label is one byte in 1..10, here 0..9. Returns (n, 3, 96, 96); the names of the classes are the lines of
    class_names.txt, or the numbers (from 0) where it is absent.
    Raises ValueError where the split is unknown, a file is missing, empty or not a whole number of images, the numbers of labels and
    of images differ, or a label is out of range. Format: https://cs.stanford.edu/~acoates/stl10/
    """
    if split not in STL10_SPLITS:
        raise ValueError(f"split must be one of {', '.join(STL10_SPLITS)}, got {split!r}")
    folder = Path(folder)
    labelled = split != "unlabeled"
    names = [f"{split}_X.bin", *([f"{split}_y.bin"] if labelled else [])]
    require_files(folder, names)
    path = folder / names[0]
    n = _records(path, 3 * 96 * 96, "images of 3 x 96 x 96 bytes")
    labels = None
    if labelled:
        require_bytes(folder / names[1], needed=n, why=f"one label for each of the {n} images of {names[0]}")
        labels = np.fromfile(folder / names[1], np.uint8).astype(np.int64) - 1
        _check_labels(folder / names[1], labels, 0, 9, first=1)
    images = held(StoredImages.of(path, n, 0, (3, 96, 96), axes=(0, 2, 1)))  # columns come before rows
    names_of = _class_names(folder / "class_names.txt", 10) if labelled else ()
    return Images(images, None if labels is None else torch.from_numpy(labels), names_of)


def idx(images_path: str | Path, labels_path: str | Path | None = None) -> Images:
    """Grey images in the IDX format of MNIST and Fashion-MNIST, each file plain or compressed (name ending in .gz).

    Images: big-endian magic number 0x00000803, n, h, w (16 bytes), then n h w bytes in row-major order. Labels: 0x00000801, n (8
    bytes), then n bytes. Returns (n, 1, h, w); the classes are the numbers 0..max(label).
    Raises ValueError where a file is missing, has another magic number, is shorter or longer than its header says, is not
    a readable gzip file, or where the numbers of labels and of images differ.
    Format: https://yann.lecun.com/exdb/mnist/
    """
    images = _idx_images(Path(images_path))
    if labels_path is None:
        return Images(images, None, ())
    labels = _idx_array(Path(labels_path), IDX_LABELS, dimensions=1)
    if len(labels) != len(images):
        raise ValueError(f"{labels_path} has {len(labels)} labels, but {images_path} has {len(images)} images")
    return Images(images, torch.from_numpy(labels.astype(np.int64)), numbered(int(labels.max()) + 1))


def require_files(folder: Path, names: list[str]) -> None:
    """Raises ValueError naming the files that are missing of those that `folder` must hold."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} must hold the files {', '.join(names)}; missing: {', '.join(missing)}")


def require_bytes(path: Path, *, needed: int, why: str) -> None:
    """Raises ValueError where the file does not have exactly `needed` bytes."""
    found = path.stat().st_size
    if found != needed:
        raise ValueError(f"{path} has {found} bytes, but {needed} are needed ({why})")


def numbered(classes: int) -> tuple[str, ...]:
    """The names of classes that have none: "0", "1", ..."""
    return tuple(str(label) for label in range(classes))


def _cifar(folder: Path, names: list[str], meta: str, *, labels_per_record: int, classes: int) -> Images:
    require_files(folder, names)
    record = labels_per_record + 3072
    paths = [folder / name for name in names]
    counts = [_records(path, record, f"records of {labels_per_record} + 3072 bytes") for path in paths]
    images = np.empty((sum(counts), 3, 32, 32), np.uint8)
    labels = np.empty(sum(counts), np.int64)
    start = 0
    for path, n in zip(paths, counts, strict=True):
        records = np.memmap(path, np.uint8, "r", shape=(n, record))
        labels[start : start + n] = records[:, labels_per_record - 1]
        _check_labels(path, labels[start : start + n], 0, classes - 1)
        if labels_per_record == 2:
            _check_labels(path, records[:, 0].astype(np.int64), 0, 19, kind="coarse label")
        images[start : start + n] = records[:, labels_per_record:].reshape(n, 3, 32, 32)
        start += n
    return Images(torch.from_numpy(images), torch.from_numpy(labels), _class_names(folder / meta, classes))


def _records(path: Path, record: int, kind: str) -> int:
    """How many records the file holds."""
    found = path.stat().st_size
    if not found or found % record:
        whole = max(found // record, 1)
        raise ValueError(
            f"{path} has {found} bytes, but whole {kind} are needed: {record} bytes each, such as {whole * record} or "
            f"{(whole + 1) * record}"
        )
    return found // record


def _check_labels(path: Path, labels: np.ndarray, low: int, high: int, *, first: int = 0, kind: str = "label") -> None:
    """`first` is the number that the file gives to class 0."""
    bad = (labels < low) | (labels > high)
    if bad.any():
        where = int(bad.argmax())
        raise ValueError(
            f"{path}: {kind} {labels[where] + first} of record {where}, but {low + first}..{high + first} are needed"
        )


def _class_names(path: Path, classes: int) -> tuple[str, ...]:
    if not path.is_file():
        return numbered(classes)
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != classes:
        raise ValueError(f"{path} has {len(names)} names of classes, but {classes} are needed")
    return names


def _idx_images(path: Path) -> Pixels:
    if path.suffix == ".gz":
        return torch.from_numpy(_idx_array(path, IDX_IMAGES, dimensions=3).copy()[:, None])
    if path.is_file():
        with path.open("rb") as file:
            n, height, width = _idx_shape(path, file, IDX_IMAGES, dimensions=3)
            return held(StoredImages.of(path, n, file.tell(), (1, height, width)))
    raise ValueError(f"{path} is missing: an IDX file (plain, or .gz) is needed there")


def _idx_shape(path: Path, file: Any, magic: int, dimensions: int) -> tuple[int, ...]:
    """The shape in the header of an open file, which has as many bytes as it says, or where it is compressed may have."""
    size, header = path.stat().st_size, 4 * (1 + dimensions)
    start = file.read(header)
    if len(start) >= 4 and start[:4] != struct.pack(">I", magic):
        raise ValueError(f"{path} has the magic number 0x{start[:4].hex()}, but {magic:#010x} is needed")
    if len(start) < header:
        raise ValueError(f"{path} has {len(start)} bytes, but its header alone needs {header}")
    shape = struct.unpack(f">{dimensions}I", start[4:])
    count = math.prod(shape)
    if not count:
        raise ValueError(f"{path} is empty: its header says {' x '.join(map(str, shape))}")
    compressed = path.suffix == ".gz"
    most = size * LARGEST_DEFLATE_RATIO if compressed else size - header
    if count > most or (not compressed and count < most):
        raise ValueError(
            f"{path} has {size} bytes{' compressed' if compressed else ''}, but its header needs {header + count}"
        )
    return shape


def _idx_array(path: Path, magic: int, dimensions: int) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is missing: an IDX file (plain, or .gz) is needed there")
    header = 4 * (1 + dimensions)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _idx_shape(path, file, magic, dimensions)
            count = math.prod(shape)
            check_memory(str(path), count)
            content = file.read(count + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if len(content) != count:
        more = "more than " if len(content) > count else ""
        raise ValueError(
            f"{path} has {more}{header + min(len(content), count)} bytes, but its header needs {header + count}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)

"""Local images by format, in a training and a test part; arrays."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data.array_files import array_names, load_array, load_column, reading
from grassmann_ssl.data.binary_files import cifar10, cifar100, idx, numbered, require_files, stl10
from grassmann_ssl.data.emoji import emoji
from grassmann_ssl.data.images import Images
from grassmann_ssl.data.pictures import Progress, picture_parts
from grassmann_ssl.data.stored import Pixels, StoredImages, held
from grassmann_ssl.registry import Registry

Parts = tuple[
    Callable[[], Images], Callable[[], Images] | None
]  # readers of the training part, and of the test part if there is one


@dataclass(frozen=True)
class Format:
    """A format of local images.

    parts    (path, of the options those that it takes) -> readers of its two parts; raises ValueError as they do
    options  the names of the options that it takes
    slow     whether `parts` takes `progress` as well, since it reads for long
    """

    name: str
    parts: Callable[..., Parts]
    options: tuple[str, ...] = ()
    slow: bool = False


FORMATS: Registry[Format] = Registry("format")
MOST_CLASSES = 65536


@dataclass(frozen=True)
class DataOptions:
    """Options of the formats of local images."""

    PREFIX: ClassVar[str] = ""

    size: int | None = None
    """side of the squares that pictures are resized (shorter side) and cropped (centre) to; without it all have one size"""
    labels: str | None = None
    """file of the labels of arrays: integers or names, one for each image"""
    array: str | None = None
    """name of the images among the arrays of an .npz or .safetensors file"""


def parts(name: str, path: str | Path, progress: Progress | None = None, **options: Any) -> Parts:
    """Readers of the training and the test part of a local path in the format `name`; None where the path has no test part.

    cifar10, cifar100, stl10: the folder of the binary files. stl10_unlabeled: the unlabelled part of STL-10, for training only.
    idx: a folder with {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte (plain or .gz), or one file of images without labels.
    folder: `image_folder` of path/train and path/test or path/val, or of path itself where it has no folder named train. Takes size.
    emoji: `emoji` of one unpacked package. Takes size.
    arrays: `arrays` of one file. Takes labels and array.
    `progress(total)` is called where reading takes long, and what it returns with a label for every picture.
    A part is there where any of its files is: one that is incomplete or broken is an error. Raises ValueError where the name is unknown
    (lists the known ones), for an option that the format does not take, and as the loader does.
    """
    chosen = FORMATS[name]
    for option, value in options.items():
        if value is not None and option not in chosen.options:
            raise ValueError(f"{name} takes no {option}, got {value!r}")
    given = {option: options.get(option) for option in chosen.options}
    return chosen.parts(Path(path), **given, **({"progress": progress} if chosen.slow else {}))


def load(name: str, path: str | Path, train: bool = True, **options: Any) -> Images:
    """Images of a local path: of its `parts`, the training part or the test part. Raises ValueError as `parts`, and where there is none."""
    training, test = parts(name, path, **options)
    chosen = training if train else test
    if chosen is None:
        raise ValueError(f"{name} {path} has no test part: pass the path of the test set")
    return chosen()


def _cifar(read: Callable[..., Images], test: str) -> Callable[..., Parts]:
    return lambda path: (partial(read, path), partial(read, path, False) if (path / test).exists() else None)


def _stl10(path: Path) -> Parts:
    tested = any((path / f"test_{kind}.bin").exists() for kind in "Xy")
    return partial(stl10, path, "train"), partial(stl10, path, "test") if tested else None


def _idx(path: Path) -> Parts:
    if not path.is_dir():
        return partial(idx, path), None
    names = [f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    tested = any((path / f"{name}{ending}").exists() for name in names for ending in ("", ".gz"))
    return partial(_idx_part, path, "train"), partial(_idx_part, path, "t10k") if tested else None


def _idx_part(path: Path, part: str) -> Images:
    return idx(*(_plain_or_gz(path, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")))


def arrays(path: str | Path, labels: str | Path | None = None, array: str | None = None) -> Images:
    """Images of an .npy, .npz or .safetensors file, with labels or without.

    Images are uint8 of shape (n, h, w), (n, c, h, w) or (n, h, w, c), c = 1 or 3; where both could be meant, channels come first. Of
    several arrays in a file the images are the one named `images`, or `array`. Labels, (n,): the array `labels` of the same file, or a
    file of any kind that `load_column` reads; integers 0..65535, whose classes are the numbers 0..max(label), or the names of classes.
    Arrays of Python objects are refused. Images of an .npy (in row-major order) or .safetensors that are more than 1 GiB stay in the file,
    as `StoredImages`. Shapes, types and byte counts are checked before the content is read. Raises ValueError where a
    file is missing, of another kind, too short or too long (names its bytes and the bytes needed), where a name is unknown, or where its
    arrays have another type or shape.
    """
    path = Path(path)
    for file in (path, *([] if labels is None else [Path(labels)])):
        require_files(file.parent, [file.name])
    kind = path.suffix.lower()
    if kind not in (".npy", ".npz", ".safetensors"):
        raise ValueError(f"{path} must be a .npy, .npz or .safetensors file")
    if kind == ".npy" and array is not None:
        raise ValueError(f"{path} holds one array without a name, and array = {array!r} was asked for")
    own: Tensor | None = None
    classes: tuple[str, ...] | None = None
    images: Pixels
    if kind == ".npy":
        images = _npy_images(path)
    else:
        images, own = (_npz if kind == ".npz" else _safetensors)(path, array or "images")
    if labels is not None:
        if own is not None:
            raise ValueError(f"labels must be the array labels of {path}, got a second file {labels}")
        own, classes = _labels(Path(labels))
    if own is None:
        return Images(images, None, ())
    if len(own) != len(images):
        raise ValueError(f"{labels or path} has {len(own)} labels, but {path} has {len(images)} images")
    low, high = (int(bound) for bound in own.aminmax())
    if low < 0 or high >= MOST_CLASSES:
        raise ValueError(f"{labels or path}: labels must be in 0..{MOST_CLASSES - 1}, got {low if low < 0 else high}")
    return Images(images, own, classes or numbered(high + 1))


def _labels(path: Path) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels (n,) int64, and the sorted names of their classes where they are names."""
    if path.suffix.lower() == ".npy":
        with reading(path):
            named = np.lib.format.open_memmap(path, mode="r").dtype.kind in "US"
        if not named:
            return torch.from_numpy(_npy(path, "labels")[0].astype(np.int64)), None
    values = load_column(path)
    if values.dtype.kind in "US":
        names, number = np.unique(values.astype(str), return_inverse=True)
        return torch.from_numpy(number.astype(np.int64)), tuple(str(name) for name in names)
    _checked_shape(path, "labels", values.dtype.name, values.shape)
    return torch.from_numpy(values.astype(np.int64)), None


def _plain_or_gz(folder: Path, name: str) -> Path:
    compressed = folder / f"{name}.gz"
    if not compressed.is_file():
        require_files(folder, [name])
        return folder / name
    return folder / name if (folder / name).is_file() else compressed


def _checked_shape(path: Path, kind: str, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, if it is one of images or of labels. `dtype` as numpy spells it."""
    if not all(side > 0 for side in shape):
        raise ValueError(f"{path}: {kind} must not be empty, got shape {shape}")
    if kind == "labels":
        if len(shape) != 1 or not dtype.startswith(("int", "uint")):
            raise ValueError(f"{path}: labels must be integers of shape (n,), got {dtype} {shape}")
        return shape
    channels = len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3))
    if not (len(shape) == 3 or channels) or dtype != "uint8":
        raise ValueError(
            f"{path}: images must be uint8 of shape (n, h, w), (n, 1 or 3, h, w) or (n, h, w, 1 or 3), got {dtype} {shape}"
        )
    return shape


def _channels_first(images: Tensor) -> Tensor:
    """(n, h, w), (n, c, h, w) or (n, h, w, c) as (n, c, h, w)."""
    if images.ndim == 3:
        return images[:, None]
    return images if images.shape[1] in (1, 3) else images.permute(0, 3, 1, 2).contiguous()


def _stored(path: Path, offset: int, shape: tuple[int, ...]) -> Pixels:
    """Images in row-major order from `offset` on, of one of the three shapes, as (n, c, h, w)."""
    n, record = shape[0], shape[1:]
    if len(record) == 2:
        return held(StoredImages.of(path, n, offset, (1, *record)))
    return held(StoredImages.of(path, n, offset, record, (0, 1, 2) if record[0] in (1, 3) else (2, 0, 1)))


def _npy_images(path: Path) -> Pixels:
    content, offset = _npy(path, "images")
    if content.flags.c_contiguous:
        return _stored(path, offset, content.shape)
    return _channels_first(torch.from_numpy(np.ascontiguousarray(content)))


def _npy(path: Path, kind: str) -> tuple[np.ndarray, int]:
    """The array of a file, which stays on the disk, and the byte that it begins at."""
    form = np.lib.format
    with path.open("rb") as file:
        with reading(path):
            version = form.read_magic(file)
            header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
            shape, fortran, dtype = header(file)
        _checked_shape(path, kind, dtype.name, shape)
        count = int(np.prod(shape, dtype=object))
        found, needed = path.stat().st_size, file.tell() + count * dtype.itemsize
        if found != needed:
            raise ValueError(f"{path} has {found} bytes, but its header needs {needed}")
        offset = file.tell()
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C"), offset


def _npz(path: Path, name: str) -> tuple[Pixels, Tensor | None]:
    names = array_names(path)
    chosen = {"images": names[0] if len(names) == 1 else name}
    if "labels" in names and chosen["images"] != "labels":
        chosen["labels"] = "labels"
    found = {kind: np.asarray(load_array(path, one)) for kind, one in chosen.items()}
    for kind, content in found.items():
        _checked_shape(path, kind, content.dtype.name, content.shape)
    labels = torch.from_numpy(found["labels"].astype(np.int64)) if "labels" in found else None
    return _channels_first(torch.from_numpy(np.ascontiguousarray(found["images"]))), labels


def _safetensors(path: Path, name: str) -> tuple[Pixels, Tensor | None]:
    from safetensors import SafetensorError, safe_open

    places = _places_of_safetensors(path)
    names = {"I": "int", "U": "uint", "F": "float"}
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            if name not in present:
                raise ValueError(
                    f"{path} must hold a tensor {name} (and may hold labels), got {sorted(present)}; name it with array"
                )
            for kind in sorted(present & {name, "labels"}):
                part = file.get_slice(kind)
                code = part.get_dtype()
                dtype = names.get(code[0], code[0]) + code[1:]
                _checked_shape(path, "images" if kind == name else kind, dtype, tuple(part.get_shape()))
            images = _stored(path, places[name], tuple(file.get_slice(name).get_shape()))
            labels = file.get_tensor("labels") if "labels" in present - {name} else None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    return images, None if labels is None else labels.long()


def _places_of_safetensors(path: Path) -> dict[str, int]:
    """The byte that each tensor begins at. Raises ValueError where the file is shorter or longer than its header says."""
    places: dict[str, int] = {}
    found = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        needed = 8 + header
        if found > needed:
            try:
                entries = {k: entry for k, entry in json.loads(file.read(header)).items() if k != "__metadata__"}
                places = {k: 8 + header + entry["data_offsets"][0] for k, entry in entries.items()}
                needed += max(entry["data_offsets"][1] for entry in entries.values())
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path} has no readable .safetensors header: {error}") from error
    if found < 9 or found != needed:
        raise ValueError(f"{path} has {found} bytes, but its header needs {max(needed, 9)}")
    return places


for one in (
    Format("cifar10", _cifar(cifar10, "test_batch.bin")),
    Format("cifar100", _cifar(cifar100, "test.bin")),
    Format("stl10", _stl10),
    Format("stl10_unlabeled", lambda path: (partial(stl10, path, "unlabeled"), None)),
    Format("idx", _idx),
    Format("folder", picture_parts, ("size",), slow=True),
    Format("emoji", lambda path, size, progress: (partial(emoji, path, size, progress), None), ("size",), slow=True),
    Format("arrays", lambda path, labels, array: (partial(arrays, path, labels, array), None), ("labels", "array")),
):
    FORMATS.add(one.name, one)

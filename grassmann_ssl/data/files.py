"""Loading of local images by format: binary files, folders of pictures, arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data.binary_files import cifar10, cifar100, idx, numbered, require_files, stl10
from grassmann_ssl.data.images import Images
from grassmann_ssl.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS: Registry[Callable[[Path, bool], Images | None]] = Registry("format")
"""(path, train) -> the images of a format, None where the path is one set of images and has no such part"""
PICTURES = (".png", ".jpg", ".jpeg")
MOST_CLASSES = 65536


def load(name: str, path: str | Path, train: bool = True) -> Images:
    """Images of a local path in the format `name`; `train` picks the training part, else the test part.

    cifar10, cifar100, stl10: the folder of the binary files. stl10_unlabeled: the unlabelled part of STL-10, for training only.
    idx: a folder with {train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte (plain or .gz), or one file of images without labels.
    folder: `image_folder` of path/train or path/test, or of path itself where it has no folder named train.
    arrays: `arrays` of one file. A path that is one set of images has no test part: pass the path of that set.
    Raises ValueError where the name is unknown (lists the known ones), the part does not exist, or the loader finds an error.
    """
    images = FORMATS[name](Path(path), train)
    if images is None:
        raise ValueError(f"{name} {path} is one set of images and has no test part: pass the path of the test set")
    return images


def _idx(path: Path, train: bool) -> Images | None:
    if path.is_dir():
        part = "train" if train else "t10k"
        return idx(*(_plain_or_gz(path, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")))
    return idx(path) if train else None


def _folder(path: Path, train: bool) -> Images | None:
    if (path / "train").is_dir():
        return image_folder(path / ("train" if train else "test"))
    return image_folder(path) if train else None


def image_folder(folder: str | Path, size: int | None = None) -> Images:
    """Pictures (.png, .jpg, .jpeg) in one sub-folder per class, read with Pillow.

    The classes are the names of the sub-folders in sorted order; pictures may lie deeper in them; names that start with a dot are
    skipped. All are grey (n, 1, h, w) where every picture is, else red, green, blue (n, 3, h, w); transparency and EXIF
    orientation are not applied. With `size`, the shorter side is resized to it (bilinear with antialiasing) and the centre square is
    kept; without it all pictures must have one size. Every header is read before the first pixel is.
    Raises ValueError where the folder or its sub-folders are missing, a class has no picture, sizes differ (names two files
    and their sizes), a picture cannot be read or has more than 8 bits a channel; ImportError where Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install pillow") from error
    folder = Path(folder)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    classes, files = _pictures(folder)
    failures = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    first, grey = None, True
    for path, _ in files:
        try:
            with Image.open(path) as picture:
                shape, mode = picture.size, picture.mode
        except failures as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        if mode.startswith(("I", "F")):
            raise ValueError(f"{path} has pixels of mode {mode!r}, but 8 bits a channel are needed")
        if first is None:
            first = shape
        elif size is None and shape != first:
            raise ValueError(
                f"pictures must have one size unless `size` is given: {files[0][0]} has {first[0]} x {first[1]} pixels, "
                f"{path} has {shape[0]} x {shape[1]}"
            )
        grey &= mode in ("1", "L")
    width, height = (size, size) if size is not None else first  # type: ignore[misc]
    images = np.empty((len(files), height, width, 1 if grey else 3), np.uint8)
    for target, (path, _) in zip(images, files, strict=True):
        try:
            with Image.open(path) as picture:
                # Pillow warns where a palette with transparency is turned into red, green, blue directly.
                opaque = picture.convert("RGBA") if "transparency" in picture.info else picture
                pixels = opaque.convert("L" if grey else "RGB")
        except failures as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        if size is not None:
            pixels = _centre(pixels, size)
        target[...] = np.asarray(pixels).reshape(target.shape)
    labels = torch.tensor([label for _, label in files])
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes)


def arrays(path: str | Path, labels: str | Path | None = None) -> Images:
    """Images of a .npy file (with the .npy file `labels`, if any), or of a .safetensors file with tensors images and labels (optional).

    Images are uint8 of shape (n, h, w) or (n, c, h, w), c = 1 or 3; labels are integers (n,), at most 65535; the classes are the numbers
    0..max(label). Arrays of Python objects are refused. Shapes, types and byte counts are checked before the content is read.
    Raises ValueError where a file is missing, of another kind, too short or too long (names its bytes and the bytes needed), or
    where its arrays have another type or shape.
    """
    path = Path(path)
    for file in (path, *([] if labels is None else [Path(labels)])):
        require_files(file.parent, [file.name])
    if path.suffix == ".npy":
        images = _npy(path, "images")
        classes = None if labels is None else _npy(Path(labels), "labels")
    elif path.suffix == ".safetensors":
        if labels is not None:
            raise ValueError(f"labels must be the tensor labels of {path}, got a second file {labels}")
        images, classes = _safetensors(path)
    else:
        raise ValueError(f"{path} must be a .npy or a .safetensors file")
    if classes is None:
        return Images(images, None, ())
    if len(classes) != len(images):
        raise ValueError(f"{labels or path} has {len(classes)} labels, but {path} has {len(images)} images")
    low, high = (int(bound) for bound in classes.aminmax())
    if low < 0 or high >= MOST_CLASSES:
        raise ValueError(f"{labels or path}: labels must be in 0..{MOST_CLASSES - 1}, got {low if low < 0 else high}")
    return Images(images, classes, numbered(high + 1))


def _plain_or_gz(folder: Path, name: str) -> Path:
    compressed = folder / f"{name}.gz"
    if not compressed.is_file():
        require_files(folder, [name])
        return folder / name
    return folder / name if (folder / name).is_file() else compressed


def _pictures(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """The classes, and every picture with the index of its class."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: one with a sub-folder of pictures per class is needed")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} has no sub-folders: one sub-folder of pictures per class is needed")
    files = []
    for label, name in enumerate(classes):
        inside = [path for path in sorted((folder / name).rglob("*")) if path.suffix.lower() in PICTURES]
        found = [(path, label) for path in inside if path.is_file() and not path.name.startswith(".")]
        if not found:
            raise ValueError(f"{folder / name} has no pictures: files ending in {', '.join(PICTURES)} are needed")
        files += found
    return tuple(classes), files


def _centre(picture: "Picture", size: int) -> "Picture":
    """The centre square of a Pillow image whose shorter side is resized to `size`."""
    from PIL import Image

    shorter = min(picture.size)
    width, height = (max(size, round(side * size / shorter)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def _checked_shape(path: Path, kind: str, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as (n, c, h, w) or (n,). `dtype` as numpy spells it."""
    if not all(side > 0 for side in shape):
        raise ValueError(f"{path}: {kind} must not be empty, got shape {shape}")
    if kind == "labels":
        if len(shape) != 1 or not dtype.startswith(("int", "uint")):
            raise ValueError(f"{path}: labels must be integers of shape (n,), got {dtype} {shape}")
        return shape
    full = (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape
    if len(full) != 4 or full[1] not in (1, 3) or dtype != "uint8":
        raise ValueError(f"{path}: images must be uint8 of shape (n, h, w) or (n, 1 or 3, h, w), got {dtype} {shape}")
    return full


def _npy(path: Path, kind: str) -> Tensor:
    form = np.lib.format
    with path.open("rb") as file:
        try:
            version = form.read_magic(file)
            header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
            shape, fortran, dtype = header(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a whole .npy file: {error}") from error
        full = _checked_shape(path, kind, dtype.name, shape)
        count = int(np.prod(shape, dtype=object))
        found, needed = path.stat().st_size, file.tell() + count * dtype.itemsize
        if found != needed:
            raise ValueError(f"{path} has {found} bytes, but its header needs {needed}")
        content = np.fromfile(file, dtype, count).reshape(shape, order="F" if fortran else "C")
    if kind == "labels":
        return torch.from_numpy(content.astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(content)).reshape(full)


def _safetensors(path: Path) -> tuple[Tensor, Tensor | None]:
    from safetensors import SafetensorError, safe_open

    _check_safetensors_bytes(path)
    names = {"I": "int", "U": "uint", "F": "float"}
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            if "images" not in present:
                raise ValueError(f"{path} must hold a tensor images (and may hold labels), got {sorted(present)}")
            shapes = {}
            for kind in sorted(present & {"images", "labels"}):
                part = file.get_slice(kind)
                code = part.get_dtype()
                dtype = names.get(code[0], code[0]) + code[1:]
                shapes[kind] = _checked_shape(path, kind, dtype, tuple(part.get_shape()))
            images = file.get_tensor("images").reshape(shapes["images"])
            labels = file.get_tensor("labels") if "labels" in shapes else None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error
    return images, None if labels is None else labels.long()


def _check_safetensors_bytes(path: Path) -> None:
    """Raises ValueError where the file is shorter or longer than its header says."""
    found = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        needed = 8 + header
        if found > needed:
            try:
                entries = json.loads(file.read(header))
                needed += max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path} has no readable .safetensors header: {error}") from error
    if found < 9 or found != needed:
        raise ValueError(f"{path} has {found} bytes, but its header needs {max(needed, 9)}")


FORMATS.add("cifar10", cifar10)
FORMATS.add("cifar100", cifar100)
FORMATS.add("stl10", lambda path, train: stl10(path, "train" if train else "test"))
FORMATS.add("stl10_unlabeled", lambda path, train: stl10(path, "unlabeled") if train else None)
FORMATS.add("idx", _idx)
FORMATS.add("folder", _folder)
FORMATS.add("arrays", lambda path, train: arrays(path) if train else None)
